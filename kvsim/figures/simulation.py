"""A simulated run as pictures and tables: latencies, the slowest requests, the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kvsim.figures.chart import Chart, Table, rounded
from kvsim.figures.page import Lines, html_page
from kvsim.figures.pool import pool_film
from kvsim.figures.theme import CATEGORIES, PALETTE, Axis, draw
from kvsim.figures.timeline import queue_chart, split_chart
from kvsim.results.statistics import quantiles
from kvsim.results.time_bins import preemption_seconds, time_bins
from kvsim.results.words import LATENCIES

if TYPE_CHECKING:
    import numpy.typing as npt

    from kvsim.results.result import SimulationResult
    from kvsim.runs.replicate import Replications
    from kvsim.simulator.camera import Camera
    from kvsim.simulator.scenario import Scenario

    Floats = npt.NDArray[np.float64]

__all__ = [
    "latency_chart",
    "latency_table",
    "numbers_table",
    "simulation_report",
    "slowest_chart",
]

_COLOURS = {
    "ttft": PALETTE["blue"],
    "tpot": PALETTE["orange"],
    "itl": PALETTE["pink"],
    "e2el": PALETTE["green"],
    "queue": PALETTE["sky"],
}
_DASHES = {"ttft": "solid", "tpot": "solid", "itl": "dot", "e2el": "solid", "queue": "dash"}
_PHASES = {
    "front_end": PALETTE["pink"],
    "queue": "rgba(140,140,140,0.45)",
    "prefill": PALETTE["orange"],
    "decode": PALETTE["blue"],
}
POINTS = 200
LEAST_MS = 1.0  # where a logarithmic axis of latencies begins
_SHARES = np.linspace(0, 1, POINTS + 1)


# --- latencies -----------------------------------------------------------------------------


def latency_chart(result: SimulationResult) -> Chart:
    """Draw the distribution of every latency, with the objectives as vertical lines.

    A curve at 99 % says that 99 of 100 requests (of 100 tokens, for inter-token latency)
    were at least that fast.
    """
    curves = latency_curves(result)
    slo = {name: limit for name in curves if (limit := _objective(result.setup.scenario, name))}
    figure = draw(
        [
            *(_curve(name, values) for name, values in curves.items()),
            *(_objective_line(name, limit) for name, limit in slo.items()),
        ],
        x=latency_axis("latency", curves.values()),
        y=Axis("at most so long", "% of requests", settings={"range": [0, 101]}),
        height=400,
    )
    rows = [
        {"latency": name, "percent": round(100 * share, 2), "ms": float(value)}
        for name, values in curves.items()
        for share, value in zip(_SHARES, values, strict=True)
    ]
    return Chart("latency", "How long requests took", rows, _latency_alt(result), figure)


def latency_curves(result: SimulationResult) -> dict[str, Floats]:
    """Return each latency at evenly spaced shares of what was observed, milliseconds."""
    judged, totals = result.judged, result.totals
    curves = {}
    for name, values in result.latencies.items():
        seen = values[judged & ~np.isnan(values)]
        if len(seen):
            curves[name] = 1e3 * quantiles(seen, _SHARES)
    if totals.gap_tokens.any():
        curves["itl"] = 1e3 * quantiles(totals.gap_seconds, _SHARES, totals.gap_tokens)
    return {name: curves[name] for name in LATENCIES if name in curves}


def latency_axis(title: str, curves: Iterable[Floats]) -> Axis:
    """Return a logarithmic axis of milliseconds that begins at 1 ms."""
    longest = max((float(values[-1]) for values in curves if len(values)), default=LEAST_MS)
    decades = np.log10(max(longest, 10 * LEAST_MS))
    return Axis(
        title, "ms" if title else "", log=True, settings={"range": [0, 1.03 * float(decades)]}
    )


def latency_line(values: Floats) -> dict[str, Any]:
    """Return the points of one curve; what is faster than the axis begins at its start."""
    return {
        "x": np.maximum(values, LEAST_MS).round(4).tolist(),
        "y": (100 * _SHARES[: len(values)]).round(2).tolist(),
    }


def _curve(name: str, values: Floats) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": LATENCIES[name],
        **latency_line(values),
        "line": {"color": _COLOURS[name], "dash": _DASHES[name], "width": 2.5},
        "hovertemplate": "%{y:.1f} %: at most %{x:,.4~r} ms<extra>" + LATENCIES[name] + "</extra>",
    }


def _objective(scenario: Scenario, name: str) -> float | None:
    limit: float | None = getattr(scenario.slo, f"{name}_ms", None)
    return limit


def _objective_line(name: str, limit: float) -> dict[str, Any]:
    words = f"{name.upper()} objective, {limit:,.4g} ms"
    return {
        "type": "scatter",
        "mode": "lines",
        "name": words,
        "x": [limit, limit],
        "y": [0, 101],
        "line": {"color": _COLOURS[name], "dash": "dashdot", "width": 1.5},
        "hovertemplate": f"{words}<extra></extra>",
    }


def _latency_alt(result: SimulationResult) -> str:
    summary = result.summary
    parts = [
        f"{words} {summary[f'p50_{name}_ms']:,.1f} ms at the median and"
        f" {summary[f'p99_{name}_ms']:,.1f} ms at the 99th percentile"
        for name, words in LATENCIES.items()
        if summary[f"p50_{name}_ms"] is not None
    ]
    return f"{'; '.join(parts) or 'No request got a token'}."


def latency_table(runs: Replications) -> Table:
    """Tabulate each latency in milliseconds, with the interval of its mean and how sure it is.

    Of several replications the mean also has the interval over them alone.
    """
    summary, several = runs.summary, len(runs.whole) > 1
    bands, sure = runs.first.time_bands, runs.time_bands["intervals"]
    rows = []
    for name, words in LATENCIES.items():
        points = ("mean", "p50", "p90", "p95", "p99")
        row = {"latency, ms": words} | {
            point: rounded(summary[f"{point}_{name}_ms"]) for point in points
        }
        if bands:
            low, high = sure.get(f"mean_{name}_ms", (None, None))
            is_sure = bands[name].sure if low is not None else None
            row |= {"within from": rounded(low), "within to": rounded(high), "how sure": is_sure}
        if several:
            interval = runs.intervals.get(f"mean_{name}_ms")
            row["mean from"] = rounded(interval.low if interval else None)
            row["mean to"] = rounded(interval.high if interval else None)
        rows.append(row)
    return Table("latencies", "Latencies", rows)


def numbers_table(summary: Mapping[str, Any]) -> Table:
    """Tabulate every number of a summary by its dotted key."""
    from kvsim.runs.replicate import numbers  # with it comes the simulator

    rows = [{"key": key, "value": value} for key, value in numbers(summary)]
    return Table("summary", "Every number of the run", rows)


# --- the slowest requests ------------------------------------------------------------------


def slowest_chart(result: SimulationResult, *, by: str = "e2el", count: int = 12) -> Chart:
    """Draw the life of the slowest requests, from their arrival on.

    Parameters
    ----------
    result : SimulationResult
        The run.
    by : str
        Slowest in what: "ttft", "tpot", "e2el" or "queue".
    count : int
        How many.
    """
    columns, latencies = result.columns, result.latencies
    ranked = np.where(np.isnan(columns["finish_seconds"]), -np.inf, latencies[by])
    ranked = np.where(np.isnan(ranked), -np.inf, ranked)
    chosen = np.argsort(-ranked, kind="stable")[: min(count, int(np.isfinite(ranked).sum()))]
    rows = [_life(result, int(at)) for at in chosen]
    names = [f"request {row['request']}" for row in rows]
    figure = draw(
        [*(_phase(name, names, rows) for name in _PHASES), _preempted(result, rows)],
        x=Axis("since its arrival", "s"),
        y=CATEGORIES,
        height=120 + 28 * max(1, len(rows)),
        barmode="stack",
        bargap=0.3,
    )
    alt = "; ".join(
        f"request {row['request']} took {row['e2el_seconds']:,.2f} s, of which"
        f" {row['queue_seconds']:,.2f} s in the queue, {row['preemptions']} preemptions"
        for row in rows[:3]
    )
    title = f"The slowest requests by {LATENCIES[by]}"
    return Chart("slowest", title, rows, f"{alt or 'No request was finished'}.", figure)


def _life(result: SimulationResult, at: int) -> dict[str, Any]:
    """One request's times, seconds, and lengths, tokens."""
    column = {name: float(values[at]) for name, values in result.columns.items()}
    latency = {name: float(values[at]) for name, values in result.latencies.items()}
    return {
        "request": int(column["row"]),
        "arrival_seconds": round(column["arrival_seconds"], 4),
        "prompt_tokens": int(column["prompt_tokens"]),
        "output_tokens": int(column["output_tokens"]),
        "cached_tokens": int(column["cached_tokens"]),
        "preemptions": int(column["preemptions"]),
        "front_end_seconds": round(latency["e2el"] - latency["engine_e2el"], 4),
        "queue_seconds": round(latency["queue"], 4),
        "prefill_seconds": round(column["first_token_seconds"] - column["scheduled_seconds"], 4),
        "decode_seconds": round(column["finish_seconds"] - column["first_token_seconds"], 4),
        "ttft_seconds": round(latency["ttft"], 4),
        "tpot_seconds": None if np.isnan(latency["tpot"]) else round(latency["tpot"], 5),
        "e2el_seconds": round(latency["e2el"], 4),
    }


