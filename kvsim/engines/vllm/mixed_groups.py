"""Layers of several pages (DeepSeek-V4): how vLLM groups what cannot be made equal.

::

    release   groups                                   bytes of a block
    0.20      windows cut to the repeats of a pattern  a page of each size, times the most repeats
    0.23      the same                                 the most pages of each size, summed
    0.27      the same, pages as they are              the widest group
    0.29      cut to fill a block                      the same
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import chain
from math import inf
from typing import NamedTuple

from kvsim.engines.vllm.groups import PageGroup
from kvsim.engines.vllm.pages import LayerPage, PageSpec
from kvsim.errors import UnsupportedError
from kvsim.units import ceil_div

__all__ = ["pack_mixed", "pack_tuples", "slot_bytes", "tuple_bytes"]


class _Bucket(NamedTuple):
    """Layers that keep the same tokens, in pages of one or several sizes.

    Parameters
    ----------
    columns : tuple of tuple of LayerPage
        The layers of each page size. Columns of equal length are a pattern that repeats: one
        page of each size.
    """

    columns: tuple[tuple[LayerPage, ...], ...]

    @classmethod
    def of(cls, pages: list[LayerPage]) -> _Bucket:
        """Part pages by their size, in the order in which sizes come."""
        columns: dict[int, list[LayerPage]] = {}
        for page in pages:
            columns.setdefault(page.spec.page_bytes, []).append(page)
        return cls(tuple(map(tuple, columns.values())))

    @property
    def whole(self) -> PageGroup:
        """All of them under one block table."""
        return PageGroup(tuple(sorted(self.members, key=lambda page: page.layer)))

    @property
    def members(self) -> Iterator[LayerPage]:
        """All of them."""
        return chain.from_iterable(self.columns)

    @property
    def repeats(self) -> int:
        """Layers of the longest column."""
        return max(map(len, self.columns))

    @property
    def is_balanced(self) -> bool:
        """Whether it is a pattern that repeats, and so may be cut."""
        return len(set(map(len, self.columns))) == 1

    @property
    def sizes(self) -> list[int]:
        """Bytes of its pages, each size once."""
        return [column[0].spec.page_bytes for column in self.columns]

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

    def padded(self, sizes: list[int]) -> _Bucket:
        """Grow each page to the least of `sizes` that holds it."""
        grown = []
        for page in self.members:
            size = min(each for each in sizes if each >= page.spec.page_bytes)
            grown.append(page._replace(spec=page.spec._replace(page_bytes=size)))
        return _Bucket.of(grown)


def pack_mixed(pages: list[LayerPage]) -> tuple[PageGroup, ...]:
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
    buckets = _kinds(pages)
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


def pack_tuples(pages: list[LayerPage], *, pads: bool) -> tuple[PageGroup, ...]:
    """Cut windows as the pages of full layers repeat.

    The first group is the full layers', whole; the others are about as many pages of a size.

    Parameters
    ----------
    pages : list of LayerPage
        In layer order.
    pads : bool
        Whether the pages of windows grow to sizes that full layers have.

    Raises
    ------
    UnsupportedError
        For layers that the engine stops at: windows beside no full layers, in larger pages than
        theirs, or in a pattern that does not repeat.

    Notes
    -----
    Source: vLLM 0.20.2 to 0.28.0, ``v1/core/kv_cache_utils.py`` (group_and_unify_kv_cache_specs,
    _get_kv_cache_groups_uniform_groups). Page counts of each group::

        DeepSeek-V4-Flash  full               62          21 + 21 index keys + 20
                           windows            22  21      22 pads 43, 21 and 20 least
                           unfolded by 4      21 + 21
                           unfolded by 128    20
    """
    buckets = sorted(_kinds(pages), key=lambda bucket: -_full_block(bucket.whole.spec))
    full, *others = buckets
    largest = max(full.sizes) if pads else inf
    is_served = _full_block(full.whole.spec) and all(max(b.sizes) <= largest for b in others)
    beside = [b.padded(full.sizes) if pads else b for b in others] if is_served else []
    if not is_served or not all(bucket.is_balanced for bucket in beside):
        raise UnsupportedError(
            "vLLM 0.20 to 0.28 have no groups for windows beside such full layers;"
            " choose release 0.29 or newer",
        )
    repeats = [bucket.repeats for bucket in (full, *others)]
    size = _least_padding(repeats, full.repeats)
    groups = (g for bucket in beside for g in bucket.cut(ceil_div(bucket.repeats, size)))
    return full.whole, *groups


def tuple_bytes(groups: tuple[PageGroup, ...], layers: Collection[int] | None = None) -> int:
    """Bytes of a page of each size that full layers have, times the most pages of one size.

    Source: vLLM 0.20.2, ``v1/core/kv_cache_utils.py`` (_get_kv_cache_config_deepseek_v4).
    """
    full = max(groups, key=lambda group: _full_block(group.spec))
    # A stage may have no full layer, and keeps their pages' sizes.
    sizes = _pages_of_size(full, layers) or _pages_of_size(full, None)
    counts = (_pages_of_size(group, layers) for group in groups)
    return sum(sizes) * max(chain.from_iterable(count.values() for count in counts))


def slot_bytes(groups: tuple[PageGroup, ...], layers: Collection[int] | None = None) -> int:
    """Bytes of as many pages of each size as the group with the most of them has.

    Source: vLLM 0.23.0 to 0.26.0, ``v1/core/kv_cache_utils.py`` (_bucket_layers_by_page_size).
    """
    most: Counter[int] = Counter()
    for group in groups:
        most |= _pages_of_size(group, layers)
    return sum(size * count for size, count in most.items())


def _pages_of_size(group: PageGroup, layers: Collection[int] | None) -> Counter[int]:
    held = (m for m in group.members if layers is None or m.layer in layers)
    return Counter(member.spec.page_bytes for member in held)


def _full_block(spec: PageSpec) -> int:
    """Tokens of a block of full layers; 0 for others."""
    return spec.block_size if spec.kind == "full" else 0


def _kinds(pages: list[LayerPage]) -> list[_Bucket]:
    """Part the layers by the tokens that they keep, in the order in which they come."""
    kinds: dict[tuple[str, int, int], list[LayerPage]] = {}
    for page in pages:
        kinds.setdefault((page.spec.kind, page.spec.block_size, page.spec.span), []).append(page)
    return [_Bucket.of(kept) for kept in kinds.values()]


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
