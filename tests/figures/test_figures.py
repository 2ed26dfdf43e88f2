"""Figures: what they draw is what the results say, with units, safely, for everyone's eyes."""

import csv
import io
import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("plotly", reason="the dashboard's extra is not installed")

import kvsim
from kvsim import figures
from kvsim.figures import cache, learning, pool, simulation, theme, timeline
from kvsim.figures import plan as plan_figures
from kvsim.studies import lessons

GIB = 2**30


@pytest.fixture(scope="module")
def plans():
    return [kvsim.plan("gemma3-12b", gpu) for gpu in ("a100", "l4")]


@pytest.fixture(scope="module")
def every_chart(plans):
    """One chart of every kind."""
    story = lessons.tell("paged")
    model = kvsim.find_model("llama3.2-1b")
    keepings = lessons.keepings(lessons.HeadShape(), "fp16", 2048)
    pairs = lessons.attention_pairs(4, cached=True)
    return [
        figures.memory_chart(plans),
        figures.capacity_chart(plans),
        figures.admission_chart(plans),
        figures.concurrency_chart({"bf16": plans[0]}),
        figures.batch_chart(plans[0]),
        figures.roofline_chart(plans[0]),
        figures.attention_chart(pairs, cached=True),
        figures.work_chart(lessons.decode_work(model, 4, 4)),
        figures.heads_chart(keepings, 2048),
        figures.growth_chart({2048: keepings}),
        figures.pool_chart(story, 3),
        figures.kept_chart({"bf16": plans[0]}),
        figures.validity_chart("encoder", lessons.kept_states("encoder", 3, 5)),
    ]


# --- the numbers ---------------------------------------------------------------------------------


def test_memory_rows_are_the_plans_terms(plans):
    rows = figures.memory_chart(plans).rows
    for plan in plans:
        (weights,) = [
            row["bytes"]
            for row in rows
            if (row["plan"], row["part"]) == (plan.accelerator.name, "weights")
        ]
        assert weights == plan.memory.weights_bytes
        mine = [row["bytes"] for row in rows if row["plan"] == plan.accelerator.name]
        assert sum(mine) == max(plan.memory.total_bytes, sum(mine))


def test_what_does_not_fit_goes_past_the_card():
    plan = kvsim.plan("llama3-70b", "l4")
    figure = figures.memory_chart([plan]).figure
    (mark,) = [trace for trace in figure.data if trace.name == "the card"]
    bars = sum(trace.x[0] for trace in figure.data if trace.type == "bar")
    assert mark.x[0] == pytest.approx(plan.memory.total_bytes / GIB)
    assert bars > mark.x[0]


def test_regimes_are_told_apart(plans):
    rows = figures.capacity_chart(plans[:1]).rows
    tokens = {row["regime"]: row["tokens"] for row in rows}
    capacity = plans[0].capacity_tokens
    assert tokens == {
        "admission": capacity.admission,
        "steady": capacity.steady,
        "all full": capacity.all_full,
    }
    assert tokens["steady"] > tokens["all full"], "gemma 3 has windows"


def test_no_request_is_a_gap_and_not_a_logarithm_of_zero():
    plan = kvsim.plan("llama3-70b", "a100")
    (line, *_) = figures.concurrency_chart({"bf16": plan}).figure.data
    assert set(line.y) == {None}


def test_the_roof_bends_at_the_ridge(plans):
    chart = figures.roofline_chart(plans[0])
    roof = chart.figure.data[0]
    peak = plans[0].decode.ridge_point * plans[0].accelerator.bandwidth_bytes_per_s / 1e12
    assert roof.x[1] == plans[0].decode.ridge_point
    assert roof.y[1:] == pytest.approx((peak, peak))
    assert roof.y[0] / roof.x[0] == pytest.approx(peak / plans[0].decode.ridge_point)


