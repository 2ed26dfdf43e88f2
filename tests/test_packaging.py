"""The wheel: built here, unpacked elsewhere, run outside the clone."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments, cwd, **environment):
    """Run ``python ARGUMENTS`` and return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Path of a wheel built from the working tree."""
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), ".", cwd=ROOT)
    (path,) = folder.glob("kvsim-*.whl")
    return path


@pytest.fixture(scope="module")
def outside(wheel, tmp_path_factory):
    """Return a function that runs python in an empty folder, with the wheel's kvsim on its path."""
    target, cwd = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("elsewhere")
    quiet = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    run("-m", "pip", "install", *quiet, "--target", str(target), str(wheel), cwd=cwd)

    def outside(*arguments):
        return run(*arguments, cwd=cwd, PYTHONPATH=str(target), KVSIM_PATH="")

    home = outside("-c", "import kvsim; print(kvsim.__file__)").strip()
    assert Path(home).is_relative_to(target)
    return outside


def test_the_wheel_carries_every_profile_scenario_and_model(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("hardware_profiles", "scenarios"):
        for path in (ROOT / folder).rglob("*.yaml"):
            assert f"kvsim/data/{path.relative_to(ROOT)}" in inside
    for path in (ROOT / "kvsim").rglob("*"):
        if path.is_file() and path.suffix in (".py", ".yaml", ".csv", ".json", ".typed"):
            assert str(path.relative_to(ROOT)) in inside
    assert not [name for name in inside if name.startswith(("tests", "benchmarks", "app"))]


def test_the_wheel_declares_the_core_and_its_extras(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata_name = next(name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = archive.read(metadata_name).decode()

    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    core = {line.split()[1].split(">")[0].lower() for line in required if "extra ==" not in line}
    assert core == {"simpy", "numpy", "pandas", "pydantic", "click", "rich", "pyyaml"}
    for extra in ("dashboard", "calibrate", "cluster", "hub", "dev"):
        assert f"Provides-Extra: {extra}" in metadata


def test_development_brings_no_torch():
    """Unpinned, torch resolves to several gigabytes of CUDA libraries."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert not [need for need in extras["dev"] if "torch" in need or "calibrate" in need]
    assert [need for need in extras["calibrate"] if need.startswith("torch")]


def test_shipped_data_is_found_in_the_wheel(outside):
    program = """
from kvsim.catalog.accelerators import accelerator_names, find_accelerator
from kvsim.specs.yaml_files import data_folder
print(find_accelerator("a100").name, len(accelerator_names()))
print(len(list(data_folder("scenarios").glob("*.yaml"))))
"""
    profiles = len(list((ROOT / "hardware_profiles").glob("*.yaml")))
    scenarios = len(list((ROOT / "scenarios").glob("*.yaml")))
    assert outside("-c", program).split() == ["A100-SXM4-80GB", str(profiles), str(scenarios)]


def test_the_first_command_runs_from_the_wheel(outside):
    plan = json.loads(
        outside("-m", "kvsim", "plan", "--model", "llama2-7b", "--gpu", "a100", "--format", "json")
    )
    assert plan["schema_version"] == "1"
    assert plan["kv_cache"]["bytes_per_token"] == 524_288
    assert plan["accelerator"]["name"] == "A100-SXM4-80GB"
    assert plan["fits"] is True
