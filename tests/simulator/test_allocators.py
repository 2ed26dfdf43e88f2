"""Memory policies on pools so small that every block can be followed by hand."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError, InvariantError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Allocator, Slots
from kvsim.simulator.allocators.grow import Grow, caching_allocator_slots
from kvsim.simulator.allocators.no_cache import NoCache
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.prefix import Prefix
from kvsim.simulator.allocators.reserve import Reserve, reserve_max, reserve_oracle, reserve_pow2
from kvsim.simulator.allocators.virtual import PAGE_BYTES, Virtual, tokens_per_page
from tests.support.parts import admitted, decoding, finished, opened, request

# ---- how many blocks a sequence has -----------------------------------------------------


@given(
    size=st.integers(1, 5),
    growing=st.integers(0, 2),
    caps=st.lists(st.integers(1, 5), max_size=3).map(lambda caps: tuple(sorted(caps))),
    fixed=st.integers(0, 2),
    blocks=st.integers(0, 30),
)
def test_the_longest_sequence_that_blocks_hold(
    size: int, growing: int, caps: tuple[int, ...], fixed: int, blocks: int
) -> None:
    """Found by trying every length; a model of windows alone may be held at any."""
    curve = BlockCurve(size, growing, caps, fixed)
    fitting = [tokens for tokens in range(1, 400) if curve.blocks_at(tokens) <= blocks]
    longest = max(fitting, default=0)
    assert curve.longest(blocks) == (inf if longest == 399 else longest)


def test_groups_stop_growing_at_their_windows() -> None:
    """One growing group, two of at most 2 blocks, one of 3, and a state: 4 tokens a block."""
    curve = BlockCurve(4, 1, (2, 2, 3), fixed=1)
    assert [curve.blocks_at(tokens) for tokens in (1, 4, 5, 8, 9, 12, 13, 100)] == [
        5, 5, 9, 9, 11, 11, 12, 33,
    ]  # fmt: skip
    assert curve.breakpoints == (8, 12)
    assert [curve.groups_open_at(tokens) for tokens in (0, 7, 8, 11, 12)] == [4, 4, 2, 2, 1]


# ---- paged ------------------------------------------------------------------------------


def test_a_prompt_is_admitted_only_whole_but_taken_chunk_by_chunk() -> None:
    """Of 5 blocks a prompt of 20 needs 5 and takes 2 for its first 8 tokens."""
    pool = Paged(5, BlockCurve(4))
    first, second = request(0, 20, 5), request(1, 13, 5)
    assert pool.allocate(first, 8) == 0
    assert pool.free_blocks == 3
    assert pool.allocate(second, 4) is None  # 4 blocks for all of it
    first.computed_tokens = 8
    assert not pool.append_slots(first, 20, spare_blocks=1)
    assert pool.append_slots(first, 20)
    first.computed_tokens = 20
    assert pool.free_blocks == 0
    pool.check([(first, 20)])
    pool.free(first)
    assert pool.free_blocks == 5


def test_spare_blocks_stay_free() -> None:
    """A watermark of one keeps a prompt of the whole pool out."""
    pool = Paged(5, BlockCurve(4))
    assert pool.allocate(request(0, 20, 1), 20, spare_blocks=1) is None
    assert pool.allocate(request(0, 16, 1), 16, spare_blocks=1) == 0


def test_samples_share_full_prompt_blocks_and_copy_the_last() -> None:
    """Copy-on-write: a prompt of 10 is 2 full blocks and a half; 3 samples own a half each."""
    pool = Paged(20, BlockCurve(4))
    sampled = request(0, 10, 9, samples=3)
    assert pool.blocks_of(sampled, 9) == 3  # while the prompt is computed it is one sequence
    assert pool.blocks_of(sampled, 10) == 2 + 3
    assert pool.blocks_of(sampled, 12) == 2 + 3
    assert pool.blocks_of(sampled, 13) == 2 + 3 * 2
    whole = request(1, 8, 9, samples=3)
    assert pool.blocks_of(whole, 8) == 2  # nothing partial, nothing to copy
    assert pool.blocks_of(whole, 9) == 2 + 3


def test_samples_of_a_windowed_group_own_all_of_it() -> None:
    """The growing group shares 2 of its 3 blocks; the window of 2 blocks is each one's own."""
    pool = Paged(40, BlockCurve(4, 1, (2,)))
    assert pool.blocks_of(request(0, 10, 9, samples=3), 10) == 2 + 3 * (1 + 2)


