"""WEKA's coding-agent traces: one conversation per line (or one per file, indented), closed loop.

A conversation has ``requests`` with ``t`` (seconds from its start), ``in``, ``out``,
``hash_ids`` (full 64-token blocks only, numbered within the conversation) and ``think_time``
(seconds the client waits before this request). An entry of type "subagent" holds requests of
its own, numbered in its parent's namespace, that run beside the main thread::

    main      [r0]--think--[r1]--think-----------------[r2]
    subagent    '--delay--[s0]-think-[s1]-think-[s2]

Source: callanjfox/kv-cache-tester, Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kvsim.errors import InputError
from kvsim.specs.numbers import seconds, shown
from kvsim.workload.content import IdRuns
from kvsim.workload.traces.base import (
    Head,
    Reading,
    TraceFormat,
    json_object,
    length,
    whole_list,
)
from kvsim.workload.traces.columns import TraceRow
from kvsim.workload.traces.id_lists import with_id_runs
from kvsim.workload.traces.plain_lines import NotPlain

__all__ = ["WEKA", "Conversation", "Thread", "Turn", "conversations"]

_KEYS = {"hash_id_scope", "block_size", "requests"}
_ID_BITS = 32


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a thread; `recorded_seconds` is its start in the trace."""

    prompt_tokens: int
    output_tokens: int
    think_seconds: float
    recorded_seconds: float
    block_ids: IdRuns


@dataclass(frozen=True, slots=True)
class Thread:
    """Requests that wait for one another.

    `after` is (thread, turn) of the request whose end starts this thread `delay_seconds`
    later; None starts it with the conversation.
    """

    turns: tuple[Turn, ...]
    after: tuple[int, int] | None
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Conversation:
    """One line of the trace: the main thread first, then the sub-agents.

    `order` lists (thread, turn) in the order of the file. Block identities are made unique
    among conversations: ``number * 2**32 + id``.
    """

    number: int
    line: int
    block_size: int
    threads: tuple[Thread, ...]
    order: tuple[tuple[int, int], ...]
    gaps_used: int = 0

    def turn(self, place: tuple[int, int]) -> Turn:
        """Return the turn at (thread, turn)."""
        return self.threads[place[0]].turns[place[1]]


