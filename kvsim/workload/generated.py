"""Open-loop workloads made from an arrival process, lengths and a prefix structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import numpy as np

from kvsim.errors import InputError
from kvsim.workload.base import (
    CHUNK_ROWS,
    Floats,
    Ints,
    RequestTable,
    cut,
    in_time_order,
    rechunked,
)
from kvsim.workload.content import SegmentContent
from kvsim.workload.distributions import cumulated_shares, drawn_places
from kvsim.workload.lengths import LengthsDraw
from kvsim.workload.prefix import Conversations, NoPrefix, PrefixGroups, draw_groups
from kvsim.workload.streams import Streams

__all__ = ["GeneratedWorkload", "Limits", "Marks"]


class _Process(Protocol):
    def times(self, streams: Streams) -> Iterator[Floats]: ...


_NO_PREFIX = NoPrefix()
_MOST_TURNS = 2**23  # of the conversations that open in one batch, which are unfolded together


@dataclass(frozen=True)
class Limits:
    """Where a workload ends: after a number of requests, before a time, or both."""

    requests: int | None = None
    duration_seconds: float | None = None


@dataclass(frozen=True)
class Marks:
    """What each request carries besides lengths.

    Parameters
    ----------
    samples : int
        Parallel samples of every request.
    priorities : tuple of (int, float)
        Priority and its share of the requests; empty for none.
    """

    samples: int = 1
    priorities: tuple[tuple[int, float], ...] = ()

    def columns(self, streams: Streams, rows: int) -> dict[str, Ints | None]:
        """Return the columns `samples` and `priority` of `rows` requests."""
        samples = np.full(rows, self.samples, np.int64) if self.samples > 1 else None
        if not self.priorities:
            return {"samples": samples, "priority": None}
        values, weights = (np.array(column) for column in zip(*self.priorities, strict=True))
        at = drawn_places(cumulated_shares(weights), streams.stream("priorities"), rows)
        chosen = values[at].astype(np.int64)
        return {"samples": samples, "priority": chosen}


@dataclass(frozen=True)
class GeneratedWorkload:
    """Requests drawn as needed; nothing is kept that was handed out.

    Parameters
    ----------
    arrivals : object with ``times(streams)``
        An open-loop arrival process of `kvsim.workload.arrivals`.
    lengths : LengthsDraw
        Prompt and output lengths.
    prefix : NoPrefix, PrefixGroups or Conversations
        What is shared.
    limits : Limits
        Where it ends.
    marks : Marks
        Parallel samples and priorities.
    """

    arrivals: _Process
    lengths: LengthsDraw
    prefix: NoPrefix | PrefixGroups | Conversations = _NO_PREFIX
    limits: Limits = Limits()
    marks: Marks = Marks()

    def tables(self, streams: Streams, chunk_rows: int = CHUNK_ROWS) -> Iterator[RequestTable]:
        """Yield the requests in time order; see `kvsim.workload.base.Workload.tables`."""
        if isinstance(self.prefix, Conversations):
            endless = in_time_order(self._conversations(self.prefix, streams))
        else:
            endless = self._single_requests(streams)
        limited = cut(endless, self.limits.requests, self.limits.duration_seconds)
        return rechunked(limited, chunk_rows)

    def _single_requests(self, streams: Streams) -> Iterator[RequestTable]:
        first = 0
        for times in self.arrivals.times(streams):
            rows = len(times)
            prompt, output = self.lengths.draw(streams, rows)
            columns: dict[str, Any] = self.marks.columns(streams, rows)
            if isinstance(self.prefix, PrefixGroups):
                group = draw_groups(self.prefix, streams, rows)
                shared = np.full(rows, self.prefix.tokens, np.int64)
                own = self.prefix.groups + first + np.arange(rows)
                columns["content"] = SegmentContent(group, shared, own)
                prompt = prompt + shared
            yield RequestTable(times, prompt, output, **columns)
            first += rows

    def _conversations(
        self, prefix: Conversations, streams: Streams
    ) -> Iterator[tuple[RequestTable, float]]:
        first = 0
        for times, barren in zip(self.arrivals.times(streams), count(), strict=False):
            table = self._turns(prefix, streams, times, first)
            if barren == 0 and len(table) == 0:
                raise InputError(
                    f"no first turn of {len(times)} conversations fits in "
                    f"max_context_tokens {prefix.max_context_tokens}",
                    where="max_context_tokens",
                )
            yield table, float(times[-1])
            first += len(times)

    def _turns(
        self, prefix: Conversations, streams: Streams, times: Floats, first: int
    ) -> RequestTable:
        """Unfold conversations that open at `times` into their turns, in order of arrival."""
        turns = prefix.turns.draw_tokens(streams.stream("turns"), len(times))
        group = draw_groups(prefix, streams, len(times))
        rows = int(turns.sum())
        if rows > _MOST_TURNS:
            raise InputError(
                f"{len(times):,} conversations have {rows:,} turns",
                where="turns",
                fix=f"let them have {_MOST_TURNS // len(times):,} on average, or fewer",
            )
        talk = np.repeat(np.arange(len(times)), turns)  # conversation of each row
        opens = np.cumsum(turns) - turns  # first row of each conversation
        said, answered = self.lengths.draw(streams, rows)
        pause = prefix.think.draw(streams.stream("think"), rows)
        pause[opens] = 0.0
        history = _within(answered, opens, talk) - answered
        prompt = prefix.tokens + _within(said, opens, talk) + history
        fits = np.ones(rows, bool)
        if prefix.max_context_tokens is not None:
            fits = prompt + answered <= prefix.max_context_tokens
        table = RequestTable.in_order(
            arrival_seconds=(times[talk] + np.maximum(_within(pause, opens, talk), 0.0))[fits],
            prompt_tokens=prompt[fits],
            output_tokens=answered[fits],
            session=(first + talk)[fits],
            content=_talk_content(prefix, group[talk][fits], (first + talk)[fits]),
        )
        marks: dict[str, Any] = self.marks.columns(streams, len(table))
        return RequestTable(**{**vars(table), **marks})


def _talk_content(prefix: Conversations, group: Ints, talk: Ints) -> SegmentContent:
    shared = np.full(len(talk), prefix.tokens, np.int64)
    return SegmentContent(group, shared, prefix.groups + talk)


def _within(values: np.ndarray, opens: Ints, talk: Ints) -> np.ndarray:
    """Cumulate `values` within each conversation, each starting at the rows `opens`."""
    running = np.cumsum(values)
    before = running[opens] - values[opens]
    return np.asarray(running - before[talk])
