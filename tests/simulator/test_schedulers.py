"""Exact logs of five schedulers on tiny pools: one line a plan, checked by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from kvsim.errors import InvariantError, UnknownNameError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers import (
    SCHEDULERS,
    Scheduler,
    SchedulerLimits,
    StepPlan,
)
from kvsim.steptime.model import ConstantStepTime
from kvsim.workload.base import RequestTable
from tests.support.parts import (
    Case,
    Given,
    Log,
    Pool,
    Talks,
    build,
    run_replica,
    simulated,
    table,
    watch_laws,
)

SECOND = ConstantStepTime(1.0)
FOURS = BlockCurve(4)


def limits(**changes: object) -> SchedulerLimits:
    """Eight sequences, 16 tokens a step, 100 tokens a sequence."""
    given: dict[str, object] = {
        "max_num_seqs": 8,
        "max_num_batched_tokens": 16,
        "max_model_len": 100,
    }
    return SchedulerLimits(**(given | changes))  # type: ignore[arg-type]


class Teller(Log):
    """Tells what happens, a line an event."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.scheduler: Scheduler | None = None
        self.planned: StepPlan | None = None

    def listen(self, scheduler: Scheduler) -> None:
        """Hear of every plan, and of every end."""
        schedule, finish, decoded = scheduler.schedule, scheduler.finish, scheduler.decoded

        def told(now: float) -> StepPlan | None:
            self.planned = schedule(now)
            return self.planned

        def ended(done: list[Request], now: float) -> list[Request]:
            self.lines += [f"t={now:g} {request.row} ends" for request in done]
            return done

        scheduler.schedule = told  # type: ignore[method-assign]
        scheduler.finish = lambda plan, steps, now: ended(finish(plan, steps, now), now)  # type: ignore[method-assign]
        scheduler.decoded = lambda steps, now: ended(decoded(steps, now), now)  # type: ignore[method-assign]
        self.scheduler = scheduler

    def run_begins(self, row: Mapping[str, float]) -> None:
        """A run of steps begins: what of which prompts, who decodes, what crosses the link."""
        assert self.scheduler is not None
        prompts, moved = [], 0
        if self.planned is not None:
            prompts = [f"{one.row}:{count}" for one, count in self.planned.prefills]
            moved, self.planned = self.planned.moved_tokens, None
        decodes = [str(one.row) for one in self.scheduler.batch.members]
        self.lines.append(
            f"t={row['start_seconds']:g} prompts {' '.join(prompts) or '-'}"
            f" decodes {' '.join(decodes) if row['sequences'] else '-'}"
            f"{f' moving {moved}' if moved else ''}"
        )

    def preempt(self, request: Request) -> None:
        """A request gives way."""
        super().preempt(request)
        self.lines.append(f"{request.row} gives way")

    def reject(self, row: int) -> None:
        """A request is refused."""
        super().reject(row)
        self.lines.append(f"{row} refused")


def story(
    scheduler: str,
    blocks: int,
    requests: RequestTable,
    *,
    curve: BlockCurve = FOURS,
    **flags: object,
) -> list[str]:
    """What happens, in order; a step takes a second, so `t` counts steps."""
    pool = Pool("paged", blocks, curve, max_model_len=100)
    case = Case(scheduler, pool, limits(**flags), step_time=SECOND, link_seconds_per_token=0.0)
    teller = Teller()
    replica = build(case, Given([requests]), teller)
    watch_laws(replica.scheduler, teller)
    teller.listen(replica.scheduler)
    run_replica(replica)
    return teller.lines


# ---- vLLM V1 ----------------------------------------------------------------------------


def test_v1_spends_one_budget_on_decodes_then_prompts() -> None:
    """16 tokens a step: 10 + 6, then a decode and the 4 that were left over, and 11 of 20."""
    assert story("vllm-v1", 30, table([0, 0, 0], [10, 10, 20], [5, 2, 1])) == [
        "t=0 prompts 0:10 1:6 decodes -",
        "t=1 prompts 1:4 2:11 decodes 0",
        "t=2 prompts 2:9 decodes 0 1",
        "t=3 1 ends",
        "t=3 2 ends",
        "t=3 prompts - decodes 0",
        "t=5 0 ends",
    ]


def test_v1_cuts_long_prompts_so_that_short_ones_pass() -> None:
    """long_prefill_token_threshold: at most 6 tokens of one prompt a step."""
    rows = table([0, 0], [14, 4], [1, 2])
    assert story("vllm-v1", 30, rows, long_prefill_token_threshold=6) == [
        "t=0 prompts 0:6 1:4 decodes -",
        "t=1 prompts 0:6 decodes 1",
        "t=2 1 ends",
        "t=2 prompts 0:2 decodes -",
        "t=3 0 ends",
    ]