def test_samples_share_full_blocks_of_every_size() -> None:
    """A prompt of 20: five blocks of 4 and one of 16 shared, and a second of 16 for each."""
    pool = Paged(40, BlockCurve(4, beside=(BlockCurve(16),)))
    assert pool.blocks_of(request(0, 20, 9, samples=2), 20) == 5 + 1 + 2
    assert pool.slots_per_block == 16


def test_decoding_takes_blocks_as_they_open() -> None:
    """Lengths 4, 6 and 7 open a block in the steps 1, 3 and 2; five free blocks allow 5 steps."""
    pool = Paged(10, BlockCurve(4))
    three = [request(0, 4, 20), request(1, 6, 20), request(2, 7, 20)]
    assert admitted(pool, *three) == [0, 0, 0]
    assert pool.free_blocks == 5
    batch = decoding(pool, *three)
    taken = [batch.phases.blocks_for(batch.step, steps) for steps in (1, 2, 3, 4, 5, 6)]
    assert taken == [1, 2, 3, 3, 4, 5]
    assert pool.decode_steps(batch, 19) == 6
    assert opened(pool, batch, 6) == 5
    batch.advance(6)
    assert not pool.can_decode(batch)
    assert pool.decode_steps(batch, 19) == 0
    pool.check((one, batch.cached_tokens(one)) for one in three)


def test_what_an_empty_pool_can_never_hold() -> None:
    """20 tokens of cache at the end: the 21st token is given away, never written."""
    pool = Paged(5, BlockCurve(4))
    assert pool.can_allocate(request(0, 15, 6))
    assert not pool.can_allocate(request(0, 15, 7))
    assert pool.can_allocate(request(0, 6, 3, samples=2))  # 1 shared + 2 * 1
    assert not pool.can_allocate(request(0, 6, 8, samples=2))  # 1 shared + 2 * 3


def test_coming_back_from_the_host_needs_room_for_the_next_token() -> None:
    """8 cached tokens are 2 blocks; the token that it decodes at once opens a third."""
    pool = Paged(3, BlockCurve(4))
    swapped = request(0, 5, 9)
    swapped.computed_tokens = 8
    assert not pool.swap_in(swapped, spare_blocks=1)
    assert swapped.computed_tokens == 8
    assert pool.swap_in(swapped)
    assert pool.free_blocks == 1


# ---- contiguous -------------------------------------------------------------------------


def test_what_the_three_reservations_reserve() -> None:
    """Prompt 100, output 33, at most 512: all of it, 100 + 64, 100 + 33."""
    one = request(0, 100, 33)
    assert [reserve(one, 512) for reserve in (reserve_max, reserve_pow2, reserve_oracle)] == [
        512, 164, 133,
    ]  # fmt: skip
    assert reserve_pow2(request(0, 100, 32), 512) == 132
    assert reserve_pow2(request(0, 400, 100), 512) == 512  # never more than a sequence may have
    assert reserve_pow2(request(0, 7, 1), 512) == 8


def test_a_reservation_splits_into_written_reserved_and_never_used() -> None:
    """100 slots held for 20 + 10: 20 written, 9 to be written, 71 in vain."""
    pool = Reserve(300, 100, reserve_max)
    one = request(0, 20, 10)
    admitted(pool, one)
    assert pool.total_blocks - pool.free_blocks == 100
    assert pool.slots(20, None) == Slots(reserved=9)
    pool.check([(one, 20)])
    finished(pool, one)
    assert pool.free_blocks == 300


def test_holes_are_external_waste_only_while_somebody_waits_for_them() -> None:
    """30 + 20 slots are free, the head wants 40."""
    pool = Reserve(100, 100, reserve_oracle)
    parts = [request(row, length - 1, 1) for row, length in enumerate((30, 50, 20))]
    admitted(pool, *parts)
    finished(pool, parts[0], parts[2])
    assert pool.slots(50, None).external == 0
    assert pool.slots(50, request(3, 29, 1)).external == 0
    assert pool.slots(50, request(4, 39, 1)).external == 50
    assert admitted(pool, request(4, 39, 1)) == [None]


