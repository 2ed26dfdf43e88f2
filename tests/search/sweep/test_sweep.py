"""A sweep's answer, its folder, and what it repeats: nothing."""

import pytest

import kvsim
from kvsim import InputError, Space, load_scenario, replicate, with_overrides
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.runs.replicate import numbers
from kvsim.search.sweep.inputs import Inputs
from kvsim.search.sweep.task import run
from kvsim.specs.yaml_files import data_folder
from kvsim.steptime.bands import time_band
from tests.search.sweep.sweeping import rows, space


def results(found):
    parquet = pytest.importorskip("pyarrow.parquet", reason="results in parquet need pyarrow")
    return parquet.read_table(found.results).to_pylist()


def test_every_run_is_what_simulate_answers(here, tmp_path):
    found, _ = here(space(), tmp_path)
    table = results(found)
    asked = [(p, seed) for p in space().points() for seed in (0, 1)]
    assert len(table) == len(asked) == found.runs == found.finished
    for row, (point, seed) in zip(table, asked, strict=True):
        summary = kvsim.simulate(point.scenario, seed=seed).summary
        assert row["seed"] == seed
        assert {key: row[key] for key in point.values} == point.values
        assert {key: row[key] for key, _ in numbers(summary)} == dict(numbers(summary))
        assert row["saturated"] == summary["saturated"]
        band = time_band("vllm", find_accelerator("h100"), find_model("llama3.1-8b"), "ttft")
        assert (row["time_bands.ttft.low"], row["time_bands.ttft.high"]) == (band.low, band.high)
    known = found.points[0].to_dict()
    assert known["time_bands.ttft.high"] == band.high


def test_a_points_means_are_those_of_its_replications(here, tmp_path):
    found, _ = here(space(seeds=3), tmp_path)
    for point, answer in zip(space().points(), found.points, strict=True):
        means = replicate(point.scenario, replications=3).intervals
        assert answer.means["p99_tpot_ms"] == pytest.approx(means["p99_tpot_ms"].mean, rel=1e-12)
        assert answer.finished == answer.asked == 3


def test_what_grows_with_a_saturated_run_has_no_mean(here, tmp_path):
    rates = {"workload.arrivals.rate": [2, 1000]}
    big = space(rates, **{"workload.requests": 1000, "max_num_seqs": 4})
    calm, flooded = here(big, tmp_path)[0].points
    assert (calm.saturated, flooded.saturated) == (0, 2)
    assert flooded.means["mean_ttft_ms"] is None
    assert flooded.means["mean_tpot_ms"] > calm.means["mean_tpot_ms"] > 0


def test_nothing_is_run_twice(here, tmp_path):
    first, done = here(space(), tmp_path)
    bytes_before = first.results.read_bytes()
    second, again = here(space(), tmp_path)
    assert len(done) == 8
    assert again == []
    assert (second.repeated, second.results.read_bytes()) == (8, bytes_before)
    assert second.to_dict() == first.to_dict()


def test_what_is_new_in_a_space_is_run_alone_and_what_left_it_stays_in_the_ledger(here, tmp_path):
    here(space({"tp": [1, 2]}), tmp_path)
    kept = set(rows(tmp_path))
    found, done = here(space({"tp": [2, 4]}, seeds=3), tmp_path)
    assert len(done) == 1 + 3  # a third seed of tp 2, and three of tp 4
    assert kept < set(rows(tmp_path))
    assert {row["tp"] for row in results(found)} == {2, 4}


def test_points_that_are_one_question_are_one_run(here, tmp_path):
    """A flag that says what is the default already changes nothing, and the key sees that."""
    one = space({"scheduler.policy": ["vllm-v1", {"name": "vllm-v1"}]}, seeds=1)
    found, done = here(one, tmp_path)
    assert len(done) == 1
    assert [point.finished for point in found.points] == [1, 1]
    assert found.points[0].means == found.points[1].means


