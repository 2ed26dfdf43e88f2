"""Block identities: equal exactly where the prefixes are equal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import UnsupportedError
from kvsim.workload.content import HashedContent, IdRuns, SegmentContent

BLOCKS = st.sampled_from([1, 2, 16, 64])


@given(
    block=BLOCKS,
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 90), st.integers(3, 6)), min_size=2),
    tokens=st.integers(0, 300),
)
def test_segments_share_exactly_the_blocks_whose_prefix_is_equal(block, rows, tokens):
    """The oracle spells every token out as (stream, position)."""
    content = SegmentContent(*zip(*rows, strict=True))

    def spelled(row):
        stream, shared, own = row
        return [(stream if at < shared else own, at) for at in range(tokens)]

    def prefixes(row):
        text = spelled(row)
        return [tuple(text[: end + block]) for end in range(0, tokens - block + 1, block)]

    ids = [list(content.block_ids(at, block, tokens)) for at in range(len(rows))]
    assert all(len(found) == tokens // block for found in ids)
    for at, row in enumerate(rows):
        for other_at, other in enumerate(rows):
            if row[2] == other[2] and row[:2] != other[:2]:
                continue  # one own stream belongs to one opening: the makers' contract
            same = [a == b for a, b in zip(prefixes(row), prefixes(other), strict=True)]
            assert same == [a == b for a, b in zip(ids[at], ids[other_at], strict=True)]


def test_segment_ids_by_hand():
    content = SegmentContent([1], [40], [9])
    assert list(content.block_ids(0, 16, 70)) == [
        1 << 32,
        (1 << 32) + 1,
        (9 << 32) + 2,
        (9 << 32) + 3,
    ]


def test_hashed_ids_at_their_own_size_leave_the_partial_block_out():
    content = HashedContent([[0, 4, 7]], [0], [1300], 512)
    assert content.block_ids(0, 512, 1300) == [0, 4]


def test_finer_blocks_are_named_by_identity_and_place():
    content = HashedContent([[0, 4]], [0], [768], 512)
    assert content.block_ids(0, 256, 768) == [0, 1, 8]  # 0 * 2 + (0, 1), 4 * 2 + 0


def test_coarser_blocks_are_named_by_the_last_identity_inside():
    content = HashedContent([[10, 11, 12, 13, 14]], [0], [80], 16)
    assert content.block_ids(0, 32, 80) == [11, 13]


def test_coarse_block_that_the_trace_does_not_reach_is_private():
    content = HashedContent([[10, 11, 12], [10, 11, 12]], [0, 1], [48, 48], 16)
    first, second = (content.block_ids(row, 32, 64) for row in (0, 1))
    assert first[0] == second[0] == 11
    assert first[1] != second[1]


@given(
    texts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=12), min_size=2, max_size=5),
    ratio=st.sampled_from([1, 2, 4]),
    finer=st.booleans(),
)
def test_reblocking_keeps_sharing_and_invents_none(texts, ratio, finer):
    """Requests of random "blocks of text", hashed by chaining: the oracle compares the texts."""
    size = 8
    names: dict[tuple[int, ...], int] = {}
    ids = [
        [names.setdefault(tuple(text[: at + 1]), len(names)) for at in range(len(text))]
        for text in texts
    ]
    prompts = [len(text) * size for text in texts]
    content = HashedContent(ids, range(len(texts)), prompts, size)
    block = size // ratio if finer else size * ratio
    found = [content.block_ids(row, block, prompts[row]) for row in range(len(texts))]
    for text, named in zip(texts, found, strict=True):
        assert len(named) == len(text) * size // block
        for other, other_named in zip(texts, found, strict=True):
            common = next(
                (
                    at
                    for at, pair in enumerate(zip(text, other, strict=False))
                    if pair[0] != pair[1]
                ),
                min(len(text), len(other)),
            )
            pairs = zip(named, other_named, strict=False)
            shared = sum(a == b for a, b in pairs)
            assert shared == common * size // block


def test_generated_tokens_are_private_to_their_request():
    content = HashedContent([[0], [0]], [0, 1], [16, 16], 16)
    first, second = (content.block_ids(row, 16, 64) for row in (0, 1))
    assert first[0] == second[0]
    assert not set(first[1:]) & set(second[1:])
    assert len(set(first)) == 4


def test_a_block_size_that_does_not_fit_is_refused():
    with pytest.raises(UnsupportedError, match="must divide 512 or be a multiple"):
        HashedContent([[0]], [0], [512], 512).block_ids(0, 48, 512)


def test_private_blocks_survive_permutation_and_joining():
    content = HashedContent([[0], [1], [2]], [5, 6, 7], [16] * 3, 16)
    moved = content.take(np.array([2, 0])).joined([content.take(slice(1, 2))])
    for row, old in enumerate((2, 0, 1)):
        assert moved.block_ids(row, 16, 48) == content.block_ids(old, 16, 48)


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(-45, 45), st.integers(-45, 45))
def test_runs_are_a_sequence(values, start, stop):
    runs = IdRuns.of(values)
    assert list(runs) == values
    assert len(runs) == len(values)
    assert runs[start:stop] == values[start:stop]
    assert list(runs.shifted(100)) == [value + 100 for value in values]
    for at in range(-len(values), len(values)):
        assert runs[at] == values[at]
    with pytest.raises(IndexError):
        runs[len(values)]
