"""Layers that share a block table: how vLLM packs a hybrid model into one pool.

All groups draw blocks from one pool, so a block is as large as the widest group, and a
sequence takes blocks from every group. Gemma-3-27B, 10 full and 52 window layers::

    group   0     1     2     3     4     5     6        slot 0..9 of a block
          full  win   win   win   win   win   win
           10    9+1   9+1   9+1   9+1   8+2   8+2       8 slots of padding
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain
from math import lcm
from typing import NamedTuple

from kvsim.engines.vllm.pages import LayerPage, PageSpec
from kvsim.errors import UnsupportedError
from kvsim.units import ceil_div

__all__ = [
    "PageGroup",
    "bytes_per_block",
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


def pack_groups(pages: list[LayerPage], *, packs_mixed: bool = True) -> tuple[PageGroup, ...]:
    """Pack layers into groups, as vLLM's KV-cache planning does.

    One spec, or several that keep the same tokens, make one group. Otherwise pages are made
    equal, and every bucket of equal specs is cut into groups of the smallest bucket's size
    (of the largest one's, where that is less than 1.5 times the smallest).

    Parameters
    ----------
    pages : list of LayerPage
        In layer order.
    packs_mixed : bool
        Whether pages that cannot be made equal are cut into groups too, not one a kind.
    """
    kinds = {(p.spec.kind, p.spec.block_size, p.spec.span) for p in pages}
    if len(kinds) == 1:
        return (PageGroup(tuple(pages)),)
    if not _can_unify(pages):
        kept = _kinds(pages)
        return _pack_mixed(kept) if packs_mixed else tuple(bucket.whole for bucket in kept)
    buckets = _buckets(_unify(pages))
    sizes = [len(bucket) for bucket in buckets]
    size = max(sizes) if max(sizes) < _PADDING_RATIO * min(sizes) else min(sizes)
    return tuple(group for bucket in buckets for group in _cut(bucket, size))


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


def _can_unify(pages: list[LayerPage]) -> bool:
    """Whether pages may be made equal: a layer with two pages (DeepSeek-V4) keeps them apart."""
    layers = [page.layer for page in pages if page.spec.kind != "fixed"]
    return len(set(layers)) == len(layers)


def _unify(pages: list[LayerPage]) -> list[LayerPage]:
    widest = max(page.spec.page_bytes for page in pages)
    return [page._replace(spec=page.spec.with_page(widest)) for page in pages]


class _Bucket(NamedTuple):
    """Layers that keep the same tokens, in pages of one or several sizes.

    Parameters
    ----------
    columns : tuple of tuple of LayerPage
        The layers of each page size. Columns of equal length are a pattern that repeats: one
        page of each size.
    """

    columns: tuple[tuple[LayerPage, ...], ...]

    @property
    def whole(self) -> PageGroup:
        """All of them under one block table."""
        return PageGroup(tuple(sorted(self._members, key=lambda page: page.layer)))

    @property
    def _members(self) -> Iterator[LayerPage]:
        return chain.from_iterable(self.columns)

    @property
    def repeats(self) -> int:
        """Layers of the longest column."""
        return max(map(len, self.columns))

    @property
    def is_balanced(self) -> bool:
        """Whether it is a pattern that repeats, and so may be cut."""
        return len(set(map(len, self.columns))) == 1

    def widest_bytes(self, count: int) -> int:
        """Bytes of the largest of the groups that it is cut into."""
        return sum(ceil_div(len(each), count) * each[0].spec.page_bytes for each in self.columns)

    def pieces_in(self, block_bytes: int) -> int:
        """Groups that it takes where each fits so many bytes, or is one page."""
        pages = max(1, block_bytes // self.whole.spec.page_bytes)
        return ceil_div(self.repeats, pages)

    def cut(self, count: int) -> list[PageGroup]:
        """Deal the repeats of the pattern out in turn."""
        if count == 1:
            return [self.whole]
        rows = list(zip(*self.columns, strict=True))
        hands = (rows[start::count] for start in range(count))
        return [PageGroup(tuple(chain.from_iterable(hand))) for hand in hands]


def _kinds(pages: list[LayerPage]) -> list[_Bucket]:
    """Part the layers by the tokens that they keep, in the order in which they come."""
    kinds: dict[tuple[str, int, int], dict[int, list[LayerPage]]] = {}
    for page in pages:
        spec = page.spec
        columns = kinds.setdefault((spec.kind, spec.block_size, spec.span), {})
        columns.setdefault(spec.page_bytes, []).append(page)
    return [_Bucket(tuple(map(tuple, columns.values()))) for columns in kinds.values()]


def _pack_mixed(buckets: list[_Bucket]) -> tuple[PageGroup, ...]:
    """Keep pages as they are, and cut the buckets so that their groups fill a block alike.

    Where a balanced bucket mixes page sizes, all balanced ones are cut into groups of about as
    many repeats. States and rings, and windows where none mixes sizes, are also cut to what fits
    beside the widest of the others.

    Notes
    -----
    Source: vLLM 0.33, ``v1/core/kv_cache_planning.py`` (_get_packed_kv_cache_groups).
    Page counts of each group::

        DeepSeek-V4-Flash  windows            22  21      two groups of 43 layers
                           full               62          21 + 21 index keys + 20: whole
                           unfolded by 4      21 + 21     balanced and mixed: at least 21 a group
                           unfolded by 128    20
        GLM-5.3-Flash      states             9 9 8 8     34 layers; 11 fit beside the latents
                           full               11 + 11 index keys
                           rings              11
    """
    mixed = [b.repeats for b in buckets if b.is_balanced and len(b.columns) > 1]
    size = None
    if mixed:
        size = _least_padding([b.repeats for b in buckets if b.is_balanced], max(mixed))
    counts = [ceil_div(b.repeats, size) if size and b.is_balanced else 1 for b in buckets]
    loose = [_is_loose(bucket, is_free=size is None) for bucket in buckets]
    block_bytes = max(
        bucket.widest_bytes(bucket.repeats if cuts else count)
        for bucket, count, cuts in zip(buckets, counts, loose, strict=True)
    )
    return tuple(
        group
        for bucket, count, cuts in zip(buckets, counts, loose, strict=True)
        for group in bucket.cut(max(count, bucket.pieces_in(block_bytes)) if cuts else count)
    )


def _is_loose(bucket: _Bucket, *, is_free: bool) -> bool:
    """Whether it may be cut anywhere: states, rings, and windows that no pattern binds."""
    kinds = ("state", "ring", "window", "unfolded") if is_free else ("state", "ring")
    return bucket.whole.spec.kind in kinds and len(bucket.columns) == 1


def _least_padding(sizes: list[int], least: int) -> int:
    """Return the group size from `least` up that pads `sizes` least; of equals the largest.

    Examples
    --------
    43 windows, and 21 and 20 layers of states: 22 leaves 1 + 1 + 2 slots empty.

    >>> _least_padding([43, 21, 20], 21)
    22
    """
    padding = {size: sum(-each % size for each in sizes) for size in range(least, max(sizes) + 1)}
    return min(padding, key=lambda size: (padding[size], -size))
