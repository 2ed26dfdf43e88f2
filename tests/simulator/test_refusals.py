"""A request that can never be served is refused at once, and its client goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import pytest

from kvsim.errors import InputError
from kvsim.simulator.schedulers import SchedulerLimits
from kvsim.workload.base import NextRequest, RequestTable
from kvsim.workload.content import PrefixContent
from kvsim.workload.streams import Streams
from tests.simulator.test_exact import compare_requests, compare_steps
from tests.support.parts import Case, Given, Log, Pool, simulated, stepped, table

THINK_SECONDS = 0.75
LIMITS = SchedulerLimits(4, 64, 100)


@dataclass
class Askers:
    """Clients of a closed loop that ask for these prompts and outputs in turn."""

    lengths: Iterator[tuple[int, int]]
    clients: int = 1
    think_seconds: float = THINK_SECONDS
    content: PrefixContent | None = None

    def start(self, streams: Streams) -> RequestTable:
        """Everybody's first request, a tenth of a second apart."""
        first = [self._next(0.1 * client) for client in range(self.clients)]
        return RequestTable.of_requests([one for one in first if one is not None], None)

    def following(self, row: int, finish_seconds: float) -> NextRequest | None:
        """The next of the list, after a think."""
        return self._next(finish_seconds + self.think_seconds)

    def branches(self, row: int, finish_seconds: float) -> tuple[NextRequest, ...]:
        """One thing at a time."""
        return ()

    def _next(self, at: float) -> NextRequest | None:
        lengths = next(self.lengths, None)
        return None if lengths is None else NextRequest(at, *lengths, 0)


def served(lengths: list[tuple[int, int]], clients: int = 1, pool: int = 30) -> Log:
    """Run them, and check that the stepping engine agrees."""
    case = Case("vllm-v1", Pool("paged", pool), LIMITS)
    log = simulated(case, Askers(iter(lengths), clients))
    engine = stepped(case, Askers(iter(lengths), clients))
    compare_requests(log, engine)
    compare_steps(log, engine)
    return log


def test_a_refused_client_asks_its_next_after_a_think() -> None:
    """Too long for the model, twice; the error comes at once, so the think starts at arrival."""
    log = served([(200, 1), (5, 5), (99, 9), (3, 2)])
    assert log.rejected_rows == [0, 2]
    arrivals = [table.arrival_seconds[0] for table in log.tables]
    finished = np.array(log.finish_seconds)
    assert np.isfinite(finished).tolist() == [False, True, False, True]
    assert arrivals[1] == pytest.approx(THINK_SECONDS)
    assert arrivals[2] == pytest.approx(finished[1] + THINK_SECONDS)
    assert arrivals[3] == pytest.approx(arrivals[2] + THINK_SECONDS)


def test_a_refusal_while_others_are_served_disturbs_nobody() -> None:
    """A pool of 12 blocks of 4 holds 48 tokens: 90 fit the model but never the pool."""
    log = served([(8, 30), (90, 1), (40, 2), (90, 2), (8, 9), (90, 1)], clients=3, pool=12)
    assert log.rejected_rows
    served_rows = np.flatnonzero(np.isfinite(log.finish_seconds))
    assert sorted([*log.rejected_rows, *served_rows.tolist()]) == list(range(6))


def test_clients_refused_for_ever_are_an_error_and_no_endless_loop() -> None:
    """Nobody thinks, nothing fits: time would never pass."""
    endless = Askers(repeat((200, 1)), think_seconds=0.0)
    with pytest.raises(InputError, match="refused at the same instant"):
        simulated(Case("vllm-v1", Pool("paged", 30), LIMITS), endless)


def test_an_open_loop_goes_on_however_many_are_refused_at_once() -> None:
    """Nobody asks again there, so a burst of hopeless requests is only counted."""
    burst = 10_001
    times, prompts = [0.0] * burst + [1.0], [LIMITS.max_model_len] * burst + [4]
    workload = Given([table(times, prompts, [2] * (burst + 1))])
    log = simulated(Case("vllm-v1", Pool("paged", 30), LIMITS), workload)
    assert log.rejected_rows == list(range(burst))
    assert log.finish_seconds[burst] > 1