def test_v1_admits_a_prompt_only_when_all_of_it_fits() -> None:
    """3 of 8 blocks are free; a prompt of 16 needs 4, and nobody passes it in the queue."""
    rows = table([0, 0, 0], [17, 16, 1], [3, 1, 1])
    assert story("vllm-v1", 8, rows, max_num_batched_tokens=17) == [
        "t=0 prompts 0:17 decodes -",
        "t=1 prompts - decodes 0",
        "t=3 0 ends",
        "t=3 prompts 1:16 2:1 decodes -",
        "t=4 1 ends",
        "t=4 2 ends",
    ]


def test_v1_leaves_room_for_the_blocks_that_decodes_open() -> None:
    """One block is free and request 0 opens it in this very step: 1 waits, although it fits."""
    rows = table([0, 0.5], [4, 3], [2, 1])
    assert story("vllm-v1", 2, rows) == [
        "t=0 prompts 0:4 decodes -",
        "t=1 prompts - decodes 0",
        "t=2 0 ends",
        "t=2 prompts 1:3 decodes -",
        "t=3 1 ends",
    ]


def test_v1_preempts_the_last_admitted_first_and_computes_it_again() -> None:
    """Three sequences fill 6 blocks at length 8; 2 gives its two up, one for each of the others.

    It comes back with what it had generated as part of its prompt: 4 + 5 tokens.
    """
    assert story("vllm-v1", 6, table([0, 0, 0], [4, 4, 4], [9, 9, 7])) == [
        "t=0 prompts 0:4 1:4 2:4 decodes -",
        "t=1 prompts - decodes 0 1 2",
        "2 gives way",
        "t=5 prompts - decodes 0 1",
        "t=6 prompts - decodes 0 1",
        "t=9 0 ends",
        "t=9 1 ends",
        "t=9 prompts 2:9 decodes -",
        "t=10 prompts - decodes 2",
        "t=11 2 ends",
    ]


def test_v1_preempts_for_the_next_chunk_of_an_older_prompt() -> None:
    """0 has computed 16 of 24 in 4 of 7 blocks; 1 and 2 were let in and want a second block each.

    2 leaves so that 1 could go on; then the last chunk of 0 needs the blocks of 1 as well.
    """
    rows = table([0, 0.5, 0.5], [24, 4, 4], [1, 9, 9])
    flags = {"long_prefill_token_threshold": 8, "max_num_batched_tokens": 32}
    flags["waives_threshold"] = False
    assert story("vllm-v1", 7, rows, **flags) == [
        "t=0 prompts 0:8 decodes -",
        "t=1 prompts 0:8 1:4 2:4 decodes -",
        "2 gives way",
        "1 gives way",
        "t=2 prompts 0:8 decodes -",
        "t=3 0 ends",
        "t=3 prompts 1:5 2:5 decodes -",
        "t=4 prompts - decodes 1 2",
        "t=11 1 ends",
        "t=11 2 ends",
    ]


def test_v1_under_priorities_the_least_important_gives_way() -> None:
    """Request 1 came last and matters most: 0 makes room for it, as in vLLM."""
    rows = table([0, 0.5], [4, 4], [9, 9], priority=[1, 0])
    assert story("vllm-v1", 4, rows, admission="priority") == [
        "t=0 prompts 0:4 decodes -",
        "t=1 prompts 1:4 decodes 0",
        "t=2 prompts - decodes 0 1",
        "0 gives way",
        "t=5 prompts - decodes 1",
        "t=6 prompts - decodes 1",
        "t=10 1 ends",
        "t=10 prompts 0:9 decodes -",
        "t=11 prompts - decodes 0",
        "t=14 0 ends",
    ]


def test_v1_swaps_out_and_in_over_the_link() -> None:
    """The victim moves its 8 cached tokens out, and in again when 0 has ended; it never waits
    for its prompt."""
    assert story("vllm-v1", 4, table([0, 0], [4, 4], [8, 8]), preemption="swap") == [
        "t=0 prompts 0:4 1:4 decodes -",
        "t=1 prompts - decodes 0 1",
        "1 gives way",
        "t=5 prompts - decodes 0 moving 8",
        "t=6 prompts - decodes 0",
        "t=8 0 ends",
        "t=8 prompts - decodes 1 moving 8",
        "t=9 prompts - decodes 1",
        "t=11 1 ends",
    ]


def test_swapping_in_is_no_cache_hit() -> None:
    """Tokens that come back over the link were not found in the prefix cache."""
    pool = Pool("prefix", 4, FOURS)
    case = Case("vllm-v1", pool, limits(preemption="swap"), step_time=SECOND)
    log = simulated(case, Given([table([0, 0], [4, 4], [8, 8])]))
    assert len(log.preempted) == 1
    assert (log.hit_tokens, log.queried_tokens) == (0, 8)
    assert log.cached_tokens == {}


