"""What requests contain, as far as a prefix cache can tell: identities of full blocks.

An identity is an integer that names the whole prefix up to and including its block, so two
requests share block `i` exactly when their `i`-th identities are equal::

    request A   | system prompt of group 3 | A's own tokens ...
    request B   | system prompt of group 3 | B's own tokens ...
    identities    3:0  3:1  3:2              A:3  A:4 ...   (stream : block index)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, Self

import numpy as np

from kvsim.errors import InputError, UnsupportedError
from kvsim.units import ceil_div

__all__ = ["HashedContent", "IdRuns", "PrefixContent", "SegmentContent", "Segments"]

Segments = tuple[tuple[int, int], ...]

_INDEX_BITS = 32  # a stream holds at most 2**32 blocks
_PRIVATE_BITS = 24  # a request holds at most 2**24 blocks that nobody shares


class PrefixContent(Protocol):
    """The block identities of a table's requests."""

    def segments(self, row: int, block_size: int) -> Segments:
        """Identities of all blocks of request `row`, where they do not go on one by one.

        Returns
        -------
        tuple of (int, int)
            Number of a block and its identity, ascending from block 0; the blocks after it have
            the identities after it, up to the next pair, and for ever after the last.
        """
        ...

    def block_ids(self, row: int, block_size: int, tokens: int) -> Sequence[int]:
        """Identities of the first ``tokens // block_size`` full blocks of request `row`.

        Parameters
        ----------
        row : int
            Row of the table this content belongs to.
        block_size : int
            Tokens per block in the simulated cache; the same throughout one simulation.
        tokens : int
            Leading tokens asked about; may run past the prompt into the generated output.

        Returns
        -------
        sequence of int
            A list or a range, one identity per block.
        """
        ...

    def take(self, rows: Sequence[int] | slice | np.ndarray) -> Self:
        """Return the content of the chosen rows, renumbered from 0."""
        ...

    def joined(self, others: Sequence[Self]) -> Self:
        """Return this content followed by the others'."""
        ...


@dataclass(frozen=True)
class SegmentContent:
    """A shared stream of tokens, then a stream of one's own; identities by arithmetic.

    Parameters
    ----------
    shared_stream : sequence of int
        Stream that opens each request (its group's system prompt), per row.
    shared_tokens : sequence of int
        How many tokens of it; 0 where nothing is shared.
    own_stream : sequence of int
        Stream that follows: one per request, or one per session, so that a turn finds what the
        turns before it wrote. Disjoint from the shared streams, and always behind the same
        prefix: an identity names all that is before it.

    Notes
    -----
    Identity = ``stream * 2**32 + block index``. A block that straddles the two streams
    belongs to the second.

    Examples
    --------
    >>> content = SegmentContent([0, 0], [40, 40], [5, 6])
    >>> [identity % 2**32 for identity in content.block_ids(0, 16, 70)]
    [0, 1, 2, 3]
    >>> [identity // 2**32 for identity in content.block_ids(1, 16, 70)]
    [0, 0, 6, 6]
    """

    shared_stream: Any
    shared_tokens: Any
    own_stream: Any

    def segments(self, row: int, block_size: int) -> Segments:
        """Where identities begin anew; see `PrefixContent.segments`."""
        shared = int(self.shared_tokens[row]) // block_size
        own = int(self.own_stream[row]) << _INDEX_BITS
        if not shared:
            return ((0, own),)
        return ((0, int(self.shared_stream[row]) << _INDEX_BITS), (shared, own + shared))

    def block_ids(self, row: int, block_size: int, tokens: int) -> Sequence[int]:
        """Identities of the first full blocks; see `PrefixContent.block_ids`."""
        blocks = tokens // block_size
        shared = min(int(self.shared_tokens[row]) // block_size, blocks)
        first = int(self.shared_stream[row]) << _INDEX_BITS
        own = int(self.own_stream[row]) << _INDEX_BITS
        if shared == blocks:
            return range(first, first + blocks)
        if shared == 0:
            return range(own, own + blocks)
        return [*range(first, first + shared), *range(own + shared, own + blocks)]

    def take(self, rows: Sequence[int] | slice | np.ndarray) -> SegmentContent:
        """Return the content of the chosen rows."""
        columns = (self.shared_stream, self.shared_tokens, self.own_stream)
        return SegmentContent(*(np.asarray(column)[rows] for column in columns))

    def joined(self, others: Sequence[SegmentContent]) -> SegmentContent:
        """Return this content followed by the others'."""
        parts = [self, *others]
        return SegmentContent(
            np.concatenate([part.shared_stream for part in parts]),
            np.concatenate([part.shared_tokens for part in parts]),
            np.concatenate([part.own_stream for part in parts]),
        )


class IdRuns(Sequence[int]):
    """A sequence of integers stored as runs of consecutive ones.

    Agent traces number blocks by first use: 2,350 identities per request are 3 runs.

    Examples
    --------
    >>> ids = IdRuns.of([4, 5, 6, 9, 10])
    >>> len(ids), len(ids.runs), list(ids), ids[3]
    (5, 2, [4, 5, 6, 9, 10], 9)
    """

    __slots__ = ("_length", "runs")

    def __init__(self, runs: Sequence[range]) -> None:
        self.runs = tuple(runs)
        self._length = sum(len(run) for run in self.runs)

    @classmethod
    def of(cls, ids: Sequence[int]) -> IdRuns:
        """Compress a list of integers below 2**63."""
        if not ids:
            return cls(())
        values = np.asarray(ids, dtype=np.int64)
        breaks = np.flatnonzero(np.diff(values) != 1) + 1
        starts = values[np.concatenate(([0], breaks))].tolist()
        sizes = np.diff(np.concatenate(([0], breaks, [len(values)]))).tolist()
        return cls([range(at, at + size) for at, size in zip(starts, sizes, strict=True)])

    def shifted(self, offset: int) -> IdRuns:
        """Return the same sequence with `offset` added to every member."""
        return IdRuns([range(run.start + offset, run.stop + offset) for run in self.runs])

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Any:
        for run in self.runs:
            yield from run

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return list(self)[at]
        index = at + self._length if at < 0 else at
        for run in self.runs:
            if 0 <= index < len(run):
                return run[index]
            index -= len(run)
        raise IndexError(at)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdRuns) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(self.runs)