def test_what_does_not_fit_has_no_speed():
    plans = [kvsim.plan("llama3-70b", gpu) for gpu in ("a100", "mi300x")]
    slow, fast = figures.comparison_table(plans).rows
    assert (slow["fits"], slow["tokens/s"]) == ("no", None)
    assert fast["tokens/s"] == round(plans[1].decode.batches[-1].tokens_per_s)


def test_labels_are_as_short_as_can_be():
    plans = kvsim.plan_engines("llama3-8b", "a100", engines=("vllm", "llama.cpp")).plans
    assert figures.plan_labels(plans) == ["A100-SXM4-80GB · vllm", "A100-SXM4-80GB · llama.cpp"]
    assert figures.plan_labels(plans[:1]) == ["A100-SXM4-80GB"]
    assert figures.plan_labels([plans[0], plans[0]])[1] == "A100-SXM4-80GB (2)"


@given(st.lists(st.sampled_from(["a100", "l4"]), min_size=1, max_size=4))
def test_labels_are_unique(names):
    known = {name: kvsim.plan("llama3.2-1b", name) for name in set(names)}
    labels = figures.plan_labels([known[name] for name in names])
    assert len(set(labels)) == len(names)


# --- for everyone --------------------------------------------------------------------------------


def test_every_axis_with_numbers_has_a_unit(every_chart):
    for chart in every_chart:
        layout = chart.figure.to_dict()["layout"]
        for name in [name for name in layout if name[1:].startswith("axis")]:
            numbers = layout[name].get("type") not in ("category",)
            grid = chart.figure.data[0].type == "heatmap"
            title = layout[name]["title"]["text"]
            assert grid or not numbers or title.endswith(")"), (chart.name, name, title)


def test_every_chart_describes_itself(every_chart):
    for chart in every_chart:
        assert len(chart.alt) > 30, chart.name
        assert chart.title
        assert chart.rows
    names = [chart.name for chart in every_chart]
    assert len(names) == len(set(names))


def test_text_and_background_have_no_colour_of_their_own(every_chart):
    for chart in every_chart:
        layout = chart.figure.to_dict()["layout"]
        assert not {"paper_bgcolor", "plot_bgcolor", "font"} & set(layout), chart.name


def test_the_palette_is_okabe_and_itos():
    # Okabe and Ito 2008, "Color Universal Design", figure 16; black is left out.
    published = {"#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"}
    assert set(theme.CYCLE) - {theme.PALETTE["grey"]} == published


def _luminance(colour):
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one, other):
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# Machado, Oliveira and Fernandes 2009, table 1: severity 1.0, linear RGB.
DEFICIENCIES = {
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216),
               (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413),
               (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602),
               (0.004733, 0.691367, 0.303900)),
}  # fmt: skip

# What stands side by side in one picture.
TOGETHER = {
    "memory": theme.MEMORY_COLOURS.values(),
    "pool over time": timeline.PART_COLOURS.values(),
    "pool, uses": pool._COLOURS.values(),
    "pool, requests": pool._REQUEST_COLOURS,
    "latencies": simulation._COLOURS.values(),
    "phases": simulation._PHASES.values(),
    "attention": learning._ATTENTION_COLOURS.values(),
    "validity": learning._VALIDITY_COLOURS.values(),
    "tiers": cache._TIER_COLOURS.values(),
    "regimes": plan_figures.REGIME_COLOURS.values(),
    "five lines": theme.CYCLE[:5],
}


