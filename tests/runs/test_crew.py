"""Several processes answer what one does: the same bytes, the same errors, the same interrupts."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from kvsim import InputError, SearchSettings, compare, load_scenario, replicate, size_fleet
from kvsim.runs import crew as module
from kvsim.runs.crew import WORTH_REQUESTS, Crew, Job, at_once, cores, gathered
from kvsim.simulator.schedulers.queues import SortedQueue


@pytest.fixture(scope="module")
def scenario():
    return load_scenario("peer-w", {"workload.requests": 400, "workload.arrivals.rate": 20})


class Squares:
    """Squares of numbers; `begun_here` and `kept` say who did what."""

    def __init__(self, tasks, wait_for=0):
        self.tasks, self.begun_here, self.kept = tasks, [], {}
        self._wait_for = wait_for

    def here(self, number):
        self.begun_here.append(number)
        until = time.monotonic() + 120
        while len(self.kept) < self._wait_for and time.monotonic() < until:
            time.sleep(0.01)  # let the others have some
        return number**2

    def there(self, number):
        return Job(square, (number,))

    def keep(self, number, answer):
        self.kept[number] = answer

    def is_cut(self, _):
        return False


def square(number, watch):
    assert watch is None
    return number**2


def slow_square(number, watch):
    time.sleep(0.2)
    return number**2


def broken(number, watch):
    raise ValueError(number)


class Failing(Squares):
    """Fails at some numbers, here and there."""

    bad = (3, 5)

    def here(self, number):
        if number in self.bad:
            raise InputError(f"{number} is bad")
        return super().here(number)

    def there(self, number):
        return Job(broken if number in self.bad else square, (number,))


class Local(Squares):
    """What no other process can be told."""

    def there(self, number):
        return Job(square, (threading.Lock(),))


# --- the tasks ------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 1, 3])
def test_every_task_is_done_once(others):
    work = Squares(9)
    with Crew(others) as crew:
        assert gathered(crew, work)
    assert work.kept == {n: n * n for n in range(9)}
    assert others or work.begun_here == list(range(9))


def test_others_do_what_this_process_has_no_time_for():
    work = Squares(6, wait_for=5)
    with Crew(1) as crew:
        assert gathered(crew, work)
    assert work.begun_here == [0]  # and it waited for the five others in vain or not at all
    assert work.kept == {n: n * n for n in range(6)}


@pytest.mark.parametrize("others", [0, 2])
def test_the_error_is_the_one_of_the_first_task_that_fails(others):
    with Crew(others) as crew, pytest.raises(InputError, match="3 is bad"):
        gathered(crew, Failing(9))


def test_what_cannot_be_told_to_others_is_done_here():
    work = Local(5)
    with Crew(2) as crew:
        assert gathered(crew, work)
    assert work.kept == {n: n * n for n in range(5)}
    assert sorted(work.begun_here) == list(range(5))


def test_a_process_that_is_killed_loses_nothing():
    work = Squares(40)
    with Crew(2) as crew:
        for hand in crew.hands:
            hand.process.kill()
        assert gathered(crew, work)
    assert work.kept == {n: n * n for n in range(40)}


def test_nothing_is_left_running():
    with Crew(2) as crew:
        processes = [hand.process for hand in crew.hands]
        assert [process.poll() for process in processes] == [None, None]
    assert all(process.poll() is not None for process in processes)


def test_a_process_ends_when_nobody_asks_any_more():
    crew = Crew(1)
    process = crew.hands[0].process
    process.stdin.close()
    assert process.wait(30) is not None
    crew.end()


def test_an_interrupt_keeps_what_ended():
    class Stopped(Squares):
        def here(self, number):
            if number:
                raise KeyboardInterrupt
            return super().here(number)

        def there(self, number):
            return Job(slow_square, (number,))

    work = Stopped(500, wait_for=3)
    with Crew(1) as crew:
        assert not gathered(crew, work)
        assert crew.hands == []
    assert {0, 1, 2, 3} <= set(work.kept)
    assert all(answer == n * n for n, answer in work.kept.items())


# --- how many processes -----------------------------------------------------------------------


def test_as_many_as_cores_and_tasks_where_it_pays(monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 8)
    assert at_once(None, 4, WORTH_REQUESTS) == 4
    assert at_once(None, 40, WORTH_REQUESTS) == 8
    assert at_once(None, 40, None) == 8
    assert at_once(None, 40, WORTH_REQUESTS - 1) == 1
    assert at_once(3, 40, 5) == 3
    assert at_once(3, 2, 5) == 2
    assert at_once(1, 40, None) == 1


def test_cores_are_those_that_this_process_may_use():
    code = (
        "import os, kvsim.runs.crew as c; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(c.cores())"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "1"
    assert cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("jobs", [0, -1, True, 2.5, "2"])
def test_no_number_of_processes(scenario, jobs):
    with pytest.raises(InputError, match="is no number of processes; choose 1 or more"):
        replicate(scenario, replications=2, jobs=jobs)


# --- the verbs ---------------------------------------------------------------------------------


def recorded(runs):
    """All that came of some replications, as text."""
    recorder = runs.first.recording.recorder
    steps = {name: column.tolist() for name, column in recorder.step_columns().items()}
    columns = {name: column.tolist() for name, column in runs.first.columns.items()}
    return json.dumps([runs.summaries, runs.cautions, steps, columns, runs.intervals])


def test_replications_are_the_same_in_two_processes(scenario):
    one, two = (replicate(scenario, replications=5, jobs=jobs) for jobs in (1, 2))
    assert recorded(one) == recorded(two)
    assert two.places == (0, 1, 2, 3, 4)


def test_variants_are_the_same_in_two_processes(scenario):
    vary = {"memory.allocator": ["reserve-max", "paged"], "max_num_seqs": [4, 64]}
    one, two = (compare(scenario, vary, replications=2, jobs=jobs) for jobs in (1, 3))
    assert json.dumps(one.to_dict()) == json.dumps(two.to_dict())
    pairs = zip(one.variants, two.variants, strict=True)
    assert all(recorded(a.runs) == recorded(b.runs) for a, b in pairs)


def test_fleets_are_the_same_in_two_processes(scenario):
    cards = [("h100", 1), ("h200", 1), ("l4", 1)]
    settings = SearchSettings(requests=200, tolerance=0.5)
    one, two = (size_fleet(scenario, 30, cards, settings, jobs=jobs) for jobs in (1, 2))
    assert one == two
    assert [option.accelerator for option in two][:2] == ["H100-SXM5-80GB", "H200-SXM-141GB"]


def test_a_policy_of_this_process_alone_runs_here(scenario, families):
    class Longest(SortedQueue):
        def key(self, request):
            return -request.prompt_tokens

    families["admissions"].add("longest-here", Longest)
    vary = {"scheduler.admission": ["fcfs", "longest-here"]}
    one, two = (compare(scenario, vary, replications=2, jobs=jobs) for jobs in (1, 2))
    assert one.to_dict() == two.to_dict()


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model", r"^vary model=llama3.1-70b: .*DOES NOT FIT"),
        ("trace", r"^vary workload.trace.file=\S+/third: \S+/third: no such file"),
    ],
)
def test_the_first_variant_that_cannot_run_is_named(scenario, jobs, tmp_path, name, said):
    (tmp_path / "first").write_text(TRACE)
    (tmp_path / "second").write_text(TRACE)
    files = [str(tmp_path / each) for each in ("first", "second", "third", "fourth")]
    replay = load_scenario("azure-conversation", {"workload": {"trace": {"file": files[0]}}})
    asked, vary = {
        "model": (scenario, {"model": ["llama3.1-8b", "llama3.1-70b", "llama2-70b"]}),
        "trace": (replay, {"workload.trace.file": files}),
    }[name]
    with pytest.raises(InputError, match=said):
        compare(asked, vary, jobs=jobs)


TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:17:{at:02},374,44\n" for at in range(60)
)


def test_pairs_of_an_interrupted_comparison_are_of_the_same_requests(scenario):
    """Whole runs with gaps between them are paired by their place, not by their order."""
    one, two = compare(scenario, {"max_num_seqs": [4, 64]}, replications=3, jobs=1).variants
    (a, b, c), (d, _, f) = one.runs.summaries, two.runs.summaries
    kept = module_replications(two.runs.first, (d, f), True, (0, 2))
    assert list(kept.whole_by_place) == [0, 2]
    from kvsim.runs.compare import SimulationComparison, Variant

    found = SimulationComparison((one, Variant(two.overrides, kept)))
    change = found.difference(found.variants[1], "mean_tpot_ms")
    expected = [f[key] - g[key] for f, g in ((d, a), (f, c)) for key in ["mean_tpot_ms"]]
    assert change.mean == pytest.approx(np.mean(expected))
    assert b["mean_tpot_ms"] != c["mean_tpot_ms"]


def module_replications(*parts):
    from kvsim import Replications

    return Replications(*parts)


def test_a_stop_while_others_work_keeps_what_ended(scenario):
    """The watch of this process is shown what the others do, and may stop them too."""
    shown = []

    def stop(clock, requests, usage):
        shown.append((clock, requests, usage))
        if len(shown) > 3:
            raise KeyboardInterrupt

    long = scenario.model_copy(
        update={"workload": scenario.workload.model_copy(update={"requests": 20_000})}
    )
    runs = replicate(long, replications=6, watch=stop, jobs=2)
    assert runs.interrupted
    assert len(runs.summaries) < 6
    assert runs.first.summary["completed"] > 0


# --- signals -----------------------------------------------------------------------------------

ENDLESS = ["simulate", "peer-w", "--set", "workload.requests=150000", "--replications", "60"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_of_the_terminals_processes_ends_all(number, code):
    """Ctrl-C goes to the whole foreground group: the answer is printed, and nobody is left."""
    started = subprocess.Popen(
        [sys.executable, "-m", "kvsim", *ENDLESS, "--jobs", "3", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    group = os.getpgid(started.pid)
    time.sleep(4)
    os.killpg(group, number)
    out, err = started.communicate(timeout=60)
    assert started.returncode == code
    assert "Traceback" not in err
    if out:  # something had ended
        assert json.loads(out)["interrupted"]
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
