"""Sweeps as real processes: a space's file, the command, and what it leaves behind."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from kvsim import Space, load_scenario

VARY = {"tp": [1, 2], "workload.arrivals.rate": [2, 400]}

# Some seconds of runs, so that there is a middle to kill in, and one point that cannot run.
SPACE = """\
scenario: peer-w
set: {workload.requests: %d}
vary:
  model: [llama3.1-8b, llama3.1-70b]
  engine.tensor_parallel_size: [1, 2]
  workload.arrivals.rate: [2, 4]
seeds: 3
"""
RUNS = 24  # of them 6 fail: 70b does not fit on one card


def space(vary=VARY, seeds=2, **overrides):
    """A few runs of 40 requests, in Python."""
    scenario = load_scenario("peer-w", {"workload.requests": 40, **overrides})
    return Space(scenario, vary, seeds=seeds)


def space_file(folder, requests=400):
    """Write the space of these tests."""
    path = Path(folder) / "space.yaml"
    path.write_text(SPACE % requests)
    return path


def command(space, folder, *words):
    return [sys.executable, "-m", "kvsim", "sweep", str(space), "-o", str(folder), *map(str, words)]


def started(*words, **options):
    """Start a sweep that has a process group of its own, as one in a terminal has."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*words), start_new_session=True, **pipes, **options)


def finished(*words, **options):
    """Run a sweep to its end: (exit code, stdout, stderr)."""
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False, **options)
    return done.returncode, done.stdout, done.stderr


def rows(folder):
    """Every row of the ledger in its order."""
    ledger = sqlite3.connect(f"file:{Path(folder) / 'ledger.sqlite'}?mode=ro", uri=True)
    try:
        return ledger.execute("SELECT * FROM runs").fetchall()
    finally:
        ledger.close()


def count(folder):
    """How many rows there are, 0 before there is a ledger."""
    try:
        return len(rows(folder))
    except sqlite3.Error:
        return 0


def until(condition, process=None, seconds=60):
    """Wait for something that is to happen; an end of the process is no reason to wait on."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.005)


def kept(folder):
    """What two sweeps of one space must have alike: rows, and the bytes of the results."""
    (results,) = Path(folder).glob("results.*")
    return rows(folder), results.name, results.read_bytes()


def children(pid):
    """Processes that a process has started and that are not ended, spawned workers alone."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            words = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if int(stat[1]) == pid and stat[0] != "Z" and b"spawn_main" in words:
            found.append(int(path.name))
    return found


def alive(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid, number=signal.SIGKILL):
    os.kill(pid, number)
