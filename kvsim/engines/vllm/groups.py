"""Layers that share a block table: how vLLM packs a hybrid model into one pool.

All groups draw blocks from one pool, so a block is as large as the widest group, and a
sequence takes blocks from every group. Gemma-3-27B, 10 full and 52 window layers::

    group   0     1     2     3     4     5     6        slot 0..9 of a block
          full  win   win   win   win   win   win
           10    9+1   9+1   9+1   9+1   8+2   8+2       8 slots of padding
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from kvsim.engines.vllm.pages import LayerPage, PageSpec
from kvsim.errors import UnsupportedError
from kvsim.units import ceil_div

__all__ = ["PageGroup", "bytes_per_block", "pack_groups", "promote_to_full", "require_one_group"]

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
    """Pack layers into groups, as vLLM's KV-cache planning does.

    One spec, or several that keep the same tokens, make one group. Otherwise pages are made
    equal, and every bucket of equal specs is cut into groups of the smallest bucket's size
    (of the largest one's, where that is less than 1.5 times the smallest).
    """
    kinds = {(p.spec.kind, p.spec.block_size, p.spec.span) for p in pages}
    if len(kinds) == 1:
        return (PageGroup(tuple(pages)),)
    if not _can_unify(pages):
        return _pack_mixed(pages)
    buckets = _buckets(_unify(pages))
    sizes = [len(bucket) for bucket in buckets]
    size = max(sizes) if max(sizes) < _PADDING_RATIO * min(sizes) else min(sizes)
    return tuple(group for bucket in buckets for group in _cut(bucket, size))


def bytes_per_block(groups: tuple[PageGroup, ...], layers: Collection[int] | None = None) -> int:
    """Bytes that one block id stands for on a rank: its widest group's pages."""
    return max(group.block_bytes(layers) for group in groups)


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
    if len({page.spec.kind for page in pages}) > 1:
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


def _pack_mixed(pages: list[LayerPage]) -> tuple[PageGroup, ...]:
    """Keep pages as they are: one group for each kind and block size."""
    groups: dict[tuple[str, int, int], list[LayerPage]] = {}
    for page in pages:
        spec = page.spec
        groups.setdefault((spec.kind, spec.block_size, spec.span), []).append(page)
    return tuple(PageGroup(tuple(members)) for members in groups.values())
