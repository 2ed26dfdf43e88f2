"""Pools that an engine keeps apart: a request is in all of them or in none."""

from __future__ import annotations

import pytest

from kvsim.errors import InvariantError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.apart import PagedApart
from kvsim.simulator.batch import HybridBatch
from kvsim.simulator.schedulers import SCHEDULERS, SchedulerLimits
from kvsim.steptime.model import ConstantStepTime
from tests.support.memories import Pool
from tests.support.parts import (
    Case,
    Given,
    admitted,
    decoding,
    finished,
    opened,
    request,
    simulated,
    stepped,
    table,
)

FULL = BlockCurve(4)
WINDOW = BlockCurve(4, 0, (2,))  # two blocks of 4, then no more
STATES = BlockCurve(1, 0, (), 1)


def memory(full: int, window: int, states: int) -> PagedApart:
    """A token weighs 1 in the full pool, 3 in the window, and a state is 50 slots."""
    return PagedApart([(full, FULL, 1), (window, WINDOW, 3), (states, STATES, 50)])


def free(pools: PagedApart) -> list[int]:
    """Free blocks of every pool."""
    return [part.free_blocks for part in pools.parts]


def test_a_request_has_blocks_in_every_pool_and_gives_all_of_them_back() -> None:
    """Of 12 tokens: 3 blocks, the window's two, and a state."""
    pools = memory(9, 9, 9)
    one = request(0, 12, 5)
    assert admitted(pools, one) == [0]
    assert free(pools) == [6, 7, 8]
    assert pools.free_blocks == 6
    assert pools.held_slots == 12 + 3 * 8 + 50
    pools.check([(one, 12)])
    finished(pools, one)
    assert free(pools) == [9, 9, 9]
    assert pools.held_slots == 0


@pytest.mark.parametrize("blocks", [(5, 9, 9), (9, 3, 9), (9, 9, 1)])
def test_nothing_is_taken_anywhere_when_one_pool_lacks_room(blocks: tuple[int, int, int]) -> None:
    """Whichever it is: at admission, for a chunk, and on the way back from the host."""
    pools = memory(*blocks)
    first, second = request(0, 12, 5), request(1, 12, 5)
    assert admitted(pools, first) == [0]
    before = free(pools)
    assert pools.allocate(second, 4) is None
    assert not pools.append_slots(second, 12)
    second.computed_tokens = 12
    assert not pools.swap_in(second)
    assert free(pools) == before
    pools.check([(first, 12)])


def test_the_last_block_of_every_pool_is_given() -> None:
    """Unless told to spare some: at admission, for a chunk, on the way back from the host."""
    one = request(0, 12, 5)
    pools = memory(3, 2, 1)
    assert pools.allocate(one, 12) == 0
    assert free(pools) == [0, 0, 0]

    chunked = memory(3, 2, 1)
    assert chunked.allocate(one, 4) == 0
    one.computed_tokens = 4
    assert chunked.append_slots(one, 12)
    assert free(chunked) == [0, 0, 0]

    back = memory(4, 2, 1)  # with the block of the token that comes next
    one.computed_tokens = 12
    assert back.swap_in(one)
    assert free(back) == [1, 0, 0]


def test_a_prompt_is_taken_chunk_by_chunk_in_every_pool() -> None:
    """The window is full with the second chunk, the state there with the first."""
    pools = memory(9, 9, 9)
    one = request(0, 20, 5)
    assert pools.allocate(one, 4) == 0
    assert free(pools) == [8, 8, 8]
    one.computed_tokens = 4
    assert pools.append_slots(one, 12)
    assert free(pools) == [6, 7, 8]
    one.computed_tokens = 12
    assert pools.append_slots(one, 20)
    assert free(pools) == [4, 7, 8]


def test_the_window_s_pool_runs_out_first() -> None:
    """Two prompts of 4 hold a block each; the token after them opens one in either pool."""
    pools = memory(100, 3, 100)
    both = [request(0, 4, 30), request(1, 3, 30)]
    admitted(pools, *both)
    batch = decoding(pools, *both)
    assert free(pools) == [98, 1, 98]
    assert pools.decode_steps(batch, 4) == 1  # the second opens a block in its second step
    assert pools.can_decode(batch)
    assert opened(pools, batch, 1) == 1
    batch.advance(1)
    assert free(pools) == [97, 0, 98]
    assert not pools.can_decode(batch)
    assert pools.usage == 1.0
    pools.check((one, batch.cached_tokens(one)) for one in both)


