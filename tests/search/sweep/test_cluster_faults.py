"""A Dask cluster of real processes on loopback: the same bytes, whoever dies.

Scheduler and workers are started by Dask's own commands and have no kvsim of their own: they
import the one that is tested.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import kvsim
from tests.search.sweep.sweeping import (
    RUNS,
    count,
    finished,
    kept,
    kill,
    rows,
    space_file,
    started,
    until,
)

pytest.importorskip("distributed", reason="a cluster needs the extra `cluster`")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]

ROOT = str(Path(__file__).resolve().parents[3])
OTHER = """
import kvsim.version
kvsim.version.__version__ = "9.9.9"
"""
ABSENT = """
import sys
sys.modules["kvsim"] = None
"""


class Dask:
    """A scheduler and workers on loopback, of which each can be killed."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"

    def scheduler(self):
        words = ("scheduler", "--port", str(self.port), "--protocol", "tcp")
        return self._start(words, "Scheduler at:")

    def worker(self, site=""):
        """Start a worker, in a world that a sitecustomize has made different."""
        environment = dict(os.environ)
        if site:
            (self.folder / "site").mkdir(exist_ok=True)
            (self.folder / "site" / "sitecustomize.py").write_text(site)
            path = [str(self.folder / "site"), environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(path)
        words = ("worker", self.address, "--nthreads", "1", "--no-nanny")
        return self._start(words, "Registered to:", environment)

    def _start(self, words, sign, environment=None):
        log = self.folder / f"{len(self.processes)}.log"
        common = ("--host", "127.0.0.1", "--no-dashboard")
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *words, *common],
                stdout=stream,
                stderr=stream,
                cwd=self.folder,
                env={"PYTHONPATH": ROOT, **(environment or os.environ)},
                start_new_session=True,
            )
        self.processes.append(process)
        until(lambda: sign in log.read_text() or process.poll() is not None)
        assert sign in log.read_text(), log.read_text()
        return process

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def dask(tmp_path):
    """Return a cluster that is still empty."""
    (tmp_path / "dask").mkdir()
    cluster = Dask(tmp_path / "dask")
    yield cluster
    cluster.end()


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The space's file of these tests: longer runs than those of local faults."""
    return space_file(tmp_path_factory.mktemp("space"), requests=2000)


@pytest.fixture(scope="module")
def undisturbed(space, tmp_path_factory):
    """What a sweep of this machine leaves, and what it prints."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    code, out, err = finished(space, folder, "--jobs", 2, "--format", "json")
    assert code == 0, err
    return kept(folder), out


def struck(space, folder, dask, after=5):
    """Start a sweep on a cluster and return it in the middle of its runs."""
    process = started(space, folder, "--scheduler", dask.address, "--format", "json")
    until(lambda: count(folder) >= after, process)
    return process


def test_a_cluster_answers_to_the_byte_what_this_machine_does(space, tmp_path, undisturbed, dask):
    dask.scheduler(), dask.worker(), dask.worker()
    folder = tmp_path / "out"
    words = ("--scheduler", dask.address, "--format", "json")
    code, out, err = finished(space, folder, *words)
    assert code == 0, err
    assert "Traceback" not in err
    assert (kept(folder), out) == undisturbed
    code, out, err = finished(space, folder, *words)
    assert f"{RUNS} of {RUNS} runs are done ({RUNS} of them before)" in err
    assert (kept(folder), out) == undisturbed


def test_a_worker_that_is_killed_loses_nothing(space, tmp_path, undisturbed, dask):
    dask.scheduler(), dask.worker()
    victim = dask.worker()
    folder = tmp_path / "out"
    process = struck(space, folder, dask)
    victim.kill()
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert (kept(folder), out) == undisturbed


def test_a_worker_that_comes_late_takes_over(space, tmp_path, undisturbed, dask):
    dask.scheduler()
    victim = dask.worker()
    folder = tmp_path / "out"
    process = struck(space, folder, dask)
    victim.kill()
    dask.worker()
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert (kept(folder), out) == undisturbed


def test_a_scheduler_that_is_killed_ends_the_sweep_in_one_line(space, tmp_path, undisturbed, dask):
    scheduler = dask.scheduler()
    dask.worker(), dask.worker()
    folder = tmp_path / "out"
    process = struck(space, folder, dask)
    scheduler.kill()
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    there = count(folder)
    assert err == (
        f"kvsim: the scheduler at {dask.address} is gone; {there} of {RUNS} runs are kept in"
        f" {folder}: the same line again goes on\n"
    )
    code, out, err = finished(space, folder, "--jobs", 2, "--format", "json")
    assert code == 0, err
    assert f"({there} of them before)" in err
    assert (kept(folder), out) == undisturbed


def test_a_sweep_that_is_killed_goes_on(space, tmp_path, undisturbed, dask):
    dask.scheduler(), dask.worker(), dask.worker()
    folder = tmp_path / "out"
    process = struck(space, folder, dask)
    process.kill()
    process.communicate()
    before = rows(folder)
    code, out, err = finished(space, folder, "--scheduler", dask.address, "--format", "json")
    assert code == 0, err
    assert f"({len(before)} of them before)" in err
    assert (kept(folder), out) == undisturbed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_was_finished(space, tmp_path, undisturbed, dask, number, code):
    dask.scheduler(), dask.worker(), dask.worker()
    folder = tmp_path / "out"
    process = struck(space, folder, dask)
    kill(process.pid, number)
    _, err = process.communicate()
    assert process.returncode == code, err
    *_, last = err.splitlines()
    there = count(folder)
    assert last == (
        f"kvsim: interrupted: {there} runs are kept in {folder}; the same line again goes on"
    )
    assert "Traceback" not in err
    code, out, err = finished(space, folder, "--scheduler", dask.address, "--format", "json")
    assert code == 0, err
    assert (kept(folder), out) == undisturbed


# --- clusters that are refused -------------------------------------------------------------------


def refused(space, folder, address):
    """What is said of a cluster: one line, and nothing has been run."""
    code, out, err = finished(space, folder, "--scheduler", address)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert count(folder) == 0
    return line


def test_a_scheduler_that_does_not_answer_is_one_line(space, tmp_path, dask):
    line = refused(space, tmp_path / "out", dask.address)
    assert line == (
        f"kvsim: --scheduler {dask.address}: no Dask scheduler answers within 10 s;"
        " start one: dask scheduler"
    )


def test_what_answers_and_is_no_scheduler_is_one_line(space, tmp_path):
    """A server that takes the connection and says nothing, as a firewall does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert "no Dask scheduler answers within 10 s" in refused(space, tmp_path / "out", address)


