"""One engine's answer for one deployment, and the tables that follow from it alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from kvsim.catalog.models import find_model
from kvsim.engines.base import Capacity, Deployment, Engine, MemoryBudget, ResolvedDeployment
from kvsim.errors import InputError
from kvsim.memory import footprint
from kvsim.memory.pools import KVPools
from kvsim.memory.rank import Rank
from kvsim.planning.plan_types import Concurrency, Fragmentation, Reservation
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat
from kvsim.steptime.kv_reads import KVReadCurve
from kvsim.units import ceil_div

__all__ = [
    "COMMON_CONTEXTS",
    "Sizing",
    "concurrency",
    "context_lengths",
    "contiguous_vs_paged",
    "fragmentation",
    "overridden",
    "size",
]

COMMON_CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)

# Lengths looked at within one block; a hybrid's largest blocks are of about a thousand tokens.
_MOST_LENGTHS = 4096


@dataclass(frozen=True)
class Sizing:
    """A resolved deployment with the rank that decides, its memory budget and its KV capacity.

    `asked` is the deployment before the engine filled its defaults in.
    """

    engine: Engine
    asked: Deployment
    deployment: ResolvedDeployment
    rank: Rank
    budget: MemoryBudget
    capacity: Capacity

    @property
    def fits(self) -> bool:
        """Whether one request of ``max_model_len`` fits, and the pool beside the weights."""
        return self.capacity.holds_one and self.pool_bytes <= self.room_bytes

    @property
    def serves(self) -> bool:
        """Whether such a request also finishes: it may be let in and outgrow the pool."""
        return self.fits and self.requests(self.capacity.max_model_len) >= 1

    @property
    def room_bytes(self) -> int:
        """What the card has for KV cache, whatever was decreed: all less the other terms."""
        budget = self.budget
        taken = budget.weights_bytes + budget.activation_bytes + budget.non_torch_bytes
        return max(0, budget.total_bytes - taken)

    @property
    def kv_format(self) -> KVFormat:
        """Format that the engine stores K and V in."""
        return self.deployment.kv_format

    @property
    def pools(self) -> KVPools:
        """What the engine hands out, and what a sequence holds of it."""
        return self.capacity.pools

    @property
    def pool_bytes(self) -> int:
        """Bytes that sequences share: the KV bytes, or the pool that the user decreed."""
        if self.deployment.options.pool_is_stated:
            return self.pools.total_bytes
        return max(0, self.budget.kv_cache_bytes)

    @property
    def memory(self) -> MemoryBudget:
        """Where the rank's memory goes: a pool that is stated smaller leaves the rest alone."""
        left = max(0, self.budget.kv_cache_bytes)
        return replace(self.budget, kv_cache_bytes=min(left, self.pool_bytes))

    @property
    def has_given_pool(self) -> bool:
        """Whether the size that `memory` shows was asked for: what is no ceiling above the room."""
        options, capacity = self.deployment.options, self.capacity
        if not options.pool_is_stated:
            return self.budget.kv_cache_bytes == options.kv_cache_memory_bytes
        unit = capacity.block_size if options.pool_key == "max_total_tokens" else 1
        asked: int = getattr(options, options.pool_key)
        held = capacity.num_blocks * unit
        return asked - unit < held and self.pool_bytes <= self.budget.kv_cache_bytes

    @cached_property
    def fixed_bytes(self) -> int:
        """Bytes of one sequence whatever its length, one rank: states, an encoder's output."""
        shared = Rank(
            tp=self.rank.attention_ranks,
            pp=self.rank.pp,
            stage=self.rank.stage,
            layers=self.rank.layers,
        )
        return footprint.all_full_bytes(self.deployment.model, self.kv_format, 0, shared)

    def kept_bytes(self, context: int) -> int:
        """Bytes of one sequence's own K, V and states, no block rounding, one rank."""
        return self._laid_out(footprint.sequence_bytes, context)

    def all_full_bytes(self, context: int) -> int:
        """Bytes of one sequence if no window saved anything, one rank."""
        return self._laid_out(footprint.all_full_bytes, context)

    def _laid_out(self, own: Callable[[ModelSpec, KVFormat, int, Rank], int], context: int) -> int:
        """The model's own bytes as the engine keeps them: its layout is one of tokens."""
        model, fmt, rank = self.deployment.model, self.kv_format, self.rank
        tokens = own(model, fmt, context, rank) - own(model, fmt, 0, rank)
        return round(tokens * self.pools.layout_ratio) + self.fixed_bytes

    @cached_property
    def read_curve(self) -> KVReadCurve:
        """Bytes that attention reads of a sequence in one step, all pipeline stages."""
        return KVReadCurve.from_model(
            self.deployment.model,
            self.kv_format,
            Rank(tp=self.rank.tp, attention_tp=self.rank.attention_tp),
            layout_ratio=self.pools.layout_ratio,
        )

    def occupied_bytes(self, context: int) -> int:
        """Bytes of the blocks that one running sequence holds, one rank."""
        return self.pools.sequence_bytes(context)

    def requests(self, context: int) -> int:
        """Sequences of `context` tokens whose blocks fit at once, in every pool there is."""
        return self.pools.requests(context)

    def running(self, context: int) -> int:
        """Sequences that run at once: what fits, or ``max_num_seqs`` where that is less."""
        return min(self.requests(context), self.deployment.options.max_num_seqs)


