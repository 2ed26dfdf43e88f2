"""Blocks, concurrency and tokens: exact arithmetic on the bytes left for KV."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from kvsim.engines.base import Capacity, ResolvedDeployment
from kvsim.engines.common import layout_ratio
from kvsim.engines.vllm.groups import (
    PageGroup,
    bytes_per_block,
    pack_groups,
    promote_to_full,
    require_one_group,
    two_tables,
)
from kvsim.engines.vllm.pages import PageSpec, Reserve, layer_pages
from kvsim.engines.vllm.rules import Rules
from kvsim.errors import UnsupportedError
from kvsim.memory.footprint import bytes_per_token
from kvsim.memory.pools import Group, KVPools, Pool
from kvsim.memory.rank import Rank

__all__ = ["Layout", "capacity_of", "layout_of"]

# Block 0 stands for "no block" and is never handed out.
_NULL_BLOCKS = 1


class Layout(NamedTuple):
    """A model's groups under one deployment, and what one sequence draws from them.

    Parameters
    ----------
    groups : tuple of PageGroup
        In the engine's order.
    reserve : Reserve
        Tokens in flight and context sharding.
    counts_pages : bool
        Whether concurrency counts whole pages per group; V0 divided tokens by the length.
    """

    groups: tuple[PageGroup, ...]
    reserve: Reserve
    counts_pages: bool = True

    def bytes_per_block(self, layers: Collection[int] | None = None) -> int:
        """Bytes that one block id stands for, over the given layers (None: all)."""
        return bytes_per_block(self.groups, layers)

    def admission_blocks(self, length: int) -> int:
        """Blocks that admission charges a sequence of `length` tokens."""
        return sum(group.spec.admission_pages(length, self.reserve) for group in self.groups)

    def concurrency(self, num_blocks: int, length: int) -> float:
        """Sequences of `length` tokens that `num_blocks` admit, as the engine prints it."""
        if self.counts_pages:
            return num_blocks / self.admission_blocks(length)
        return num_blocks * self.token_block / length

    @property
    def token_block(self) -> int:
        """Tokens of the smallest block among groups whose blocks hold tokens."""
        specs = [group.spec for group in self.groups]
        sizes = [spec.block_size for spec in specs if spec.kind not in ("state", "ring")]
        return min(sizes or [specs[0].block_size])


def layout_of(deployment: ResolvedDeployment, rules: Rules, *, all_full: bool = False) -> Layout:
    """Lay out a resolved deployment.

    Parameters
    ----------
    deployment : Deployment
        Resolved.
    rules : Rules
        The release's.
    all_full : bool
        Charge windows and chunks as full attention, whatever the flags say.

    Raises
    ------
    UnsupportedError
        When the model keeps no cache, or its layers cannot share one group where they must.
    """
    options = deployment.options
    packs_mixed = bool(rules.value("packed_pages"))
    pages = layer_pages(deployment, rules)
    if not pages:
        raise UnsupportedError(f"{deployment.model.name} keeps no cache: there is nothing to size")
    if deployment.model.encoder_tokens:
        return Layout(two_tables(pages), _reserve(deployment, rules), counts_pages=False)
    is_v0 = rules.is_v0(deployment.model, deployment.accelerator)
    is_hybrid = bool(rules.value("hybrid_groups")) and not is_v0
    is_single = options.disable_hybrid_kv_cache_manager or not is_hybrid
    if is_single or all_full:
        pages = promote_to_full(pages)
    if is_single:
        flag = "--disable-hybrid-kv-cache-manager" if is_hybrid else "a release without groups"
        require_one_group(pages, flag)
    groups = pack_groups(pages, packs_mixed=packs_mixed)
    return Layout(groups, _reserve(deployment, rules), counts_pages=is_hybrid)


def capacity_of(
    deployment: ResolvedDeployment,
    rules: Rules,
    kv_bytes: int,
    rank: Rank,
) -> Capacity:
    """Lay blocks over `kv_bytes` of one rank."""
    options = deployment.options
    length = options.max_model_len
    layers = rank.layers_of(deployment.model)
    layout = layout_of(deployment, rules)
    num_blocks = _num_blocks(deployment, layout, kv_bytes, layers)
    concurrency = layout.concurrency(num_blocks, length)
    full = layout_of(deployment, rules, all_full=True)
    held_bytes = kv_bytes
    if options.num_gpu_blocks_override:
        held_bytes = num_blocks * layout.bytes_per_block(layers)
    full_blocks = max(0, held_bytes) // full.bytes_per_block(layers)
    pool = _pool(layout, num_blocks, length, layers)
    token_bytes = _bytes_per_token(deployment, rank)
    return Capacity(
        kv_cache_bytes=kv_bytes,
        kv_cache_dtype=options.kv_cache_dtype,
        bytes_per_token=token_bytes,
        max_model_len=length,
        max_concurrency=concurrency,
        logged_tokens=_logged_tokens(layout, rules, num_blocks, length),
        admission_tokens=int(concurrency * length),
        steady_tokens=num_blocks * length // pool.blocks_at(length),
        all_full_tokens=full_blocks * length // full.admission_blocks(length),
        pools=KVPools((pool,), layout_ratio(deployment, token_bytes, rank)),
    )


def _pool(layout: Layout, num_blocks: int, length: int, layers: Collection[int]) -> Pool:
    """The one pool that all groups draw from; V0 had no null block."""
    return Pool(
        name="blocks",
        block_size=_main_group(layout).spec.block_size,
        block_bytes=layout.bytes_per_block(layers),
        num_blocks=num_blocks,
        withheld_blocks=_NULL_BLOCKS if layout.counts_pages else 0,
        groups=tuple(_describe(group, layout, length) for group in layout.groups),
    )


def _reserve(deployment: ResolvedDeployment, rules: Rules) -> Reserve:
    options = deployment.options
    batches = 1
    if rules.value("in_flight_batches"):
        batches = options.pipeline_parallel_size + bool(options.async_scheduling)
    tokens = batches * options.max_num_batched_tokens
    return Reserve(tokens, options.decode_context_parallel_size)


def _num_blocks(
    deployment: ResolvedDeployment, layout: Layout, kv_bytes: int, layers: Collection[int]
) -> int:
    override = deployment.options.num_gpu_blocks_override
    return override or max(0, kv_bytes) // layout.bytes_per_block(layers)


def _logged_tokens(layout: Layout, rules: Rules, num_blocks: int, length: int) -> int:
    """The engine's "GPU KV cache size"; the newer one is derived from the concurrency."""
    if rules.value("logged_tokens") == "concurrency":
        return int(layout.concurrency(num_blocks, length) * length)
    a_group = num_blocks // len(layout.groups) if layout.counts_pages else num_blocks
    return a_group * layout.token_block * layout.reserve.context_ranks


def _bytes_per_token(deployment: ResolvedDeployment, rank: Rank) -> int:
    return bytes_per_token(deployment.model, deployment.kv_format, rank) // rank.dcp


def _main_group(layout: Layout) -> PageGroup:
    """Return the group that a growing context fills: the first full one, where there is one."""
    full = (group for group in layout.groups if group.spec.kind == "full")
    return next(full, layout.groups[0])


def _describe(group: PageGroup, layout: Layout, length: int) -> Group:
    spec: PageSpec = group.spec
    return Group(
        name=group.name,
        layers=len(group.members) + group.padding_layers,
        padding_layers=group.padding_layers,
        block_size=spec.block_size,
        page_bytes=spec.page_bytes,
        blocks_per_sequence=spec.admission_pages(length, layout.reserve),
        growth=spec.growth(layout.reserve),
    )