# ---- the others -------------------------------------------------------------------------


def test_v0_stalls_decodes_for_prompts() -> None:
    """An arrival's prompt is a step of its own; a prompt is never cut, so 12 + 6 are two steps."""
    rows = table([0, 0, 0.5], [12, 6, 10], [4, 4, 2])
    assert story("vllm-v0", 30, rows) == [
        "t=0 prompts 0:12 decodes -",
        "t=1 prompts 1:6 2:10 decodes -",
        "t=2 prompts - decodes 0 1 2",
        "t=3 2 ends",
        "t=3 prompts - decodes 0 1",
        "t=5 0 ends",
        "t=5 1 ends",
    ]


def test_v0_refuses_a_prompt_longer_than_a_step() -> None:
    """Without chunks it could never be computed."""
    assert story("vllm-v0", 30, table([0, 0], [17, 16], [1, 1])) == [
        "0 refused",
        "t=0 prompts 1:16 decodes -",
        "t=1 1 ends",
    ]


@pytest.mark.parametrize("scheduler", ["vllm-v0", "sarathi"])
def test_the_watermark_keeps_one_block_in_a_hundred_free(scheduler: str) -> None:
    """Of 200 single-token blocks 100 are held: 98 may be taken, 99 may not, until all ends."""
    rows = table([0, 0, 0], [100, 99, 3], [5, 1, 1])
    flags = {"max_num_batched_tokens": 400, "max_model_len": 400}
    log = story(scheduler, 200, rows, curve=BlockCurve(1), **flags)
    assert log[0] == "t=0 prompts 0:100 decodes -"
    assert "t=5 prompts 1:99 2:3 decodes -" in log
    rows = table([0, 0, 0], [100, 97, 3], [5, 1, 1])
    log = story(scheduler, 200, rows, curve=BlockCurve(1), **flags)
    assert log[0] == "t=0 prompts 0:100 1:97 decodes -"


@pytest.mark.parametrize("scheduler", ["vllm-v0", "sarathi"])
def test_an_idle_engine_waives_the_watermark(scheduler: str) -> None:
    """A prompt of 199 of 200 blocks is served, alone."""
    rows = table([0, 0], [199, 5], [1, 1])
    flags = {"max_num_batched_tokens": 400, "max_model_len": 400}
    assert story(scheduler, 200, rows, curve=BlockCurve(1), **flags) == [
        "t=0 prompts 0:199 decodes -",
        "t=1 0 ends",
        "t=1 prompts 1:5 decodes -",
        "t=2 1 ends",
    ]


def test_orca_computes_whole_prompts_beside_decodes() -> None:
    """There is no token budget: 30 tokens of prompt in one iteration."""
    rows = table([0, 0, 0.5], [10, 20, 30], [3, 1, 1])
    assert story("orca", 30, rows) == [
        "t=0 prompts 0:10 1:20 decodes -",
        "t=1 1 ends",
        "t=1 prompts 2:30 decodes 0",
        "t=2 2 ends",
        "t=2 prompts - decodes 0",
        "t=3 0 ends",
    ]


def test_a_static_batch_leaves_together() -> None:
    """1 has its answer at t=2, and gets it at t=5 with 0; 2 waits for both."""
    rows = table([0, 0, 0.5], [10, 4, 4], [5, 2, 1])
    assert story("static", 30, rows) == [
        "t=0 prompts 0:10 1:4 decodes -",
        "t=1 prompts - decodes 0 1",
        "t=2 prompts - decodes 0",
        "t=5 1 ends",
        "t=5 0 ends",
        "t=5 prompts 2:4 decodes -",
        "t=6 2 ends",
    ]


def test_a_static_batch_ends_when_its_last_worker_gives_way() -> None:
    """1 has ended but holds its 2 blocks; 0 cannot grow and leaves, and the batch is over."""
    assert story("static", 4, table([0, 0], [8, 5], [6, 1])) == [
        "t=0 prompts 0:8 1:5 decodes -",
        "0 gives way",
        "t=1 prompts - decodes -",
        "t=1 1 ends",
        "t=1 prompts 0:9 decodes -",
        "t=2 prompts - decodes 0",
        "t=6 0 ends",
    ]


def test_the_least_important_of_a_static_batch_gives_way() -> None:
    """Of two that need a third block each, the one of the larger number, though it came first."""
    rows = table([0, 0], [8, 8], [4, 4], priority=[5, 1])
    assert "0 gives way" in story("static", 5, rows, admission="priority")
    assert "1 gives way" in story("static", 5, rows)


