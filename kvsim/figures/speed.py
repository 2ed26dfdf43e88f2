"""Decode as pictures: tokens a second, arithmetic intensity, and the ridge between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvsim.figures.chart import Chart
from kvsim.figures.theme import PALETTE, Axis, draw

if TYPE_CHECKING:
    from kvsim.planner import Plan

__all__ = ["batch_chart", "roofline_chart"]

_BOUND_COLOURS = {"bandwidth": PALETTE["blue"], "compute": PALETTE["red"]}


def batch_chart(plan: Plan) -> Chart:
    """Draw tokens a second against the batch, and below it what binds: FLOPs a byte.

    The ridge point is marked in the lower half: a step below it waits for memory, one above
    it for arithmetic.
    """
    batches = plan.decode.batches
    figure = draw(
        [_rate_line(plan), _intensity_line(plan), _ridge_line(plan)],
        x=Axis("batch", "sequences", log=True, settings={"anchor": "y2"}),
        y=Axis("tokens/s", "one replica", settings={"domain": [0.52, 1], "rangemode": "tozero"}),
        height=460,
        yaxis2=Axis("intensity", "FLOPs/byte", log=True, settings={"tickformat": "~g"}).to_plotly()
        | {"domain": [0, 0.42]},
    )
    rows = [each._asdict() | {"ridge_flops_per_byte": plan.decode.ridge_point} for each in batches]
    return Chart("batch", _title(plan), rows, _batch_alt(plan), figure)


def _title(plan: Plan) -> str:
    return f"Decode at {plan.decode.context_len:,} tokens of context"


def _rate_line(plan: Plan) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "tokens/s",
        "x": [each.batch for each in plan.decode.batches],
        "y": [each.tokens_per_s for each in plan.decode.batches],
        "customdata": [[1e3 * each.step_seconds, each.bound_by] for each in plan.decode.batches],
        "line": {"color": PALETTE["green"], "width": 2.5},
        "hovertemplate": "batch %{x:,}<br>%{y:,.0f} tokens/s<br>%{customdata[0]:,.2f} ms a step"
        "<br>mostly waits for %{customdata[1]}<extra></extra>",
    }


def _intensity_line(plan: Plan) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "FLOPs/byte",
        "yaxis": "y2",
        "x": [each.batch for each in plan.decode.batches],
        "y": [each.arithmetic_intensity for each in plan.decode.batches],
        "line": {"color": PALETTE["blue"], "width": 2.5},
        "marker": {"symbol": "square"},
        "hovertemplate": "batch %{x:,}<br>%{y:,.1f} FLOPs/byte<extra></extra>",
    }


def _ridge_line(plan: Plan) -> dict[str, Any]:
    ridge = plan.decode.ridge_point
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"ridge point, {ridge:,.0f} FLOPs/byte",
        "yaxis": "y2",
        # A little longer than the curve, so that a single batch has one too.
        "x": [plan.decode.batches[0].batch / 1.2, plan.decode.batches[-1].batch * 1.2],
        "y": [ridge, ridge],
        "line": {"color": PALETTE["red"], "dash": "dash"},
        "hovertemplate": "ridge point: %{y:,.0f} FLOPs/byte<extra></extra>",
    }


def _batch_alt(plan: Plan) -> str:
    decode, last = plan.decode, plan.decode.batches[-1]
    side = "below" if decode.arithmetic_intensity < decode.ridge_point else "above"
    return (
        f"Tokens a second rise with the batch to {last.tokens_per_s:,.0f} at {last.batch:,}"
        f" sequences; there a step makes {decode.arithmetic_intensity:,.1f} FLOPs a byte, {side}"
        f" the ridge point of {decode.ridge_point:,.0f}: bound by {decode.bound_by}."
    )


def roofline_chart(plan: Plan) -> Chart:
    """Draw the card's roofline and where each batch of the plan stands on it."""
    decode, bandwidth = plan.decode, plan.accelerator.bandwidth_bytes_per_s
    peak = decode.ridge_point * bandwidth
    points = [(each, min(peak, each.arithmetic_intensity * bandwidth)) for each in decode.batches]
    lowest = min(each.arithmetic_intensity for each in decode.batches) / 2
    roof = [lowest, decode.ridge_point, decode.ridge_point * 8]
    figure = draw(
        [
            {
                "type": "scatter",
                "mode": "lines",
                "name": "what the card can do",
                "x": roof,
                "y": [min(peak, x * bandwidth) / 1e12 for x in roof],
                "line": {"color": PALETTE["grey"], "width": 3},
                "hovertemplate": "%{x:,.1f} FLOPs/byte<br>%{y:,.1f} TFLOP/s<extra></extra>",
            },
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": "one decode step",
                "x": [each.arithmetic_intensity for each, _ in points],
                "y": [flops / 1e12 for _, flops in points],
                "text": _some([f"{each.batch:,}" for each, _ in points]),
                "customdata": [each.batch for each, _ in points],
                "textposition": "top left",
                "marker": {"size": 11, "color": _sides(plan)},
                "hovertemplate": "batch %{customdata:,}<br>%{x:,.1f} FLOPs/byte"
                "<br>at most %{y:,.1f} TFLOP/s<extra></extra>",
            },
            _ridge_stroke(decode.ridge_point, lowest * bandwidth / 1e12, peak / 1e12),
        ],
        x=Axis("arithmetic intensity", "FLOPs/byte", log=True),
        y=Axis("reachable arithmetic", "TFLOP/s", log=True, settings={"tickformat": "~g"}),
        height=420,
    )
    rows = [
        {
            "batch": each.batch,
            "flops_per_byte": each.arithmetic_intensity,
            "reachable_flops_per_s": flops,
            "share_of_peak": flops / peak,
        }
        for each, flops in points
    ]
    return Chart(
        "roofline", f"The memory wall of {plan.accelerator.name}", rows, _batch_alt(plan), figure
    )


def _some(words: list[str]) -> list[str]:
    """Every other word, and the last: near the top of the roof the points stand close."""
    last = len(words) - 1
    return [
        word if at == last or (at % 2 == 0 and at < last - 1) else ""
        for at, word in enumerate(words)
    ]


def _sides(plan: Plan) -> list[str]:
    ridge = plan.decode.ridge_point
    return [
        _BOUND_COLOURS["bandwidth" if each.arithmetic_intensity < ridge else "compute"]
        for each in plan.decode.batches
    ]


def _ridge_stroke(ridge: float, low: float, high: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"ridge point, {ridge:,.0f} FLOPs/byte",
        "x": [ridge, ridge],
        "y": [low, high],
        "line": {"color": PALETTE["red"], "dash": "dash"},
        "hovertemplate": "ridge point: %{x:,.0f} FLOPs/byte<extra></extra>",
    }
