"""Decode as pictures: tokens per second, arithmetic intensity, and the ridge between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kvsim.figures.chart import Chart
from kvsim.figures.theme import PALETTE, Axis, draw

if TYPE_CHECKING:
    from kvsim.planning.plan_types import Decode, DecodeBatch
    from kvsim.planning.planner import Plan

__all__ = ["batch_chart", "roofline_chart"]

_BOUND_COLOURS = {"bandwidth": PALETTE["blue"], "compute": PALETTE["red"]}


def batch_chart(plan: Plan) -> Chart:
    """Draw tokens per second against the batch, and below it what binds: FLOPs per byte.

    The ridge point is marked in the lower half: a step below it waits for memory, one above
    it for arithmetic.
    """
    batches = plan.decode.batches
    figure = draw(
        [_rate_line(plan), _intensity_line(plan), _ridge_line(plan)],
        x=Axis("batch", "sequences", log=True, settings={"anchor": "y2"}),
        y=Axis("one replica", "tokens/s", settings={"domain": [0.52, 1], "rangemode": "tozero"}),
        height=460,
        yaxis2=Axis("intensity", "FLOPs/byte", log=True, settings={"tickformat": "~g"}).to_plotly()
        | {"domain": [0, 0.42]},
    )
    rows = [_batch_row(plan.decode, each) for each in batches]
    return Chart("batch", _title(plan), rows, _batch_alt(plan), figure)


def _batch_row(decode: Decode, batch: DecodeBatch) -> dict[str, Any]:
    low, high = decode.band.around(batch.step_seconds)
    return batch._asdict() | {
        "step_seconds_low": low,
        "step_seconds_high": high,
        "how_sure": decode.band.sure,
        "ridge_flops_per_byte": decode.ridge_point,
    }


def _title(plan: Plan) -> str:
    return f"Decode at {plan.decode.context_len:,} tokens of context"


def _rate_line(plan: Plan) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "tokens/s",
        "x": [each.batch for each in plan.decode.batches],
        "y": [each.tokens_per_s for each in plan.decode.batches],
        "customdata": [_hovered(plan.decode, each) for each in plan.decode.batches],
        "line": {"color": PALETTE["green"], "width": 2.5},
        "hovertemplate": "batch %{x:,}<br>%{y:,.0f} tokens/s<br>%{customdata[0]:,.2f} ms per step"
        " (%{customdata[2]:,.2f} to %{customdata[3]:,.2f}, %{customdata[4]})"
        "<br>mostly waits for %{customdata[1]}<extra></extra>",
    }


def _hovered(decode: Decode, batch: DecodeBatch) -> list[Any]:
    """A step in milliseconds, what it waits for, and its band."""
    low, high = decode.band.around(1e3 * batch.step_seconds)
    return [1e3 * batch.step_seconds, batch.bound_by, low, high, decode.band.sure]


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
        "name": _ridge_words(ridge),
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
        f"Tokens per second rise with the batch to {last.tokens_per_s:,.0f} at {last.batch:,}"
        f" sequences; there a step makes {decode.arithmetic_intensity:,.1f} FLOPs per byte, {side}"
        f" the ridge point of {decode.ridge_point:,.0f}: bound by {decode.bound_by}."
        f" A step takes {decode.band.low:.2f} to {decode.band.high:.2f} times what is drawn:"
        f" {decode.band.words}."
    )


def roofline_chart(plan: Plan) -> Chart:
    """Draw the card's roofline and where each batch of the plan stands on it."""
    roof = _Roof(plan.decode.ridge_point, plan.accelerator.bandwidth_bytes_per_s)
    lowest = min(each.arithmetic_intensity for each in plan.decode.batches) / 2
    figure = draw(
        [_roof_line(roof, lowest), _steps(plan, roof), _ridge_stroke(roof, lowest)],
        x=Axis("arithmetic intensity", "FLOPs/byte", log=True),
        y=Axis("reachable arithmetic", "TFLOP/s", log=True, settings={"tickformat": "~g"}),
        height=420,
    )
    rows = [
        {
            "batch": each.batch,
            "flops_per_byte": each.arithmetic_intensity,
            "reachable_flops_per_s": roof.at(each.arithmetic_intensity),
            "share_of_peak": roof.at(each.arithmetic_intensity) / roof.peak,
        }
        for each in plan.decode.batches
    ]
    title = f"The memory wall of {plan.accelerator.name}"
    return Chart("roofline", title, rows, _batch_alt(plan), figure)


class _Roof(NamedTuple):
    """What a card can do: FLOPs per second at each arithmetic intensity."""

    ridge: float
    bytes_per_s: float

    @property
    def peak(self) -> float:
        """FLOPs per second right of the ridge."""
        return self.at(self.ridge)

    def at(self, flops_per_byte: float) -> float:
        """FLOPs per second where so many are done with each byte."""
        return min(self.ridge, flops_per_byte) * self.bytes_per_s


def _roof_line(roof: _Roof, lowest: float) -> dict[str, Any]:
    corners = [lowest, roof.ridge, roof.ridge * 8]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "what the card can do",
        "x": corners,
        "y": [roof.at(x) / 1e12 for x in corners],
        "line": {"color": PALETTE["grey"], "width": 3},
        "hovertemplate": "%{x:,.1f} FLOPs/byte<br>%{y:,.1f} TFLOP/s<extra></extra>",
    }


def _steps(plan: Plan, roof: _Roof) -> dict[str, Any]:
    batches = plan.decode.batches
    sides = [
        "bandwidth" if each.arithmetic_intensity < roof.ridge else "compute" for each in batches
    ]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "one decode step, by batch",
        "x": [each.arithmetic_intensity for each in batches],
        "y": [roof.at(each.arithmetic_intensity) / 1e12 for each in batches],
        "text": _some([f"{each.batch:,}" for each in batches]),
        "customdata": [each.batch for each in batches],
        "textposition": "top left",
        "marker": {"size": 11, "color": [_BOUND_COLOURS[side] for side in sides]},
        "hovertemplate": "batch %{customdata:,}<br>%{x:,.1f} FLOPs/byte"
        "<br>at most %{y:,.1f} TFLOP/s<extra></extra>",
    }


def _ridge_stroke(roof: _Roof, lowest: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _ridge_words(roof.ridge),
        "x": [roof.ridge, roof.ridge],
        "y": [roof.at(lowest) / 1e12, roof.peak / 1e12],
        "line": {"color": PALETTE["red"], "dash": "dash"},
        "hovertemplate": "ridge point: %{x:,.0f} FLOPs/byte<extra></extra>",
    }


def _ridge_words(ridge: float) -> str:
    return f"ridge point, {ridge:,.0f} FLOPs/byte"


def _some(words: list[str]) -> list[str]:
    """Every other word, and the last: near the top of the roof the points stand close."""
    last = len(words) - 1
    return [
        word if at == last or (at % 2 == 0 and at < last - 1) else ""
        for at, word in enumerate(words)
    ]
