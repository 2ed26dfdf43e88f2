"""The same case through kvsim's ``sglang`` scheduler."""

from __future__ import annotations

from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.radix import Radix
from kvsim.simulator.schedulers import SchedulerLimits
from kvsim.simulator.schedulers.sglang import SGLang

from .product import LONGEST, serve, watched
from .seen import Seen
from .sglang_cases import Case

__all__ = ["run"]

_POLICY = watched(SGLang)


def run(case: Case) -> Seen:
    """Serve a case's requests with the product's scheduler."""
    memory: Allocator = (Radix if case.caching else Paged)(case.blocks, BlockCurve(case.block_size))
    limits = SchedulerLimits(
        max_num_seqs=case.running, max_num_batched_tokens=case.chunk, max_model_len=LONGEST
    )
    own = {"conservativeness": case.conservativeness, "ignore_eos": case.ignore_eos}
    return serve(case, _POLICY, memory, limits, **own)
