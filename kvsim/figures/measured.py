"""What was measured beside what was predicted: ``kvsim validate`` and ``kvsim study cache``.

Both commands hand in plain rows, the ones that they write as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvsim.figures.chart import Chart, Row, Table
from kvsim.figures.page import Lines, html_page
from kvsim.figures.theme import CYCLE, ONE_TWO_FIVE, Axis, draw

__all__ = [
    "LinePlot",
    "error_chart",
    "step_time_chart",
    "study_page",
    "validation_page",
]

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LinePlot:
    """A chart of lines over rows.

    Parameters
    ----------
    name, title : str
        Stem of its files; heading.
    x, y : str
        Keys of the rows that the axes show.
    x_axis, y_axis : Axis
        How they show them.
    by : tuple of str
        A line for every combination of these keys.
    alt : str
        What is to be seen, in one sentence.
    """

    name: str
    title: str
    x: str
    y: str
    x_axis: Axis
    y_axis: Axis
    by: tuple[str, ...]
    alt: str

    def of(self, rows: Sequence[Row]) -> Chart:
        """Draw the rows, those whose `y` is nothing left out."""
        shown = [row for row in rows if row[self.y]]
        lines = dict.fromkeys(tuple(row[key] for key in self.by) for row in shown)
        traces = [
            self._trace([row for row in shown if tuple(row[key] for key in self.by) == line], line)
            for line in lines
        ]
        figure = draw(traces, x=self.x_axis, y=self.y_axis, height=420)
        return Chart(self.name, self.title, list(rows), self.alt, figure)

    def _trace(self, rows: Sequence[Row], line: tuple[Any, ...]) -> dict[str, Any]:
        words = [
            str(line[0]),
            *(f"{key} {value}" for key, value in zip(self.by, line, strict=True)),
        ]
        return {
            "type": "scatter",
            "mode": "lines+markers",
            "name": ", ".join([words[0], *words[2:]]),
            "x": [row[self.x] for row in rows],
            "y": [row[self.y] for row in rows],
        }


# ---- validation -----------------------------------------------------------------------------


def validation_page(record: Record) -> str:
    """Write a validation as one self-contained HTML page.

    Parameters
    ----------
    record : mapping
        What ``kvsim validate`` writes as ``comparison.json``.
    """
    blocks: list[Table] = [
        Lines(
            "what",
            "What was run",
            [
                f"{record['model']} on {record['device']}",
                f"torch {record['torch']}, {record['clock']}",
                f"coefficients {record['provenance']}",
            ],
        ),
        step_time_chart(record["runs"]),
        error_chart(record["runs"]),
    ]
    for number, run in enumerate(record["runs"]):
        title = f"{run['label']}: latency and memory"
        blocks.append(Table(f"run-{number}", title, [*run["latency"], *run["memory"]]))
    return html_page("Predicted beside measured", blocks)


def step_time_chart(runs: Sequence[Record]) -> Chart:
    """Draw measured step times against predicted ones: a perfect model is the diagonal."""
    rows = [{"run": run["label"], **group} for run in runs for group in run["step_groups"]]
    traces = [_group_trace(phase, rows) for phase in ("decode", "prefill")]
    ends = [row[key] for row in rows for key in ("predicted_seconds", "measured_seconds")]
    ends = [1e3 * min(ends, default=1e-3), 1e3 * max(ends, default=1.0)]
    diagonal = {"type": "scatter", "mode": "lines", "name": "equal", "x": ends, "y": ends}
    figure = draw(
        [*traces, diagonal | {"line": {"dash": "dash", "color": CYCLE[-1]}}],
        x=Axis("predicted", "ms per step", log=True, settings=ONE_TWO_FIVE),
        y=Axis("measured", "ms per step", log=True, settings=ONE_TWO_FIVE),
        height=460,
    )
    alt = "Median step times by batch and context, measured over predicted, beside the diagonal."
    return Chart("steps", "Step times", rows, alt, figure)


def _group_trace(phase: str, rows: Sequence[Row]) -> dict[str, Any]:
    mine = [row for row in rows if row["phase"] == phase]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": phase,
        "x": [1e3 * row["predicted_seconds"] for row in mine],
        "y": [1e3 * row["measured_seconds"] for row in mine],
        "customdata": [[row["sequences"], row["context"], row["steps"]] for row in mine],
        "hovertemplate": "up to %{customdata[0]} sequences, %{customdata[1]} tokens"
        "<br>predicted %{x:.3g} ms, measured %{y:.3g} ms"
        "<br>%{customdata[2]} steps<extra></extra>",
    }


def error_chart(runs: Sequence[Record]) -> Chart:
    """Draw how far every latency and throughput is off, a bar per run."""
    rows = [
        {"run": run["label"], **pair}
        for run in runs
        for pair in run["latency"]
        if pair["error_percent"] is not None
    ]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": run["label"],
            "y": [row["name"] for row in rows if row["run"] == run["label"]],
            "x": [row["error_percent"] for row in rows if row["run"] == run["label"]],
            "hovertemplate": "%{y}: off by %{x:+.1f} %",
        }
        for run in runs
    ]
    figure = draw(
        traces,
        x=Axis("prediction off by", "%"),
        y=Axis(settings={"type": "category", "autorange": "reversed"}),
        height=460,
        bargap=0.25,
    )
    alt = "Error of every predicted latency and throughput, percent of the measurement."
    return Chart("errors", "Latency and throughput", rows, alt, figure)


# ---- the study ------------------------------------------------------------------------------

_TOKENS = Axis("tokens generated", "per sequence", log=True)
_STUDY_PLOTS = (
    LinePlot(
        "token-seconds",
        "Latency of one token",
        "tokens",
        "token_seconds",
        _TOKENS,
        Axis("one step", "s", log=True),
        ("cache", "batch"),
        "Without a cache the step grows with the context; with any cache it is nearly level.",
    ),
    LinePlot(
        "total-seconds",
        "Latency in total, measured",
        "tokens",
        "total_seconds",
        _TOKENS,
        Axis("all steps", "s", log=True),
        ("cache", "batch"),
        "Total time: steeper without a cache than with one.",
    ),
    LinePlot(
        "simulated-seconds",
        "Latency in total, simulated",
        "tokens",
        "simulated_seconds",
        _TOKENS,
        Axis("all steps", "s", log=True),
        ("cache", "batch"),
        "The simulator's total time for the same generations.",
    ),
    LinePlot(
        "kv-bytes",
        "Peak memory of K and V, measured",
        "tokens",
        "kv_peak_bytes",
        _TOKENS,
        Axis("K and V", "bytes", log=True),
        ("cache", "batch"),
        "A preallocated cache is level at its longest length; growing and paged ones follow"
        " the tokens.",
    ),
    LinePlot(
        "simulated-kv-bytes",
        "Peak memory of K and V, simulated",
        "tokens",
        "simulated_kv_bytes",
        _TOKENS,
        Axis("K and V", "bytes", log=True),
        ("cache", "batch"),
        "What the simulator's allocators hold for the same generations.",
    ),
    LinePlot(
        "read-bytes",
        "Bytes read per token",
        "tokens",
        "read_bytes_per_token",
        _TOKENS,
        Axis("read and copied", "bytes", log=True),
        ("cache", "batch"),
        "Weights are shared by the batch; the context's K and V are every sequence's own.",
    ),
)


def study_page(record: Record) -> str:
    """Write the cache study as one self-contained HTML page.

    Parameters
    ----------
    record : mapping
        What ``kvsim study cache`` writes as ``study.json``.
    """
    rows = record["rows"]
    what = [
        f"{record['model']} in {record['dtype']} on {record['device']}, {record['clock']},"
        f" torch {record['torch_version']}",
        f"prompts of {record['prompt_tokens']} tokens; all four caches generated the same"
        f" {record['checked_tokens']} tokens before anything was timed",
    ]
    blocks: list[Table] = [
        Lines("what", "What was run", what),
        Table("claims", "Common claims", record["claims"]),
        *(plot.of(rows) for plot in _STUDY_PLOTS),
        Table("exponents", "Growth exponents", _exponent_rows(record["exponents"])),
    ]
    return html_page("Four ways to keep K and V", blocks)


def _exponent_rows(exponents: Record) -> list[Row]:
    return [
        {"cache": cache, "batch": int(batch), **slopes}
        for cache, batches in exponents.items()
        for batch, slopes in batches.items()
    ]