def test_compaction_makes_one_hole_and_copies_what_moves() -> None:
    """The region of 50 slides from 30 to 0, and 40 fit behind it."""
    pool = Reserve(100, 100, reserve_oracle, compaction=True)
    parts = [request(row, length - 1, 1) for row, length in enumerate((30, 50, 20))]
    admitted(pool, *parts)
    finished(pool, parts[0], parts[2])
    late = request(4, 39, 1)
    assert admitted(pool, late) == [0]
    assert pool.copied_tokens == 50
    assert (parts[1].blocks, late.blocks) == (0, 50)
    pool.check([(parts[1], 49), (late, 39)])
    assert admitted(pool, request(5, 20, 1)) == [None]  # 10 are left: nothing to be won
    assert pool.copied_tokens == 50


def test_reservations_need_no_spare_room() -> None:
    """Nothing grows, so no watermark and no decode keeps a reservation out."""
    pool = Reserve(40, 40, reserve_oracle)
    assert pool.allocate(request(0, 39, 1), 39, spare_blocks=10) == 0


def test_what_buddies_round_up_is_external() -> None:
    """33 slots take 64: one sequence is held, 31 slots are lost to the placement."""
    pool = Reserve(128, 100, reserve_oracle, placement="buddy")
    one = request(0, 30, 3)
    admitted(pool, one)
    assert (pool.free_blocks, pool.rounded_slots) == (64, 31)
    assert pool.slots(30, None).external == 31
    assert not pool.can_allocate(request(1, 120, 10))
    finished(pool, one)
    assert (pool.free_blocks, pool.rounded_slots) == (128, 0)


def test_who_comes_back_from_the_host_reserves_again() -> None:
    """The region was given up with everything in it; another of 12 slots must be found."""
    pool = Reserve(12, 100, reserve_oracle)
    one, other = request(0, 8, 4), request(1, 8, 4)
    admitted(pool, one)
    finished(pool, one)
    one.computed_tokens = 9
    admitted(pool, other)
    assert not pool.swap_in(one)
    finished(pool, other)
    assert pool.swap_in(one)
    assert pool.free_blocks == 0
    pool.check([(one, 9)])


def test_a_region_of_two_samples_is_split_for_both() -> None:
    """2 * 100 slots for 2 * (20 + 9) tokens, of which 20 each are written."""
    pool = Reserve(300, 100, reserve_max)
    one = request(0, 20, 10, samples=2)
    admitted(pool, one)
    (held,) = pool.holdings([(one, 20)])
    assert (held.written, held.coming, held.unused, held.address) == (40, 18, 142, 0)


def test_samples_reserve_side_by_side() -> None:
    """Two sequences of 12 each."""
    pool = Reserve(23, 100, reserve_oracle)
    assert not pool.can_allocate(request(0, 8, 4, samples=2))
    assert pool.can_allocate(request(0, 8, 3, samples=2))


# ---- grow -------------------------------------------------------------------------------


def test_a_tensor_is_twice_there_while_it_is_copied() -> None:
    """9 tokens of 30: the copy of 10 lies behind, and the hole of 9 stays useless."""
    pool = Grow(30, lambda tokens: tokens)
    one = request(0, 9, 9)
    admitted(pool, one)
    batch = decoding(pool, one)
    addresses = []
    while pool.can_decode(batch):
        assert opened(pool, batch, 1) == 1
        batch.advance(1)
        addresses.append(one.blocks)
    # 9 at 0 -> 10 at 9 -> 11 at 19 -> 12 at 0 -> 13 at 12 -> no place for 14
    assert addresses == [9, 19, 0, 12]
    assert pool.peak_slots == 12 + 13
    assert pool.copied_tokens == 9 + 10 + 11 + 12
    assert pool.free_blocks == 30 - 13


