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

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(r"^```console\n\$ (?P<command>.+)\n(?P<output>(?:.*\n)*?)```$", re.MULTILINE)
CUT = "..."  # a block that ends so shows the first lines only


def blocks():
    """Every (command, lines shown, whether cut short)."""
    for match in BLOCK.finditer(README.read_text("utf-8")):
        lines = match["output"].splitlines()
        cut = lines[-1:] == [CUT]
        yield match["command"], lines[:-1] if cut else lines, cut


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


@pytest.mark.parametrize(
    ("command", "lines", "cut"), list(blocks()), ids=lambda value: str(value)[:60]
)
def test_what_the_readme_shows_is_what_is_printed(command, lines, cut):
    now = printed(command)
    assert lines, "the block shows nothing"
    assert lines == (now[: len(lines)] if cut else now), (
        "run `python tests/docs/test_readme.py` to paste the present output"
    )


def test_the_two_commands_come_first():
    first = README.read_text("utf-8").split("```")[1]
    assert first.splitlines() == [
        "sh",
        "pip install -e . && kvsim plan --model llama2-7b --gpu a100",
        "pip install -e '.[dev]' && pytest",
    ]


def test_the_first_block_shows_the_first_command():
    command, *_ = next(blocks())
    assert command == "kvsim plan --model llama2-7b --gpu a100"


def test_python_examples():
    failed, attempted = doctest.testfile(str(README), module_relative=False)
    assert attempted >= 4
    assert failed == 0


def test_every_flag_that_the_readme_names_exists():
    prose = BLOCK.sub("", README.read_text("utf-8"))
    words = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose))
    helps = [
        printed(f"kvsim {name} --help") for name in ("plan", "simulate", "compare", "study cache")
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

    text = README.read_text("utf-8")
    README.write_text(BLOCK.sub(renewed, text), encoding="utf-8")


if __name__ == "__main__":
    paste()
