"""Replications and variants: the same requests, paired differences, honest intervals."""

import numpy as np
import pytest

from kvsim import InputError, compare, load_scenario, replicate, simulate, with_overrides
from kvsim.results.latencies import without_growing
from kvsim.results.statistics import confidence_interval
from kvsim.runs.compare import SimulationComparison, Variant
from kvsim.runs.replicate import Replications, numbers

SHORT = {"workload.requests": 150, "memory.num_blocks": 1200, "workload.arrivals.rate": 12}


@pytest.fixture(scope="module")
def scenario():
    return load_scenario("peer-w", SHORT)


@pytest.fixture(scope="module")
def compared(scenario):
    vary = {"memory.allocator": ["reserve-max", "paged"], "engine.max_num_seqs": [4, 64]}
    return compare(scenario, vary, replications=3)


def test_every_combination_is_run_in_order(compared):
    assert [variant.label for variant in compared.variants] == [
        "reserve-max, 4", "reserve-max, 64", "paged, 4", "paged, 64",
    ]  # fmt: skip


def test_every_variant_meets_the_same_requests(compared):
    first = compared.variants[0].runs.first.columns
    for variant in compared.variants[1:]:
        columns = variant.runs.first.columns
        for name in ("arrival_seconds", "prompt_tokens", "output_tokens"):
            assert (columns[name] == first[name]).all()
        assert (columns["finish_seconds"] != first["finish_seconds"]).any() or (
            variant.label == "reserve-max, 64"
        )


def test_requests_that_differ_are_not_called_the_same(scenario, compared):
    assert compared.same_requests
    for vary in ({"seed": [1, 2]}, {"workload.arrivals.rate": [4, 8]}):
        assert not compare(scenario, vary).same_requests


def test_a_caution_of_some_variants_names_them(scenario):
    found = compare(scenario, {"run.max_seconds": [2, 1e6, 3]})
    cut = [line for line in found.cautions() if "cut the run" in line]
    assert [line.partition(":")[0] for line in cut] == ["2", "3"]
    shared = [line for line in found.cautions() if "states a pool of 1,200" in line]
    assert len(shared) == 1
    assert not shared[0].startswith("2")
    assert found.cautions(but=shared) == cut


def test_a_time_limit_says_what_it_cut(scenario):
    runs = replicate(with_overrides(scenario, {"run.max_seconds": 2}))
    counts = {key: runs.summary[key] for key in ("completed", "rejected", "unfinished")}
    later = 150 - sum(counts.values())
    assert later > 0
    (said,) = (line for line in runs.cautions if "cut the run" in line)
    assert said == (
        f"override run.max_seconds=2 cut the run: {counts['completed']} requests finished,"
        f" {counts['unfinished']} requests unfinished and {later} not yet there"
    )


def test_differences_are_taken_in_pairs(compared):
    base, _, variant, _ = compared.variants
    key = "mean_tpot_ms"
    changes = [
        after[key] - before[key]
        for before, after in zip(base.runs.summaries, variant.runs.summaries, strict=True)
    ]
    assert compared.difference(variant, key) == confidence_interval(np.array(changes))
    assert compared.difference(base, key) == (0.0, 0.0, 0.0)


def test_pairs_are_narrower_than_two_intervals(compared):
    """Requests differ between replications more than variants differ on the same requests."""
    base, _, variant, _ = compared.variants
    key = "output_throughput"
    paired = compared.difference(variant, key)
    apart = [runs.intervals[key] for runs in (base.runs, variant.runs)]
    assert paired.high - paired.low < sum(interval.high - interval.low for interval in apart)


def test_dotted_keys_reach_inside_the_summary(compared):
    variant = compared.variants[2]
    change = compared.difference(variant, "kv_cache.waste.internal")
    shares = [v.runs.summaries[0]["kv_cache"]["waste"]["internal"] for v in compared.variants]
    assert change.low <= shares[2] - shares[0] <= change.high