def _phase(name: str, names: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name.replace("_", " "),
        "y": names,
        "x": [row[f"{name}_seconds"] for row in rows],
        "marker": {"color": _PHASES[name]},
        "customdata": [[row["prompt_tokens"], row["output_tokens"]] for row in rows],
        "hovertemplate": f"%{{y}}, {name.replace('_', ' ')}: %{{x:,.3f}} s<br>"
        "%{customdata[0]:,} prompt and %{customdata[1]:,} output tokens<extra></extra>",
    }


def _preempted(result: SimulationResult, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A cross where a request lost its cache and went back to the queue."""
    arrival = {row["request"]: row["arrival_seconds"] for row in rows}
    hit = [(r, s) for r, s in zip(*preemption_seconds(result), strict=True) if int(r) in arrival]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "preempted",
        "x": [float(seconds) - arrival[int(row)] for row, seconds in hit],
        "y": [f"request {row}" for row, _ in hit],
        "marker": {
            "symbol": "x-thin",
            "size": 9,
            "line": {"width": 2, "color": PALETTE["red"]},
        },
        "hovertemplate": "%{y} preempted after %{x:,.3f} s<extra></extra>",
        "visible": True if hit else "legendonly",
        "showlegend": bool(hit),
    }


# --- keeping it ----------------------------------------------------------------------------


def simulation_report(
    runs: Replications, *, command: str = "", camera: Camera | None = None
) -> str:
    """Write a run as one self-contained HTML page.

    Parameters
    ----------
    runs : Replications
        The run, or several; the first is shown in detail.
    command : str
        The command line that gives this report again.
    camera : Camera, optional
        What was seen of the first run's pool.
    """
    blocks = [*_blocks(runs, camera)]
    if command:
        blocks.append(Lines("command", "This report again", [command]))
    scenario = runs.first.setup.scenario
    return html_page(f"{scenario.name}: {scenario.question}".rstrip(": "), blocks)


def _blocks(runs: Replications, camera: Camera | None) -> Iterator[Table]:
    result, bins = runs.first, time_bins(runs.first)
    if runs.cautions:
        yield Lines("caution", "Caution", list(runs.cautions))
    yield latency_table(runs)
    if result.how_sure:
        yield Lines("sure", "How sure the latencies are", result.how_sure)
    yield latency_chart(result)
    if camera is not None and camera.frames:
        yield pool_film(camera)
    yield queue_chart(bins)
    yield split_chart(bins)
    yield slowest_chart(result)
    yield numbers_table(runs.summary)
    yaml = result.setup.scenario.to_yaml()
    yield Lines("scenario", "The scenario", yaml.splitlines())
