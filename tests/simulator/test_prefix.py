"""Prefix sharing on tiny pools: who finds what, and what is forgotten first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError, InvariantError, UnknownNameError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.idle import EVICTION_POLICIES
from kvsim.simulator.allocators.prefix import Prefix
from kvsim.workload.content import SegmentContent
from tests.support.parts import admitted, decoding, finished, opened, request


def shared(tokens: int, streams: list[int]) -> SegmentContent:
    """Rows that begin with `tokens` tokens of stream 0 and go on with their own streams."""
    return SegmentContent([0] * len(streams), [tokens] * len(streams), streams)


def prefix_pool(blocks: int, eviction: str = "lru") -> Prefix:
    """Blocks of 4 tokens."""
    return Prefix(blocks, BlockCurve(4), eviction)


def test_a_shared_prefix_is_held_once() -> None:
    """Two prompts of 13 share 8 tokens: 4 blocks for the first, 2 more for the second."""
    pool, content = prefix_pool(10), shared(8, [5, 6])
    first, second = request(0, 13, 4, content=content), request(1, 13, 4, content=content)
    assert admitted(pool, first, second) == [0, 8]
    assert pool.free_blocks == 10 - 4 - 2
    pool.check([(first, 13), (second, 13)])
    finished(pool, first)
    assert pool.free_blocks == 10 - 4
    pool.check([(second, 13)])
    finished(pool, second)
    assert pool.free_blocks == 10
    assert pool.slots(0, None).cached == 4 * (2 + 1 + 1)  # shared, and a full one of each


def test_the_last_token_is_always_computed() -> None:
    """The same 8 tokens again: one block is found, not two; of 9 tokens both are."""
    pool, content = prefix_pool(10), shared(8, [0, 0, 0])
    again = [request(row, tokens, 1, content=content) for row, tokens in enumerate((8, 8, 9))]
    assert admitted(pool, *again) == [0, 4, 8]


def test_a_chain_ends_at_the_first_block_that_is_unknown() -> None:
    """Once its head is evicted, the rest of a prefix is of no use."""
    pool, content = prefix_pool(4, "fifo"), shared(16, [5, 6])
    first = request(0, 16, 1, content=content)
    assert admitted(pool, first) == [0]
    finished(pool, first)
    pool._idle.evict(1)  # the tail goes first: block 3
    pool.free_blocks -= 1
    assert pool._lookup(content.block_ids(1, 4, 17), 17) == (3, 3)


def test_the_tail_of_a_prefix_is_evicted_before_its_head() -> None:
    """vLLM's order: what was freed first goes first, and a request frees its tail first."""
    pool, content = prefix_pool(6), shared(16, [5, 5, 5])
    old, new = request(0, 17, 1, content=content), request(1, 9, 1)
    assert admitted(pool, old) == [0]
    finished(pool, old)  # one block was never used; then the partial tail, 3, 2, 1, 0
    assert admitted(pool, new) == [0]  # takes the unused one, the tail's and block 3
    finished(pool, new)
    again = request(2, 17, 1, content=content)
    assert pool.allocate(again, 17) == 12
    pool.check([(again, 17)])


def test_who_finished_first_is_forgotten_first() -> None:
    """Two prefixes of 2 blocks fill the pool; 2 blocks taken leave the newer one whole."""
    pool = prefix_pool(4)
    content = SegmentContent([0, 1, 0, 1], [8, 8, 8, 8], [5, 6, 7, 8])
    old, new = request(0, 8, 1, content=content), request(1, 8, 1, content=content)
    admitted(pool, old, new)
    finished(pool, old, new)
    other = request(9, 8, 1)
    assert admitted(pool, other) == [0]
    finished(pool, other)
    assert pool._lookup(content.block_ids(2, 4, 9), 9) == (0, 0)
    assert pool._lookup(content.block_ids(3, 4, 9), 9) == (2, 2)


def survivors(eviction: str) -> list[int]:
    """Prefixes of a block, used in the order 0 1 2 0 0 2 1; seven of eight blocks are taken."""
    pool = prefix_pool(8, eviction)
    content = SegmentContent([0, 1, 2], [4, 4, 4], [7, 8, 9])
    for row in (0, 1, 2, 0, 0, 2, 1):
        one = request(row, 5, 1, content=content)
        admitted(pool, one)
        finished(pool, one)
    taken = request(9, 28, 1)
    assert admitted(pool, taken) == [0]
    pool.check([(taken, 28)])
    return [row for row in range(3) if pool._lookup(content.block_ids(row, 4, 5), 5)[0]]


def test_each_eviction_policy_keeps_what_it_values() -> None:
    """Five blocks are anonymous, so two of the three prefixes go: which one stays?

    Order of last use: 0, 2, 1; of first use: 0, 1, 2; uses: 3, 2, 2.
    """
    assert survivors("lru") == [1]
    assert survivors("fifo") == [2]
    assert survivors("lfu") == [0]


