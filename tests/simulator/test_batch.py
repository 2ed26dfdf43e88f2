"""The counters of a decoding batch against a plain look at every sequence, step by step."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import InvariantError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.batch import DecodeBatch, HybridBatch, decode_batch
from kvsim.simulator.clock import RecomputeClock, StepClock, _LevelledSteps, steps_reaching
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers import StepPlan
from kvsim.steptime.kv_reads import KVReadCurve
from kvsim.steptime.model import StepLoad
from tests.support.menus import curves
from tests.support.parts import (
    PLAIN_READS,
    CurvedStepTime,
    causal_pairs,
    sawtooth_reads,
    windowed_reads,
)

Member = tuple[int, int, int]  # cached tokens, tokens still to come, samples

MEMBERS = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 40), st.integers(1, 3)), min_size=1, max_size=12
)
Pools = tuple[tuple[BlockCurve, int], ...]  # with the weight of a slot

CURVES = curves(1, 3, 4, 16)  # of one block size, or of several
POOLS = st.lists(st.tuples(CURVES, st.integers(1, 5)), min_size=1, max_size=3).map(tuple)
READS_THAT_BEND = windowed_reads(24, 400, 600)
# of a step whose products take 1 ms and more: attention outlasts some within a run
LAUNCHES = st.one_of(st.just(0.0), st.floats(1e-3, 5e-3))
READS = st.sampled_from([PLAIN_READS, READS_THAT_BEND, sawtooth_reads(16, 300, 700)])


def joined(
    blocks: BlockCurve | Pools, reads: KVReadCurve, members: list[Member], late: int
) -> DecodeBatch:
    """A batch that has taken `late` steps before the members joined."""
    batch = decode_batch(blocks, reads)
    batch.advance(late)
    for row, (cached, to_come, samples) in enumerate(members):
        request = Request(row, 0.0, cached, to_come + 1)
        request.computed_tokens, request.generated_tokens, request.samples = cached, 1, samples
        batch.join(request)
    return batch


def slots_filled(pools: Pools, members: list[Member]) -> int:
    """Slots that all sequences fill in all pools."""
    return sum(
        samples * weight * curve.slots_at(cached)
        for curve, weight in pools
        for cached, _, samples in members
    )


def blocks_opened(curve: BlockCurve, members: list[Member], steps: int) -> int:
    """Blocks that `steps` more tokens of every sequence take."""
    grown = (curve.blocks_at(cached + steps) - curve.blocks_at(cached) for cached, _, _ in members)
    return sum(blocks * samples for blocks, (_, _, samples) in zip(grown, members, strict=True))


@given(members=MEMBERS, size=st.sampled_from([1, 3, 4, 16]), late=st.integers(0, 40))
def test_blocks_of_the_next_steps(members: list[Member], size: int, late: int) -> None:
    """Whole cycles and a part of one, from any step on."""
    curve = BlockCurve(size)
    batch = joined(curve, PLAIN_READS, members, late)
    for steps in range(3 * size + 2):
        assert batch.phases.blocks_for(batch.step, steps) == blocks_opened(curve, members, steps)
    assert batch.opening == blocks_opened(curve, members, 1)


@given(
    members=MEMBERS,
    size=st.sampled_from([1, 3, 4, 16]),
    late=st.integers(0, 40),
    free=st.integers(0, 60),
    limit=st.integers(1, 90),
)
def test_steps_that_free_blocks_allow(
    members: list[Member], size: int, late: int, free: int, limit: int
) -> None:
    """The most steps, found by trying every number."""
    curve = BlockCurve(size)
    batch = joined(curve, PLAIN_READS, members, late)
    allowed = [n for n in range(limit + 1) if blocks_opened(curve, members, n) <= free]
    assert batch.phases.steps_within(batch.step, free, limit) == max(allowed)


@given(members=MEMBERS, pools=POOLS, free=st.integers(0, 60))
def test_steps_that_free_blocks_of_a_pool_allow(
    members: list[Member], pools: Pools, free: int
) -> None:
    """The same for every pool of a hybrid, up to its next change."""
    batch = joined(pools, READS_THAT_BEND, members, 0)
    assert isinstance(batch, HybridBatch)
    limit = batch.steps_to_change()
    for number, (curve, _) in enumerate(pools):
        allowed = [n for n in range(limit + 1) if blocks_opened(curve, members, n) <= free]
        assert batch.pool_phases[number].steps_within(batch.step, free, limit) == max(allowed)


@given(members=MEMBERS, pools=POOLS, late=st.integers(0, 40))
def test_every_pool_has_counters_of_its_own(members: list[Member], pools: Pools, late: int) -> None:
    """Between changes blocks and slots are as foreseen, in each pool, to the last step."""
    batch = joined(pools, READS_THAT_BEND, members, late)
    assert isinstance(batch, HybridBatch)
    taken = 0
    while batch.sequences:
        steps = batch.steps_to_change()
        alive = [(c + taken, n, s) for c, n, s in members if n > taken]
        filled = slots_filled(pools, alive)
        assert batch.filled_slots == filled
        for ahead in range(1, steps + 1):
            for number, (curve, _) in enumerate(pools):
                assert batch.pool_phases[number].blocks_for(batch.step, ahead) == blocks_opened(
                    curve, alive, ahead
                )
            then = slots_filled(pools, [(c + ahead, n, s) for c, n, s in alive])
            assert ahead * batch.fill_slope == then - filled
        assert batch.opening == blocks_opened(pools[0][0], alive, 1)
        taken += steps
        batch.advance(steps)
        batch.check()
    assert [batch.filled_slots, batch.fill_slope] == [0, 0]


@given(members=MEMBERS, curve=CURVES, reads=READS, late=st.integers(0, 40))
def test_a_batch_runs_from_change_to_change(
    members: list[Member], curve: BlockCurve, reads: KVReadCurve, late: int
) -> None:
    """Between changes blocks and bytes are as foreseen; every sequence ends in its own step."""
    batch = joined(curve, reads, members, late)
    taken, ends = 0, {}
    while batch.sequences:
        steps = batch.steps_to_change()
        alive = [(c + taken, n, s) for c, n, s in members if n > taken]
        assert 1 <= steps <= min(n for _, n, _ in alive) - taken
        for ahead in range(1, steps + 1):
            assert batch.phases.blocks_for(batch.step, ahead) == blocks_opened(curve, alive, ahead)
        assert batch.kv_bytes == sum(s * reads.bytes_at(c + 1) for c, _, s in alive)
        in_run = [sum(s * reads.bytes_at(c + 1 + i) for c, _, s in alive) for i in range(steps)]
        assert in_run == [batch.kv_bytes + i * batch.kv_slope for i in range(steps)]
        taken += steps
        ends |= {request.row: taken for request in batch.advance(steps)}
        batch.check()
    assert ends == {row: to_come for row, (_, to_come, _) in enumerate(members)}
    assert [batch.tokens, batch.kv_bytes, batch.kv_slope, batch.phases.opens] == [0, 0, 0, 0]


@given(members=MEMBERS, curve=CURVES, reads=READS, data=st.data())
def test_leaving_and_joining_again_leaves_no_trace(
    members: list[Member], curve: BlockCurve, reads: KVReadCurve, data: st.DataObject
) -> None:
    """A preempted sequence takes its notes along; what the heaps remember of it is stale."""
    batch = joined(curve, reads, members, 0)
    for _ in range(data.draw(st.integers(1, 8))):
        if not batch.sequences:
            break
        request = data.draw(st.sampled_from(sorted(batch.members, key=lambda r: r.row)))
        cached, finish = batch.cached_tokens(request), request.finish_step
        batch.leave(request)
        assert request.computed_tokens == cached
        assert request not in batch.members
        batch.check()
        if batch.sequences:
            batch.advance(batch.steps_to_change())
        if data.draw(st.booleans()):
            request.generated_tokens = request.output_tokens - (finish - batch.step)
            if request.generated_tokens < request.output_tokens:
                batch.join(request)
        batch.check()
    while batch.sequences:
        batch.advance(batch.steps_to_change())
        batch.check()


def test_who_ends_in_the_same_step_leaves_in_the_order_of_arrival() -> None:
    """Whatever the order of joining."""
    batch = decode_batch(BlockCurve(4), PLAIN_READS)
    for row in (2, 0, 1):
        request = Request(row, 0.0, 8, 4)
        request.computed_tokens, request.generated_tokens = 8, 1
        batch.join(request)
    assert [request.row for request in batch.advance(3)] == [0, 1, 2]


def test_only_models_with_bends_pay_for_them() -> None:
    """A window in the blocks or in the reads makes the difference."""
    assert type(decode_batch(BlockCurve(4), PLAIN_READS)) is DecodeBatch
    assert type(decode_batch(BlockCurve(4, caps=(2,)), PLAIN_READS)) is HybridBatch
    assert type(decode_batch(BlockCurve(4), windowed_reads(8, 1, 1))) is HybridBatch
    assert type(decode_batch(BlockCurve(4, beside=(BlockCurve(8),)), PLAIN_READS)) is HybridBatch
    assert type(decode_batch(((BlockCurve(4), 1),), PLAIN_READS)) is DecodeBatch
    assert type(decode_batch(((BlockCurve(4), 1),) * 2, PLAIN_READS)) is HybridBatch


@pytest.mark.parametrize(
    "counter", ["sequences", "tokens", "shared_slots", "opens", "kv_bytes", "kv_slope"]
)
def test_a_drifted_counter_is_noticed(counter: str) -> None:
    """Each has its law."""
    batch = joined(BlockCurve(4), PLAIN_READS, [(5, 3, 1)], 0)
    batch.check()
    drifted = batch.phases if counter == "opens" else batch
    setattr(drifted, counter, getattr(drifted, counter) + 1)
    with pytest.raises(InvariantError, match=counter):
        batch.check()


def test_a_drifted_counter_of_a_pool_is_noticed() -> None:
    """What is filled, and what opens in a pool that is not the first."""
    two = ((BlockCurve(4), 2), (BlockCurve(3, 0, (2,)), 1))
    for counter in ("filled_slots", "opens"):
        batch = joined(two, PLAIN_READS, [(5, 3, 1)], 0)
        assert isinstance(batch, HybridBatch)
        batch.check()
        drifted = batch if counter == "filled_slots" else batch.pool_phases[1]
        setattr(drifted, counter, getattr(drifted, counter) + 1)
        with pytest.raises(InvariantError, match="slots" if drifted is batch else "pool 1"):
            batch.check()


# ---- time -------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0.1, 0.3, 3.0, 7e-3])
@pytest.mark.parametrize("growth", [0.0, 1e-4, 0.1, 2.0])
@pytest.mark.parametrize("limit", [40, 1000])
def test_an_arrival_at_the_very_end_of_a_step_is_reached_by_it(
    first: float, growth: float, limit: int
) -> None:
    """The seconds of so many steps, as they are added up, are reached by so many steps: rounding
    moves it neither before nor past a whole one."""
    for steps in range(1, 41):
        gap = steps * first + growth * (steps * (steps - 1) // 2)
        assert steps_reaching(gap, first, growth, limit) == steps


@given(
    first=st.floats(1e-6, 10),
    growth=st.one_of(st.just(0.0), st.floats(1e-12, 5)),
    limit=st.integers(1, 300),
    gap=st.floats(1e-6, 1e4),
)
@settings(max_examples=300)
def test_steps_that_reach_an_arrival(first: float, growth: float, limit: int, gap: float) -> None:
    """The fewest whose sum is there, found by adding up."""
    sums = [n * first + growth * (n * (n - 1) // 2) for n in range(1, limit + 1)]
    reached = next((n for n, seconds in enumerate(sums, 1) if seconds >= gap), limit)
    assert steps_reaching(gap, first, growth, limit) == reached


@given(members=MEMBERS, reads=READS, gap=st.floats(1e-4, 0.5), launches=LAUNCHES)
def test_a_run_takes_as_long_as_its_steps(
    members: list[Member], reads: KVReadCurve, gap: float, launches: float
) -> None:
    """The closed form against the model asked once a step; the run ends where the gap does."""
    model = CurvedStepTime(launching_seconds=launches)
    batch = joined(BlockCurve(4), reads, members, 0)
    limit, sequences = batch.steps_to_change(), batch.sequences
    reading = [sum(s * reads.bytes_at(c + 1 + i) for c, _, s in members) for i in range(limit)]
    each = [model.cost(StepLoad(sequences, sequences, read)).seconds for read in reading]
    sums = list(accumulate(each))
    clock = StepClock(model, causal_pairs)  # type: ignore[arg-type]
    sums.insert(0, 0.0)
    spent = limit, pytest.approx(sums[limit]), pytest.approx(sums[limit - 1])
    assert clock.decode_run(batch, limit, float("inf")) == spent
    expected = next((n for n in range(1, limit) if sums[n] >= gap), limit)
    spent = expected, pytest.approx(sums[expected]), pytest.approx(sums[expected - 1])
    assert clock.decode_run(batch, limit, gap) == spent
    further = min(limit, expected + 1) if gap > 0 else 1  # one step was planned already
    assert clock.decode_run(batch, limit, gap, 1)[0] == further


def test_steps_that_wait_for_their_launches_by_hand() -> None:
    """10 s each, until attention, 1 s more with every step, has used the 2.5 s that were left."""
    steps = _LevelledSteps.of(10.0, 2.5, 1.0, limit=5)
    assert [steps.seconds(count) for count in range(6)] == [0, 10, 20, 30, 40.5, 52]
    assert steps.until(35.0, 5, 0) == (4, 40.5, 30.0)
    assert steps.until(20.0, 5, 0) == (2, 20.0, 10.0)
    assert steps.until(35.0, 5, 1) == (5, 52.0, 40.5)
    assert steps.until(0.0, 5, 0) == (1, 10.0, 0.0)
    assert _LevelledSteps.of(10.0, 2.5, 0.0, limit=5).seconds(5) == 50


@pytest.mark.parametrize("launches", [0.0, 1.5e-3, 1.0])
def test_a_mixed_step_costs_what_the_model_says(launches: float) -> None:
    """Decodes, a chunk in the middle of a prompt, another of one token, and tokens moved."""
    model = CurvedStepTime(launching_seconds=launches)
    clock = StepClock(model, causal_pairs, link_seconds_per_token=1e-3)  # type: ignore[arg-type]
    batch = joined(BlockCurve(4), PLAIN_READS, [(10, 5, 2), (7, 3, 1)], 0)
    middle, last = Request(8, 0.0, 30, 5), Request(9, 0.0, 40, 5)
    middle.computed_tokens, last.computed_tokens = 12, 39
    plan = StepPlan([(middle, 6), (last, 1)], decodes=True, moved_tokens=11)
    pairs = (13 + 14 + 15 + 16 + 17 + 18) + 40
    load = StepLoad(3 + 7, 3 + 2, kv_read_bytes=1000 * (11 + 11 + 8), prefill_pairs=pairs)
    assert clock.mixed_seconds(plan, batch) == pytest.approx(model.cost(load).seconds + 0.011)
    prompts_only = StepPlan([(last, 1)], decodes=False)
    alone = StepLoad(1, 1, prefill_pairs=40)
    assert clock.mixed_seconds(prompts_only, batch) == pytest.approx(model.cost(alone).seconds)
    assert clock.mixed_seconds(StepPlan([], False, moved_tokens=3), batch) == pytest.approx(3e-3)


@pytest.mark.parametrize("launches", [0.0, 5.0])
def test_without_a_cache_every_context_is_computed_again(launches: float) -> None:
    """Two samples of 11 tokens, one sequence of 8 and a prompt of 30, all of their pairs."""
    model = CurvedStepTime(launching_seconds=launches)
    clock = RecomputeClock(model, causal_pairs)  # type: ignore[arg-type]
    batch = joined(BlockCurve(1), PLAIN_READS, [(10, 5, 2), (7, 3, 1)], 0)
    plan = StepPlan([(Request(9, 0.0, 30, 5), 30)], decodes=True)
    load = StepLoad(11 + 11 + 8 + 30, 4, prefill_pairs=66 + 66 + 36 + 465)
    assert clock.mixed_seconds(plan, batch) == pytest.approx(model.cost(load).seconds)
    steps, seconds, lead = clock.decode_run(batch, 9, float("inf"))
    alone = StepLoad(30, 3, prefill_pairs=66 + 66 + 36)
    assert (steps, seconds, lead) == (1, pytest.approx(model.cost(alone).seconds), 0)
