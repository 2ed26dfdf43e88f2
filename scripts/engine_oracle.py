"""Set up vLLM's own scheduler on a CPU, a release at a time, and run it beside ours.

    python scripts/engine_oracle.py [--release 0.19.1]  [--seeds 1000] [--family prefix ...]

For each release it makes ``.oracle/RELEASE``: the Python files of the engine's wheel in ``src``,
and in ``env`` an environment with CPU torch, kvsim, and what the wheel requires that needs no GPU.
What is there already is kept.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.engine_oracle import RELEASES  # noqa: E402

TORCH = "torch==2.13.0"
# needs a GPU, or is torch's own affair
_LEFT_OUT = re.compile(
    r"(nvidia|cuda|cupy|flashinfer|flash|torch|triton|xformers|tilelang|quack|apache-tvm|ray|numba"
    r"|humming|fastsafetensors|deep|tpu|amd|rocm)"
)


def sources(folder: Path, release: str) -> list[str]:
    """Unpack the engine's Python files; return what its wheel requires."""
    kept = folder / "requires.txt"
    if not kept.is_file():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        # the files are read and never installed: whatever Python and C library they were packed for
        tags = ("manylinux_2_28", "manylinux_2_31", "manylinux1")
        any_machine = ["--only-binary=:all:", *(f"--platform={tag}_x86_64" for tag in tags)]
        subprocess.run([*pip, *any_machine, "-d", str(folder), f"vllm=={release}"], check=True)
        (wheel,) = folder.glob("vllm-*.whl")
        with zipfile.ZipFile(wheel) as packed:
            names = packed.namelist()
            metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
            for name in names:
                if name.startswith("vllm/") and name.endswith((".py", ".json")):
                    packed.extract(name, folder / "src")
            lines = packed.read(metadata).decode().splitlines()
        wheel.unlink()
        words = [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ")]
        plain = [word for word in words if "extra ==" not in word and not _LEFT_OUT.match(word)]
        kept.write_text("\n".join(plain))
    return kept.read_text().splitlines()


def environment(folder: Path, requires: list[str]) -> Path:
    """Make the environment in which both sides run; return its Python."""
    home = folder / "env"
    python = home / "bin" / "python"
    done = folder / "installed"
    if not done.is_file():
        venv.create(home, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*pip, TORCH], check=True)
        subprocess.run([*pip, TORCH, *requires], check=True)
        subprocess.run([*pip, "-e", str(ROOT)], check=True)
        done.touch()
    return python


def main() -> None:
    """Compare every family for every release; exit with 1 when a seed disagrees."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", action="append", help="again for each")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--family", nargs="+", default=["all"])
    given = parser.parse_args()
    bad = False
    for release in given.release or RELEASES:
        folder = ROOT / ".oracle" / release
        folder.mkdir(parents=True, exist_ok=True)
        python = environment(folder, sources(folder, release))
        for family in given.family:
            command = [str(python), "-m", "tests.engine_oracle", family, str(given.seeds)]
            where = os.environ | {"KVSIM_VLLM": str(folder / "src")}
            bad |= subprocess.run(command, cwd=ROOT, env=where, check=False).returncode != 0
    sys.exit(bad)


if __name__ == "__main__":
    main()