@dataclass(frozen=True)
class HashedContent:
    """Identities read from a trace, re-blocked to the simulated block size.

    Parameters
    ----------
    ids : sequence of sequence of int
        Per row, one chained identity per `hash_block_size` tokens of the prompt; the last may
        name a partial block.
    numbers : sequence of int
        A number per row that no other row of the run has: names the blocks nobody shares.
    prompt_tokens : sequence of int
        Prompt length per row, which tells whether the last identity is of a partial block.
    hash_block_size : int
        Tokens behind one identity in the trace.

    Notes
    -----
    A finer block `j` of hash block `i` is named by the pair (identity `i`, `j`), so a finer
    cache sees no sharing that the trace does not state. A coarser block is named by the last
    identity inside it, which already covers the whole prefix. Beyond the identities of the
    trace (a tail, the generated output) blocks are private: negative, never equal to another
    request's. The identity of a partial last block names no block of `hash_block_size` tokens;
    it does name the finer blocks that the prompt fills, as equal identities mean equal prompts.

    Raises
    ------
    UnsupportedError
        For a block size that neither divides `hash_block_size` nor is a multiple of it.
    """

    ids: Sequence[Sequence[int]]
    numbers: Sequence[int]
    prompt_tokens: Sequence[int]
    hash_block_size: int
    _blocks_per_id: dict[int, tuple[int, int]] = field(default_factory=dict, compare=False)

    def block_ids(self, row: int, block_size: int, tokens: int) -> Sequence[int]:
        """Identities of the first full blocks; see `PrefixContent.block_ids`."""
        blocks = tokens // block_size
        finer, coarser = self._ratio(block_size)
        known = min(blocks, int(self.prompt_tokens[row]) // block_size)
        if coarser > 1:
            named = list(self.ids[row])[coarser - 1 : known * coarser : coarser]
        elif finer > 1:
            named = self._finer(self.ids[row], finer, known)
        else:
            named = list(islice(self.ids[row], known))
        if len(named) < blocks:
            named.extend(self._private(row, len(named), blocks))
        return named

    def segments(self, row: int, block_size: int) -> Segments:
        """Where identities begin anew; see `PrefixContent.segments`."""
        finer, coarser = self._ratio(block_size)
        ids = self.ids[row]
        known = int(self.prompt_tokens[row]) // block_size
        if coarser > 1:
            ids = list(ids)[coarser - 1 : known * coarser : coarser]
        runs = (
            [(run.start, len(run)) for run in ids.runs]
            if isinstance(ids, IdRuns)
            else _consecutive(ids)
        )
        found, at = [], 0
        for first, count in runs:
            if at >= known:
                break
            found.append((at, first * finer))
            at += count * finer
        at = min(at, known)
        return (*found, (at, self._private(row, at, at + 1).start))

    def _ratio(self, block_size: int) -> tuple[int, int]:
        """How many blocks an identity spans, and how many identities a block spans."""
        if block_size not in self._blocks_per_id:
            self._blocks_per_id[block_size] = _block_ratio(self.hash_block_size, block_size)
        return self._blocks_per_id[block_size]

    @staticmethod
    def _finer(ids: Sequence[int], finer: int, known: int) -> list[int]:
        heads = islice(ids, ceil_div(known, finer))
        named = [part for head in heads for part in range(head * finer, head * finer + finer)]
        return named[:known]

    def _private(self, row: int, start: int, stop: int) -> range:
        base = -(int(self.numbers[row]) + 1 << _PRIVATE_BITS)
        return range(base + start, base + stop)

    def take(self, rows: Sequence[int] | slice | np.ndarray) -> HashedContent:
        """Return the content of the chosen rows."""
        chosen = np.arange(len(self.ids))[rows].tolist()
        return HashedContent(
            [self.ids[row] for row in chosen],
            [self.numbers[row] for row in chosen],
            [self.prompt_tokens[row] for row in chosen],
            self.hash_block_size,
        )

    def joined(self, others: Sequence[HashedContent]) -> HashedContent:
        """Return this content followed by the others'."""
        parts = [self, *others]
        sizes = {part.hash_block_size for part in parts}
        if len(sizes) > 1:
            raise InputError(f"cannot join contents hashed by blocks of {sorted(sizes)} tokens")
        return HashedContent(
            [ids for part in parts for ids in part.ids],
            [number for part in parts for number in part.numbers],
            [tokens for part in parts for tokens in part.prompt_tokens],
            self.hash_block_size,
        )


def _consecutive(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of consecutive integers: the first of each, and how many."""
    runs: list[tuple[int, int]] = []
    first = count = 0
    for each in ids:
        if each == first + count and count:
            count += 1
        else:
            if count:
                runs.append((first, count))
            first, count = each, 1
    if count:
        runs.append((first, count))
    return runs


def _block_ratio(hash_block_size: int, block_size: int) -> tuple[int, int]:
    if hash_block_size % block_size == 0:
        return hash_block_size // block_size, 1
    if block_size % hash_block_size == 0:
        return 1, block_size // hash_block_size
    raise UnsupportedError(
        f"block size {block_size}: the trace names blocks of {hash_block_size} tokens, so the "
        f"block size must divide {hash_block_size} or be a multiple of it"
    )
