"""How much of a prompt all groups of layers know: vLLM's rules, group by group.

::

    full      [x][x][x][x][x][ ][ ]      a run from the first token on
    window          [ ][x][x]            the blocks of one window, before any block that all allow
    chunk              [x][x][ ]         a run from the beginning of the last chunk on

The rules are those of ``find_longest_cache_hit`` in ``vllm/v1/core/kv_cache_coordinator.py`` and
of the managers in ``single_type_kv_cache_manager.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import NamedTuple, TypeAlias

from kvsim.memory.growth import Growth
from kvsim.simulator.allocators.block_pool import Block
from kvsim.units import ceil_div

__all__ = ["Alike", "Hit", "alike", "kept", "longest_hit"]

Known: TypeAlias = "Callable[[Alike, int], list[Block] | None]"
Found: TypeAlias = dict[int, list[Block]]


class Alike(NamedTuple):
    """Groups of equal layers, which know a block together or not at all."""

    growth: Growth
    groups: tuple[int, ...]


class Hit(NamedTuple):
    """What was found of a prompt.

    Parameters
    ----------
    tokens : int
        Leading tokens that every group knows.
    blocks : list of dict
        By group, the blocks found, by their number; those before a window are not among them.
    junction : int
        Where a prefix ends that some groups know and others do not; 0: there is none.
    """

    tokens: int
    blocks: list[dict[int, Block]]
    junction: int = 0


def alike(growths: Sequence[Growth]) -> list[Alike]:
    """Gather equal groups, those with full attention first: they bound the others' search."""
    kinds: dict[Growth, list[int]] = {}
    for number, growth in enumerate(growths):
        kinds.setdefault(growth, []).append(number)
    found = [Alike(growth, tuple(numbers)) for growth, numbers in kinds.items()]
    return sorted(found, key=lambda each: each.growth.window is not None)


def _window_blocks(growth: Growth) -> int:
    """Blocks before a token that the next one looks back on, where the last one ends there."""
    return ceil_div(growth.window.tokens - 1, growth.block_size) if growth.window else 0


def longest_hit(kinds: Sequence[Alike], limit: int, align: int, known: Known) -> Hit:
    """Find the longest prefix that every group knows.

    Each kind accepts the length so far or shortens it; whoever shortens it has all others asked
    again, until nobody does.

    Parameters
    ----------
    kinds : sequence of Alike
        Full attention first.
    limit : int
        Most tokens.
    align : int
        Tokens of which a hit is a multiple.
    known : callable
        ``known(kind, number)``: the blocks with the content of a block of the prompt, one of
        each group, or None.
    """
    found: dict[Alike, tuple[Found, int]] = {}
    is_simple = len(kinds) == 2 and kinds[0].growth.window is None
    length, longest = limit, 0
    while True:
        now = length
        for kind in kinds:
            if kind.growth.window is None and kind in found:
                now = min(now, found[kind][1])
                continue
            found[kind] = _FIND[_sort(kind)](kind, now, align, known)
            now = found[kind][1]
            longest = max(longest, now)
        if now >= length or is_simple:
            break
        length = now
    tokens = min(now, length)
    blocks: list[dict[int, Block]] = [{} for _ in range(sum(len(kind.groups) for kind in kinds))]
    for kind in kinds:
        for number, column in found[kind][0].items():
            if number * kind.growth.block_size < tokens:
                for group, block in zip(kind.groups, column, strict=True):
                    blocks[group][number] = block
    return Hit(tokens, blocks, longest if longest > tokens else 0)


def kept(
    growth: Growth, blocks: range, align: int, interval: int | None, places: Iterable[int]
) -> Collection[int]:
    """Full blocks that are given an identity: those that a hit could use.

    A window's are kept just before the places where later requests may begin
    (``reachable_block_mask``).

    Parameters
    ----------
    growth : Growth
        The blocks' group.
    blocks : range
        Numbers of blocks of the sequence.
    align : int
        Tokens of which a hit is a multiple.
    interval : int or None
        Tokens between such places; 0: there are none but `places`; None: `align`.
    places : iterable of int
        Tokens where the prompt ends, or where prefixes part.
    """
    if growth.window is None or growth.window.is_chunk:
        return blocks
    need, size = _window_blocks(growth), growth.block_size
    segment = (align if interval is None else interval) // size
    if segment and need >= segment:
        return blocks
    ends: list[int] = []
    if interval is not None:
        ends += (place // align * align // size for place in places)
    if segment:
        ends += range(blocks.start // segment * segment + segment, blocks.stop + need, segment)
    seen = (range(max(end - need, blocks.start), min(end, blocks.stop)) for end in ends)
    return sorted(set(chain.from_iterable(seen)))


def _sort(kind: Alike) -> str:
    window = kind.growth.window
    if window is None:
        return "full"
    return "chunk" if window.is_chunk else "window"


def _of_full(kind: Alike, limit: int, align: int, known: Known) -> tuple[Found, int]:
    """A run from the first block on."""
    found: Found = {}
    for number in range(limit // kind.growth.block_size):
        column = known(kind, number)
        if column is None:
            break
        found[number] = column
    tokens = len(found) * kind.growth.block_size
    return found, tokens - tokens % align


def _of_window(kind: Alike, limit: int, align: int, known: Known) -> tuple[Found, int]:
    """The last whole window, else what is known from the first block on."""
    size, need = kind.growth.block_size, _window_blocks(kind.growth)
    found: Found = {}
    for number in range(limit // size - 1, -1, -1):
        column = known(kind, number)
        if column is None:
            found.clear()
            continue
        if not found and (number + 1) * size % align:
            continue
        found[number] = column
        if len(found) >= need:
            return found, (number + len(found)) * size
    tokens = len(found) * size
    return found, tokens - tokens % align


def _of_chunk(kind: Alike, limit: int, align: int, known: Known) -> tuple[Found, int]:
    """A run from the first block of the chunk that the limit is in."""
    size = kind.growth.block_size
    window = kind.growth.window
    assert window is not None
    first = window.first_token(limit) // size
    found: Found = {}
    for number in range(first, limit // size):
        column = known(kind, number)
        if column is None:
            break
        found[number] = column
    return found, (first + len(found)) * size


_FIND = {"full": _of_full, "window": _of_window, "chunk": _of_chunk}
