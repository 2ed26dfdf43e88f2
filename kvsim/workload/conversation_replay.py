"""Closed-loop replay of recorded conversations: the next request waits for the last answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvsim.workload.base import NextRequest, PrefixContent, RequestTable
from kvsim.workload.content import HashedContent
from kvsim.workload.generated import Limits
from kvsim.workload.streams import Streams
from kvsim.workload.traces import ReadReport, Trace
from kvsim.workload.traces.formats.weka import Conversation, conversations

__all__ = ["ConversationReplay"]

_Place = tuple[int, int]  # (thread, turn) within a conversation


class ConversationReplay:
    """WEKA conversations, `clients` of them at a time.

    Start of a request = end of the one before it in its thread + its think time. A sub-agent
    starts its recorded delay after the end of the request that precedes it in the file, and
    runs beside the main thread. When a main thread ends, its client opens the next
    conversation of the file at once. A request with no output token is replayed with one.

    Parameters
    ----------
    trace : Trace
        In the WEKA format.
    clients : int, optional
        Conversations open at once; by default all of them. With a number, conversations are
        read from the file as they are opened.
    time_scale : float
        Multiplies think times and delays.
    limits : Limits
        No request starts beyond the number or the time.
    """

    def __init__(
        self,
        trace: Trace,
        clients: int | None = None,
        time_scale: float = 1.0,
        limits: Limits | None = None,
    ) -> None:
        self.trace, self.clients, self.time_scale = trace, clients, time_scale
        self.limits = limits or Limits()
        self.report: ReadReport | None = None
        self._reset()

    def _reset(self) -> None:
        reading = self.trace.reading()
        self.report = reading.report
        self._reading = reading
        self._unopened: Iterator[Conversation] = conversations(reading)
        self._placed: list[tuple[Conversation, _Place]] = []  # of each row
        self._ids: list[Sequence[int]] = []  # the growing columns behind `content`
        self._numbers: list[int] = []
        self._prompts: list[int] = []
        self.content: PrefixContent | None = None

    def start(self, streams: Streams) -> RequestTable:
        """Begin a run at time 0; nothing is drawn from `streams`."""
        self._reset()
        opened = [talk for _, talk in zip(self._seats(), self._unopened, strict=False)]
        if not opened:
            for _ in self.trace.rows(self.trace.reading()):
                pass  # raises the error that says why nothing is left
        size = self._reading.hash_block_size or 1
        self.content = HashedContent(self._ids, self._numbers, self._prompts, size)
        openings = [opening for talk in opened for opening in self._opening(talk, 0.0)]
        openings.sort(key=lambda opening: opening[2])
        asked = [self._answer(*opening) for opening in openings]
        return RequestTable.of_requests([at for at in asked if at is not None], self.content)

    def _seats(self) -> Iterator[int]:
        most = self.limits.requests
        seats = [count for count in (self.clients, most) if count is not None]
        return iter(range(min(seats) if seats else 2**62))

    def following(self, row: int, finish_seconds: float) -> NextRequest | None:
        """Return the thread's next request, or the first of the next conversation."""
        talk, (thread, turn) = self._placed[row]
        if turn + 1 < len(talk.threads[thread].turns):
            think = talk.turn((thread, turn + 1)).think_seconds
            return self._answer(talk, (thread, turn + 1), finish_seconds + self._scaled(think))
        opens_next = thread == 0 and self.clients is not None
        opened = next(self._unopened, None) if opens_next else None
        return None if opened is None else self._answer(opened, (0, 0), finish_seconds)

    def branches(self, row: int, finish_seconds: float) -> tuple[NextRequest, ...]:
        """Return the first requests of the sub-agents that this completion starts."""
        talk, place = self._placed[row]
        started = [
            self._answer(talk, (at, 0), finish_seconds + self._scaled(thread.delay_seconds))
            for at, thread in enumerate(talk.threads)
            if thread.after == place and thread.turns
        ]
        return tuple(request for request in started if request is not None)

    def _opening(self, talk: Conversation, now: float) -> list[tuple[Conversation, _Place, float]]:
        """List the threads that start with a conversation."""
        return [
            (talk, (at, 0), now + self._scaled(thread.delay_seconds))
            for at, thread in enumerate(talk.threads)
            if thread.after is None and thread.turns
        ]

    def _scaled(self, seconds: float) -> float:
        return seconds * self.time_scale

    def _over(self, arrival_seconds: float) -> bool:
        most, end = self.limits.requests, self.limits.duration_seconds
        too_many = most is not None and len(self._placed) >= most
        return too_many or (end is not None and arrival_seconds >= end)

    def _answer(self, talk: Conversation, place: _Place, arrival: float) -> NextRequest | None:
        return None if self._over(arrival) else self._ask(talk, place, arrival)

    def _ask(self, talk: Conversation, place: _Place, arrival: float) -> NextRequest:
        """Hand out a request: give it the next row and remember its content."""
        turn = talk.turn(place)
        self._ids.append(turn.block_ids)
        self._numbers.append(len(self._placed))
        self._prompts.append(turn.prompt_tokens)
        self._placed.append((talk, place))
        if self.report is not None:
            self.report.rows += 1
            if turn.output_tokens == 0:
                self.report.notes["no output token; replayed with one"] += 1
        return NextRequest(arrival, turn.prompt_tokens, max(turn.output_tokens, 1), talk.number)
