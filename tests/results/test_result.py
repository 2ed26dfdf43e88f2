"""A run judged: by hand on tiny runs, and by laws on larger ones."""

import signal

import numpy as np
import pytest
import yaml

from kvsim import load_scenario, simulate
from kvsim.errors import InvariantError
from kvsim.results.pool_parts import pool_parts
from kvsim.results.result import _is_whole, swap_break_even_tokens
from kvsim.simulator.allocators.apart import PagedApart
from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.reserve import Reserve
from kvsim.simulator.allocators.runs import PrefixRuns
from kvsim.simulator.allocators.tables import BlockTables
from kvsim.simulator.allocators.virtual import Virtual
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.recorder import STEP_COLUMNS

# One request of 4 + 3 tokens, blocks of 4, ten of them, every step one second:
#
#   seconds  0    1    2    3    4
#            |idle|pre |dec |dec |      tokens 0 -> 4 -> 6, blocks 1, then 2
TINY = {
    "model": "opt-125m",
    "accelerator": "a100",
    "engine": {
        "name": "sglang",  # which takes blocks of any size
        "max_num_seqs": 8,
        "max_model_len": 40,
        "num_gpu_blocks_override": 10,
        "block_size": 4,
    },
    "workload": {
        "arrivals": {"kind": "constant", "rate": 1},
        "lengths": {
            "prompt": {"kind": "fixed", "tokens": 4},
            "output": {"kind": "fixed", "tokens": 3},
        },
        "requests": 1,
    },
    "scheduler": {"policy": "vllm-v1"},
    "step_time": {"kind": "constant", "seconds": 1.0},
}


@pytest.fixture
def run(tmp_path):
    """Simulate the tiny scenario with some keys changed."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))

    def run(overrides=None, **options):
        return simulate(load_scenario(path, overrides), **options)

    return run


# --- by hand -------------------------------------------------------------------------------


def test_one_request_by_hand(run):
    summary = run().summary
    assert summary["completed"] == 1
    assert summary["duration"] == 3.0
    assert summary["mean_ttft_ms"] == 1000.0
    assert summary["mean_tpot_ms"] == 1000.0
    assert summary["mean_itl_ms"] == 1000.0
    assert summary["mean_e2el_ms"] == 3000.0
    assert summary["mean_queue_ms"] == 0.0
    assert summary["total_input_tokens"] == 4
    assert summary["total_output_tokens"] == 3
    assert summary["output_throughput"] == 1.0
    assert summary["total_token_throughput"] == pytest.approx(7 / 3)
    assert summary["events"] == 2
    assert (summary["completed"], summary["failed"]) == (1, 0)
    assert summary["bound_by"] == {"host": 1.0}


def test_its_memory_by_hand(run):
    """40 slots over 4 s; the first step holds 4 and fills them, the next two hold 8."""
    cache = run().summary["kv_cache"]
    token_slot_seconds = (0 + 4) / 2 * 1 + (4 + 6) / 2 * 2
    held_slot_seconds = 4 * 1 + (4 + 8) / 2 * 2
    assert cache["usage_mean"] == pytest.approx(held_slot_seconds / 160)
    assert cache["usage_peak"] == 0.2
    assert cache["waste"]["token_states"] == pytest.approx(token_slot_seconds / 160)
    # In the first second the prompt's slots are yet to be written; then half a block is over.
    assert cache["waste"]["reserved"] == pytest.approx((4 + 0) / 2 * 1 / 160)
    assert cache["waste"]["internal"] == pytest.approx((0 + 2) / 2 * 2 / 160)
    assert cache["waste"]["external"] == 0


def test_a_reservation_by_hand(run):
    """reserve-max holds 64 of 128 slots for 3 s; 2 of the last 6 tokens are still to come."""
    regions = {"memory.allocator": "reserve-max", "memory.num_blocks": 32}
    waste = run(regions | {"engine.max_model_len": 64}).summary["kv_cache"]["waste"]
    assert waste["token_states"] == pytest.approx((2 * 1 + 5 * 2) / (4 * 128))
    assert waste["reserved"] == pytest.approx((4 * 1 + 1 * 2) / (4 * 128))
    assert waste["internal"] == pytest.approx(3 * (64 - 6) / (4 * 128))


def test_two_requests_share_steps(run):
    """They come at 1 s and 2 s; the second's prefill is the first's second decode step."""
    summary = run({"workload.requests": 2}).summary
    assert summary["duration"] == 4.0
    assert summary["mean_ttft_ms"] == 1000.0
    assert summary["mean_batch_size"] == pytest.approx((0 + 1 + 2 + 1) / 4)


def test_goodput_counts_requests_that_meet_every_objective(run):
    slots = {"engine.max_num_seqs": 1, "workload.requests": 4}
    # Served one after the other, 3 s each: they wait 0, 2, 4 and 6 s.
    assert run(slots | {"slo.ttft_ms": 3500}).summary["request_goodput"] == pytest.approx(2 / 12)
    assert run(slots | {"slo.e2el_ms": 5000}).summary["request_goodput"] == pytest.approx(2 / 12)
    both = slots | {"slo.ttft_ms": 3500, "slo.e2el_ms": 4000}
    assert run(both).summary["request_goodput"] == pytest.approx(1 / 12)
    assert run(slots | {"slo.tpot_ms": 999}).summary["request_goodput"] == 0.0
    assert run(slots).summary["request_goodput"] is None


def test_two_tokens_are_one_step_apart(run):
    assert run({"workload.lengths.output.tokens": 2}).summary["mean_tpot_ms"] == 1000.0


def test_one_token_has_no_time_per_output_token(run):
    summary = run({"workload.lengths.output.tokens": 1, "slo.tpot_ms": 1}).summary
    assert summary["mean_tpot_ms"] is None
    assert summary["mean_itl_ms"] is None
    assert summary["request_goodput"] == summary["request_throughput"]


def test_decoding_that_waits_for_prompts_shows_in_inter_token_latency(run):
    """V0 prefills in steps of their own: the second request's makes the first one wait."""
    stalled = run({"scheduler.policy": "vllm-v0", "workload.requests": 2})
    gaps, tokens = stalled.totals.gap_seconds, stalled.totals.gap_tokens
    seen = sorted(np.repeat(gaps, tokens.astype(int)).tolist())
    assert seen == [1.0, 1.0, 1.0, 2.0]
    assert stalled.summary["mean_itl_ms"] == stalled.summary["mean_tpot_ms"] == 1250.0