def overridden(asked: Deployment, model: str | Path | ModelSpec, engine: Engine) -> Deployment:
    """The deployment with the model as the engine's flags override its config, if they do.

    Raises
    ------
    InputError
        For a flag that this release does not have, and overrides of what has no config.
    """
    overrides = engine.overrides(asked.options)
    if overrides is None:
        return asked
    if isinstance(model, ModelSpec):
        fix = "give the model by name or path"
        raise InputError("a model spec has no config to override", where=overrides.flag, fix=fix)
    return replace(asked, model=find_model(model, overrides))


def size(engine: Engine, deployment: Deployment) -> Sizing:
    """Resolve a deployment, predict its budget and lay its blocks.

    Raises
    ------
    KVSimError
        For flags that the engine refuses.
    """
    resolved = engine.resolve(deployment)
    rank = engine.tightest_rank(resolved)
    budget = engine.rank_budget(resolved, rank)
    capacity = engine.capacity(resolved, max(0, budget.kv_cache_bytes))
    return Sizing(engine, deployment, resolved, rank, budget, capacity)


def context_lengths(context: int, max_model_len: int) -> list[int]:
    """List the given length, the common ones below ``max_model_len``, and that itself."""
    common = [length for length in COMMON_CONTEXTS if length < max_model_len]
    return sorted({context, *common, max_model_len})


def concurrency(sizing: Sizing, lengths: Iterable[int]) -> tuple[Concurrency, ...]:
    """Count the sequences of each length that memory holds and that may run."""
    return tuple(
        Concurrency(
            context_len=length,
            sequence_bytes=sizing.occupied_bytes(length),
            requests=sizing.requests(length),
            running=sizing.running(length),
        )
        for length in lengths
    )


def contiguous_vs_paged(sizing: Sizing, context: int) -> Reservation:
    """Compare reserving ``max_model_len`` tokens per request with paging, at one length.

    A contiguous slot holds every layer at full length: nobody knows in advance that the
    request will end early.
    """
    slot = sizing.all_full_bytes(sizing.capacity.max_model_len)
    return Reservation(
        context_len=context,
        contiguous_bytes=slot,
        contiguous_requests=sizing.pool_bytes // max(1, slot),
        paged_bytes=sizing.occupied_bytes(context),
        paged_requests=sizing.requests(context),
    )


def fragmentation(sizing: Sizing, context: int) -> Fragmentation:
    """Measure what a sequence's blocks hold beside its tokens, over one block of lengths.

    ::

        |################|################|#####...........|   block_size 16, 37 tokens
                                          '-- waste: 0..15, mean 7.5 tokens per group --'

    Padding layers and unified pages of hybrid models count too: they are blocks that hold
    no token.
    """
    block = max(1, sizing.capacity.block_size)
    lengths = _lengths_within(block, ceil_div(context, block) * block)
    occupied = [sizing.occupied_bytes(length) for length in lengths]
    waste = [
        max(0, held - sizing.kept_bytes(length))
        for held, length in zip(occupied, lengths, strict=True)
    ]
    worst = max(range(len(waste)), key=waste.__getitem__)
    return Fragmentation(
        context_len=context,
        block_size=block,
        expected_bytes=round(sum(waste) / len(waste)),
        expected_share=sum(waste) / max(1, sum(occupied)),
        worst_bytes=waste[worst],
        worst_share=waste[worst] / max(1, occupied[worst]),
    )


def _lengths_within(block: int, last: int) -> list[int]:
    """List the lengths of one block that ends at `last`, evenly thinned where they are many."""
    step = ceil_div(block, _MOST_LENGTHS)
    return sorted({*range(last - block + 1, last + 1, step), last})
