"""Contiguous and concatenated: the cache of a plain PyTorch loop.

Every step makes a new tensor one token longer, copies the old one into it, and frees the old
one. Both are alive during the copy, and what is freed is always a little too short for what
comes next::

    step t     |##A(9)##|##B(7)#|
    copy       |##A(9)##|##B(7)#|##A(10)##|      double residency of A
    step t+1   |........|##B(7)#|##A(10)##|      a hole of 9, useless for A(11)

The caching allocator rounds every tensor up (512 bytes; 2 MiB from 10 MiB on), so a sequence's
region is a little longer than its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from types import MappingProxyType

from kvsim.errors import InvariantError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.addresses import PLACEMENTS, AddressSpace
from kvsim.simulator.allocators.base import Allocator, Holding, Slots, address_of
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.request import Request
from kvsim.units import MIB, ceil_div

__all__ = ["Grow", "caching_allocator_slots"]


def caching_allocator_slots(tokens: int, *, tensor_token_bytes: int) -> int:
    """Token slots that PyTorch's caching allocator gives a tensor of `tokens` tokens.

    Parameters
    ----------
    tokens : int
        Tokens of the sequence.
    tensor_token_bytes : int
        Bytes of one token in one tensor: K (or V) of one layer.

    Notes
    -----
    Sizes are rounded up to 512 bytes, and from 10 MiB on to 2 MiB (PyTorch's
    ``c10/cuda/CUDACachingAllocator``: kMinBlockSize, kMinLargeAlloc, kRoundLarge).

    Examples
    --------
    >>> caching_allocator_slots(9, tensor_token_bytes=200)  # 1800 -> 2048 bytes
    11
    """
    size = tokens * tensor_token_bytes
    unit = 2 * MIB if size >= 10 * MIB else 512
    return ceil_div(ceil_div(size, unit) * unit, tensor_token_bytes)


class Grow(Allocator):
    """One tensor per sequence, made anew for every token.

    Addresses change at every step, so runs are one step long: this is a study case, and the
    only policy (beside no cache at all) whose cost grows with the tokens generated.

    Parameters
    ----------
    slots : int
        Token slots of the pool.
    slots_of : callable
        ``slots_of(tokens)``: slots of one sequence's tensor, after rounding.
    placement : str
        "first-fit", "best-fit" or "buddy".

    Attributes
    ----------
    peak_slots : int
        Most slots held at once, the copies in flight included.
    """

    contiguous = True

    sets_slots_apart = True
    samples_share = False

    def __init__(
        self, slots: int, slots_of: Callable[[int], int], *, placement: str = "first-fit"
    ) -> None:
        super().__init__(slots, BlockCurve(1))
        self._slots_of = slots_of
        self._space = PLACEMENTS.find(placement)(slots)
        self.peak_slots = 0

    def claim(self, request: Request, tokens: int) -> int:
        """The tensor, which has the whole prompt from the first token on."""
        whole = max(tokens, request.prefill_tokens)
        return self._space.region_size(self._length(request, whole)) if tokens else 0

    def can_allocate(self, request: Request) -> bool:
        """Whether the last copy fits beside its original in an empty space."""
        last = self._length(request, request.final_tokens)
        before = self._length(request, max(1, request.final_tokens - 1))
        copied = self._space.region_size(before) if request.output_tokens > 1 else 0
        return self._space.region_size(last) + copied <= self.total_blocks

    def allocate(
        self, request: Request, chunk_tokens: int, *, spare_blocks: int = 0, whole: bool = True
    ) -> int | None:
        """Make the prompt's tensor whole (a plain loop prefills in one go).

        The copies of those that decode must still find a place beside it.
        """
        return 0 if self._make(request, request.prefill_tokens) else None

    def append_slots(self, request: Request, tokens: int, *, spare_blocks: int = 0) -> bool:
        """Nothing to do: the prompt's tensor is whole."""
        return True

    def swap_in(self, request: Request, *, spare_blocks: int = 0) -> bool:
        """Make the tensor again; its own next copy must find a place too."""
        return self._make(request, request.computed_tokens, decodes=True)

    def decode_steps(self, batch: DecodeBatch, limit: int) -> int:
        """One step, when every sequence's copy finds a place in turn; else none."""
        return int(self._copies_fit())

    def claim_steps(self, batch: DecodeBatch, steps: int, opening: int) -> int:
        """What each tensor is longer by after its next token (steps are taken one by one)."""
        claim, cached = self.claim, batch.cached_tokens
        return sum(claim(r, cached(r) + 1) - claim(r, cached(r)) for r in batch.members)

    def allocate_steps(self, batch: DecodeBatch, steps: int, opening: int) -> None:
        """Copy every sequence in turn, the oldest first."""
        for request in batch.members:
            tokens = batch.cached_tokens(request)
            request.blocks = self._regrow(self._space, request, tokens)
            self.copied_tokens += request.samples * tokens
        self.free_blocks = self._space.free_slots

    def free(self, request: Request, *, preempted: bool = False, planned_tokens: int = 0) -> None:
        """Free the tensor."""
        self._space.free(address_of(request))
        request.blocks = None
        self.free_blocks = self._space.free_slots

    def slots(self, tokens: int, head: Request | None) -> Slots:
        """Rounding is internal waste; holes are external while a request waits in vain."""
        stuck = head is not None and not self._space.can_allocate(
            self._length(head, head.prefill_tokens)
        )
        return Slots(external=self.free_blocks if stuck else 0)

    def holdings(self, live: Iterable[tuple[Request, int]]) -> list[Holding]:
        """Split each tensor: tokens, and what it was rounded up by."""
        return [self._holding(request, max(1, tokens)) for request, tokens in live]

    def _holding(self, request: Request, tokens: int) -> Holding:
        address = address_of(request)
        written = request.samples * tokens
        return Holding(request.row, written, 0, self._space.length(address) - written, address)

    def check(self, live: Iterable[tuple[Request, int]]) -> None:
        """State that the regions are the live requests' tensors, and tile the space."""
        addresses = sorted(address_of(request) for request, _ in live)
        if addresses != [address for address, _ in self._space.regions()]:
            raise InvariantError("tensors and live requests differ")
        self._space.check()

    def _length(self, request: Request, tokens: int) -> int:
        return request.samples * self._slots_of(tokens)

    def _make(self, request: Request, tokens: int, *, decodes: bool = False) -> bool:
        """Place a request's first tensor, if the next step's copies still fit beside it."""
        address = self._space.allocate(self._length(request, tokens))
        if address is None:
            return False
        request.blocks = address
        joining = {request: tokens} if decodes else {}
        if not self._copies_fit(joining):
            self.free(request)
            return False
        self.free_blocks = self._space.free_slots
        self._note_peak()
        return True

    def _copies_fit(self, joining: Mapping[Request, int] = MappingProxyType({})) -> bool:
        """Whether each decoding sequence's copy finds a place in turn, `joining` ones last."""
        batch = self.batch
        members = {r: batch.cached_tokens(r) for r in batch.members} if batch else {}
        trial = deepcopy(self._space)
        return all(
            self._regrow(trial, request, tokens) is not None
            for request, tokens in [*members.items(), *joining.items()]
        )

    def _regrow(self, space: AddressSpace, request: Request, tokens: int) -> int | None:
        """Place a tensor one longer, then free the old one; None when the copy has no room."""
        address = space.allocate(self._length(request, tokens + 1))
        if address is None:
            return None
        if space is self._space:
            self._note_peak()
        space.free(address_of(request))
        return address

    def _note_peak(self) -> None:
        self.peak_slots = max(self.peak_slots, self.total_blocks - self._space.free_slots)