def test_rejected_requests_are_counted_and_nothing_else(run):
    longer = {"kind": "lognormal", "mean": 400, "cv": 0.1}  # than max_model_len, 40
    summary = run({"workload.lengths.prompt": longer, "workload.requests": 3}).summary
    assert (summary["completed"], summary["rejected"], summary["unfinished"]) == (0, 3, 0)
    assert summary["mean_ttft_ms"] is None
    assert summary["request_throughput"] == 0.0


# --- laws ----------------------------------------------------------------------------------

LOADED = {
    "workload.requests": 400,
    "workload.arrivals": {"kind": "poisson", "rate": 0.8},
    "workload.lengths.prompt": {"kind": "uniform", "low": 1, "high": 20},
    "workload.lengths.output": {"kind": "uniform", "low": 1, "high": 12},
    "memory.num_blocks": 400,
}


@pytest.mark.parametrize("policy", ["vllm-v1", "orca", "sarathi"])
def test_littles_law_of_the_batch(run, policy):
    """The integral of the batch is the time that requests spend decoding, summed."""
    result = run(LOADED | {"scheduler.policy": policy})
    columns = result.columns
    assert result.summary["preemptions"] == 0
    decoding = (columns["finish_seconds"] - columns["first_token_seconds"]).sum()
    assert result.totals.sequence_seconds == pytest.approx(decoding, rel=1e-9)


@pytest.mark.parametrize("blocks", [400, 30])
@pytest.mark.parametrize("allocator", ["paged", "reserve-max", "reserve-oracle", "grow", "virtual"])
def test_the_split_adds_up_at_every_step(run, allocator, blocks):
    result = run(LOADED | {"memory.allocator": allocator, "memory.num_blocks": blocks})
    parts = result.memory.drop(columns="start_seconds")
    assert (parts >= 0).all(axis=None)
    assert parts.sum(axis=1).to_numpy() == pytest.approx(result.setup.pool_slots)
    assert sum(result.summary["kv_cache"]["waste"].values()) == pytest.approx(1)


def test_tokens_are_produced_once(run):
    result = run(LOADED)
    produced = (result.steps["sequences"] * result.steps["steps"]).sum()
    assert produced + 400 == result.summary["total_output_tokens"]
    assert result.totals.gap_tokens.sum() == produced


