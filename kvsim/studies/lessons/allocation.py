"""A pool of 64 token slots, a few requests, and what an allocator does with them.

The allocators are the simulator's own. A block of the paged one has no identity (any free
one will do), so the story gives each the lowest free number and checks at every moment that
it holds as many as the allocator says.

::

    arrive ──▶ wait ──▶ admit (prompt) ──▶ decode, a token per step ──▶ leave
                 ^                              |
                 '---- preempted: no block -----'
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kvsim.errors import InputError, InvariantError, UnknownNameError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Allocator, address_of
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.reserve import RESERVATIONS, Reservation, Reserve
from kvsim.simulator.request import Request

__all__ = ["POLICIES", "POOL_SLOTS", "Moment", "Slot", "Story", "tell"]

POOL_SLOTS = 64
MAX_MODEL_LEN = 24

POLICIES = ("paged", *RESERVATIONS)


class _Asked(NamedTuple):
    """A request of the story: who, when (in steps), and how long, in tokens."""

    name: str
    arrival_step: int
    prompt_tokens: int
    output_tokens: int


_REQUESTS = (
    _Asked("A", 0, 9, 7),
    _Asked("B", 0, 5, 14),
    _Asked("C", 1, 11, 4),
    _Asked("D", 3, 14, 6),
    _Asked("E", 5, 6, 9),
)


class Slot(NamedTuple):
    """One token slot: whose it is ("" is nobody's), and whether a token stands in it.

    `use` is "token", "to come" (reserved for a token that will be written), "never" (held,
    but no token will ever stand in it) or "free".
    """

    owner: str
    use: str


class Moment(NamedTuple):
    """The pool at the end of one step of the engine.

    Parameters
    ----------
    step : int
        Steps so far; stories under different policies share this clock.
    events : tuple of str
        What happened in the step, a sentence each.
    slots : tuple of Slot
        The pool, by address.
    tables : dict of str to tuple of int
        Paged: a request's block numbers in order. Contiguous: its base and its limit.
    waiting : tuple of str
        Requests without room, the first in the queue first.
    """

    step: int
    events: tuple[str, ...]
    slots: tuple[Slot, ...]
    tables: dict[str, tuple[int, ...]]
    waiting: tuple[str, ...]

    def count(self, use: str) -> int:
        """Slots of one use."""
        return sum(slot.use == use for slot in self.slots)


class Story(NamedTuple):
    """One moment a step, from an empty pool to an empty pool, under one policy.

    `block_size` is in tokens, 1 where nothing is paged.
    """

    policy: str
    block_size: int
    moments: tuple[Moment, ...]


def tell(policy: str, block_size: int = 4) -> Story:
    """Let five requests pass through a pool of 64 slots.

    Parameters
    ----------
    policy : str
        "paged", "reserve-max", "reserve-pow2" or "reserve-oracle".
    block_size : int
        Tokens per block; counts for "paged" only.

    Raises
    ------
    UnknownNameError
        For another policy.
    InputError
        When blocks of that size do not fill the pool evenly.
    """
    if policy not in POLICIES:
        raise UnknownNameError("policy", policy, POLICIES)
    if policy != "paged":
        reserve = RESERVATIONS[policy]
        segments = Reserve(POOL_SLOTS, MAX_MODEL_LEN, reserve)
        pool: _Pool = _Segments(segments, 1, reserve=reserve)
    elif block_size < 1 or POOL_SLOTS % block_size:
        raise InputError(f"blocks of {block_size} do not fill {POOL_SLOTS} slots evenly")
    else:
        blocks = POOL_SLOTS // block_size
        pool = _Pages(Paged(blocks, BlockCurve(block_size)), block_size)
    return Story(policy, pool.block_size, tuple(_moments(pool)))


# --- the pool, drawn -----------------------------------------------------------------------


@dataclass
class _Pool:
    """An allocator with the requests that it serves now, by name, in order of admission."""

    allocator: Allocator
    block_size: int
    live: dict[str, Request] = field(default_factory=dict)

    def allocate(self, name: str, request: Request) -> bool:
        """Give a request room for its prompt, if there is any."""
        if self.allocator.allocate(request, request.prefill_tokens) is None:
            return False
        request.computed_tokens = request.prefill_tokens
        self.live[name] = request
        self._follow()
        return True

    def grow(self, name: str) -> bool:
        """Make room for a request's next token, and write it."""
        request = self.live[name]
        if not self.allocator.append_slots(request, request.computed_tokens + 1):
            return False
        request.computed_tokens += 1
        request.generated_tokens += 1
        self._follow()
        return True

    def free(self, name: str, *, preempted: bool = False) -> Request:
        """Take a request out."""
        request = self.live.pop(name)
        self.allocator.free(request, preempted=preempted)
        self._follow()
        return request

    def _follow(self) -> None:
        """Check the allocator's laws, and follow them."""
        self.allocator.check([(each, each.computed_tokens) for each in self.live.values()])

    def tables(self) -> dict[str, tuple[int, ...]]:
        """Where each request lies."""
        raise NotImplementedError

    def addresses(self, name: str) -> Iterator[int]:
        """Yield the slots of a request, in the order of its tokens."""
        raise NotImplementedError

    def slots(self) -> tuple[Slot, ...]:
        """Draw the pool."""
        drawn = [Slot("", "free")] * POOL_SLOTS
        for name, request in self.live.items():
            for at, address in enumerate(self.addresses(name)):
                drawn[address] = Slot(name, _use(at, request))
        return tuple(drawn)


def _use(at: int, request: Request) -> str:
    if at < request.computed_tokens:
        return "token"
    return "to come" if at < request.final_tokens else "never"


@dataclass(kw_only=True)
class _Segments(_Pool):
    """Contiguous regions: a base and a limit each."""

    reserve: Reservation

    def tables(self) -> dict[str, tuple[int, ...]]:
        """``(base, limit)`` of every request."""
        return {
            name: (address_of(request), self.reserve(request, MAX_MODEL_LEN))
            for name, request in self.live.items()
        }

    def addresses(self, name: str) -> Iterator[int]:
        """From the base up to the limit."""
        base, limit = self.tables()[name]
        return iter(range(base, base + limit))


@dataclass
class _Pages(_Pool):
    """Blocks with numbers, and a table of them for every request."""

    _tables: dict[str, list[int]] = field(default_factory=dict)

    def _follow(self) -> None:
        super()._follow()
        self._tables = {name: self._tables.get(name, []) for name in self.live}
        for name, request in self.live.items():
            need = self.allocator.blocks_of(request, request.computed_tokens)
            while len(self._tables[name]) < need:
                self._tables[name].append(min(self._unused()))
        if len(self._unused()) != self.allocator.free_blocks:
            raise InvariantError("the story's blocks differ from the allocator's")

    def _unused(self) -> set[int]:
        held = {block for table in self._tables.values() for block in table}
        return set(range(self.allocator.total_blocks)) - held

    def tables(self) -> dict[str, tuple[int, ...]]:
        """Block numbers of every request."""
        return {name: tuple(table) for name, table in self._tables.items()}

    def addresses(self, name: str) -> Iterator[int]:
        """Through the block table."""
        for block in self._tables[name]:
            yield from range(block * self.block_size, (block + 1) * self.block_size)


# --- what happens --------------------------------------------------------------------------


def _moments(pool: _Pool) -> Iterator[Moment]:
    """Step by step: the finished leave, the queue is admitted, a token is written each."""
    coming, waiting = list(_REQUESTS), dict[str, Request]()
    yield Moment(0, ("The pool is empty.",), pool.slots(), {}, ())
    step = 0
    while coming or waiting or pool.live:
        while coming and coming[0].arrival_step <= step:
            asked = coming.pop(0)
            waiting[asked.name] = _request(asked)
        events = [*_departures(pool), *_admissions(pool, waiting), *_decode(pool, waiting)]
        step += 1
        yield Moment(step, tuple(events), pool.slots(), pool.tables(), tuple(waiting))


def _request(asked: _Asked) -> Request:
    row = [each.name for each in _REQUESTS].index(asked.name)
    return Request(row, float(asked.arrival_step), asked.prompt_tokens, asked.output_tokens)


def _departures(pool: _Pool) -> Iterator[str]:
    """Let those go that wrote their last token in the step before."""
    for name, request in list(pool.live.items()):
        if request.computed_tokens >= request.final_tokens:
            pool.free(name)
            yield f"{name} is finished and leaves."


def _admissions(pool: _Pool, waiting: dict[str, Request]) -> Iterator[str]:
    """Admit from the head of the queue for as long as there is room."""
    while waiting:
        name, request = next(iter(waiting.items()))
        if not pool.allocate(name, request):
            yield f"{name} waits: {_why(pool, request)}."
            return
        del waiting[name]
        yield f"{name} is admitted: its prompt of {request.prefill_tokens} tokens is written."


def _why(pool: _Pool, request: Request) -> str:
    if isinstance(pool, _Segments):
        need = pool.reserve(request, MAX_MODEL_LEN)
        free = pool.slots().count(Slot("", "free"))
        return f"it must reserve {need} slots in one piece, and {free} are free in all"
    need = pool.allocator.blocks_of(request, request.prefill_tokens)
    return f"its prompt needs {need} blocks, and {pool.allocator.free_blocks} are free"


def _decode(pool: _Pool, waiting: dict[str, Request]) -> Iterator[str]:
    """Write one token of every live request that is not finished."""
    written = []
    for name in list(pool.live):
        while name in pool.live and not pool.grow(name):
            last = next(reversed(pool.live))
            _preempt(pool, waiting, last)
            yield f"There is no block for {name}: {last} is preempted and starts anew."
        written += [name] * (name in pool.live)
    if written:
        yield f"{', '.join(written)} write{'' if written[1:] else 's'} a token."


def _preempt(pool: _Pool, waiting: dict[str, Request], name: str) -> None:
    """Put a request back at the head of the queue; what it wrote is computed again."""
    request = pool.free(name, preempted=True)
    request.prefill_tokens, request.computed_tokens = request.computed_tokens, 0
    request.preemptions += 1
    behind = dict(waiting)
    waiting.clear()
    waiting.update({name: request, **behind})
