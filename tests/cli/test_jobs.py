"""`--jobs`: who works, told before anything is read, and the same answer whoever does."""

import json

import pytest

from kvsim.cli.jobs import crew, stated_requests
from kvsim.runs import crew as module
from kvsim.runs.crew import Crew


@pytest.mark.parametrize(
    ("scenario", "settings", "requests"),
    [
        ("peer-w", (), 10_000),  # as its file says
        ("peer-w", ("workload.requests=77",), 77),
        ("peer-w", ("requests=78", "seed=3"), 78),
        ("peer-w", ("workload.requests=many",), None),
        ("azure-conversation", (), None),
        ("no-such-scenario", (), None),
        ("no/such/file.yaml", (), None),
    ],
)
def test_requests_are_known_where_they_are_stated(scenario, settings, requests):
    assert stated_requests(scenario, settings) == requests


def test_others_are_started_only_where_it_is_known_to_pay(monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 2)
    for jobs, runs, requests in (
        (None, None, 10**6),
        (None, 4, None),
        (None, 4, 500),
        (1, 4, 10**6),
    ):
        with crew(jobs, runs, requests) as found:
            assert found == jobs
    with crew(None, 4, 10_000) as found:
        assert isinstance(found, Crew)
        assert len(found.hands) == 1


def test_more_processes_than_runs_are_refused(run_kvsim):
    code, out, err = run_kvsim("simulate", "peer-w", "--jobs", 2)
    assert (code, out) == (2, "")
    assert err == (
        "kvsim: --jobs 2: one run keeps one process busy; ask for --replications 2 or more, or"
        " leave it out\n"
    )
    assert run_kvsim("simulate", "peer-w", "--replications", 2, "--jobs", 0)[0] == 2


@pytest.mark.parametrize(
    "words",
    [
        ("simulate", "peer-w", "--replications", 3),
        ("compare", "peer-w", "--vary", "max_num_seqs=8,64", "--replications", 2),
    ],
)
def test_the_answer_is_the_same(run_kvsim, words):
    asked = (*words, "--set", "workload.requests=300", "--format", "json")
    one, two = (run_kvsim(*asked, "--jobs", jobs) for jobs in (1, 2))
    assert one == two
    assert one[0] == 0
    assert json.loads(one[1])