def test_the_split_is_the_time_average_of_the_memory_table(run):
    """Between two rows the parts are linear; the books agree with a trapezoid by hand."""
    result = run(LOADED | {"memory.allocator": "reserve-max"})
    steps, memory = result.steps, result.memory
    written = steps["sequences"] * steps["steps"] + steps["prefill_tokens"]
    area = ((memory["token_states"] + written / 2) * steps["seconds"]).sum()
    share = area / result.recording.end_seconds / result.setup.pool_slots
    assert result.summary["kv_cache"]["waste"]["token_states"] == pytest.approx(share, rel=1e-12)


def test_percentiles_are_those_of_the_requests_table(run):
    result = run(LOADED)
    for name in ("ttft", "tpot", "e2el", "queue"):
        seen = 1e3 * result.requests[f"{name}_seconds"].dropna()
        assert result.summary[f"p95_{name}_ms"] == pytest.approx(np.percentile(seen, 95))
        assert result.summary[f"median_{name}_ms"] == result.summary[f"p50_{name}_ms"]


def test_warm_up_leaves_the_first_requests_out(run):
    whole, warm = run(LOADED), run(LOADED | {"run.warmup_fraction": 0.25})
    kept = whole.requests.iloc[100:]
    assert warm.summary["mean_e2el_ms"] == pytest.approx(1e3 * kept["e2el_seconds"].mean())
    assert warm.totals.span_seconds == pytest.approx(
        whole.recording.end_seconds - kept["arrival_seconds"].iloc[0]
    )
    assert warm.summary["completed"] == whole.summary["completed"] == 400


def test_memory_limits_only_what_memory_keeps_out(run):
    crowded = LOADED | {"workload.arrivals.rate": 3}
    by_memory = run(crowded | {"memory.num_blocks": 12}).summary
    by_slots = run(crowded | {"engine.max_num_seqs": 2}).summary
    assert by_memory["memory_limited"] > 0.9
    assert by_slots["memory_limited"] < 0.05
    assert by_memory["saturated"]
    assert by_slots["saturated"]
    assert not run(LOADED).summary["saturated"]


def test_a_step_that_is_full_of_tokens_keeps_requests_out_and_memory_does_not(run):
    """The same prompts under a policy that bounds a step by tokens, and under one that does not."""
    crowded = LOADED | {
        "workload.arrivals.rate": 9,
        "engine.max_num_batched_tokens": 20,
        "engine.max_num_seqs": 400,
    }
    assert run(crowded | {"memory.num_blocks": 4000}).summary["memory_limited"] == 0.0
    by_memory = crowded | {"scheduler.policy": "orca", "memory.num_blocks": 12}
    assert run(by_memory).summary["memory_limited"] > 0.9


def test_a_run_that_serves_nobody_has_rates_of_zero(run):
    """The only prompt is longer than the model takes: no step, and no second."""
    longer = {"workload.lengths.prompt": {"kind": "uniform", "low": 37, "high": 999}}
    summary = run(longer | {"workload.arrivals": {"kind": "at_once"}}).summary
    assert summary["rejected"] == 1
    assert summary["duration"] == 0.0
    assert summary["request_throughput"] == summary["total_token_throughput"] == 0.0
    assert summary["kv_cache"]["waste"]["free"] == 1.0


def test_a_closed_batch_hides_what_kept_requests_out(run):
    assert run(LOADED | {"scheduler.policy": "static"}).summary["memory_limited"] is None


# --- runs that are cut ---------------------------------------------------------------------

LONG = {"workload.requests": 60_000, "workload.arrivals": {"kind": "poisson", "rate": 0.5}}


def interrupted_run(run, stop):
    return run(LONG, watch=stop)


@pytest.mark.parametrize("how", ["exception", "signal"])
def test_an_interrupt_keeps_what_was_finished(run, how):
    def stop(clock, requests, usage):
        if how == "signal":
            signal.raise_signal(signal.SIGINT)
        raise KeyboardInterrupt

    cut, whole = run(LONG, watch=stop), run(LONG)
    summary = cut.summary
    assert summary["interrupted"]
    assert not whole.summary["interrupted"]
    assert 0 < summary["completed"] < 60_000
    arrived = (whole.columns["arrival_seconds"] <= cut.recording.end_seconds).sum()
    assert summary["completed"] + summary["unfinished"] == arrived
    done = ~np.isnan(cut.columns["finish_seconds"])
    same = whole.columns["finish_seconds"][:arrived][done]
    assert (cut.columns["finish_seconds"][done] == same).all()


