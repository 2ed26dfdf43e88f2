"""Closed loops: who asks next, when, and with what content."""

import heapq

import numpy as np
import pytest

from kvsim.errors import InputError
from kvsim.workload import ClosedLoop, build_workload, parse_workload
from kvsim.workload.streams import Streams

LENGTHS = {
    "prompt": {"kind": "uniform", "low": 10, "high": 90},
    "output": {"kind": "uniform", "low": 5, "high": 50},
}
TALKS = {
    "kind": "conversations",
    "turns": {"kind": "fixed", "tokens": 3},
    "think": {"kind": "fixed", "seconds": 7},
    "tokens": 32,
}


def loop(clients=3, think=2.0, **description):
    arrivals = {
        "kind": "closed_loop",
        "clients": clients,
        "think": {"kind": "fixed", "seconds": think},
        **description.pop("arrivals", {}),
    }
    return build_workload(
        parse_workload({"arrivals": arrivals, "lengths": LENGTHS, "requests": 30, **description})
    )


def served(workload, service, seed=0):
    """Serve every request at once in `service(row)` seconds; return rows in order of row number."""
    table = workload.start(Streams(seed))
    rows = [
        (float(a), int(p), int(o), int(s))
        for a, p, o, s in zip(
            table.arrival_seconds,
            table.prompt_tokens,
            table.output_tokens,
            table.session,
            strict=True,
        )
    ]
    finishing = [(row[0] + service(number), number) for number, row in enumerate(rows)]
    heapq.heapify(finishing)
    while finishing:
        now, number = heapq.heappop(finishing)
        following = workload.following(number, now)
        for request in (following, *workload.branches(number, now)):
            if request is not None:
                rows.append(tuple(request[:4]))
                finish = request.arrival_seconds + service(len(rows) - 1)
                heapq.heappush(finishing, (finish, len(rows) - 1))
    return rows


def test_it_is_a_closed_loop():
    assert isinstance(loop(), ClosedLoop)


def test_a_client_thinks_after_its_answer():
    workload = loop(clients=1, think=2.0, requests=4)
    assert [row[0] for row in served(workload, lambda row: 10.0)] == [0, 12, 24, 36]
    assert workload.following(3, 46.0) is None


def test_as_many_are_in_flight_as_there_are_clients():
    rows = served(loop(clients=5, think=0.0), lambda row: 1.0 + row % 3)
    starts = [(row[0], 1) for row in rows]
    ends = [(row[0] + 1.0 + number % 3, -1) for number, row in enumerate(rows)]
    level = np.cumsum([step for _, step in sorted(starts + ends, key=lambda at: (at[0], at[1]))])
    assert level.max() == 5
    assert len(rows) == 30


def test_a_clients_requests_do_not_depend_on_who_finishes_first():
    """Two services of different speed and order meet the same requests, client by client."""

    def by_client(rows):
        told = {}
        for row in rows:
            told.setdefault(row[3] if row[3] < 3 else None, []).append(row[1:3])
        return told

    fast = served(loop(prefix=TALKS, requests=9), lambda row: 1.0)
    uneven = served(loop(prefix=TALKS, requests=9), lambda row: 1.0 + 5 * (row % 2))
    assert by_client(fast)[0] == by_client(uneven)[0]
    assert [row[1:3] for row in fast[:3]] == [row[1:3] for row in uneven[:3]]


def test_ramp_spreads_the_first_requests():
    table = loop(clients=4, arrivals={"ramp_seconds": 8}).start(Streams(0))
    assert table.arrival_seconds.tolist() == [0, 2, 4, 6]


def test_no_request_starts_beyond_the_duration():
    rows = served(loop(requests=None, duration_seconds=50.0), lambda row: 1.0)
    assert len(rows) == 3 * 17  # every 3 s from 0 to 48
    assert max(row[0] for row in rows) == 48


def test_conversations_grow_and_then_start_over():
    workload = loop(clients=1, think=100.0, prefix=TALKS, requests=6)
    rows = served(workload, lambda row: 1.0)
    assert [row[3] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert [row[0] for row in rows] == [0, 8, 16, 117, 125, 133]
    for at in (0, 1, 3, 4):
        written = rows[at][1] + rows[at][2]
        assert rows[at + 1][1] > written
        old = list(workload.content.block_ids(at, 16, written))
        assert list(workload.content.block_ids(at + 1, 16, rows[at + 1][1]))[: len(old)] == old
    first, second = (list(workload.content.block_ids(at, 16, rows[at][1])) for at in (0, 3))
    assert first[:2] == second[:2]  # the system prompt of 32 tokens
    assert not set(first[2:]) & set(second[2:])


def test_context_limit_opens_a_new_conversation():
    talks = {**TALKS, "turns": {"kind": "fixed", "tokens": 40}, "max_context_tokens": 300}
    rows = served(loop(clients=1, prefix=talks, requests=40), lambda row: 1.0)
    assert max(row[1] + row[2] for row in rows) <= 300
    assert len({row[3] for row in rows}) > 3


def test_a_context_limit_below_every_first_turn_is_one_clear_line():
    workload = loop(prefix={**TALKS, "max_context_tokens": 40})
    with pytest.raises(InputError, match="none of 1000 first turns"):
        workload.start(Streams(0))


def test_starting_again_begins_a_new_run():
    workload = loop(prefix=TALKS)
    assert served(workload, lambda row: 1.0) == served(workload, lambda row: 1.0)


def test_nothing_shared_has_no_content():
    workload = loop()
    assert workload.start(Streams(0)).content is None
    assert workload.content is None


def test_every_request_of_a_client_carries_its_parallel_samples():
    workload = loop(clients=2, samples=3)
    table = workload.start(Streams(0))
    assert table.samples.tolist() == [3, 3]
    assert [workload.following(row, 9.0).samples for row in (0, 1)] == [3, 3]
    assert loop(clients=2).start(Streams(0)).samples is None
