"""Real signals: the first one cuts, none of them loses what is finished."""

import json
import os
import signal
import subprocess
import sys

import pytest

from kvsim import load_scenario
from kvsim.interrupts import held, released, stopping

SIGINT, SIGTERM = signal.SIGINT, signal.SIGTERM

# Sends itself signals: one at every look at a run, one in the middle of writing its files.
SIGNALLED = """
import os, signal, sys
from contextlib import contextmanager
import kvsim.results.outputs.folder as folder
from kvsim.cli import compare, main, simulate

number, moments = int(sys.argv[1]), sys.argv[2].split(",")
send = lambda *_: os.kill(os.getpid(), number)

@contextmanager
def progress(question):
    yield send if "run" in moments else None

simulate.progress = compare.progress = progress
parquet = folder._parquet
def parquet_after_a_signal(frame):
    if "write" in moments:
        send()
    return parquet(frame)
folder._parquet = parquet_after_a_signal
main(sys.argv[3:])
"""


def signalled(number, moments, *words):
    command = [sys.executable, "-c", SIGNALLED, str(int(number)), moments, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("number", "code"), [(SIGINT, 130), (SIGTERM, 143)])
def test_a_signal_cuts_a_run_and_later_ones_wait_for_its_files(tmp_path, number, code):
    left = signalled(number, "run,write", "simulate", "peer-w", "--output-dir", str(tmp_path))
    assert left.returncode == code
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["interrupted"]
    assert summary["completed"] > 0
    assert (tmp_path / "requests.parquet").exists()
    assert "these are the requests that were finished" in left.stdout
    assert f"interrupted: run 1 ended with {summary['completed']:,} requests" in left.stderr
    assert left.stderr.count("still writing what was finished") == 1
    assert "Traceback" not in left.stderr


def test_a_first_signal_waits_until_a_whole_run_is_written(tmp_path):
    words = ("simulate", "peer-w", "--set", "workload.requests=50", "--output-dir", str(tmp_path))
    left = signalled(SIGTERM, "write", *words)
    assert left.returncode == 143
    assert not json.loads((tmp_path / "summary.json").read_text())["interrupted"]
    assert (tmp_path / "memory.parquet").exists()
    assert "on average" in left.stdout
    assert left.stderr.splitlines()[-1] == "kvsim: interrupted"


def test_a_question_that_was_cut_is_saved_whole(tmp_path):
    file = tmp_path / "mine.yaml"
    left = signalled(SIGTERM, "run", "simulate", "peer-w", "--rate", "9", "--save", str(file))
    assert left.returncode == 143
    assert "these are the requests that were finished" in left.stdout
    assert load_scenario(file).workload.requests == 10_000


def test_sigterm_keeps_the_variants_that_ran(tmp_path):
    left = signalled(SIGTERM, "run", "compare", "peer-w", "--vary", "engine.max_num_seqs=8,256")
    assert left.returncode == 143
    assert "interrupted in variant 1 of 2 (8)" in left.stderr
    assert "8 (interrupted)" in left.stdout


class Signalling:
    """Sends a signal while Python makes a class: 3.11 makes a RuntimeError of the interrupt."""

    def __set_name__(self, owner, name):
        send()


def make_a_class(*_, **__):
    type("Owner", (), {"field": Signalling()})


def test_an_interrupt_that_python_makes_another_error_of_is_an_interrupt(run_kvsim, monkeypatch):
    monkeypatch.setattr("kvsim.cli.cli.main", make_a_class)
    assert run_kvsim("gpus") == (143, "", "kvsim: interrupted\n")


CUT_INSIDE_EXEC = """
import os, signal, sys
from kvsim.cli import cli, main
cut = f"os.kill(os.getpid(), {sys.argv[1]})"
cli.main = lambda *_, **__: exec(cut, {"os": os})
main(["gpus"])
"""


@pytest.mark.parametrize(("number", "code"), [(SIGINT, 130), (SIGTERM, 143)])
def test_an_interrupt_inside_exec_leaves_the_same_exit_code(tmp_path, number, code):
    """As while a dataclass is made, in an import: under ``-m`` Python would then kill itself."""
    (tmp_path / "cut.py").write_text(CUT_INSIDE_EXEC)
    paths = os.pathsep.join((str(tmp_path), *filter(None, sys.path)))
    command = [sys.executable, "-m", "cut", str(int(number))]
    environment = {**os.environ, "PYTHONPATH": paths}
    left = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (left.returncode, left.stderr) == (code, "kvsim: interrupted\n")


# --- the rules, one by one -----------------------------------------------------------------


@pytest.fixture
def told():
    """Inside a command: the list of what a second signal was told."""
    said = []
    with stopping(lambda: said.append("again")) as stop:
        yield stop, said


def send(number=SIGTERM):
    os.kill(os.getpid(), number)


def test_a_signal_is_raised_where_it_comes_and_once(told):
    stop, said = told
    with pytest.raises(KeyboardInterrupt):
        send()
    send(SIGINT)
    send(SIGINT)
    assert (stop.exit_code, said) == (143, ["again"])


def test_held_waits_until_it_is_left_by_all(told):
    passed = []

    def send_inside_two():
        with held():
            with held():
                send()
                passed.append("inner")
            passed.append("outer")

    with pytest.raises(KeyboardInterrupt):
        send_inside_two()
    assert passed == ["inner", "outer"]


def test_what_is_begun_anew_meets_a_signal_that_waited(told):
    with held():
        send()
        with pytest.raises(KeyboardInterrupt), released():
            pytest.fail("released begins nothing after a signal")
        with released():  # raised once
            pass


def test_afterwards_the_handlers_are_what_they_were():
    before = [signal.getsignal(number) for number in (SIGINT, SIGTERM)]
    with stopping(lambda: None):
        assert [signal.getsignal(number) for number in (SIGINT, SIGTERM)] != before
    assert [signal.getsignal(number) for number in (SIGINT, SIGTERM)] == before


def test_a_signal_that_is_ignored_stays_so(monkeypatch):
    """As under nohup, or behind & in a script."""
    before = signal.signal(SIGINT, signal.SIG_IGN)
    try:
        with stopping(lambda: None) as stop:
            send(SIGINT)
        assert stop.signal is None
    finally:
        signal.signal(SIGINT, before)


def test_an_interrupt_that_python_makes_another_error_of_ends_what_may_be_cut(told):
    with held(), pytest.raises(KeyboardInterrupt), released():
        make_a_class()


def test_other_errors_pass(told):
    with held(), pytest.raises(ValueError, match="other"), released():
        raise ValueError("other")