def test_a_run_ends_at_its_limit(run):
    result = run(LOADED | {"run.max_seconds": 50})
    assert result.columns["arrival_seconds"].max() <= result.recording.end_seconds
    assert result.summary["unfinished"] > 0
    assert not result.summary["interrupted"]


def test_the_watch_sees_time_requests_and_the_pool(run):
    seen = []
    run(LONG, watch=lambda *what: seen.append(what))
    clocks, requests, usage = zip(*seen, strict=True)
    assert list(clocks) == sorted(clocks)
    assert list(requests) == sorted(requests)
    assert requests[-1] <= 60_000
    assert all(0 <= share <= 1 for share in usage)


def test_the_watch_counts_who_is_done_and_not_who_waits(run):
    """Ten times the load: nearly all have come long before they are done."""
    seen = []
    crowd = {"workload.requests": 3000, "workload.arrivals": {"kind": "poisson", "rate": 100}}
    result = run(crowd, watch=lambda now, done, _: seen.append((now, done)))
    finish = np.sort(result.columns["finish_seconds"])
    assert len(seen) > 3
    for now, done in seen:
        assert done == np.searchsorted(finish, now, side="right")


def test_an_interrupt_between_two_columns_is_survived(run):
    """Ctrl-C may fall while arrivals are being noted: one column is longer than the next."""
    result = run({"workload.requests": 5})
    result.recording.recorder.finish_seconds.pop()
    assert len(result.requests) == 4
    assert result.summary["completed"] == 4


# --- past saturation -----------------------------------------------------------------------


def test_a_saturated_run_has_no_latency_that_grows_with_it(run):
    """Twice as many requests, twice the mean TTFT: neither says anything of the system."""
    crowd = {"workload.arrivals": {"kind": "poisson", "rate": 100}}
    runs = [run(crowd | {"workload.requests": count}) for count in (1000, 2000)]
    for result in runs:
        assert result.summary["saturated"]
        for name in ("ttft", "e2el", "queue"):
            assert result.summary[f"mean_{name}_ms"] is None
            assert result.summary[f"p99_{name}_ms"] is None
        assert result.summary["mean_tpot_ms"] >= 1000.0  # a step takes one second
    seen = [result.observed["mean_ttft_ms"] for result in runs]
    assert seen[1] == pytest.approx(2 * seen[0], rel=0.1)
    assert seen[0] == pytest.approx(1e3 * runs[0].latencies["ttft"].mean())


@pytest.mark.parametrize(
    ("slots", "samples", "limited"),
    [
        (2, 1, False),  # two of four run: the batch is full, not the memory
        (4, 2, False),  # two of four run with two samples each
        (5, 2, False),  # ... and the fifth slot is too few for a third
        (8, 1, True),  # 12 blocks hold two requests of 5 blocks, and wait for a third
    ],
)
def test_memory_keeps_nobody_out_of_a_full_batch(run, slots, samples, limited):
    found = run(
        {
            "workload.arrivals": {"kind": "at_once"},
            "workload.requests": 4,
            "workload.samples": samples,
            "workload.lengths.prompt.tokens": 8,
            "workload.lengths.output.tokens": 12,
            "engine.max_num_seqs": slots,
            "engine.num_gpu_blocks_override": 12 if limited else 100,
            "memory.allocator": "reserve-max" if limited else "paged",
            "run.warmup_fraction": 0,
        }
    ).summary["memory_limited"]
    # A step that prefills counts as one sequence more, however many prompts it takes.
    assert (found > 0.05) is limited


def test_every_table_says_what_it_is_and_in_which_unit(run):
    result = run()
    assert list(result.memory.columns[:2]) == ["start_seconds", "token_states"]
    assert [table.attrs for table in (result.requests, result.steps, result.memory)] == [
        {"name": "requests", "unit": "seconds and tokens"},
        {"name": "steps", "unit": "seconds, tokens, bytes and slots"},
        {"name": "memory", "unit": "token slots"},
    ]


# --- memory that is kept -------------------------------------------------------------------