def test_an_interrupt_keeps_what_was_finished(here, tmp_path):
    cut, done = here(space(), tmp_path, stop_after=3)
    assert (cut.interrupted, cut.unfinished, len(rows(tmp_path))) == (True, 5, 3)
    assert cut.results is None
    assert not list(tmp_path.glob("results.*"))
    whole, rest = here(space(), tmp_path)
    assert len(rest) == 5
    assert not set(done) & set(rest)
    undisturbed, _ = here(space(), tmp_path / "other")
    assert whole.results.read_bytes() == undisturbed.results.read_bytes()
    assert rows(tmp_path) == rows(tmp_path / "other")


def test_results_of_an_earlier_space_do_not_stay_beside_a_sweep_that_was_cut(here, tmp_path):
    here(space({"tp": [1]}), tmp_path)
    here(space({"tp": [1, 2]}), tmp_path, stop_after=1)
    assert not list(tmp_path.glob("results.*"))


def test_a_run_that_fails_is_recorded_with_its_reason_and_ends_nothing(here, tmp_path):
    found, _ = here(space({"model": ["llama3.1-70b", "llama3.1-8b"]}), tmp_path)
    big, small = found.points
    assert (big.failed, big.finished, small.failed, small.finished) == (2, 0, 0, 2)
    assert big.reason.startswith("model: llama3.1-70b on H100-SXM5-80GB: DOES NOT FIT")
    assert found.failures == ((big.reason, 2),)
    assert [row["reason"] for row in results(found)] == [big.reason, big.reason, "", ""]