# ---- refusals and laws ------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_can_never_be_served_is_refused_at_arrival(scheduler: str) -> None:
    """Too long for the model, for the pool, and more samples than sequences may run."""
    rows = table([0, 0, 0, 0], [96, 9, 2, 9], [5, 9, 2, 8], samples=[1, 1, 9, 1])
    log = story(scheduler, 4, rows)
    assert log[:3] == ["0 refused", "1 refused", "2 refused"]
    assert [line for line in log if line.endswith("ends")] == ["t=8 3 ends"]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_queue_that_nobody_serves_is_noticed(scheduler: str) -> None:
    """An idle engine with requests in its queue has a broken scheduler, not bad luck."""
    case = Case(scheduler, Pool("paged", 4, FOURS), limits(), step_time=SECOND)
    replica = build(case, Given([table([0], [4], [2])]))
    replica.scheduler.allocator.free_blocks = 0
    with pytest.raises(InvariantError, match="1 requests wait"):
        run_replica(replica)


def test_a_request_that_runs_twice_is_noticed() -> None:
    """Decoding and prefilling at once, or a slot counted for nobody."""
    case = Case("vllm-v1", Pool("paged", 9, FOURS), limits(), step_time=SECOND)
    replica = build(case, Given([table([0], [4], [2])]))
    engine = replica.scheduler
    engine.check()
    engine.running_sequences += 1
    with pytest.raises(InvariantError, match="running sequences"):
        engine.check()
    engine.running[Request(9, 0.0, 1, 1)] = None
    with pytest.raises(InvariantError, match="neither prefills nor decodes"):
        engine.check()


@pytest.mark.parametrize("policy", ["vllm-v1", "static"])
@pytest.mark.parametrize("allocator", ["paged", "prefix", "reserve-oracle", "grow", "none"])
def test_what_is_due_is_what_is_held(policy: str, allocator: str) -> None:
    """The ledger of claims is held against the memory's own count, half way and at the end."""
    case = Case(policy, Pool(allocator, 30), SchedulerLimits(8, 64, 100))
    replica = build(case, Given([table([0, 0], [4, 5], [4, 4])]))
    run_replica(replica, until=1e-9)
    scheduler = replica.scheduler
    assert scheduler.running
    scheduler.check()
    scheduler.claimed_slots += 1
    with pytest.raises(InvariantError, match=r"hold \d+ slots, and are due"):
        scheduler.check()


def test_a_drifted_batch_is_noticed() -> None:
    """The scheduler's check is its batch's and its memory's, too."""
    replica = build(
        Case("vllm-v1", Pool("paged", 9, FOURS), limits(), step_time=SECOND),
        Given([table([0], [4], [2])]),
    )
    replica.scheduler.batch.kv_bytes += 1
    with pytest.raises(InvariantError, match="kv_bytes"):
        replica.scheduler.check()


def test_a_victim_waits_with_nothing_computed() -> None:
    """Two prompts of 4 in three blocks of 4: the newer one gives way as soon as both need more."""
    case = Case("vllm-v1", Pool("paged", 3, FOURS), limits(), step_time=SECOND)
    replica = build(case, Given([table([0, 0], [4, 4], [4, 4])]))
    waiting: list[tuple[int, int, int]] = []
    schedule = replica.scheduler.schedule

    def watched(now: float) -> StepPlan | None:
        plan = schedule(now)
        waiting.extend(
            (each.row, each.computed_tokens, each.prefill_tokens)
            for each in replica.scheduler.waiting
        )
        return plan

    replica.scheduler.schedule = watched  # type: ignore[method-assign]
    run_replica(replica)
    assert set(waiting) == {(1, 0, 5)}  # its prompt, and the token that it had produced


def test_an_unknown_scheduler_names_the_known_ones() -> None:
    """One clear line."""
    with pytest.raises(UnknownNameError, match="vllm-v1"):
        SCHEDULERS.find("vllm-v2")


def test_clients_that_start_one_after_the_other_are_served_in_order_of_time() -> None:
    """The first client's second turn, at 4.5, must not keep the third client, at 4, waiting."""
    talks = Talks([[(4, 2, 2.5), (4, 1, 0.0)], [(4, 2, 9.0)], [(4, 2, 9.0)]], ramp=2.0)
    case = Case("vllm-v1", Pool("paged", 30, FOURS), limits(), step_time=SECOND)
    log: Log = simulated(case, talks)
    # client 0 asks at 0, ends at 2 and asks again at 4.5 (row 3), during a step; client 2 at 4
    assert list(log.scheduled_seconds) == [0.0, 2.0, 4.0, 5.0]