def test_without_a_prefix_cache_nothing_is_looked_up(run):
    looked = {
        name: run({"memory.allocator": name, "workload.requests": 5}).summary["prefix_cache"]
        for name in ("paged", "reserve-max", "prefix")
    }
    nothing = {"queries": 0, "hits": 0, "hit_rate": None}
    assert looked["paged"] == looked["reserve-max"] == nothing
    assert looked["prefix"]["queries"] == 5 * 4
    assert looked["prefix"]["hit_rate"] == looked["prefix"]["hits"] / (5 * 4)


@pytest.mark.parametrize("column", ["held_slots", "cached_slots", "seconds"])
def test_slots_that_are_counted_twice_are_noticed(monkeypatch, column):
    """Rows that hold more than the pool, or last into the next: the parts are not the whole."""
    result = simulate(load_scenario("peer-w", {"workload.requests": 20}))
    pages = list(result.recording.recorder.step_pages())
    pages[0][column] = pages[0][column] + result.setup.pool_slots
    monkeypatch.setattr(result.recording.recorder, "step_pages", lambda: iter(pages))
    with pytest.raises(InvariantError, match="the parts of the pool"):
        result.kv_cache()


@pytest.mark.parametrize("requests", [3, 200])
def test_a_leak_ends_a_run_with_its_law(monkeypatch, requests):
    """One block is never given back: no request needs it, so only the count at the end tells."""
    free, lost = Paged.free, []

    def leaky(self, request, **kwargs):
        free(self, request, **kwargs)
        if not lost:
            self.free_blocks -= 1
            lost.append(request.row)

    monkeypatch.setattr(Paged, "free", leaky)
    with pytest.raises(InvariantError, match="blocks held"):
        simulate(load_scenario("peer-w", {"workload.requests": requests}))


def lose(memory: Allocator, blocks: int) -> None:
    """Take blocks that nobody gets; negative: give them back."""
    memory.free_blocks -= blocks
    if isinstance(memory, Reserve):
        memory._space.free_slots -= blocks


@pytest.mark.parametrize(
    ("kind", "name"), [(Paged, "paged"), (PrefixRuns, "prefix"), (Reserve, "reserve-max")]
)
@pytest.mark.parametrize("lost", [1, -1])
def test_a_leak_that_is_mended_before_the_end_is_in_the_split(monkeypatch, kind, name, lost):
    """From the 40th request that leaves to the 60th a block is gone, or there twice.

    What is held and what each request is due are counted apart, so the parts say so.
    """
    free, left = kind.free, []

    def leaky(self, request, **kwargs):
        free(self, request, **kwargs)
        left.append(request.row)
        lose(self, {40: lost, 60: -lost}.get(len(left), 0))

    monkeypatch.setattr(kind, "free", leaky)
    keys = {"workload.requests": 100, "memory.allocator": name}
    result = simulate(load_scenario("peer-w", keys))
    assert len(left) == 100
    with pytest.raises(InvariantError, match="the parts of the pool are"):
        result.kv_cache()


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (Paged, {}),
        (Virtual, {"memory.allocator": "virtual"}),
        (BlockTables, {"model": "gemma3-27b", "accelerator": "h200"}),
        (PagedApart, {"model": "gpt-oss-20b", "engine.name": "sglang"}),
        (PrefixRuns, {"memory.allocator": "prefix"}),
    ],
)
@pytest.mark.parametrize("lost", [1, -1])
def test_a_leak_of_decode_steps_is_in_the_split(monkeypatch, kind, keys, lost):
    """Runs of steps take a block too many (or too few) for a while; mended before the end.

    The memory counts what it took; what the sequences are due is the batch's count.
    """
    allocate_steps, runs = kind.allocate_steps, []

    def leaky(self, *args):
        allocate_steps(self, *args)
        runs.append(args)
        changed = {40: lost, 60: -lost}.get(len(runs), 0)
        if kind is PagedApart:
            self.parts[-1].free_blocks -= changed
        elif kind is BlockTables:
            self._pool.free -= changed
            self._count()
        else:
            self.free_blocks -= changed

    monkeypatch.setattr(kind, "allocate_steps", leaky)
    result = simulate(load_scenario("peer-w", {"workload.requests": 100} | keys))
    assert len(runs) > 60
    with pytest.raises(InvariantError, match="the parts of the pool are"):
        result.kv_cache()