def test_a_cluster_without_workers_is_one_line(space, tmp_path, dask):
    dask.scheduler()
    line = refused(space, tmp_path / "out", dask.address)
    assert line == (
        f"kvsim: --scheduler {dask.address}: has no worker;"
        f" start one: dask worker {dask.address} --nthreads 1"
    )


def test_a_worker_of_another_version_is_one_line(space, tmp_path, dask):
    dask.scheduler(), dask.worker(), dask.worker(OTHER)
    line = refused(space, tmp_path / "out", dask.address)
    assert "its worker tcp://127.0.0.1:" in line
    assert "has kvsim 9.9.9 and this process kvsim " in line
    assert line.endswith("install the same on both")


def test_a_worker_without_kvsim_is_one_line(space, tmp_path, dask):
    dask.scheduler(), dask.worker(), dask.worker(ABSENT)
    line = refused(space, tmp_path / "out", dask.address)
    assert "its worker tcp://127.0.0.1:" in line
    assert "cannot be asked (" in line
    assert "ModuleNotFoundError" in line
    assert line.endswith(f"install kvsim {kvsim.__version__} where it runs")


def test_a_worker_without_kvsim_that_joins_late_does_no_harm(space, tmp_path, undisturbed, dask):
    """It cannot read its first task, and ends; the others go on."""
    dask.scheduler(), dask.worker()
    folder = tmp_path / "out"
    process = struck(space, folder, dask)
    dask.worker(ABSENT)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert (kept(folder), out) == undisturbed


def test_a_trace_that_a_worker_does_not_have_is_one_line(tmp_path, dask):
    """The worker's /proc names its own folder: the file is there for one side alone."""
    dask.scheduler(), dask.worker()
    (tmp_path / "mine.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,9,9\n")
    trace = f"workload: {{trace: {{file: {tmp_path}/at/mine.csv}}}}"
    (tmp_path / "s.yaml").write_text(f"model: llama3.1-8b\naccelerator: h100\n{trace}\n")
    space = tmp_path / "space.yaml"
    space.write_text("scenario: s.yaml\nvary: {tp: [1]}\n")
    (tmp_path / "at").symlink_to("/proc/self/cwd")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "kvsim",
            "sweep",
            space,
            "-o",
            tmp_path / "out",
            "--scheduler",
            dask.address,
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"cannot do a run: {tmp_path}/at/mine.csv: no such file" in line