def test_a_tensor_is_split_into_tokens_and_what_it_was_rounded_up_by() -> None:
    """9 tokens, and then none but the one that is coming, in a tensor of two times 8 slots."""
    pool = Grow(40, lambda tokens: 8 * -(-tokens // 8))
    one = request(0, 9, 9)
    admitted(pool, one)
    for tokens, written in ((9, 9), (0, 1)):
        (held,) = pool.holdings([(one, tokens)])
        assert (held.address, held.written, held.unused) == (0, written, 16 - written)


def test_a_prompt_must_leave_the_copies_of_others_their_place() -> None:
    """8 of 20 decode and copy into 9: a prompt of 3 fits beside them, one of 4 does not."""
    pool = Grow(20, lambda tokens: tokens)
    one, more, less = request(0, 8, 9), request(1, 4, 1), request(2, 3, 1)
    admitted(pool, one)
    decoding(pool, one)
    assert admitted(pool, more, less) == [None, 0]
    pool.check([(one, 8), (less, 3)])


def test_a_tensor_that_comes_back_is_copied_at_once() -> None:
    """9 cached tokens and the copy of 10: 19 slots or none."""
    one = request(0, 9, 9)
    one.computed_tokens = 9
    for slots, fits in [(18, False), (19, True)]:
        pool = Grow(slots, lambda tokens: tokens)
        assert pool.swap_in(one) is fits
        assert pool.free_blocks == slots - 9 * fits


def test_buddies_count_in_what_a_growing_tensor_needs() -> None:
    """Nine tokens beside eight take 16 + 8 slots of a buddy system, and 17 of any other."""
    last = request(0, 5, 5)  # 9 cached tokens at the end
    assert Grow(17, lambda tokens: tokens).can_allocate(last)
    assert not Grow(23, lambda tokens: tokens, placement="buddy").can_allocate(last)
    assert Grow(24, lambda tokens: tokens, placement="buddy").can_allocate(last)


def test_the_caching_allocator_rounds_as_pytorch_does() -> None:
    """512-byte units; from 10 MiB on 2 MiB (c10/cuda/CUDACachingAllocator.cpp)."""
    assert caching_allocator_slots(1, tensor_token_bytes=200) == 3  # 512 bytes
    assert caching_allocator_slots(9, tensor_token_bytes=200) == 11  # 1,800 -> 2,048
    assert caching_allocator_slots(2559, tensor_token_bytes=4096) == 2559  # just below 10 MiB
    assert caching_allocator_slots(2560, tensor_token_bytes=4096) == 2560  # 10 MiB are five times 2
    assert caching_allocator_slots(2561, tensor_token_bytes=4096) == 3072  # 12 MiB
    assert caching_allocator_slots(2700, tensor_token_bytes=4000) == 3146  # 12 MiB, but for a rest
    assert [caching_allocator_slots(n, tensor_token_bytes=1) for n in (512, 513)] == [512, 1024]


# ---- the others -------------------------------------------------------------------------


def test_a_virtual_page_holds_as_many_tokens_as_fit_in_one_tensor() -> None:
    """vAttention (arXiv 2405.04437), Llama-3-8B: 8 heads * 128 * 2 bytes = 2 KiB a token."""
    assert PAGE_BYTES == (65_536, 131_072, 262_144, 2_097_152)
    assert [tokens_per_page(page, 2048) for page in PAGE_BYTES] == [32, 64, 128, 1024]
    with pytest.raises(InputError, match="65536"):
        tokens_per_page(4096, 2048)
    with pytest.raises(InputError, match="more than a page"):
        tokens_per_page(65536, 65537)


def test_no_cache_never_runs_out() -> None:
    """Neither at admission nor later; it advances step by step, as each computes more."""
    memory = NoCache(4)
    one = request(0, 1000, 1000)
    assert memory.can_allocate(one)
    assert admitted(memory, one) == [0]
    assert memory.decode_steps(decoding(memory, one), 99) == 1
    assert memory.slots(1000, None) == Slots()


@pytest.mark.parametrize(
    "memory",
    [
        Paged(10, BlockCurve(4)),
        Virtual(10, BlockCurve(4)),
        Prefix(10, BlockCurve(4)),
        Reserve(40, 40, reserve_oracle),
        Grow(40, lambda tokens: tokens),
    ],
    ids=lambda memory: type(memory).__name__,
)
def test_every_memory_notices_that_blocks_were_lost(memory: Allocator) -> None:
    """A request that the books do not know, and one that they know and nobody has."""
    one = request(0, 9, 3)
    admitted(memory, one)
    memory.check([(one, 9)])
    with pytest.raises(InvariantError):
        memory.check([])
    finished(memory, one)
    memory.check([])
    if isinstance(memory, Paged):
        memory.free_blocks -= 1
        with pytest.raises(InvariantError):
            memory.check([])


def test_usage_is_what_is_held() -> None:
    """Three of four blocks; nothing of a pool of none."""
    memory = Paged(4, BlockCurve(4))
    admitted(memory, request(0, 9, 3))
    assert memory.usage == 0.75
    assert Paged(0, BlockCurve(4)).usage == 0.0


def test_more_held_than_there_is_is_noticed() -> None:
    """The sum alone would be right: 12 held, -2 free, 10 in all."""
    memory = Paged(10, BlockCurve(4))
    memory.free_blocks = -2
    with pytest.raises(InvariantError):
        memory.check([(request(0, 48, 1), 48)])