def test_a_leak_between_two_completions_is_in_the_split(monkeypatch):
    """Where nobody waits or prefills, rows are written by a lane of their own."""
    advance, runs = DecodeBatch.advance, []

    def leaky(self, steps):
        runs.append(steps)
        memory[0].free_blocks -= {5: 1, 8: -1}.get(len(runs), 0)
        return advance(self, steps)

    memory = []
    allocate = Paged.allocate

    def seen(self, *args, **kwargs):
        memory[:] = [self]
        return allocate(self, *args, **kwargs)

    monkeypatch.setattr(DecodeBatch, "advance", leaky)
    monkeypatch.setattr(Paged, "allocate", seen)
    lengths = {"prompt": {"kind": "fixed", "tokens": 40}, "output": {"kind": "uniform", "low": 5}}
    lengths["output"] |= {"high": 500}
    keys = {"workload.arrivals": {"kind": "at_once"}, "workload.lengths": lengths}
    result = simulate(load_scenario("peer-w", keys | {"workload.requests": 30}))
    assert (result.steps["prefill_tokens"] > 0).sum() == 1  # all that follows is decoding
    with pytest.raises(InvariantError, match="the parts of the pool are"):
        result.kv_cache()


def test_parts_of_a_span_that_begins_late_are_whole():
    """Times of 1e9 s are exact to 1e-7 s; so are shares of a second. A second's own are not."""
    split = {"token_states": 1.0, "free": -1e-7}
    assert _is_whole(split, 1e9)
    assert not _is_whole(split, 1.0)


def test_what_a_run_takes_from_kept_prefixes_is_not_counted_twice():
    """::

    pool 32:   held 8 -> 24, kept 20: four are free, so twelve of the kept ones are taken
    """
    columns = dict.fromkeys(STEP_COLUMNS, np.zeros(1)) | {
        "steps": np.array([16.0]),
        "sequences": np.array([1.0]),
        "tokens": np.array([8.0]),
        "claimed_slots": np.array([8.0]),
        "held_slots": np.array([8.0]),
        "grown_slots": np.array([16.0]),
        "cached_slots": np.array([20.0]),
    }
    split = pool_parts(columns, 32)
    assert [part.tolist() for part in split["cached"]] == [[20.0], [8.0]]
    assert [part.tolist() for part in split["free"]] == [[4.0], [0.0]]
    assert [sum(part[at][0] for part in split.values()) for at in (0, 1)] == [32.0, 32.0]


def test_a_pool_full_of_kept_prefixes_adds_up(run):
    talks = {
        "memory.allocator": "prefix",
        "workload.requests": 60,
        "workload.lengths.output": {"kind": "fixed", "tokens": 20},
        "workload.prefix": {"kind": "conversations", "turns": {"kind": "fixed", "tokens": 3}},
    }
    result = run(talks)
    waste = result.summary["kv_cache"]["waste"]
    assert waste["cached"] > 0.05
    assert sum(waste.values()) == pytest.approx(1, abs=1e-12)
    assert result.recording.recorder.hit_tokens > 0
    assert (result.memory.drop(columns="start_seconds") >= 0).all(axis=None)


# --- swap or recompute ---------------------------------------------------------------------


def test_break_even_is_where_the_two_costs_meet():
    """OPT-13B, 800 KiB a token: by the step-time model's own costs, one by one."""
    from kvsim.steptime.kv_reads import prefill_pairs
    from kvsim.steptime.model import StepLoad

    result = simulate(load_scenario("swap-or-recompute", {"workload.requests": 5}))
    setup = result.setup
    tokens = result.summary["swap_break_even_tokens"]
    assert tokens == swap_break_even_tokens(setup)

    def recomputing(count):
        pairs = prefill_pairs(setup.deployment.model, 0, count)
        return (
            setup.step_time.cost(StepLoad(count + 1, 2, prefill_pairs=pairs)).seconds
            - setup.step_time.cost(StepLoad(2, 2)).seconds
        )

    def moving(count):
        return 2 * count * 819_200 / 25e9

    assert recomputing(tokens - 1) < moving(tokens - 1)
    assert recomputing(tokens) >= moving(tokens)


def test_only_runs_that_swap_report_a_break_even(run):
    assert "swap_break_even_tokens" not in run().summary
    tight = LOADED | {"memory.num_blocks": 12, "scheduler.policy": "vllm-v0"}
    redone = run(tight | {"scheduler.preemption": "recompute"}).summary
    moved = run(tight | {"scheduler.preemption": "swap"}).summary
    assert redone["recomputed_tokens"] > 0
    assert redone["swapped_tokens"] == 0
    assert moved["swapped_tokens"] > 0
    assert moved["recomputed_tokens"] == 0
