"""A place that cannot be written is refused before anything is computed or printed."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

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
        (SMALL, "--output-dir", "file/out"),
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


# --- readers that leave --------------------------------------------------------------------


def in_a_shell(line, *words):
    """Run kvsim with what the shell does to its streams: `line` names it as "$@"."""
    command = ["bash", "-c", line, "bash", sys.executable, "-m", "kvsim", *words]
    left = subprocess.run(command, capture_output=True, text=True, check=False)
    return left.returncode, left.stdout, left.stderr


@pytest.fixture
def broken_pipe():
    """Run kvsim with a stream that nobody reads any more: (exit code, stdout, stderr)."""

    def run(stream, *words):
        reader, writer = os.pipe()
        os.close(reader)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writer}
        command = [sys.executable, "-m", "kvsim", *words]
        try:
            left = subprocess.run(command, text=True, check=False, **streams)
        finally:
            os.close(writer)
        return left.returncode, left.stdout, left.stderr

    return run


@pytest.mark.parametrize("words", [("--help",), ("--version",), PLAN, ("gpus", "--format", "csv")])
def test_a_reader_that_leaves_ends_it_quietly(broken_pipe, words):
    assert broken_pipe("stdout", *words) == (0, None, "")


def test_a_reader_that_leaves_loses_no_file(broken_pipe, tmp_path):
    code, _, err = broken_pipe("stdout", *SMALL, "--output-dir", str(tmp_path))
    assert code == 0
    assert "Traceback" not in err
    assert (tmp_path / "memory.parquet").exists()
    assert (tmp_path / "summary.json").exists()


def test_an_answer_does_not_depend_on_who_reads_stderr(broken_pipe, tmp_path):
    code, out, _ = broken_pipe("stderr", *SMALL, "--output-dir", str(tmp_path))
    assert code == 0
    assert "on average" in out
    assert broken_pipe("stderr", *PLAN[:3], "--gpu", "nonesuch")[0] == 2


@pytest.mark.parametrize("words", [("--help",), PLAN, SMALL])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_trouble(words, closed):
    code, _, err = in_a_shell(f'"$@" {closed}', *words)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("words", [("--help",), PLAN])
def test_a_full_disk_is_said(words):
    said = "kvsim: the answer cannot be written: No space left on device\n"
    assert in_a_shell('"$@" > /dev/full', *words) == (74, "", said)


def test_stderr_is_written_in_one_place():
    folder = Path(__file__).resolve().parents[2] / "kvsim"
    texts = {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in folder.rglob("*.py")
    }
    found = {
        name: len(re.findall(r"\berr=True|file=sys\.stderr", text)) for name, text in texts.items()
    }
    assert {name: count for name, count in found.items() if count} == {"cli/__init__.py": 1}
