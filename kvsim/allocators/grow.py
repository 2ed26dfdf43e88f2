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

from collections.abc import Callable, Iterable
from copy import deepcopy

from kvsim.allocators.addresses import AddressSpace, address_space
from kvsim.allocators.base import Allocator, BlockCurve, Slots, address_of
from kvsim.decoding import DecodeBatch
from kvsim.errors import InvariantError
from kvsim.request import Request
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
    """One tensor a sequence, made anew for every token.

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

    def __init__(
        self, slots: int, slots_of: Callable[[int], int], *, placement: str = "first-fit"
    ) -> None:
        super().__init__(slots, BlockCurve(1))
        self._slots_of = slots_of
        self._space = address_space(placement, slots)
        self.peak_slots = 0

    def holdable(self, request: Request) -> bool:
        """Whether the last copy fits beside its original in an empty space."""
        last = self._length(request, request.final_tokens)
        before = self._length(request, max(1, request.final_tokens - 1))
        copied = before if request.output_tokens > 1 else 0
        return last + copied <= self.total_blocks

    def admit(self, request: Request, chunk_tokens: int, *, spare_blocks: int = 0) -> int | None:
        """Make the prompt's tensor whole (a plain loop prefills in one go)."""
        return 0 if self._make(request, request.prefill_tokens) else None

    def extend(self, request: Request, tokens: int, *, spare_blocks: int = 0) -> bool:
        """Nothing to do: the prompt's tensor is whole (one swapped out is made again)."""
        return request.blocks is not None or self._make(request, tokens)

    def decode_steps(self, batch: DecodeBatch, limit: int) -> int:
        """One step, when every sequence's copy finds a place in turn; else none."""
        trial = deepcopy(self._space)
        return int(all(self._regrow(trial, r, batch) is not None for r in batch.members))

    def take(self, batch: DecodeBatch, steps: int) -> int:
        """Copy every sequence in turn, the oldest first."""
        before = self._space.free
        for request in batch.members:
            request.blocks = self._regrow(self._space, request, batch)
            self.copied_tokens += request.samples * batch.cached_tokens(request)
        self.free_blocks = self._space.free
        return before - self.free_blocks

    def release(self, request: Request, *, preempted: bool = False) -> None:
        """Free the tensor."""
        self._space.release(address_of(request))
        request.blocks = None
        self.free_blocks = self._space.free

    def slots(self, tokens: int, head: Request | None) -> Slots:
        """Rounding is internal waste; holes are external while a request waits in vain."""
        stuck = head is not None and not self._space.fits(self._length(head, head.prefill_tokens))
        held = self.total_blocks - self.free_blocks
        return Slots(held, external=self.free_blocks if stuck else 0)

    def check(self, live: Iterable[tuple[Request, int]]) -> None:
        """State that the regions are the live requests' tensors, and tile the space."""
        addresses = sorted(address_of(request) for request, _ in live)
        if addresses != [address for address, _ in self._space.regions()]:
            raise InvariantError("tensors and live requests differ")
        self._space.check()

    def _length(self, request: Request, tokens: int) -> int:
        return request.samples * self._slots_of(tokens)

    def _make(self, request: Request, tokens: int) -> bool:
        """Place a request's first tensor."""
        request.blocks = self._space.place(self._length(request, tokens))
        self.free_blocks = self._space.free
        self._note_peak()
        return request.blocks is not None

    def _regrow(self, space: AddressSpace, request: Request, batch: DecodeBatch) -> int | None:
        """Place the longer tensor, then free the old one; None when the copy has no room."""
        address = space.place(self._length(request, batch.cached_tokens(request) + 1))
        if address is None:
            return None
        if space is self._space:
            self._note_peak()
        space.release(address_of(request))
        return address

    def _note_peak(self) -> None:
        self.peak_slots = max(self.peak_slots, self.total_blocks - self._space.free)