def test_what_failed_is_run_again_only_if_asked(here, tmp_path):
    models = space({"model": ["llama3.1-70b", "llama3.1-8b"]})
    here(models, tmp_path)
    assert here(models, tmp_path)[1] == []
    assert len(here(models, tmp_path, retry_failed=True)[1]) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("accelerator", "h10"),
        ("model", "lama3"),
        ("engine", "vlm"),
        ("kv_cache_dtype", "int3"),
        ("quantization", "fp7"),
    ],
)
def test_a_name_that_nobody_knows_is_refused_before_anything_runs(here, tmp_path, key, value):
    path = tmp_path / "space.yaml"
    path.write_text(f"scenario: peer-w\nvary:\n  {key}: [{value}]\n")
    with pytest.raises(InputError, match=rf"space.yaml, line 3: vary {key}={value}: .*did you"):
        here(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- keys --------------------------------------------------------------------------------------


def keys(scenario, seeds=1):
    made = Space(scenario, {"tp": [1]}, seeds=seeds)
    (point,) = made.points()
    return Inputs(made).keys(point)


def test_a_key_is_of_the_question_and_not_of_its_words():
    scenario = load_scenario("peer-w")
    (key,) = keys(scenario)
    told = scenario.model_copy(update={"name": "other", "question": "?"})
    flagged = with_overrides(scenario, {"memory.allocator": "paged", "run.replications": 7})
    assert keys(told)[0] == keys(flagged)[0] == key


@pytest.mark.parametrize(
    "change",
    [
        {"run.seed": 1},
        {"workload.arrivals.rate": 5},
        {"accelerator": "h200"},
        {"model": "llama2-7b"},
        {"engine_version": "0.11.0"},
    ],
)
def test_a_key_changes_with_what_a_run_is_made_from(change):
    scenario = load_scenario("peer-w")
    assert keys(with_overrides(scenario, change)) != keys(scenario)


def test_seeds_count_up_from_the_scenarios():
    one = keys(load_scenario("peer-w"), seeds=3)
    assert len(set(one)) == 3
    assert keys(load_scenario("peer-w", {"run.seed": 1}), seeds=2) == one[1:]


def test_a_key_changes_with_the_version(monkeypatch):
    before = keys(load_scenario("peer-w"))
    monkeypatch.setattr("kvsim.search.sweep.inputs.__version__", "9.9.9")
    assert keys(load_scenario("peer-w")) != before


def test_a_key_changes_with_the_environment_that_counts(monkeypatch):
    before = keys(load_scenario("peer-w"))
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    assert keys(load_scenario("peer-w")) != before


def traced(tmp_path, text="0,100,10\n"):
    (tmp_path / "t.csv").write_text(f"arrived_at,num_prefill_tokens,num_decode_tokens\n{text}")
    trace = {"workload": {"trace": {"file": str(tmp_path / "t.csv")}}}
    return load_scenario("peer-w", trace)


def test_a_key_changes_with_what_a_trace_holds(tmp_path):
    before = keys(traced(tmp_path))
    assert keys(traced(tmp_path)) == before
    assert keys(traced(tmp_path, "0,100,11\n")) != before


def test_a_trace_that_is_not_there_is_refused(tmp_path):
    scenario = traced(tmp_path)
    (tmp_path / "t.csv").unlink()
    with pytest.raises(InputError, match=r"t.csv: no such file"):
        keys(scenario)


def test_a_profile_of_ones_own_counts_by_what_it_says(tmp_path):
    file = data_folder("hardware_profiles") / "h100-sxm5-80gb.yaml"
    shipped, text = kvsim.load_accelerator(file), file.read_text("utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    before = keys(load_scenario("peer-w", {"accelerator": str(path)}))
    path.write_text(text.replace(f"{shipped.tdp_watts:g}", "650", 1))
    assert kvsim.load_accelerator(path) != shipped
    assert keys(load_scenario("peer-w", {"accelerator": str(path)})) != before


def test_a_file_that_changes_under_way_ends_the_sweep(tmp_path):
    made = Space(traced(tmp_path), {"tp": [1]})
    (point,) = made.points()
    (task,) = Inputs(made).tasks(point)
    assert run(task).row
    traced(tmp_path, "0,100,11\n")
    assert "t.csv: differs from the file that the sweep began with" in run(task).unfit


# --- the best ----------------------------------------------------------------------------------


def test_points_are_ranked_by_what_is_asked_for(here, tmp_path):
    vary = {"workload.arrivals.rate": [4, 2, 8]}
    most, _ = here(space(vary), tmp_path, best="max:request_throughput")
    least, _ = here(space(vary), tmp_path, best="min:request_throughput")
    ranked = [point.values["workload.arrivals.rate"] for point in most.ranked]
    assert ranked == [8, 4, 2]
    assert least.best.values == {"workload.arrivals.rate": 2}
    assert least.to_dict()["best"]["workload.arrivals.rate"] == 2


def test_a_point_with_a_run_that_failed_is_not_the_best(here, tmp_path):
    found, _ = here(space({"model": ["llama3.1-70b"]}), tmp_path, best="max:request_throughput")
    assert found.best is None


@pytest.mark.parametrize(
    ("best", "said"),
    [
        ("p99_ttft_ms", "write min: or max:"),
        ("min:", "write min: or max:"),
        ("least:p99_ttft_ms", "write min: or max:"),
        ("min:p99_ttf_ms", "nearest valid: p99_ttft_ms"),
    ],
)
def test_a_best_that_means_nothing_is_refused(here, tmp_path, best, said):
    with pytest.raises(InputError, match=said):
        here(space(), tmp_path / "out", best=best)
    assert not (tmp_path / "out").exists()  # before anything is run


def test_progress_tells_the_best_of_the_points_that_are_whole(here, tmp_path):
    told = []
    vary = {"workload.arrivals.rate": [4, 2, 8]}
    here(space(vary), tmp_path, best="max:request_throughput", watch=told.append)
    leaders = [now.best and now.best[0].values["workload.arrivals.rate"] for now in told]
    assert list(dict.fromkeys(leaders)) == [None, 4, 8]
    assert [now.done for now in told][-1] == 6
