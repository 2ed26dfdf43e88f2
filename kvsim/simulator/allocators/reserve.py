"""Contiguous reservation at admission: what engines did before paging.

::

    |<------------------ reserved ------------------->|
    | prompt, output so far | output to come | never  |
          token states         reserved        internal

How much is reserved is the policy (Orca's three in the PagedAttention paper); where it lies
is an address space's business, and external fragmentation happens there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kvsim.errors import InvariantError
from kvsim.memory.growth import BlockCurve
from kvsim.registry import Registry
from kvsim.simulator.allocators.addresses import PLACEMENTS
from kvsim.simulator.allocators.base import Allocator, Holding, Slots, address_of
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.request import Request

__all__ = [
    "RESERVATIONS",
    "Reservation",
    "Reserve",
    "reserve_max",
    "reserve_oracle",
    "reserve_pow2",
]

Reservation = Callable[[Request, int], int]


def reserve_max(request: Request, max_model_len: int) -> int:
    """Reserve the longest sequence that the model allows: Orca (Max), FasterTransformer."""
    return max_model_len


def reserve_pow2(request: Request, max_model_len: int) -> int:
    """Reserve the output's length rounded up to a power of two: Orca (Pow2)."""
    output = 1 << (request.output_tokens - 1).bit_length()
    return min(request.prompt_tokens + output, max(max_model_len, request.final_tokens))


def reserve_oracle(request: Request, max_model_len: int) -> int:
    """Reserve prompt and output, as if the output's length were known: Orca (Oracle)."""
    return request.prompt_tokens + request.output_tokens


RESERVATIONS: Registry[Reservation] = Registry(
    "reservation",
    {
        "reserve-max": reserve_max,
        "reserve-pow2": reserve_pow2,
        "reserve-oracle": reserve_oracle,
    },
)


class Reserve(Allocator):
    """One contiguous region per sequence, from admission to the end.

    Parameters
    ----------
    slots : int
        Token slots of the pool.
    max_model_len : int
        Longest sequence, tokens.
    reservation : callable
        Slots to reserve for a request: `reserve_max`, `reserve_pow2` or `reserve_oracle`.
    placement : str
        "first-fit", "best-fit" or "buddy".
    compaction : bool
        Slide the regions together when a request would fit but for the holes; those that
        move are copied whole by the device (`copied_tokens`).
    """

    contiguous = True

    sets_slots_apart = True
    samples_share = False

    def __init__(
        self,
        slots: int,
        max_model_len: int,
        reservation: Reservation,
        *,
        placement: str = "first-fit",
        compaction: bool = False,
    ) -> None:
        super().__init__(slots, BlockCurve(1))
        self._space = PLACEMENTS.find(placement)(slots)
        self._max_model_len = max_model_len
        self._reservation = reservation
        self._compaction = compaction
        self._final = 0
        self._live: dict[int, Request] = {}

    def claim(self, request: Request, tokens: int) -> int:
        """The whole reservation, from the first token on."""
        return self._length(request) if tokens else 0

    def can_allocate(self, request: Request) -> bool:
        """Whether the reservation fits an empty space."""
        return self._space.region_size(self._length(request)) <= self.total_blocks

    def allocate(
        self, request: Request, chunk_tokens: int, *, spare_blocks: int = 0, whole: bool = True
    ) -> int | None:
        """Place the whole reservation, whatever the first chunk needs; nothing grows later."""
        address = self._place(self._length(request))
        if address is None:
            return None
        request.blocks = address
        self._live[address] = request
        self._final += request.final_tokens * request.samples
        self._count_free(self._rounding(request))
        return 0

    def append_slots(self, request: Request, tokens: int, *, spare_blocks: int = 0) -> bool:
        """Nothing to do: the room is reserved (a swapped-out request reserves again)."""
        if request.blocks is not None:
            return True
        return self.allocate(request, tokens) is not None

    def decode_steps(self, batch: DecodeBatch, limit: int) -> int:
        """All of them: every token has its slot."""
        return limit

    def claim_steps(self, batch: DecodeBatch, steps: int, opening: int) -> int:
        """Nothing more is due."""
        return 0

    def allocate_steps(self, batch: DecodeBatch, steps: int, opening: int) -> None:
        """Nothing new is held."""

    def free(self, request: Request, *, preempted: bool = False, planned_tokens: int = 0) -> None:
        """Free the region."""
        address = address_of(request)
        self._space.free(address)
        del self._live[address]
        request.blocks = None
        self._final -= request.final_tokens * request.samples
        self._count_free(-self._rounding(request))

    def slots(self, tokens: int, head: Request | None) -> Slots:
        """Split held slots; free ones are external waste while a request waits in vain."""
        stuck = head is not None and not self._space.can_allocate(self._length(head))
        external = self.rounded_slots + (self.free_blocks if stuck else 0)
        return Slots(self._final - tokens, external)

    def holdings(self, live: Iterable[tuple[Request, int]]) -> list[Holding]:
        """Split each region: written, to be written, never."""
        return [self._holding(request, tokens) for request, tokens in live]

    def _holding(self, request: Request, tokens: int) -> Holding:
        written, final = request.samples * tokens, request.samples * request.final_tokens
        address = address_of(request)
        unused = self._space.length(address) - final
        return Holding(request.row, written, final - written, unused, address)

    def check(self, live: Iterable[tuple[Request, int]]) -> None:
        """State that the regions are those of the live requests, and tile the space."""
        addresses = sorted(address_of(request) for request, _ in live)
        if addresses != [address for address, _ in self._space.regions()]:
            raise InvariantError("regions and live requests differ")
        self._space.check()

    def _length(self, request: Request) -> int:
        """Slots reserved for a request: its samples lie side by side."""
        return request.samples * self._reservation(request, self._max_model_len)

    def _rounding(self, request: Request) -> int:
        """Slots of a request's region beyond those reserved."""
        length = self._length(request)
        return self._space.region_size(length) - length

    def _count_free(self, rounding: int) -> None:
        """Note what is free, and what a new region (or, negative, a gone one) was rounded by."""
        self.rounded_slots += rounding
        self.free_blocks = self._space.free_slots

    def _place(self, length: int) -> int | None:
        """Place a region, compacting once when only the holes are in the way."""
        address = self._space.allocate(length)
        if address is not None or not self._compaction or self._space.free_slots < length:
            return address
        moved = self._space.compact()
        for old, new in sorted(moved.items()):
            request = self._live.pop(old)
            request.blocks = new
            self._live[new] = request
        self.copied_tokens += sum(n for at, n in self._space.regions() if at in moved.values())
        return self._space.allocate(length)
