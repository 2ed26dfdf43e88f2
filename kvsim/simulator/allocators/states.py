"""Where a prompt's chunks end so that recurrent states can be kept: vLLM's rules.

A state is of all tokens up to where a step ends, so that a copy for later prompts is kept only at
the ends of blocks, and where the last chunk leaves one behind::

    block      |   0   |   1   |   2   |   3   |   4
    chunks     |-------------->|------------------>          tokens 0 ... 18 of blocks of 4
    states                   [ 1 ]           [ 3 ][ 4 ]      3: the last chunk's checkpoint

The rules are those of ``Scheduler._mamba_block_aligned_split`` in
``vllm/v1/core/sched/scheduler.py``, ``is_mamba_prefill_checkpoint_valid`` in
``vllm/v1/kv_cache_interface.py`` and of ``MambaManager`` in
``vllm/v1/core/single_type_kv_cache_manager.py``, for blocks of one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvsim.memory.growth import Growth
from kvsim.simulator.request import Request
from kvsim.units import ceil_div

__all__ = ["States", "prefill_end"]


def prefill_end(request: Request) -> int:
    """Tokens after which a request no longer computes a prompt.

    Whoever was preempted computes its output anew, but for the newest token.
    """
    return max(request.prompt_tokens, request.prefill_tokens - 1)


class States(NamedTuple):
    """The recurrent states of a model, of which copies are kept.

    Parameters
    ----------
    block_size : int
        Tokens of a block, in every group.
    checkpoints : int
        Blocks of a prompt's last chunk that hold a state beside the newest one.
    is_sparse : bool
        Whether copies are kept only where later prompts are known to begin.
    """

    block_size: int
    checkpoints: int
    is_sparse: bool

    @classmethod
    def of(cls, groups: Sequence[Growth], *, is_sparse: bool) -> States | None:
        """The states among some groups, if there are any; all blocks have one size then."""
        found = [each.window for each in groups if each.window is not None and each.is_state]
        if not found:
            return None
        checkpoints = min(window.checkpoints or 0 for window in found)
        return cls(groups[0].block_size, checkpoints, is_sparse)

    def chunk(self, request: Request, start: int, tokens: int, junction: int, longest: int) -> int:
        """Tokens of a chunk that begins after `start` tokens and was to have so many; maybe none.

        Parameters
        ----------
        request : Request
            Whose prompt it is.
        start : int
            Tokens computed.
        tokens : int
            What the step has left for it.
        junction : int
            Where its prefix ends that some groups know and others do not; 0: nowhere.
        longest : int
            Tokens of the longest chunk that any step has.
        """
        size, until = self.block_size, prefill_end(request)
        if start >= until:
            return tokens
        end = start + tokens
        last = (until - 1) // size * size
        leaves_one = end >= until and self._leaves_one(start, end, last)
        if end < until:
            aligned = end // size * size
            if aligned > start or size <= longest:
                end = aligned
        stops = [start + (junction - start) // size * size] if start < junction < end else []
        if not leaves_one:
            stops.append((request.prefill_tokens - 1) // size * size)
            if start % size:
                stops.append(start // size * size + size)
        return max(0, min((stop for stop in stops if start < stop < end), default=end) - start)

    def beside(self, request: Request, start: int, end: int) -> int:
        """Blocks that a chunk fills with states beside its newest one."""
        if self.is_sparse and end < prefill_end(request):
            return 0
        is_left = self._leaves_one(start, end, (end - 1) // self.block_size * self.block_size)
        return self.checkpoints if is_left else 0

    def _leaves_one(self, start: int, end: int, place: int) -> bool:
        """Whether a chunk can leave the state of a place within it in a block of its own."""
        size = self.block_size
        return (
            self.checkpoints > 0
            and start % size == 0
            and ceil_div(end, size) - 2 > (start - 1) // size
            and start + size <= place < end
        )
