"""The README is a test: its commands run, and what it shows is what they print.

``python tests/docs/test_readme.py`` pastes the present output of every command into it.
"""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "scripts"))
from readme_commands import BLOCK, CUT, README, first_lines, shown

TEXT = README.read_text("utf-8")


def printed(command):
    """What a command of kvsim prints into an 80-column pipe, as lines."""
    name, *words = command.split()
    assert name == "kvsim", f"the README shows a command that is not kvsim's: {command}"
    done = subprocess.run(
        [sys.executable, "-m", "kvsim", *words],
        env=os.environ | {"COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    return done.stdout.splitlines()


def examples():
    """Every shown command; a search takes its time."""
    for example in shown(TEXT):
        marks = [pytest.mark.slow] if example.command.startswith("kvsim size") else []
        yield pytest.param(example, id=example.command[:60], marks=marks)


@pytest.mark.parametrize("example", list(examples()))
def test_what_the_readme_shows_is_what_is_printed(example):
    now = printed(example.command)
    assert example.lines, "the block shows nothing"
    assert example.agrees(now), (
        "run `python tests/docs/test_readme.py` to paste the present output\n" + "\n".join(now)
    )


def test_the_two_commands_come_first():
    assert first_lines(TEXT) == [
        "pip install -e . && kvsim plan --model llama2-7b --gpu a100",
        "pip install -e '.[dev]' && pytest -n auto",
    ]


def test_the_first_block_shows_the_first_command():
    assert next(shown(TEXT)).command == "kvsim plan --model llama2-7b --gpu a100"


def test_python_examples():
    failed, attempted = doctest.testfile(str(README), module_relative=False)
    assert attempted >= 4
    assert failed == 0


def test_every_flag_that_the_readme_names_exists():
    prose = re.sub(r"^dask .*$", "", BLOCK.sub("", TEXT), flags=re.MULTILINE)
    words = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", prose))
    helps = [
        printed(f"kvsim {name} --help")
        for name in ("plan", "simulate", "size", "search", "compare", "sweep", "study cache")
    ]
    known = "\n".join(line for lines in helps for line in lines)
    assert {flag for flag in words if flag not in known} == set()


def paste():
    """Rewrite every block's output; a block that is cut short stays as long as it was."""

    def renewed(match):
        lines, before = printed(match["command"]), match["output"].splitlines()
        if before[-1:] == [CUT]:
            lines = [*lines[: len(before) - 1], CUT]
        return "\n".join([f"```console\n$ {match['command']}", *lines, "```"])

    README.write_text(BLOCK.sub(renewed, TEXT), encoding="utf-8")


if __name__ == "__main__":
    paste()
