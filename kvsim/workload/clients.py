"""Closed-loop workloads: clients that wait for an answer, think, and ask again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kvsim.errors import InputError
from kvsim.workload.arrivals import ClosedLoopArrivals
from kvsim.workload.base import NextRequest, PrefixContent, RequestTable
from kvsim.workload.content import SegmentContent
from kvsim.workload.generated import Limits, Marks
from kvsim.workload.lengths import LengthsDraw
from kvsim.workload.prefix import Conversations, NoPrefix, PrefixGroups, draw_groups
from kvsim.workload.streams import Streams

__all__ = ["ClientLoop"]

_DRAWS = 32  # lengths and pauses a client draws at once


@dataclass(frozen=True)
class _Recipe:
    """What every client draws from."""

    arrivals: ClosedLoopArrivals
    lengths: LengthsDraw
    prefix: NoPrefix | PrefixGroups | Conversations


class _Client:
    """One client: its own streams, so its n-th request is the same whoever finishes first."""

    def __init__(self, recipe: _Recipe, streams: Streams) -> None:
        self.recipe, self.streams = recipe, streams
        self.lengths: list[tuple[int, int]] = []
        self.turns_left = 0
        self.context = 0  # tokens of the conversation so far
        self.group = 0
        self.talk = 0  # number of the conversation among all clients'
        prefix = recipe.prefix
        limit = prefix.max_context_tokens if isinstance(prefix, Conversations) else None
        self.most_tokens = math.inf if limit is None else limit

    def ask(self, new_talk: int) -> tuple[int, int, bool]:
        """Draw the next request: (prompt tokens, output tokens, whether it opens a talk)."""
        said, output = self._next_lengths()
        opens = self.turns_left == 0 or self.context + said + output > self.most_tokens
        if opens:
            said, output = self._fitting(said, output)
            self._open(new_talk)
        self.turns_left -= 1
        prompt = self.context + said
        if isinstance(self.recipe.prefix, Conversations):
            self.context = prompt + output
        return prompt, output, opens

    def _fitting(self, said: int, output: int) -> tuple[int, int]:
        """Redraw the lengths of a first turn until the conversation has room for it."""
        prefix = self.recipe.prefix
        system = 0 if isinstance(prefix, NoPrefix) else prefix.tokens
        for _ in range(1000):
            if system + said + output <= self.most_tokens:
                return said, output
            said, output = self._next_lengths()
        raise InputError(
            f"none of 1000 first turns fits in max_context_tokens {self.most_tokens:g}",
            where="max_context_tokens",
        )

    def _open(self, new_talk: int) -> None:
        prefix, self.talk, self.turns_left = self.recipe.prefix, new_talk, 1
        self.context = 0 if isinstance(prefix, NoPrefix) else prefix.tokens
        if not isinstance(prefix, NoPrefix):
            self.group = int(draw_groups(prefix, self.streams, 1)[0])
        if isinstance(prefix, Conversations):
            self.turns_left = int(prefix.turns.draw_tokens(self.streams.stream("turns"), 1)[0])

    def pause(self) -> float:
        """Draw the seconds between an answer and the next request."""
        prefix = self.recipe.prefix
        inside = isinstance(prefix, Conversations) and self.turns_left > 0
        think = prefix.think if inside else self.recipe.arrivals.think  # type: ignore[union-attr]
        return float(think.draw(self.streams.stream("think"), 1)[0])

    def _next_lengths(self) -> tuple[int, int]:
        if not self.lengths:
            prompt, output = self.recipe.lengths.draw(self.streams, _DRAWS)
            self.lengths = list(zip(prompt.tolist(), output.tolist(), strict=True))[::-1]
        return self.lengths.pop()


class ClientLoop:
    """N clients in a closed loop; see `kvsim.workload.base.ClosedLoop` for the protocol.

    Parameters
    ----------
    arrivals : ClosedLoopArrivals
        Clients, think time, ramp.
    lengths : LengthsDraw
        Prompt and output lengths.
    prefix : NoPrefix, PrefixGroups or Conversations
        With conversations, a client's next turn continues its last one; after the last turn
        it thinks for `arrivals.think` and opens a new conversation.
    limits : Limits
        No request starts beyond the number or the time.
    marks : Marks
        Parallel samples of every request; priorities are open-loop only.
    """

    def __init__(
        self,
        arrivals: ClosedLoopArrivals,
        lengths: LengthsDraw,
        prefix: NoPrefix | PrefixGroups | Conversations | None = None,
        limits: Limits | None = None,
        marks: Marks | None = None,
    ) -> None:
        self.recipe = _Recipe(arrivals, lengths, prefix or NoPrefix())
        self.limits, self.marks = limits or Limits(), marks or Marks()
        if self.marks.priorities:
            raise InputError("priorities need open-loop arrivals", where="priorities")
        self._reset()

    def _reset(self) -> None:
        self._clients: list[_Client] = []
        self._asker: list[_Client] = []  # client of each row
        self._talks = 0
        self._segments = SegmentContent([], [], [])
        shares = not isinstance(self.recipe.prefix, NoPrefix)
        self.content: PrefixContent | None = self._segments if shares else None

    def start(self, streams: Streams) -> RequestTable:
        """Begin a run: every client's first request."""
        self._reset()
        count = self.recipe.arrivals.clients
        if self.limits.requests is not None:
            count = min(count, self.limits.requests)
        spread = self.recipe.arrivals.ramp_seconds / max(count, 1)
        self._clients = [
            _Client(self.recipe, streams.child(f"client {number}")) for number in range(count)
        ]
        rows = [self._ask(client, at * spread) for at, client in enumerate(self._clients)]
        return RequestTable.of_requests(rows, self.content)

    def following(self, row: int, finish_seconds: float) -> NextRequest | None:
        """Return the next request of the client whose request `row` finished."""
        client = self._asker[row]
        arrival = finish_seconds + client.pause()
        asked, most = len(self._asker), self.limits.requests
        end = self.limits.duration_seconds
        if (most is not None and asked >= most) or (end is not None and arrival >= end):
            return None
        return self._ask(client, arrival)

    def branches(self, row: int, finish_seconds: float) -> tuple[NextRequest, ...]:
        """Return nothing: a client asks one thing at a time."""
        return ()

    def _ask(self, client: _Client, arrival_seconds: float) -> NextRequest:
        prompt, output, opens = client.ask(self._talks)
        self._talks += opens
        self._asker.append(client)
        prefix = self.recipe.prefix
        if not isinstance(prefix, NoPrefix):
            self._segments.shared_stream.append(client.group)
            self._segments.shared_tokens.append(prefix.tokens)
            self._segments.own_stream.append(prefix.groups + client.talk)
        return NextRequest(arrival_seconds, prompt, output, client.talk, self.marks.samples)
