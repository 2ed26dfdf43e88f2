"""What one pass over SGLang's queue may still admit: ``PrefillAdder`` and ``PrefillBudget``.

Everything is reckoned before it happens: who is admitted is charged with its prompt in whole
pages, a page more, and its whole output; who runs already, with a share of what is left of its
output. The pool's free slots must exceed the sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from math import inf

from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.request import Request

__all__ = ["MOST_NEW_TOKENS", "PrefillBudget"]

MOST_NEW_TOKENS = 4096  # SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION
_RESERVE_TOKENS = 1  # IGNORE_EOS_RESERVE_TOKENS


class PrefillBudget:
    """The budgets of one pass, as they are spent.

    Parameters
    ----------
    allocator : Allocator
        The memory; what it hands out in this pass stays in the budget's room, as the engine
        allocates when the pass is over.
    chunk : int
        Tokens that the step may compute (``--chunked-prefill-size``).
    ratio : float
        Share of outstanding output that is reckoned with.
    running : iterable of (Request, int)
        Decoding requests in the batch's order, with their output tokens so far.

    Attributes
    ----------
    chunk : int
        Tokens that the step may still compute (``rem_chunk_tokens``).
    """

    def __init__(
        self, allocator: Allocator, chunk: int, ratio: float, running: Iterable[tuple[Request, int]]
    ) -> None:
        self.chunk = chunk
        self._allocator = allocator
        self._ratio = ratio
        self._running = list(running)
        self._page = allocator.block_size
        self._is_narrow = chunk < self._page  # which the engine refuses
        self._taken = 0  # slots handed out in this pass
        self._admitted: list[Request] = []
        self._ends: list[tuple[float, int]] | None = None  # ``req_states``
        self._now = 0  # ``current_offset``
        self._in_all = sum([_left(each, done) * ratio for each, done in self._running])

    @property
    def _room(self) -> float:
        """Slots that were free, or could be evicted, when the pass began."""
        if not self._allocator.keeps_tokens:
            return inf
        return self._allocator.free_blocks * self._page + self._taken

    @property
    def has_room(self) -> bool:
        """Whether anything is left (``has_capacity``)."""
        return self._room - self._in_all > 0 and self._room - self._now > 0

    def go_on(self, request: Request) -> int:
        """Tokens of the next chunk of a prompt under way (``add_chunked_req``)."""
        limit = int(min(self.chunk, self._room - self._in_all))
        rest = request.prefill_tokens - request.computed_tokens
        return min(rest, limit if limit > 0 else self.chunk)

    def fit(self, request: Request, cached: int) -> int | None:
        """Tokens that a waiting request would compute in this step (``add_one_req``).

        Returns
        -------
        int or None
            0: the step has no whole page left for it; None: the memory has no room.
        """
        extend, page = request.prefill_tokens - cached, self._page
        total = extend + _left(request, _generated(request)) + page
        if total >= self._room - self._in_all:
            return None
        return self.chunk_of(request, cached)

    def chunk_of(self, request: Request, cached: int) -> int:
        """Tokens of the first chunk, whatever the memory says."""
        extend, page = request.prefill_tokens - cached, self._page
        if self._paged(extend) <= self.chunk or (self._is_narrow and extend <= self.chunk):
            return extend
        end = (cached + self.chunk // page * page) // page * page
        return max(0, end - cached) or (self.chunk if self._is_narrow else 0)

    def fit_whole(self, request: Request) -> int | None:
        """As `fit`, for one that asks for its length, where nothing is cached.

        Mirrors ``add_one_req_ignore_eos``: requests end one after the other, and at each end
        the rest must still have room.
        """
        extend = request.prefill_tokens
        need = self._paged(extend) + self._page
        if need > min(self._room - self._now, self._room - self._in_all):
            return None
        if not self._ends_in_time(request, need):
            return None
        return min(extend, self.chunk)

    def take(self, request: Request, tokens: int, *, last: bool) -> None:
        """Charge an admitted request, or a further chunk, to the budgets.

        Parameters
        ----------
        request : Request
            The request.
        tokens : int
            What it computes in this step.
        last : bool
            Whether its prompt is complete then: only then its output is reckoned with.
        """
        paged = self._paged(tokens)
        self._now += paged + self._page
        self._in_all += paged + self._page
        if last:
            self._in_all += request.samples * min(request.output_tokens, MOST_NEW_TOKENS)
        self.chunk -= paged
        self._admitted.append(request)

    def handed_out(self, slots: int) -> None:
        """Note slots that the memory has handed out since the pass began."""
        self._taken += slots

    def _paged(self, tokens: int) -> int:
        """``ceil_paged_tokens``."""
        return -(-tokens // self._page) * self._page

    def _ends_in_time(self, request: Request, need: int) -> bool:
        """Whether everybody's end comes before the memory's."""
        if self._ends is None:
            admitted = ((each, _generated(each)) for each in self._admitted)
            everybody = chain([(request, _generated(request))], self._running, admitted)
            ends = (self._end(each, done) for each, done in everybody)
            self._ends = sorted((end for end in ends if end), key=lambda end: end[0])
        elif (end := self._end(request, _generated(request))) is not None:
            at = next((i for i, each in enumerate(self._ends) if end[0] <= each[0]), None)
            self._ends.insert(max(0, len(self._ends) - 1) if at is None else at, end)
        room, freed = self._room - self._now - need, 0
        for number, (left, occupied) in enumerate(self._ends):
            rest = len(self._ends) - number
            if room + freed - left * rest <= _RESERVE_TOKENS * rest:
                return False
            freed += occupied
        return True

    def _end(self, request: Request, done: int) -> tuple[float, int] | None:
        """Output tokens left, and what the end frees; None when none are left."""
        left = request.output_tokens * self._ratio - done
        return (left, request.prompt_tokens + done) if left > 0 else None


def _generated(request: Request) -> int:
    """Output tokens of a request that does not decode: those before its last retraction."""
    return request.generated_tokens


def _left(request: Request, done: int) -> int:
    """Output tokens that are still expected, as far as the engine reckons."""
    return request.samples * min(request.output_tokens - done, MOST_NEW_TOKENS)