def test_a_quantity_without_observations_has_no_difference(scenario):
    one_token = {"workload.lengths.output.tokens": [1, 2]}
    found = compare(scenario, one_token)
    assert found.difference(found.variants[1], "mean_tpot_ms") is None
    assert "mean_tpot_ms" not in found.variants[0].runs.intervals
    assert "mean_tpot_ms" in found.variants[1].runs.intervals


def test_values_may_be_numpys(scenario):
    import json

    found = compare(scenario, {"engine.max_num_seqs": np.arange(4, 12, 4)})
    assert [variant.overrides for variant in found.variants] == [
        {"engine.max_num_seqs": 4}, {"engine.max_num_seqs": 8},
    ]  # fmt: skip
    assert json.loads(json.dumps(found.to_dict()))["interrupted"] is False


@pytest.mark.parametrize("runs", [0, -1])
def test_no_runs_at_all_are_refused(scenario, runs):
    with pytest.raises(InputError, match=f"replications: {runs} runs answer nothing"):
        replicate(scenario, replications=runs)


def test_an_interrupt_between_two_runs_keeps_those_before_it(scenario, monkeypatch):
    """Ctrl-C may fall while the next run is being prepared: nothing of it is there to show."""
    from kvsim.runs import replicate as module

    begun = []

    def run_setup(setup, seed, **_):
        begun.append(seed)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return kept[len(begun) - 1]

    kept = [simulate(scenario, seed) for seed in (5, 6)]
    monkeypatch.setattr(module, "run_setup", run_setup)
    runs = replicate(scenario, seed=5, replications=4)
    assert (runs.interrupted, len(runs.whole), begun) == (True, 2, [5, 6, 7])
    begun.clear()
    found = compare(scenario, {"engine.max_num_seqs": [4, 8, 16]}, seed=5)
    assert found.interrupted
    assert [variant.label for variant in found.variants] == ["4", "8"]
    begun[:] = [0, 0]
    with pytest.raises(KeyboardInterrupt):  # nothing was finished
        replicate(scenario)


def test_replications_count_seeds_up(scenario):
    runs = replicate(scenario, seed=5, replications=3)
    alone = [simulate(scenario, seed=seed).summary for seed in (5, 6, 7)]
    assert list(runs.summaries) == alone
    assert runs.first.recording.seed == 5
    key = "mean_ttft_ms"
    expected = confidence_interval(np.array([summary[key] for summary in alone]))
    assert runs.intervals[key] == expected


def test_the_scenarios_own_number_of_replications_counts(scenario):
    run = scenario.run.model_copy(update={"replications": 2})
    assert len(replicate(scenario.model_copy(update={"run": run})).summaries) == 2


def test_an_interrupt_begins_no_other_run(scenario):
    def stop(*_):
        raise KeyboardInterrupt

    long = scenario.workload.model_copy(update={"requests": 20_000})
    question = scenario.model_copy(update={"workload": long})
    runs = replicate(question, replications=3, watch=stop)
    assert runs.interrupted
    assert len(runs.summaries) == 1
    found = compare(question, {"engine.max_num_seqs": [16, 64]}, watch=stop)
    assert len(found.variants) == 1


def test_numbers_have_dotted_keys_and_leave_answers_out():
    summary = {"a": 1, "b": {"c": 2.5, "d": None}, "saturated": True}
    assert dict(numbers(summary)) == {"a": 1, "b.c": 2.5, "b.d": None}


def test_the_record_is_json_with_differences(compared):
    import json

    record = json.loads(json.dumps(compared.to_dict(), allow_nan=False))
    assert [entry["overrides"]["memory.allocator"] for entry in record["variants"]] == [
        "reserve-max", "reserve-max", "paged", "paged",
    ]  # fmt: skip
    assert set(record["variants"][2]["difference"]["mean_tpot_ms"]) == {"mean", "low", "high"}


# --- past saturation, and cut short --------------------------------------------------------


