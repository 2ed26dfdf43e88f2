"""Sweeps that are killed, interrupted, starved of disk: nothing finished is lost or done twice.

Each fault strikes a real process in the middle of its runs. Then the same line is run again, and
what the folder holds must be what an undisturbed sweep leaves, to the byte.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.search.sweep.sweeping import (
    RUNS,
    alive,
    children,
    count,
    finished,
    kept,
    kill,
    rows,
    space_file,
    started,
    until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The space's file of these tests."""
    return space_file(tmp_path_factory.mktemp("space"))


@pytest.fixture(scope="module")
def undisturbed(space, tmp_path_factory):
    """What a sweep leaves that nothing happens to, and what it prints."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    code, out, err = finished(space, folder, "--jobs", 2, "--format", "json")
    assert code == 0, err
    assert len(rows(folder)) == RUNS
    return kept(folder), out


def resumed(space, folder, undisturbed):
    """Run the same line again; whether nothing was repeated, and all is as if nothing had been."""
    before = rows(folder)
    code, out, err = finished(space, folder, "--jobs", 2, "--format", "json")
    assert code == 0, err
    told = f"{RUNS} of {RUNS} runs are done ({len(before)} of them before), 6 failed"
    assert (told in err) == bool(before), err
    assert set(before) <= set(rows(folder))
    assert (kept(folder), out) == undisturbed


def struck(space, folder, *words, after=5, **options):
    """Start a sweep and return it in the middle of its runs."""
    process = started(space, folder, "--jobs", 2, *words, **options)
    until(lambda: count(folder) >= after, process)
    return process


def test_a_worker_that_is_killed_is_replaced_and_its_run_done_again(space, tmp_path, undisturbed):
    process = struck(space, tmp_path, "--format", "json")
    crew = children(process.pid)
    kill(random.choice(crew))
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert (kept(tmp_path), out) == undisturbed


@pytest.mark.parametrize("after", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_sweep_that_is_killed_leaves_no_worker_and_goes_on(space, tmp_path, undisturbed, after):
    process = struck(space, tmp_path, after=after)
    crew = children(process.pid)
    process.kill()
    process.communicate()
    until(lambda: not any(map(alive, crew)))
    assert crew
    assert count(tmp_path) >= after
    resumed(space, tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("whole_group", [True, False], ids=["group", "alone"])
def test_a_signal_keeps_what_was_finished(space, tmp_path, undisturbed, number, code, whole_group):
    """Ctrl-C goes to all processes of a terminal, `kill` to one."""
    process = struck(space, tmp_path, "--format", "json")
    crew = children(process.pid)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    out, err = process.communicate()
    assert process.returncode == code, err
    until(lambda: not any(map(alive, crew)))
    *_, last = err.splitlines()
    there = count(tmp_path)
    assert last == (
        f"kvsim: interrupted: {there} runs are kept in {tmp_path}; the same line again goes on"
    )
    assert f'"unfinished": {RUNS - there}' in out
    assert "Traceback" not in err
    resumed(space, tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.2, 0.4])
def test_a_worker_that_is_still_booting_is_silent_about_ctrl_c(space, tmp_path, seconds):
    process = started(space, tmp_path, "--jobs", 2)
    until(lambda: children(process.pid), process)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_disk_that_is_full_ends_the_sweep_in_one_line(space, tmp_path, undisturbed):
    """No file may grow past a limit (RLIMIT_FSIZE): SQLite's own write of a row fails."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    code, out, err = finished(space, tmp_path, "--jobs", 2, preexec_fn=limit)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "ledger.sqlite: cannot be written (" in line
    assert line.endswith(f"runs are kept in {tmp_path}: the same line again goes on")
    assert 0 < count(tmp_path) < RUNS
    resumed(space, tmp_path, undisturbed)


@pytest.mark.slow
def test_results_that_the_disk_does_not_take_are_written_by_the_same_line(
    space, tmp_path, undisturbed
):
    """All rows are there; the table of them is larger than the limit, SQLite's own files not."""
    finished(space, tmp_path, "--jobs", 2)
    whole = kept(tmp_path)
    assert len(whole[2]) > 33_000

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (33_000, 33_000))

    code, _, err = finished(space, tmp_path, preexec_fn=limit)
    assert code == 2
    assert "cannot be written (" in err
    assert not list(tmp_path.glob("results.*"))
    resumed(space, tmp_path, undisturbed)
    assert kept(tmp_path) == whole


def test_a_second_sweep_is_refused_while_one_is_at_work(space, tmp_path, undisturbed):
    process = struck(space, tmp_path, "--format", "json")
    kill(process.pid, signal.SIGSTOP)  # so that it is still at work when the other one looks
    code, out, err = finished(space, tmp_path)
    kill(process.pid, signal.SIGCONT)
    assert (code, out) == (2, "")
    assert err == (
        f"kvsim: {tmp_path}: another sweep is at work here; wait for it, or give another folder\n"
    )
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert (kept(tmp_path), out) == undisturbed


@pytest.mark.slow
def test_two_that_start_at_once_do_not_meet_in_a_folder(space, tmp_path, undisturbed):
    """One does all of it; the other is refused, or comes when there is nothing left to do."""
    both = [started(space, tmp_path, "--format", "json") for _ in range(2)]
    ends = [(*process.communicate(), process.returncode) for process in both]
    answers = [out for out, _, code in ends if code == 0]
    refusals = [err for _, err, code in ends if code == 2]
    assert len(answers) + len(refusals) == 2
    assert set(answers) == {undisturbed[1]}
    assert all("another sweep is at work here" in err for err in refusals)
    assert kept(tmp_path) == undisturbed[0]


POISON = """
import os, signal
import kvsim
from kvsim.simulator.schedulers.queues import SortedQueue

@kvsim.register("admissions", "deadly")
class Deadly(SortedQueue):
    def key(self, request):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    scenario = kvsim.load_scenario("peer-w", {"workload.requests": 50})
    space = kvsim.Space(scenario, {"scheduler.admission": ["deadly", "fcfs"]}, seeds=2)
    found = kvsim.sweep(space, "out", jobs=2)
    print(found.failures, found.finished)
    again = kvsim.sweep(space, "out", jobs=2)
    print(again.repeated)
"""


@pytest.mark.slow
def test_a_run_that_no_worker_survives_is_recorded_and_no_other_is(tmp_path):
    """A policy of one's own that kills its process; spawned workers know it from the script."""
    script = tmp_path / "script.py"
    script.write_text(POISON)
    root = str(Path.cwd())
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == (
        "(('its worker died 3 times or more: out of memory, perhaps', 2),) 2\n4\n"
    ), done.stderr
