"""Replications and variants: the same requests, paired differences, honest intervals."""

import numpy as np
import pytest

from kvsim import InputError, compare, load_scenario, replicate, simulate
from kvsim.comparison import numbers
from kvsim.metrics import confidence_interval

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


def test_differences_are_taken_in_pairs(compared):
    base, _, variant, _ = compared.variants
    key = "mean_e2el_ms"
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


def test_replications_count_seeds_up(scenario):
    runs = replicate(scenario, seed=5, replications=3)
    alone = [simulate(scenario, seed=seed).summary for seed in (5, 6, 7)]
    assert list(runs.summaries) == alone
    assert runs.first.seed == 5
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
    assert set(record["variants"][2]["difference"]["mean_ttft_ms"]) == {"mean", "low", "high"}


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
        ({"memory.alocator": ["paged"]}, "nearest valid: allocator"),
        ({"memory.allocator": ["pagd"]}, "memory.allocator=pagd"),
        ({"model": ["llama2-7c"]}, "vary model=llama2-7c: unknown model"),
        ({"model.size": [7]}, "no key 'size'"),
    ],
)
def test_what_cannot_be_varied_is_said(scenario, vary, words):
    with pytest.raises(InputError, match=words):
        compare(scenario, vary)