def test_what_grows_with_a_saturated_run_has_no_mean_anywhere():
    """Not in a summary, an interval or a difference: of the run's length it says something."""
    few = load_scenario("peer-w", {"workload.requests": 600})
    calm, loaded = compare(few, {"workload.arrivals.rate": [2, 200]}, replications=2).variants
    assert not calm.runs.saturated
    assert loaded.runs.saturated
    for name in ("ttft", "e2el", "queue"):
        keys = [f"{point}_{name}_ms" for point in ("mean", "median", "std", "p50", "p99")]
        assert all(calm.runs.intervals[key].mean >= 0 for key in keys)
        assert not set(keys) & set(loaded.runs.intervals)
        for summary in (loaded.runs.summary, *loaded.runs.summaries):
            assert [summary[key] for key in keys] == [None] * 5
    found = SimulationComparison((calm, loaded))
    assert found.difference(loaded, "mean_ttft_ms") is None
    assert found.difference(calm, "mean_ttft_ms") == (0, 0, 0)
    assert found.difference(loaded, "mean_tpot_ms").mean > 0
    record = found.to_dict()["variants"][1]
    assert record["saturated"]
    assert record["summary"]["p99_e2el_ms"] is None
    assert "p99_e2el_ms" not in {*record["intervals"], *record["difference"]}


def test_one_saturated_run_makes_all_of_them_saturated(scenario):
    """A mean over the calm ones would be that of the runs that happened to be short of work."""
    summary = simulate(scenario).summary
    calm = summary | {"saturated": False, "mean_ttft_ms": 5.0}
    loaded = without_growing(calm)
    runs = Replications(simulate(scenario), (calm, loaded, calm))
    assert runs.summary["mean_ttft_ms"] is None
    assert runs.summary["saturated"]
    assert "mean_ttft_ms" not in runs.intervals
    assert "mean_tpot_ms" in runs.intervals


def test_a_run_that_was_cut_is_in_no_interval_and_no_difference(scenario):
    """It answers a shorter question than the runs before it."""
    first = simulate(scenario)
    cut = first.summary | {"interrupted": True, "completed": 7}
    runs = Replications(first, (first.summary, first.summary, cut))
    assert runs.interrupted
    assert runs.intervals["completed"].mean == 150
    other = Replications(first, (cut,))
    found = SimulationComparison((Variant({"a": 1}, runs), Variant({"a": 2}, other)))
    assert found.difference(found.variants[1], "completed") is None
    assert other.intervals["completed"].mean == 7  # it is all there is to show
    assert [entry["interrupted"] for entry in found.to_dict()["variants"]] == [True, True]


def test_comparing_preemption_reports_the_break_even(scenario):
    found = compare(scenario, {"scheduler.preemption": ["recompute", "swap"]})
    lengths = [entry["swap_break_even_tokens"] for entry in found.to_dict()["variants"]]
    assert lengths[0] == lengths[1]
    assert lengths[0] > 0


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ({}, "nothing to vary"),
        ({"memory.allocator": "paged"}, "needs a list of values"),
        ({"memory.allocator": []}, "needs a list of values"),
        ({"engine.max_num_seqs": 8}, "needs a list of values"),
        ({"memory.alocator": ["paged"]}, "nearest valid: allocator"),
        ({"memory.allocator": ["pagd"]}, "memory.allocator=pagd"),
        ({"model": ["llama2-7c"]}, "vary model=llama2-7c: unknown model"),
        ({"model.size": [7]}, "vary model.size=7: model is 'llama3.1-8b', so it has no key 'size'"),
        ({"memory.allocator": ["paged", "grow", "paged"]}, "'paged' is given twice"),
        (
            {"memory.allocator": ["paged"], "engine.max_num_seqs": [8, 0]},
            "vary engine.max_num_seqs=0: engine.max_num_seqs = 0",
        ),
    ],
)
def test_what_cannot_be_varied_is_said(scenario, vary, words):
    with pytest.raises(InputError, match=words):
        compare(scenario, vary)