class _Unfolding:
    """Collects the threads of one conversation."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.turns: list[list[Turn]] = []
        self.starts: list[tuple[tuple[int, int] | None, float]] = []
        self.order: list[tuple[int, int]] = []
        self.gaps_used = 0

    def thread(
        self, entries: Any, begin: float, start: tuple[tuple[int, int] | None, float]
    ) -> None:
        """Unfold `entries`, recorded from `begin`, and the sub-agents among them."""
        if not isinstance(entries, list) or len(self.turns) >= 10_000:
            raise ValueError("requests is not a list, or there are over 10,000 sub-agents")
        at = len(self.turns)
        self.turns.append([])
        self.starts.append(start)
        ended = begin
        for entry in entries:
            if not isinstance(entry, dict):
                raise ValueError("an entry of requests is not an object")
            recorded = begin + _non_negative(entry["t"], "t")
            if entry.get("type") == "subagent":
                last = len(self.turns[at]) - 1
                after = (at, last) if last >= 0 else start[0]
                delay = max(0.0, recorded - ended) + (0.0 if last >= 0 else start[1])
                self.thread(entry["requests"], recorded, (after, delay))
                continue
            self.order.append((at, len(self.turns[at])))
            if "think_time" not in entry:
                self.gaps_used += 1
                entry = {**entry, "think_time": max(0.0, recorded - ended)}
            self.turns[at].append(_turn(entry, recorded, self.number))
            ended = recorded + _non_negative(entry.get("api_time", 0.0), "api_time")


def _non_negative(value: Any, key: str) -> float:
    try:
        return seconds(value)
    except ValueError as error:
        raise ValueError(f"{key} {shown(value, 40)} is not a time: {error}") from error


def _turn(entry: dict[str, Any], recorded: float, number: int) -> Turn:
    return Turn(
        length(entry["in"], "in"),
        length(entry["out"], "out"),
        _non_negative(entry["think_time"], "think_time"),
        recorded,
        _ids(entry["hash_ids"], number),
    )


def _ids(ids: Any, number: int) -> IdRuns:
    if isinstance(ids, IdRuns):
        return ids
    listed = whole_list(ids, "hash_ids")
    if listed and max(listed) >= 2**_ID_BITS:
        raise ValueError("hash_ids holds a number over 32 bits")
    return IdRuns.of(listed).shifted(number << _ID_BITS)


def _record(text: str, number: int) -> dict[str, Any]:
    """Parse a conversation; if anything is odd the plain way, which says what is wrong."""
    try:
        record = with_id_runs(text, "hash_ids", 2**_ID_BITS, number << _ID_BITS)
    except (NotPlain, ValueError, RecursionError):
        return json_object(text)
    return record if isinstance(record, dict) else json_object(text)


def _conversation(record: dict[str, Any], number: int, line: int) -> Conversation:
    block_size = length(record["block_size"], "block_size")
    if not 1 <= block_size <= 2**20:
        raise ValueError(f"block_size {block_size} is not between 1 and 2**20")
    unfolding = _Unfolding(number)
    try:
        unfolding.thread(record["requests"], 0.0, (None, 0.0))
    except RecursionError as error:
        raise ValueError("sub-agents nested too deeply") from error
    threads = tuple(
        Thread(tuple(turns), *start)
        for turns, start in zip(unfolding.turns, unfolding.starts, strict=True)
    )
    if not threads[0].turns:
        raise ValueError("the conversation has no request")
    order = tuple(unfolding.order)
    return Conversation(number, line, block_size, threads, order, unfolding.gaps_used)


def conversations(reading: Reading) -> Iterator[Conversation]:
    """Yield the conversations of a file; a line that cannot be understood is counted.

    Raises
    ------
    InputError
        For a prompt of 0 tokens or negative lengths, with the line.
    """
    number = 0
    for line, text in _records(reading):
        if not text.strip():
            continue
        try:
            found = _conversation(_record(text, number), number, line)
            _check_scope(reading, found)
        except KeyError as error:
            reading.report.malform(line, f"no key {error}")
        except ValueError as error:
            reading.report.malform(line, str(error))
        else:
            _check_lengths(reading, found)
            number += 1
            if found.gaps_used:
                reading.report.notes["no think_time; the recorded gap is used"] += found.gaps_used
            yield found


def _records(reading: Reading) -> Iterator[tuple[int, str]]:
    """Yield one conversation's JSON after the other, with the line where it begins."""
    source = reading.source
    if source.head.lstrip().partition("\n")[0].strip() == "{":
        yield 1, source.text()
    else:
        yield from source.lines()


def _check_scope(reading: Reading, found: Conversation) -> None:
    if reading.hash_block_size is None:
        reading.hash_block_size = found.block_size
    if found.block_size != reading.hash_block_size:
        raise ValueError(f"block_size {found.block_size} after {reading.hash_block_size}")
    for place in found.order:
        turn = found.turn(place)
        if len(turn.block_ids) != turn.prompt_tokens // found.block_size:
            raise ValueError(f"{len(turn.block_ids)} hash_ids for {turn.prompt_tokens} tokens")


def _check_lengths(reading: Reading, found: Conversation) -> None:
    where = f"{reading.path}:{found.line}"
    for place in found.order:
        turn = found.turn(place)
        if not 1 <= turn.prompt_tokens <= 2**31:
            raise InputError(f"a prompt of {turn.prompt_tokens} tokens", where=f"{where}: in")
        if not 0 <= turn.output_tokens <= 2**31:
            raise InputError(f"an output of {turn.output_tokens} tokens", where=f"{where}: out")


def _rows(reading: Reading) -> Iterator[TraceRow]:
    """Yield every request in the order of the file, at its recorded start."""
    for talk in conversations(reading):
        for place in talk.order:
            turn = talk.turn(place)
            yield TraceRow(
                talk.line,
                turn.recorded_seconds,
                turn.prompt_tokens,
                turn.output_tokens,
                turn.block_ids,
                talk.number,
            )


def _matches(head: Head) -> bool:
    return head.keys >= _KEYS


WEKA = TraceFormat("weka", "WEKA agent JSONL, think times, closed loop", _matches, _rows,
                   "closed-loop", columns=("t", "in", "out"))  # fmt: skip
