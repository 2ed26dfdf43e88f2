"""The lower bounds of pyproject.toml: all stated; CI installs them and asks this reader."""

import tomllib
from pathlib import Path

import floors
import pytest

TEXT = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text("utf-8")
PROJECT = tomllib.loads(TEXT)


def test_every_requirement_states_its_lower_bound():
    extras = list(PROJECT["project"]["optional-dependencies"])
    found = floors.floors(TEXT, extras)
    assert {"numpy", "streamlit", "torch", "distributed", "pytest", "ruff"} <= set(found)


def test_the_build_needs_what_development_has():
    (build,) = PROJECT["build-system"]["requires"]
    assert build in PROJECT["project"]["optional-dependencies"]["dev"]


def test_a_requirement_without_a_bound_is_refused():
    text = '[project]\ndependencies = ["numpy>=2.0", "rich"]\n[project.optional-dependencies]\n'
    with pytest.raises(ValueError, match="'rich' states no lower bound"):
        floors.floors(text, [])


def test_extras_of_our_own_are_followed():
    text = (
        '[project]\ndependencies = ["numpy>=2.0"]\n[project.optional-dependencies]\n'
        'export = ["pyarrow>=16"]\nhub = ["hub-client>=0.25"]\n'
        'dev = ["kvsim[export,hub]", "pytest>=8.2"]\n'
    )
    assert floors.floors(text, []) == {"numpy": "2.0"}
    assert floors.floors(text, ["dev"]) == {
        "numpy": "2.0",
        "pyarrow": "16",
        "hub-client": "0.25",
        "pytest": "8.2",
    }


@pytest.mark.parametrize(
    ("installed", "wrong"),
    [
        ("8.2", False),
        ("8.2.0", False),
        ("8.2.1", True),
        ("8.20", True),
        ("9.0", True),
    ],
)
def test_another_version_than_the_bound_is_told(monkeypatch, installed, wrong):
    monkeypatch.setattr(floors, "version", lambda name: installed)
    said = floors.astray({"click": "8.2"})
    assert said == ([f"click: {installed} is installed, the bound is 8.2"] if wrong else [])


def test_what_is_not_installed_is_told():
    assert floors.astray({"kvsim-nonesuch": "1"}) == [
        "kvsim-nonesuch: nothing is installed, the bound is 1"
    ]


def test_pins_are_for_an_installer(capsys):
    assert floors.main(["pin", "ruff", "mypy"]) == 0
    bounds = floors.floors(TEXT, ["dev"])
    assert capsys.readouterr().out.split() == [
        f"{name}=={bounds[name]}" for name in ("ruff", "mypy")
    ]
