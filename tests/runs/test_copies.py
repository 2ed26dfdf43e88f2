"""Copies of the process answer what it would answer alone, and none of them outlives it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from kvsim import InputError, compare, load_scenario, replicate
from kvsim.runs import copies
from kvsim.runs.copies import at_once, gather

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no copies elsewhere")

SIGINT, SIGTERM = signal.SIGINT, signal.SIGTERM
SMALL = ("--set", "workload.requests=400")


def python(code, *words):
    """Run code in a process that has no other thread, as pytest may have."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def printed(code, *words):
    done = python(code, *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


# --- the same answer ---------------------------------------------------------------------------


@pytest.mark.parametrize("output_format", ["json", "csv", "table"])
@pytest.mark.parametrize(
    "words",
    [
        ("simulate", "peer-w", *SMALL, "--replications", "5"),
        ("compare", "peer-w", *SMALL, "--vary", "max_num_seqs=4,64", "--replications", "2"),
        ("compare", "peer-w", *SMALL, "--vary", "model=llama3.1-8b,llama3.1-70b,llama2-70b"),
    ],
)
def test_every_number_of_processes_answers_the_same(words, output_format):
    command = [sys.executable, "-m", "kvsim", *words, "--format", output_format]
    one, three = (
        subprocess.run([*command, "--jobs", jobs], capture_output=True, check=False)
        for jobs in ("1", "3")
    )
    answers = [(each.returncode, each.stdout, each.stderr) for each in (one, three)]
    assert answers[0] == answers[1]
    does_not_fit = b"vary model=llama3.1-70b: " in one.stderr
    assert one.returncode == (2 if does_not_fit else 0)
    assert does_not_fit == ("--replications" not in words)


def test_a_fleet_is_the_same():
    code = """
from kvsim import SearchSettings, load_scenario, size_fleet
settings = SearchSettings(requests=200, tolerance=0.5)
cards = [("h100", 1), ("h200", 1), ("l4", 1)]
one, two = (size_fleet(load_scenario("peer-w"), 30, cards, settings, jobs=n) for n in (1, 2))
print(one == two, len(two))
"""
    assert printed(code) == ["True", "3"]


def test_copies_know_the_policies_that_were_registered_here():
    code = """
import kvsim
from kvsim.simulator.schedulers.queues import SortedQueue
@kvsim.register("admissions", "longest-first")
class LongestFirst(SortedQueue):
    def key(self, request):
        return -request.prompt_tokens
scenario = kvsim.load_scenario("peer-w", {"workload.requests": 300})
vary = {"scheduler.admission": ["fcfs", "longest-first"]}
one, two = (kvsim.compare(scenario, vary, replications=2, jobs=n) for n in (1, 3))
print(one.to_dict() == two.to_dict())
"""
    assert printed(code) == ["True"]


# --- tasks -------------------------------------------------------------------------------------

WHO = """
import os, sys, time
from kvsim.runs.copies import gather
answers = {}
def who(number):
    if number == 0:  # another has the time to do the rest
        time.sleep(0.5)
    return os.getpid() == first
first = os.getpid()
"""


def test_task_0_is_done_here_and_who_is_free_takes_the_next():
    code = WHO + "gather(answers, who, who, tasks=9, processes=2); print(sorted(answers.items()))"
    assert "".join(printed(code)).startswith("[(0,True),(1,False),(2,False)")


def test_beside_a_thread_everything_is_done_here():
    code = WHO + (
        "import threading; threading.Thread(target=time.sleep, args=(2,), daemon=True).start()\n"
        "gather(answers, who, who, tasks=3, processes=2); print(*answers.values())"
    )
    assert printed(code) == ["True", "True", "True"]


def test_without_a_folder_everything_is_done_here():
    code = WHO + (
        "import kvsim.runs.copies as c\n"
        "def broken(**_): raise OSError('no space')\n"
        "c.TemporaryDirectory = broken\n"
        "gather(answers, who, who, tasks=3, processes=2); print(*answers.values())"
    )
    assert printed(code) == ["True", "True", "True"]


def test_a_task_whose_copy_was_killed_is_done_here():
    code = WHO + (
        "def die(number): os.kill(os.getpid(), 9)\n"
        "gather(answers, who, die, tasks=5, processes=3); print(*answers.values())"
    )
    assert printed(code) == ["True"] * 5


@pytest.mark.parametrize("processes", [1, 3])
def test_the_error_is_that_of_the_first_task_that_fails(processes):
    code = WHO + (
        "def fail(number):\n"
        "    if number in (2, 3, 5): raise ValueError(number)\n"
        "    return who(number)\n"
        "try:\n"
        "    gather(answers, fail, fail, tasks=9, processes=int(sys.argv[1]))\n"
        "except ValueError as error: print(error)"
    )
    assert printed(code, processes) == ["2"]


def test_an_answer_that_cannot_be_sent_is_found_here():
    code = WHO + (
        "gather(answers, who, lambda n: (lambda: n), tasks=3, processes=2)\n"
        "print(*answers.values())"
    )
    assert printed(code) == ["True", "True", "True"]


# --- how many ----------------------------------------------------------------------------------


def test_as_many_as_cores_where_it_pays(monkeypatch):
    monkeypatch.setattr(copies, "_cores", lambda: 8)
    assert at_once(None, 1_000_000) == at_once(None, None) == 8
    assert at_once(None, 100) == 1
    assert at_once(3, 100) == 3


def test_there_is_no_more_than_one_process_a_task():
    code = WHO + (
        "def name(number): time.sleep(0.2); return os.getpid()\n"
        "gather(answers, name, name, tasks=2, processes=8); print(len(set(answers.values())))"
    )
    assert printed(code) == ["2"]


@pytest.mark.parametrize("jobs", [0, -1, True, 2.5, "2"])
def test_no_number_of_processes_is_refused(jobs):
    scenario = load_scenario("peer-w", {"workload.requests": 100})
    for ask in (replicate, lambda asked, **o: compare(asked, {"max_num_seqs": [4, 8]}, **o)):
        with pytest.raises(InputError, match="is no number of processes"):
            ask(scenario, jobs=jobs)


def test_the_command_line_refuses_no_process_at_all(run_kvsim):
    code, out, err = run_kvsim("simulate", "peer-w", "--jobs", "0")
    assert (code, out, err.count("\n")) == (2, "", 1)


# --- signals -----------------------------------------------------------------------------------

LONG = ("--set", "workload.requests=1000000", "--jobs", "3")
LONG_COMMANDS = [
    ("simulate", "peer-w", *LONG, "--replications", "3"),
    ("compare", "peer-w", *LONG, "--vary", "max_num_seqs=16,64,256"),
]


def begun(words, folder):
    """Start kvsim in a group of its own; return when two copies have begun a task."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kvsim", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    while not (list(folder.glob("kvsim-*/1")) and list(folder.glob("kvsim-*/2"))):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("words", LONG_COMMANDS, ids=["simulate", "compare"])
@pytest.mark.parametrize(("number", "code"), [(SIGINT, 130), (SIGTERM, 143)])
def test_a_signal_to_all_processes_ends_them_as_it_ends_one(tmp_path, words, number, code):
    process = begun(words, tmp_path)
    os.killpg(process.pid, number)
    out, err = process.communicate()  # until the last of them has closed its stdout
    assert process.returncode == code
    assert "interrupted" in err
    assert "Traceback" not in err + out
    assert not list(tmp_path.iterdir())


def test_copies_end_when_the_process_is_killed(tmp_path):
    process = begun(LONG_COMMANDS[0], tmp_path)
    process.kill()
    assert process.communicate() == ("", "")  # until the last of them has closed its stdout
    assert not list(tmp_path.iterdir())


def test_an_interrupt_keeps_what_copies_have_finished():
    code = WHO + (
        "def stop(number):\n"
        "    time.sleep(1)\n"
        "    raise KeyboardInterrupt\n"
        "try:\n"
        "    gather(answers, stop, who, tasks=4, processes=2)\n"
        "except KeyboardInterrupt: print(*sorted(answers))"
    )
    assert printed(code) == ["1", "2", "3"]


def test_an_interrupt_while_the_last_runs_end_is_told(monkeypatch):
    def gather_and_stop(answers, here, there, *, tasks, processes):
        answers.update((number, there(number)) for number in range(tasks))
        raise KeyboardInterrupt

    monkeypatch.setattr("kvsim.runs.replicate.gather", gather_and_stop)
    scenario = load_scenario("peer-w", {"workload.requests": 100})
    runs = replicate(scenario, replications=2)
    assert (runs.interrupted, len(runs.whole)) == (True, 2)
    found = compare(scenario, {"max_num_seqs": [4, 8]})
    assert (found.interrupted, len(found.variants), found.never_begun) == (True, 2, ())


def test_python_s_own_ctrl_c_leaves_no_process(tmp_path):
    code = """
import kvsim, sys
scenario = kvsim.load_scenario("peer-w", {"workload.requests": 1000000})
runs = kvsim.replicate(scenario, replications=3, jobs=3)
print(runs.interrupted, len(runs.summaries))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    while not list(tmp_path.glob("kvsim-*/2")):
        time.sleep(0.01)
    time.sleep(0.5)  # into the first run
    os.killpg(process.pid, SIGINT)
    assert process.communicate() == ("True 1\n", "")
    assert not list(tmp_path.iterdir())


def test_signals_are_let_in_again():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    gather({}, str, str, tasks=3, processes=2)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
