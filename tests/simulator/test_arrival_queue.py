"""Arrivals in their order, with everything that their tables say, by hand."""

from math import inf

import numpy as np
import pytest

from kvsim.errors import InputError
from kvsim.simulator.arrival_queue import arrival_queue
from kvsim.simulator.recorder import Recorder
from kvsim.workload.base import NextRequest, RequestTable
from kvsim.workload.streams import Streams
from tests.support.parts import Given


def table(*rows, **options):
    times, prompts, outputs = (np.array(column) for column in zip(*rows, strict=True))
    columns = {name: np.array(values) for name, values in options.items()}
    return RequestTable(times.astype(float), prompts, outputs, **columns)


def open_queue(*tables):
    return arrival_queue(Given(tables), Streams(0), Recorder())


def all_of(queue):
    found = []
    while queue.next_seconds < inf:
        found.append(queue.pop())
    return found


def test_rows_are_numbered_through_all_tables():
    queue = open_queue(table((0.5, 3, 4), (1.5, 5, 6)), table((2.5, 7, 8)))
    assert not queue.is_closed_loop
    assert (queue.next_seconds, queue.popped) == (0.5, 0)
    first = queue.pop()
    assert (queue.next_seconds, queue.popped) == (1.5, 1)
    found = [first, *all_of(queue)]
    assert [(r.row, r.arrival_seconds, r.prompt_tokens, r.output_tokens) for r in found] == [
        (0, 0.5, 3, 4),
        (1, 1.5, 5, 6),
        (2, 2.5, 7, 8),
    ]
    assert (queue.next_seconds, queue.popped) == (inf, 3)
    assert {(r.priority, r.samples, r.content) for r in found} == {(0, 1, None)}
    with pytest.raises(IndexError):
        queue.pop()


def test_nobody_comes():
    assert open_queue().next_seconds == inf


@pytest.mark.parametrize("rows", [511, 512, 513, 1300])
def test_long_tables_are_handed_out_whole(rows):
    """Tables are turned into requests 512 rows at a time."""
    queue = open_queue(table(*((float(at), at + 1, at + 2) for at in range(rows))))
    found = all_of(queue)
    assert [r.row for r in found] == list(range(rows))
    assert [r.prompt_tokens - 1 for r in found] == [r.row for r in found]
    assert [r.output_tokens - 2 for r in found] == [r.row for r in found]


def test_each_option_is_its_rows_own():
    rows = [(0.0, 1, 1), (1.0, 1, 1)]
    ranked = all_of(open_queue(table(*rows, priority=[4, 2])))
    assert [(r.priority, r.samples) for r in ranked] == [(4, 1), (2, 1)]
    sampled = all_of(open_queue(table(*rows, samples=[3, 1])))
    assert [(r.priority, r.samples) for r in sampled] == [(0, 3), (0, 1)]


class Clients:
    """Two clients at 1 s and 0 s; each answer at t brings a request 2 s later, of one a branch."""

    content = None

    def __init__(self, most=4):
        self.most = most
        self.heard = []

    def start(self, streams):
        return table((0.0, 1, 1), (1.0, 2, 1))

    def following(self, row, finish_seconds):
        self.heard.append((row, finish_seconds))
        if len(self.heard) > self.most:
            return None
        return NextRequest(finish_seconds + 2, 10 + row, 1, 0)

    def branches(self, row, finish_seconds):
        return (NextRequest(finish_seconds + 1, 20 + row, 1, 0),) * (row == 1)


def test_an_answer_brings_the_next_request_and_its_branches():
    clients = Clients()
    queue = arrival_queue(clients, Streams(0), Recorder())
    assert queue.is_closed_loop
    assert queue.next_seconds == 0.0
    first, second = queue.pop(), queue.pop()
    assert (first.row, second.row, queue.next_seconds, queue.popped) == (0, 1, inf, 2)
    queue.finished([first, second], 5.0)
    assert clients.heard == [(0, 5.0), (1, 5.0)]
    assert queue.next_seconds == 6.0
    # Row 1's branch comes at 6 s, before the two that follow at 7 s in the order of their rows.
    found = all_of(queue)
    assert [(r.row, r.arrival_seconds, r.prompt_tokens) for r in found] == [
        (4, 6.0, 21),
        (2, 7.0, 10),
        (3, 7.0, 11),
    ]
    assert queue.popped == 5


def test_a_refused_request_is_an_answer_at_once():
    clients = Clients()
    queue = arrival_queue(clients, Streams(0), Recorder())
    queue.refused(queue.pop())
    assert clients.heard == [(0, 0.0)]
    assert queue.next_seconds == 1.0
    assert [r.arrival_seconds for r in all_of(queue)] == [1.0, 2.0]


class Hasty(Clients):
    """One client that does not think, but waits after every `rest` refusals."""

    def __init__(self, rest=10**9):
        super().__init__()
        self.rest = rest

    def start(self, streams):
        return table((0.0, 1, 1))

    def following(self, row, finish_seconds):
        self.heard.append((row, finish_seconds))
        waits = 1.0 if len(self.heard) % self.rest == 0 else 0.0
        return NextRequest(finish_seconds + waits, 1, 1, 0)

    def branches(self, row, finish_seconds):
        return ()


def refuse(queue, times):
    for _ in range(times):
        queue.refused(queue.pop())


@pytest.fixture
def few_refusals(monkeypatch):
    monkeypatch.setattr("kvsim.simulator.arrival_queue._MOST_REFUSALS", 10)


@pytest.mark.usefixtures("few_refusals")
def test_refusals_at_one_instant_come_to_an_end():
    queue = arrival_queue(Hasty(), Streams(0), Recorder())
    refuse(queue, 10)
    with pytest.raises(InputError, match="10 requests in a row are refused"):
        refuse(queue, 1)


@pytest.mark.usefixtures("few_refusals")
def test_refusals_at_another_instant_are_counted_anew():
    queue = arrival_queue(Hasty(rest=9), Streams(0), Recorder())
    refuse(queue, 50)
    assert queue.popped == 50