def _linear(colour, paper):
    """Linear RGB of a colour on a paper that shows through it."""
    parts = [int(paper[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    if colour.startswith("#"):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    else:
        *own, alpha = map(float, colour[5:-1].split(","))
        parts = [alpha * c / 255 + (1 - alpha) * below for c, below in zip(own, parts, strict=True)]
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


@pytest.mark.parametrize("mode", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("matrix", DEFICIENCIES.values(), ids=list(DEFICIENCIES))
@pytest.mark.parametrize("colours", TOGETHER.values(), ids=list(TOGETHER))
def test_what_stands_together_differs_for_the_colour_blind(colours, matrix, mode):
    seen = {
        colour: [
            sum(weight * part for weight, part in zip(row, linear, strict=True)) for row in matrix
        ]
        for colour in colours
        for linear in [_linear(colour, mode["paper"])]
    }
    for one, other in itertools.combinations(seen, 2):
        assert math.dist(seen[one], seen[other]) > 0.1, (one, other)


@pytest.mark.parametrize("mode", [theme.LIGHT, theme.DARK])
def test_text_can_be_read(mode):
    assert _contrast(mode["text"], mode["paper"]) >= 7  # WCAG 2.2, level AAA


# --- safety --------------------------------------------------------------------------------------


def test_a_hostile_name_is_text_in_a_figure():
    model = kvsim.find_model("llama2-7b")
    card = kvsim.find_accelerator("a100").model_copy(
        update={"name": "<a href='javascript:alert(1)'>card</a>"}
    )
    chart = figures.memory_chart([kvsim.plan(model, card)])
    assert "<a" not in chart.figure.to_json().replace("\\u003c", "<")
    assert "<a href='javascript" not in figures.html_page(chart.title, [chart])


def test_a_cell_cannot_become_a_formula():
    table = figures.Table("t", "t", [{"name": "=cmd|' /C calc'!A1", "size_bytes": -5}])
    ((name, size),) = list(csv.reader(io.StringIO(table.to_csv())))[1:]
    assert name == "'=cmd|' /C calc'!A1"
    assert size == "-5"


# --- what can be kept ----------------------------------------------------------------------------


def test_csv_holds_every_row(every_chart):
    for chart in every_chart:
        rows = list(csv.DictReader(io.StringIO(chart.to_csv())))
        assert len(rows) == len(chart.rows)
        assert list(rows[0]) == list(chart.rows[0])


def test_json_holds_rows_and_figure(every_chart):
    for chart in every_chart:
        content = json.loads(chart.to_json(), parse_constant=_no_constant)
        assert len(content["rows"]) == len(chart.rows)
        assert content["alt"] == chart.alt
        assert content["figure"]["data"]


def _no_constant(name):
    raise AssertionError(f"{name} is not JSON")


def test_an_empty_table_is_an_empty_file():
    table = figures.Table("t", "Nothing", [])
    assert table.to_csv() == ""
    assert "Nothing" in figures.html_page(table.title, [table])


def test_frames_play_to_the_end():
    story = lessons.tell("paged")
    chart = figures.pool_chart(story, 4)
    play = chart.figure.layout.updatemenus[0].buttons[0].args[0]
    assert len(chart.figure.frames) == len(story.moments)
    assert list(play) == [str(at) for at in range(4, len(story.moments))]


def test_pools_that_an_engine_keeps_apart_have_a_row_each():
    answer = kvsim.plan("gpt-oss-20b", "h100", engine="sglang", max_model_len=8192)
    rows = figures.pools_table(answer).rows
    assert [row["pool"] for row in rows] == ["full", "window"]
    # 12 layers of 8 heads of 64, K and V in 16 bits: 24 KiB a token in each
    assert [row["KiB each"] for row in rows] == [24.0, 24.0]
    assert [row["blocks"] for row in rows] == [pool.num_blocks for pool in answer.pools]


@pytest.mark.parametrize("name", ["h100", "gb300", "v100"])
def test_how_step_times_are_known_is_one_word_wherever_it_stands(name):
    card = kvsim.find_accelerator(name)
    rows = {row["what"]: row for row in figures.profile_table(card).rows}
    assert rows["step-time coefficients"]["confidence"] == card.step_times
    chart = figures.coefficients_chart([card])
    assert {row["status"] for row in chart.rows} == {card.step_times}
    hollow = chart.figure.data[0].marker.color == "rgba(0,0,0,0)"
    assert hollow == (card.step_times == "assumed")
