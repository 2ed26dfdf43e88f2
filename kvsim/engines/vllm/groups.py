"""Layers that share a block table: how vLLM packs a hybrid model into one pool.

All groups draw blocks from one pool, so a block is as large as the widest group, and a
sequence takes blocks from every group. Gemma-3-27B, 10 full and 52 window layers::

    group   0     1     2     3     4     5     6        slot 0..9 of a block
          full  win   win   win   win   win   win
           10    9+1   9+1   9+1   9+1   8+2   8+2       8 slots of padding
"""

from __future__ import annotations

from collections.abc import Collection
from math import lcm
from typing import NamedTuple

from kvsim.engines.vllm.pages import LayerPage, PageSpec
from kvsim.errors import UnsupportedError
from kvsim.units import ceil_div

__all__ = [
    "PageGroup",
    "bytes_per_block",
    "is_unifiable",
    "pack_groups",
    "promote_to_full",
    "require_one_group",
    "two_tables",
]

# Above this ratio of the largest bucket to the smallest, groups are as small as the latter.
_PADDING_RATIO = 1.5


class PageGroup(NamedTuple):
    """Layers under one block table.

    Parameters
    ----------
    members : tuple of LayerPage
        The layers; all of one kind and block size.
    padding_layers : int
        Slots that this group leaves empty in every block.
    """

    members: tuple[LayerPage, ...]
    padding_layers: int = 0

    @property
    def spec(self) -> PageSpec:
        """The spec that all members share (page sizes may differ in a lone group)."""
        return self.members[0].spec

    @property
    def name(self) -> str:
        """Layer groups that it holds."""
        return "+".join(dict.fromkeys(member.name for member in self.members))

    def block_bytes(self, layers: Collection[int] | None = None) -> int:
        """Bytes that one block of this group fills, over the given layers (None: all)."""
        return sum(m.spec.page_bytes for m in self.members if layers is None or m.layer in layers)


def pack_groups(pages: list[LayerPage]) -> tuple[PageGroup, ...]:
    """Pack layers into groups, as vLLM's KV-cache planning does where they are unifiable.

    One spec, or several that keep the same tokens, make one group. Otherwise pages are made
    equal, and every bucket of equal specs is cut into groups of the smallest bucket's size
    (of the largest one's, where that is less than 1.5 times the smallest).

    Parameters
    ----------
    pages : list of LayerPage
        In layer order.
    """
    if _is_one_kind(pages):
        return (PageGroup(tuple(pages)),)
    buckets = _buckets(_unify(pages))
    sizes = [len(bucket) for bucket in buckets]
    size = max(sizes) if max(sizes) < _PADDING_RATIO * min(sizes) else min(sizes)
    return tuple(group for bucket in buckets for group in _cut(bucket, size))


def is_unifiable(pages: list[LayerPage]) -> bool:
    """Whether pages are of one kind or size, or may be made equal.

    A layer with pages of two sizes (DeepSeek-V4) keeps them apart.
    """
    layers = [page.layer for page in pages if page.spec.kind != "fixed"]
    has_one_size = len({page.spec.page_bytes for page in pages}) == 1
    return _is_one_kind(pages) or has_one_size or len(set(layers)) == len(layers)


def bytes_per_block(groups: tuple[PageGroup, ...], layers: Collection[int] | None = None) -> int:
    """Bytes that one block id stands for on a rank: its widest group's pages, aligned."""
    stride_bytes = lcm(*(m.spec.stride_bytes for group in groups for m in group.members))
    widest_bytes = max(group.block_bytes(layers) for group in groups)
    return ceil_div(widest_bytes, stride_bytes) * stride_bytes


def two_tables(pages: list[LayerPage]) -> tuple[PageGroup, PageGroup]:
    """Give a sequence V0's two block tables: its own, and its encoder's.

    ::

        block   self 0  self 1  self 2  cross 3  self 4 ...     a page of every layer
        own     text    text    text    -        text           ceil(tokens / block)
        cross   -       -       -       image    -              ceil(encoder tokens / block)

    Every layer has a tensor of all blocks, and fills those of one table only.

    Notes
    -----
    Source: vLLM 0.10.2, ``core/block_manager.py`` (allocate: block_tables and
    cross_block_tables) and ``worker/cache_engine.py`` (get_cache_block_size: all layers that
    ``ModelConfig.get_num_layers_by_block_type`` counts).
    """
    encoder = next(page.spec for page in pages if page.spec.kind == "fixed")
    tables = {"own": encoder._replace(kind="full", span=0), "cross": encoder}
    own, cross = (
        PageGroup(tuple(page._replace(name=name, spec=spec) for page in pages))
        for name, spec in tables.items()
    )
    return own, cross


def promote_to_full(pages: list[LayerPage]) -> list[LayerPage]:
    """Charge windows and chunks as full attention (``--disable-hybrid-kv-cache-manager``)."""
    return [
        page._replace(spec=page.spec._replace(kind="full", span=0))
        if page.spec.kind in ("window", "chunk")
        else page
        for page in pages
    ]


def require_one_group(pages: list[LayerPage], flag: str) -> None:
    """Raise UnsupportedError when layers remain that cannot share one block table."""
    kinds = {page.spec.kind for page in pages}
    if "unfolded" in kinds:
        raise UnsupportedError(
            f"{flag}: how a compressor's tokens join one group with attention is not known"
        )
    if len(kinds) > 1:
        raise UnsupportedError(
            f"{flag}: recurrent or cross-attention layers cannot join one group with attention"
        )


def _buckets(pages: list[LayerPage]) -> list[list[LayerPage]]:
    buckets: dict[PageSpec, list[LayerPage]] = {}
    for page in pages:
        buckets.setdefault(page.spec, []).append(page)
    return list(buckets.values())


def _cut(bucket: list[LayerPage], size: int) -> list[PageGroup]:
    """Deal a bucket's layers out in turn, so that every pipeline stage gets its share."""
    count = ceil_div(len(bucket), size)
    hands = [tuple(bucket[start::count]) for start in range(count)]
    return [PageGroup(hand, size - len(hand)) for hand in hands]


def _is_one_kind(pages: list[LayerPage]) -> bool:
    return len({(p.spec.kind, p.spec.block_size, p.spec.span) for p in pages}) == 1


def _unify(pages: list[LayerPage]) -> list[LayerPage]:
    widest = max(page.spec.page_bytes for page in pages)
    return [page._replace(spec=page.spec.with_page(widest)) for page in pages]
