"""The pictures of a run say what the run says."""

import base64
import csv
import io
import json

import numpy as np
import pytest

import kvsim

pytest.importorskip("plotly", reason="the dashboard's extra is not installed")
from kvsim import figures
from kvsim.results.pool_cells import Use


@pytest.fixture(scope="module")
def filmed():
    camera = kvsim.Camera()
    overrides = {"workload.requests": 900, "slo": {"ttft_ms": 400}, "run.warmup_fraction": 0}
    scenario = kvsim.load_scenario("preemption-edge", overrides)
    return kvsim.simulate(scenario, camera=camera), camera


@pytest.fixture(scope="module")
def compared():
    scenario = kvsim.load_scenario("pagedattention-orca", {"workload.requests": 300})
    vary = {"memory.allocator": ["reserve-max", "paged"]}
    return kvsim.compare(scenario, vary, replications=3)


def traces(chart):
    drawn = json.loads(chart.figure.to_json())["data"]
    return {trace["name"]: trace for trace in drawn if "name" in trace}


def plotted(values):
    """Numbers of a trace, however plotly wrote them."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
    return np.array(values)


# --- the pool ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [5, 40, 80])
def test_the_pool_map_has_a_cell_for_every_block(filmed, number):
    _, camera = filmed
    cells = kvsim.pool_cells(camera, number)
    chart = figures.pool_map(cells)
    (heat, *_) = json.loads(chart.figure.to_json())["data"]
    drawn = [value for row in heat["z"] for value in row if value is not None]
    assert len(drawn) == camera.total_blocks
    free = camera.frames[number].free
    assert drawn.count(0) == free == (cells.use == Use.FREE).sum()
    assert f"{free:,} are free" in chart.alt


def test_the_rows_behind_the_pool_map_add_up_to_the_pool(filmed):
    result, camera = filmed
    for number in (3, 50):
        rows = figures.pool_map(kvsim.pool_cells(camera, number)).rows
        assert sum(row["slots"] for row in rows) == result.setup.pool_slots


def test_the_film_shows_moments_of_the_whole_run_and_opens_at_the_fullest(filmed):
    result, camera = filmed
    chart = figures.pool_film(camera)
    drawn = json.loads(chart.figure.to_json())
    moments = [row["seconds"] for row in chart.rows]
    assert len(drawn["frames"]) == len(moments) == len(drawn["layout"]["sliders"][0]["steps"])
    assert 20 <= len(moments) <= 25
    assert (moments[0], moments[-1]) == pytest.approx(
        (camera.frames[0].seconds, camera.frames[-1].seconds), abs=1e-3
    )
    first = drawn["layout"]["sliders"][0]["active"]
    held = [row["held blocks"] for row in chart.rows]
    assert held[first] == max(frame.held for frame in camera.frames)
    assert drawn["data"][0]["z"] == drawn["frames"][first]["data"][0]["z"]
    for row in chart.rows:
        parts = row["held blocks"] + row["cached blocks"] + row["free blocks"]
        assert parts == camera.total_blocks
    assert result.setup.num_blocks == camera.total_blocks


def test_the_frames_of_a_film_are_the_pool_of_their_moments(filmed):
    _, camera = filmed
    chart = figures.pool_film(camera)
    frames = json.loads(chart.figure.to_json())["frames"]
    for row, frame in zip(chart.rows, frames, strict=True):
        cells = [value for line in frame["data"][0]["z"] for value in line if value is not None]
        assert len(cells) == camera.total_blocks
        assert cells.count(0) == row["free blocks"]


def test_a_film_of_one_moment_is_a_picture():
    camera = kvsim.Camera()
    kvsim.simulate(kvsim.load_scenario("preemption-edge", {"workload.requests": 20}), camera=camera)
    del camera.frames[1:]
    chart = figures.pool_film(camera)
    assert len(chart.rows) == len(chart.figure.frames) == 1


def test_every_use_has_a_colour_of_its_own():
    scenario = kvsim.load_scenario("pagedattention-orca", {"workload.requests": 200})
    camera = kvsim.Camera()
    kvsim.simulate(scenario, camera=camera)
    chart = figures.pool_map(kvsim.pool_cells(camera, len(camera.frames) // 2))
    named = {name: trace["marker"]["color"] for name, trace in traces(chart).items()}
    assert set(named) == {
        "free",
        "held, never used",
        "one request's tokens",
        "held for its later tokens",
    }
    assert len(set(named.values())) == len(named)


# --- time ----------------------------------------------------------------------------------


def test_the_split_fills_the_pool_at_every_moment(filmed):
    bins = kvsim.time_bins(filmed[0])
    chart = figures.split_chart(bins, at_seconds=12.5)
    stacked = sum(plotted(trace["y"]) for trace in traces(chart).values())
    assert stacked == pytest.approx(100, abs=1e-2)
    assert json.loads(chart.figure.to_json())["layout"]["shapes"][0]["x0"] == 12.5


def test_the_queue_chart_marks_every_preemption(filmed):
    result, _ = filmed
    marks = traces(figures.queue_chart(kvsim.time_bins(result)))["preempted"]
    assert plotted(marks["customdata"]).sum() == result.summary["preemptions"] > 0


def test_a_figure_of_a_long_run_is_small(filmed):
    """However many rows were recorded, a few hundred points are sent."""
    result, camera = filmed
    bins = kvsim.time_bins(result)
    charts = [
        figures.queue_chart(bins),
        figures.split_chart(bins),
        figures.latency_chart(result),
        figures.slowest_chart(result),
        figures.pool_map(kvsim.pool_cells(camera, 10)),
    ]
    assert result.recording.recorder.step_rows > 1000
    assert [chart.name for chart in charts if len(chart.figure.to_json()) > 400_000] == []


# --- latencies -----------------------------------------------------------------------------


def test_the_curves_pass_through_the_percentiles_of_the_summary(filmed):
    result, _ = filmed
    rows = figures.latency_chart(result).rows
    for name in ("ttft", "tpot", "itl", "e2el", "queue"):
        at = {row["percent"]: row["ms"] for row in rows if row["latency"] == name}
        for point in (50, 90, 95, 99):
            assert at[point] == pytest.approx(result.summary[f"p{point}_{name}_ms"], rel=1e-9)


def test_an_objective_is_a_line_and_the_others_have_none(filmed):
    lines = [name for name in traces(figures.latency_chart(filmed[0])) if "objective" in name]
    assert lines == ["TTFT objective, 400 ms"]


def test_the_slowest_are_the_slowest_and_their_phases_add_up(filmed):
    result, _ = filmed
    rows = figures.slowest_chart(result, by="e2el", count=5).rows
    slowest = np.sort(result.latencies["e2el"])[::-1][:5]
    assert [row["e2el_seconds"] for row in rows] == pytest.approx(slowest, abs=1e-4)
    for row in rows:
        parts = ("front_end", "queue", "prefill", "decode")
        phases = sum(row[f"{part}_seconds"] for part in parts)
        assert phases == pytest.approx(row["e2el_seconds"], abs=1e-3)


def test_who_is_slow_to_start_need_not_be_slow_to_end(filmed):
    result, _ = filmed
    rows = figures.slowest_chart(result, by="ttft", count=3).rows
    assert rows[0]["ttft_seconds"] == pytest.approx(np.nanmax(result.latencies["ttft"]), abs=1e-4)


def test_a_run_that_was_cut_has_no_unfinished_among_its_slowest():
    overrides = {"workload.requests": 900, "run.max_seconds": 10}
    result = kvsim.simulate(kvsim.load_scenario("preemption-edge", overrides))
    done = set(np.flatnonzero(~np.isnan(result.columns["finish_seconds"])))
    rows = figures.slowest_chart(result, count=10**6).rows
    assert {row["request"] for row in rows} == done


# --- variants ------------------------------------------------------------------------------


def test_values_are_the_means_of_the_runs(compared):
    paged = compared.variants[1]
    values = {row["quantity"]: row["paged"] for row in figures.values_table(compared).rows}
    mean = np.mean([summary["output_throughput"] for summary in paged.runs.summaries])
    assert values["output tokens"] == pytest.approx(mean, rel=1e-4)


def test_differences_come_with_their_paired_intervals(compared):
    rows = figures.differences_table(compared).rows
    row = next(row for row in rows if row["quantity"] == "output tokens")
    interval = compared.difference(compared.variants[1], "output_throughput")
    assert (row["from"], row["difference"], row["to"]) == pytest.approx(
        (interval.low, interval.mean, interval.high), rel=1e-4
    )
    assert row["from"] <= row["difference"] <= row["to"]


def test_what_grows_with_a_saturated_run_is_not_compared(compared):
    assert compared.variants[0].runs.saturated
    quantities = {row["quantity"] for row in figures.differences_table(compared).rows}
    assert "mean TTFT" not in quantities
    assert "mean TPOT" in quantities
    values = {row["quantity"]: row for row in figures.values_table(compared).rows}
    assert values["mean TTFT"]["reserve-max"] is None
    assert values["mean TTFT"]["paged"] is not None


def test_bands_are_around_what_each_variant_came_to(compared):
    """Twice the seconds a step, twice the band; and none of what grows with a saturated run."""
    rows = figures.bands_table(compared).rows
    by = {(row["quantity"], row["variant"]): row for row in rows}
    assert ("mean TTFT", "reserve-max") not in by
    paged = compared.variants[1].runs
    band = paged.first.time_bands["tpot"]
    mean = paged.intervals["mean_tpot_ms"]
    row = by["mean TPOT", "paged"]
    assert (row["from"], row["to"]) == pytest.approx(band.around_mean(*mean), rel=1e-3)
    assert row["from"] < mean.low < row["simulated"]
    assert band.words in " ".join(compared.how_sure)


def test_bands_of_variants_on_other_cards_are_said_apart():
    scenario = kvsim.load_scenario("pagedattention-orca", {"workload.requests": 60})
    found = kvsim.compare(scenario, {"accelerator": ["a100", "mi300x"]})
    nobody = [words for words in found.how_sure if "a card that nobody measured" in words]
    assert nobody
    assert all(words.startswith("mi300x: ") for words in nobody)
    alike = kvsim.compare(scenario, {"memory.allocator": ["paged", "reserve-max"]})
    assert alike.to_dict()["how_sure"] == alike.how_sure
    *said, last = alike.how_sure
    assert not any(":" in words.partition("TTFT")[0] for words in said)
    assert last.startswith("Differences are surer than that")
    assert found.how_sure[-1].startswith(
        "Differences between cards, models or engines are no surer"
    )


def test_panels_share_their_axes(compared):
    layout = json.loads(figures.split_panels(compared).figure.to_json())["layout"]
    assert layout["yaxis2"]["matches"] == "y"
    rows = figures.split_panels(compared).rows
    ends = {row["variant"]: row["seconds"] for row in rows}
    assert len(set(ends.values())) == 1  # the same bins of time


def test_one_variant_alone_is_drawn_too():
    scenario = kvsim.load_scenario("pagedattention-orca", {"workload.requests": 100})
    alone = kvsim.compare(scenario, {"memory.allocator": ["paged"]})
    assert figures.differences_table(alone).rows == []
    for draw in (figures.split_panels, figures.queue_panels, figures.latency_panels):
        assert draw(alone).rows


def test_a_hostile_label_is_text():
    scenario = kvsim.load_scenario("pagedattention-orca", {"workload.requests": 60})
    found = kvsim.compare(scenario, {"question": ["<script>alert(1)</script>"]})
    page = figures.comparison_report(found)
    assert "<script>alert(1)" not in page
    assert "<script>" not in figures.split_panels(found).figure.layout.annotations[0].text


# --- the report ----------------------------------------------------------------------------


def test_the_report_needs_nothing_from_outside(filmed):
    result, _ = filmed
    runs = kvsim.Replications(result, (result.summary,))
    page = figures.simulation_report(runs, command="kvsim simulate <x>")
    head, _, body = page.partition("<body>")
    assert "src=" not in body
    assert "kvsim simulate &lt;x&gt;" in body
    assert "num_gpu_blocks_override: 2500" in body
    assert head.count("<script>") == 1


def test_tables_are_kept_as_csv(filmed):
    result, _ = filmed
    table = figures.numbers_table(result.summary)
    kept = {row["key"]: row["value"] for row in csv.DictReader(io.StringIO(table.to_csv()))}
    assert float(kept["preemptions"]) == result.summary["preemptions"]
    assert float(kept["kv_cache.usage_mean"]) == result.summary["kv_cache"]["usage_mean"]


def test_the_scenario_file_asks_the_same_again(filmed, tmp_path):
    result, _ = filmed
    scenario = result.setup.scenario
    (tmp_path / "again.yaml").write_text(scenario.to_yaml())
    again = kvsim.load_scenario(tmp_path / "again.yaml")
    assert again.model_dump(exclude={"folder"}) == scenario.model_dump(exclude={"folder"})