@pytest.mark.parametrize("scarce", range(3))
def test_any_pool_may_be_the_first_to_run_out(scarce: int) -> None:
    """Two blocks of one pool: 4 tokens more after a prompt of 4, and no fifth."""
    pools = PagedApart([(2 if number == scarce else 100, FULL, 1) for number in range(3)])
    one = request(0, 4, 30)
    admitted(pools, one)
    assert pools.decode_steps(decoding(pools, one), 29) == 4
    assert not pools.can_allocate(one)
    assert pools.can_allocate(request(1, 4, 5))


def test_a_full_window_needs_nothing_more() -> None:
    """Beyond 8 tokens a sequence opens blocks of the first pool alone."""
    pools = memory(100, 2, 1)
    one = request(0, 8, 90)
    admitted(pools, one)
    batch = decoding(pools, one)
    assert isinstance(batch, HybridBatch)
    assert free(pools) == [98, 0, 0]
    assert pools.decode_steps(batch, 89) == 89
    assert opened(pools, batch, 89) == 23  # 97 tokens are 25 blocks
    assert free(pools) == [75, 0, 0]


def test_an_admission_leaves_what_the_decodes_open_in_every_pool() -> None:
    """One decodes and opens a block with its next token: of 3 window blocks 1 can be had."""
    late = request(1, 4, 5)
    for window, found in [(2, None), (3, 0)]:
        pools = memory(100, window, 100)
        one = request(0, 4, 30)
        admitted(pools, one)
        decoding(pools, one)
        assert pools.allocate(late, 4) == found


def test_spare_blocks_are_those_of_the_first_pool() -> None:
    """A watermark of 7 is no concern of a pool of two."""
    assert memory(10, 2, 1).allocate(request(0, 12, 5), 12, spare_blocks=7) == 0
    assert memory(10, 2, 1).allocate(request(0, 12, 5), 12, spare_blocks=8) is None


def test_what_comes_back_needs_room_for_its_next_token_everywhere() -> None:
    """4 cached tokens are a block of the window; the one that it decodes at once opens another."""
    back = request(0, 3, 9)
    back.computed_tokens = 4
    assert not memory(9, 1, 1).swap_in(back)
    pools = memory(9, 2, 1)
    assert pools.swap_in(back)
    assert free(pools) == [8, 1, 0]
    # its weighted slots: a block of 4 in the full pool, one of 4 times 3, and a state of 50
    assert pools.held_slots == 1 * 4 * 1 + 1 * 4 * 3 + 1 * 50


def test_samples_have_windows_and_states_of_their_own() -> None:
    """A prompt of 8: two shared blocks, and for each of three samples a window and a state."""
    pools = memory(9, 6, 3)
    assert admitted(pools, request(0, 8, 2, samples=3)) == [0]
    assert free(pools) == [7, 0, 0]
    assert not memory(9, 5, 3).can_allocate(request(1, 8, 1, samples=3))
    assert not memory(9, 6, 2).can_allocate(request(1, 8, 1, samples=3))


def test_an_empty_pool_must_hold_a_request_to_its_end() -> None:
    """36 tokens are 9 blocks; a window pool of one block holds 4 tokens and no more."""
    assert memory(9, 2, 1).can_allocate(request(0, 30, 7))
    assert not memory(9, 2, 1).can_allocate(request(0, 30, 8))
    assert not memory(9, 2, 0).can_allocate(request(0, 1, 1))
    assert memory(9, 1, 1).can_allocate(request(0, 2, 3))
    assert not memory(9, 1, 1).can_allocate(request(0, 2, 4))


def test_lost_blocks_are_noticed_in_every_pool() -> None:
    for number in range(3):
        pools = memory(9, 9, 9)
        pools.parts[number].free_blocks -= 1
        with pytest.raises(InvariantError):
            pools.check([])
    pools = memory(9, 9, 9)
    pools.free_blocks -= 1
    with pytest.raises(InvariantError, match="first pool"):
        pools.check([])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_somebody_gives_way_when_a_window_lacks_room(scheduler: str, preemption: str) -> None:
    """Two windows of a block each; at 4 tokens both open a second, and three are there in all."""
    pool = Pool("apart", 1000, beside=((3, WINDOW, 7),))
    bounds = SchedulerLimits(4, 64, 100, preemption=preemption)
    case = Case(scheduler, pool, bounds, step_time=ConstantStepTime(1.0))
    workload = Given([table([0, 0], [2, 2], [20, 20])])
    log, engine = simulated(case, workload), stepped(case, workload)
    assert [row for row, _ in log.preempted] == [1]
    lost = 4  # cached tokens of the second
    assert (log.swapped_tokens, log.recomputed_tokens) == (
        (lost, 0) if preemption == "swap" else (0, lost)
    )
    assert log.held_after[-1] == engine.memory.held == 0
    assert max(log.finish_seconds) == pytest.approx(max(engine.finished.values()), rel=1e-12)
