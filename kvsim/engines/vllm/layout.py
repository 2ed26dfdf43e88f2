"""Blocks, concurrency and tokens: exact arithmetic on the bytes left for KV."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

from kvsim.engines.base import Capacity, ResolvedDeployment
from kvsim.engines.common import layout_ratio
from kvsim.engines.vllm.groups import (
    PageGroup,
    bytes_per_block,
    is_unifiable,
    pack_groups,
    promote_to_full,
    require_one_group,
    two_tables,
)
from kvsim.engines.vllm.mixed_groups import pack_mixed, pack_tuples, slot_bytes, tuple_bytes
from kvsim.engines.vllm.pages import LayerPage, PageSpec, Reserve, layer_pages
from kvsim.engines.vllm.rules import Rules
from kvsim.errors import UnsupportedError
from kvsim.memory.footprint import bytes_per_token
from kvsim.memory.pools import Group, KVPools, Pool
from kvsim.memory.rank import Rank
from kvsim.units import ceil_div

__all__ = ["Layout", "capacity_of", "layout_of"]

# Block 0 stands for "no block" and is never handed out.
_NULL_BLOCKS = 1
# What a block holds where groups have several sizes of pages; see `mixed_groups`.
Blocks = Literal["widest", "slots", "tuples"]


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
    blocks : str
        What a block holds: the widest group's pages, or more.
    checks_tuples : bool
        Whether the start-up check charges `tuple_bytes` a block, whatever a block holds.
    """

    groups: tuple[PageGroup, ...]
    reserve: Reserve
    counts_pages: bool = True
    blocks: Blocks = "widest"
    checks_tuples: bool = False

    def bytes_per_block(self, layers: Collection[int] | None = None) -> int:
        """Bytes that one block id stands for, over the given layers (None: all)."""
        count = {"widest": bytes_per_block, "slots": slot_bytes, "tuples": tuple_bytes}
        return count[self.blocks](self.groups, layers)

    def admission_blocks(self, length: int) -> int:
        """Blocks that admission charges a sequence of `length` tokens."""
        return sum(group.spec.admission_pages(length, self.reserve) for group in self.groups)

    def charged_bytes(self, length: int, layers: Collection[int]) -> int:
        """Bytes that the start-up check asks for, for a sequence of `length` tokens."""
        block = tuple_bytes if self.checks_tuples else bytes_per_block
        return self.admission_blocks(length) * block(self.groups, layers)

    def concurrency(
        self, num_blocks: int, length: int, layers: Collection[int] | None = None
    ) -> float:
        """Sequences of `length` tokens that `num_blocks` admit, as the engine prints it.

        Where blocks are not the widest group's, a block counts as much as the first group fills,
        and so it prints more than it admits.

        Notes
        -----
        Source: vLLM 0.20.2 to 0.26.0, ``v1/core/kv_cache_utils.py``
        (get_max_concurrency_for_kv_cache_config); from 0.27 blocks are summed over the groups.
        """
        if not self.counts_pages:
            return num_blocks * self.token_block / length
        if self.blocks == "widest":
            return num_blocks / self.admission_blocks(length)
        sizes = [group.block_bytes(layers) or group.block_bytes() for group in self.groups]
        charged_bytes = sum(
            group.spec.admission_pages(length, self.reserve) * size
            for group, size in zip(self.groups, sizes, strict=True)
        )
        return num_blocks / ceil_div(charged_bytes, sizes[0])

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
    reserve = _reserve(deployment, rules)
    if is_unifiable(pages):
        return Layout(pack_groups(pages), reserve, counts_pages=is_hybrid)
    return _mixed_layout(pages, reserve, rules)


def _mixed_layout(pages: list[LayerPage], reserve: Reserve, rules: Rules) -> Layout:
    """Lay out layers of several pages."""
    blocks: Blocks | None = rules.value("mixed_blocks")
    if blocks is None:
        raise UnsupportedError(
            f"vLLM {rules.said} has no groups for layers of several pages; choose release 0.20 or"
            " newer",
        )
    if not rules.value("tuple_groups"):
        return Layout(pack_mixed(pages), reserve)
    groups = pack_tuples(pages, pads=blocks != "widest")
    return Layout(groups, reserve, blocks=blocks, checks_tuples=True)


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
    concurrency = layout.concurrency(num_blocks, length, layers)
    full = layout_of(deployment, rules, all_full=True)
    held_bytes = kv_bytes
    if options.num_gpu_blocks_override:
        held_bytes = num_blocks * layout.bytes_per_block(layers)
    admitted = num_blocks / layout.admission_blocks(length) if layout.counts_pages else concurrency
    full_blocks = max(0, held_bytes) // full.bytes_per_block(layers)
    pool = _pool(layout, num_blocks, length, layers)
    token_bytes = _bytes_per_token(deployment, rank)
    return Capacity(
        kv_cache_bytes=kv_bytes,
        kv_cache_dtype=options.kv_cache_dtype,
        bytes_per_token=token_bytes,
        max_model_len=length,
        max_concurrency=concurrency,
        logged_tokens=_logged_tokens(layout, rules, num_blocks, concurrency, length),
        admission_tokens=int(admitted * length),
        steady_tokens=num_blocks * length // pool.blocks_at(length),
        all_full_tokens=full_blocks * length // full.admission_blocks(length),
        lacking_bytes=max(0, layout.charged_bytes(length, layers) - held_bytes)
        if layout.checks_tuples
        else 0,
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
    step_tokens = options.max_num_batched_tokens
    charged = step_tokens if rules.value("encoder_charge") == "step" else None
    return Reserve(batches * step_tokens, options.decode_context_parallel_size, charged)


def _num_blocks(
    deployment: ResolvedDeployment, layout: Layout, kv_bytes: int, layers: Collection[int]
) -> int:
    override = deployment.options.num_gpu_blocks_override
    return override or max(0, kv_bytes) // layout.bytes_per_block(layers)


def _logged_tokens(
    layout: Layout, rules: Rules, num_blocks: int, concurrency: float, length: int
) -> int:
    """The engine's "GPU KV cache size"; the newer one is derived from the concurrency."""
    if rules.value("logged_tokens") == "concurrency":
        return int(concurrency * length)
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
        growth=spec.growth(length, layout.reserve),
    )