def test_lfu_counts_every_request_that_held_a_block() -> None:
    """Prefix 0 is held by two at once, prefix 1 by one, later: the later one goes first."""
    pool = prefix_pool(6, "lfu")
    content = SegmentContent([0, 0, 1], [4, 4, 4], [7, 8, 9])
    both = [request(row, 5, 1, content=content) for row in (0, 1)]
    assert admitted(pool, *both) == [0, 4]
    finished(pool, *both)
    late = request(2, 5, 1, content=content)
    assert admitted(pool, late) == [0]
    finished(pool, late)
    assert admitted(pool, request(3, 17, 1)) == [0]  # four anonymous blocks and one cached
    assert pool._lookup(content.block_ids(0, 4, 5), 5) == (1, 1)
    assert pool._lookup(content.block_ids(2, 4, 5), 5) == (0, 0)


def test_hits_on_idle_blocks_take_room_too() -> None:
    """A revived block is no longer free: 2 hits and 2 new blocks need 4 of the pool."""
    pool, content = prefix_pool(4), shared(8, [5, 6])
    first = request(0, 8, 1, content=content)
    admitted(pool, first)
    finished(pool, first)
    again = request(1, 16, 1, content=content)
    assert pool.allocate(again, 16, spare_blocks=1) is None
    assert pool.free_blocks == 4
    assert pool.allocate(again, 16) == 8
    assert pool.free_blocks == 0


def test_a_second_copy_of_known_content_stays_anonymous() -> None:
    """Two turns of one talk decode the same block: it is known once, and counted right."""
    pool, content = prefix_pool(8), shared(0, [5, 5])
    twins = [request(row, 3, 4, content=content) for row in (0, 1)]
    assert admitted(pool, *twins) == [0, 0]
    for twin in twins:
        twin.computed_tokens = 6
        assert opened(pool, decoding(pool, request(9, 4, 2)), 1) == 1
    pool.check([(twin, 6) for twin in twins])
    finished(pool, *twins)
    pool.check([])
    assert pool.slots(0, None).cached == 4


def test_a_preempted_request_finds_its_own_blocks_again() -> None:
    """Even one that shares nothing: 9 cached tokens are 2 full blocks, found at once."""
    pool = prefix_pool(8)
    alone = request(0, 7, 9)
    admitted(pool, alone)
    opened(pool, decoding(pool, request(9, 8, 2)), 1)  # the third block, for tokens 8 and 9
    alone.computed_tokens = 9
    pool.free(alone, preempted=True)
    alone.preemptions, alone.prefill_tokens, alone.computed_tokens = 1, 10, 0
    assert pool.allocate(alone, 10) == 8
    alone.computed_tokens = 10
    pool.check([(alone, 10)])
    finished(pool, alone)
    assert pool.slots(0, None).cached == 0  # and nobody will ask for them once it is done


def test_prefix_sharing_refuses_windowed_models() -> None:
    """Their groups keep different parts of a prefix."""
    with pytest.raises(InputError, match="full attention"):
        Prefix(8, BlockCurve(4, 1, (2,)))


@pytest.mark.parametrize("eviction", EVICTION_POLICIES)
@given(moves=st.lists(st.tuples(st.sampled_from("ABRE"), st.integers(0, 5)), max_size=60))
def test_idle_blocks_are_counted_right(eviction: str, moves: list[tuple[str, int]]) -> None:
    """Adding, reviving and evicting at random: lengths add up and known blocks are there."""
    idle, known, count = EVICTION_POLICIES.find(eviction)(), set(), 0
    for move, number in moves:
        if move == "A" and number not in known:
            idle.add(number)
            known.add(number)
            count += 1
        elif move == "B":
            idle.add_anonymous(number)
            count += number
        elif move == "R" and number in known:
            idle.revive(number)
            known.remove(number)
            count -= 1
        elif move == "E":
            idle.evict(min(number, count))
            count -= min(number, count)
            known = {block for block in known if block in idle}
        assert len(idle) == count
        assert idle.cached == len(known)
    with pytest.raises(UnknownNameError, match="lru"):
        EVICTION_POLICIES.find("mru")()


def test_a_shared_block_with_too_many_holders_is_noticed() -> None:
    """The prefix cache counts them."""
    pool, content = prefix_pool(10), shared(8, [5])
    one = request(0, 9, 1, content=content)
    admitted(pool, one)
    pool._refs[content.block_ids(0, 4, 8)[0]] += 1
    with pytest.raises(InvariantError, match="references"):
        pool.check([(one, 9)])


def test_idle_blocks_that_are_not_the_free_ones_are_noticed() -> None:
    """One was taken that nobody holds: the pool's sum is right, and the queue is not."""
    pool, content = prefix_pool(10), shared(8, [5])
    one = request(0, 9, 1, content=content)
    admitted(pool, one)
    pool._idle.evict(1)
    with pytest.raises(InvariantError, match="6 idle blocks, but 7 free"):
        pool.check([(one, 9)])


@pytest.mark.parametrize("eviction", EVICTION_POLICIES)
@given(moves=st.lists(st.integers(0, 5), max_size=60), room=st.integers(1, 5))
def test_renewing_a_block_is_reviving_it_and_letting_go(
    eviction: str, moves: list[int], room: int
) -> None:
    """A cache without holders may take the short way: the same blocks are left at every step."""
    short, long = (EVICTION_POLICIES.find(eviction)() for _ in range(2))
    for number in moves:
        if number in short:
            short.renew(number)
            long.revive(number)
        elif len(short) == room:
            short.evict(1)
            long.evict(1)
        if number not in short:
            short.add(number)
        if number not in long:
            long.add(number)
        assert [n in short for n in range(6)] == [n in long for n in range(6)]
