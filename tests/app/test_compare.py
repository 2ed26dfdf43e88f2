"""The Compare page without a browser: what to vary, what comes of it, what is refused."""

import json
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest

import kvsim
from tests.support.app_pages import charts, checked, commands, errors, open_page, warnings

pytest.importorskip("plotly", reason="the dashboard's extra is not installed")
from app.parts.words import plain

SMALL = {"scenario": "pagedattention-orca", "requests": 120, "runs": 2}


def compared(**link):
    app = open_page("compare", **(SMALL | link))
    while any(button.key == "stop run" for button in app.button):
        time.sleep(0.2)
        checked(app.run())
    return app


def tables(app):
    """The tables of the page, by the words above them."""
    return [frame.value for frame in app.dataframe]


def answer(vary, runs=2, **overrides):
    overrides = {"workload.requests": 120} | overrides
    scenario = kvsim.load_scenario("pagedattention-orca", overrides)
    return kvsim.compare(scenario, vary, replications=runs)


def test_four_memories_meet_the_same_requests():
    app = compared()
    names = ["reserve-max", "reserve-pow2", "reserve-oracle", "paged"]
    found = answer({"memory.allocator": names})
    values = tables(app)[0].set_index("quantity")
    assert list(values.columns[1:]) == names
    for variant in found.variants:
        mean = np.mean([summary["output_throughput"] for summary in variant.runs.summaries])
        assert values.loc["output tokens", variant.label] == pytest.approx(mean, rel=1e-4)
    assert len(charts(app)) == 4


def test_differences_have_intervals_from_two_runs_on():
    two, one = tables(compared())[2], tables(compared(runs=1))[2]
    assert two["from"].notna().all()
    assert (two["from"] <= two["difference"]).all()
    assert (two["difference"] <= two["to"]).all()
    assert one["from"].isna().all()


def test_latencies_come_with_their_bands_and_what_those_rest_on():
    app = compared(allocators="paged,reserve-max", runs=2)
    found = answer({"memory.allocator": ["paged", "reserve-max"]})
    shown = next(table for table in tables(app) if "simulated" in table.columns)
    rows = shown[(shown["variant"] == "paged") & (shown["quantity"] == "mean TPOT")]
    span = found.variants[0].runs.time_bands["intervals"]["mean_tpot_ms"]
    assert (rows["from"].item(), rows["to"].item()) == pytest.approx(span, rel=1e-3)
    assert any(plain(found.how_sure[0]) in caption.value for caption in app.caption)


def test_every_combination_is_run_and_the_command_says_so():
    app = compared(allocators="paged", blocks="8,32", schedulers="orca,vllm-v1")
    assert list(tables(app)[0].columns[2:]) == [
        "paged, 8, orca",
        "paged, 8, vllm-v1",
        "paged, 32, orca",
        "paged, 32, vllm-v1",
    ]
    assert commands(app)[-1] == (
        "kvsim compare pagedattention-orca --set workload.requests=120 --vary"
        " memory.allocator=paged --vary engine.block_size=8,32 --vary"
        " scheduler.policy=orca,vllm-v1 --replications 2"
    )


def test_the_command_gives_the_same_numbers():
    app = compared(allocators="paged,reserve-oracle", seed=5)
    shown = tables(app)[0].set_index("quantity")
    words = [sys.executable, "-m", *shlex.split(commands(app)[-1]), "--format", "json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    for variant in json.loads(done.stdout)["variants"]:
        mean = variant["intervals"]["output_throughput"]["mean"]
        (name,) = variant["overrides"].values()
        assert shown.loc["output tokens", name] == pytest.approx(mean, rel=1e-4)


def test_cards_change_the_pool_only_if_the_plan_sizes_it():
    fixed = compared(allocators="", cards="a100-40gb,a100")
    assert any("states its pool" in text.value for text in fixed.caption)
    sized = compared(allocators="", cards="a100-40gb,a100", plan=1)
    assert not any("states its pool" in text.value for text in sized.caption)
    assert "engine.num_gpu_blocks_override=null" in commands(sized)[-1]
    held = tables(sized)[0].set_index("quantity").loc["pool held"]
    small, large = held.iloc[1:]
    assert large < small


def test_too_many_combinations_are_refused():
    app = compared(blocks="1,8,16", schedulers="orca,static")
    assert "24 combinations, and at most 8" in errors(app)[0]
    assert charts(app) == []
    assert commands(app)


def test_nothing_to_vary_is_said():
    app = compared(allocators="")
    assert "Choose at least two" in app.info[0].value


def test_saturated_variants_are_named():
    said = " ".join(warnings(compared(requests=400)))
    assert "reserve-max" in said
    assert "paged." not in said.split("Requests came")[0]


def test_a_variant_that_cannot_run_is_told_in_place():
    app = compared(scenario="gemma-window", allocators="paged", cards="h200,l4")
    assert "accelerator=L4" in errors(app)[0]
    assert charts(app) == []
