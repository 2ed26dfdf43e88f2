"""A place that cannot be written is refused before anything is computed or printed."""

from __future__ import annotations

import errno
import sys

import pytest
from click.testing import CliRunner

from kvsim.cli import cli
from kvsim.errors import InputError

SMALL = ("simulate", "peer-w", "--set", "workload.requests=5")
PLAN = ("plan", "--model", "llama2-7b", "--gpu", "a100")
COMPARE = ("compare", "peer-w", "--set", "workload.requests=5", "--vary", "run.seed=1,2")


@pytest.mark.parametrize(
    ("command", "flag", "name"),
    [
        (SMALL, "--output", "file/out"),
        (SMALL, "--report", "absent/page.html"),
        (COMPARE, "--report", "absent/page.html"),
        (PLAN, "--report", "absent/page.html"),
    ],
)
def test_nothing_is_printed_when_the_answer_has_nowhere_to_go(tmp_path, command, flag, name):
    (tmp_path / "file").write_text("a file, no folder")
    result = CliRunner().invoke(cli, [*command, flag, str(tmp_path / name)])
    assert isinstance(result.exception, InputError)
    assert flag in str(result.exception)
    assert result.stdout == ""


def test_a_rate_too_small_for_any_clock_is_one_clear_error():
    """Warnings are errors here: an underflow on the way would be the exception instead."""
    settings = ["--set", "workload.arrivals.rate=1e-320", *SMALL[2:]]
    result = CliRunner().invoke(cli, [*SMALL[:2], *settings])
    assert isinstance(result.exception, InputError)
    assert "should be at least 1e-12" in str(result.exception)


@pytest.mark.parametrize("command", [SMALL, PLAN])
def test_an_answer_that_stdout_does_not_take_is_one_line(command, monkeypatch, capsys):
    from kvsim.cli import UNWRITABLE, main

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys.stdout, "write", full)
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == UNWRITABLE
    said = capsys.readouterr().err
    assert said == "kvsim: the answer cannot be written: No space left on device\n"
