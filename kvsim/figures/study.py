"""Four ways to keep K and V as one page: what ``kvsim study cache`` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kvsim.figures.chart import Chart, Row, Table
from kvsim.figures.page import Lines, html_page
from kvsim.figures.theme import Axis, draw

__all__ = ["study_page"]

Record = Mapping[str, Any]


class _Plot(NamedTuple):
    """One quantity over the tokens generated, a line per cache and batch.

    `name` is the stem of its files, `key` the quantity's in the rows, `alt` one sentence.
    """

    name: str
    title: str
    key: str
    axis: Axis
    alt: str

    def of(self, rows: Sequence[Row]) -> Chart:
        """Draw the rows, those whose quantity is nothing left out."""
        shown = [row for row in rows if row[self.key]]
        lines = dict.fromkeys((row["cache"], row["batch"]) for row in shown)
        traces = [self._trace(shown, cache, batch) for cache, batch in lines]
        tokens = Axis("tokens generated", "per sequence", log=True)
        figure = draw(traces, x=tokens, y=self.axis, height=420)
        return Chart(self.name, self.title, list(rows), self.alt, figure)

    def _trace(self, rows: Sequence[Row], cache: str, batch: int) -> dict[str, Any]:
        mine = [row for row in rows if (row["cache"], row["batch"]) == (cache, batch)]
        return {
            "type": "scatter",
            "mode": "lines+markers",
            "name": f"{cache}, batch {batch}",
            "x": [row["tokens"] for row in mine],
            "y": [row[self.key] for row in mine],
        }


_SECONDS = Axis("all steps", "s", log=True)
_BYTES = Axis("K and V", "bytes", log=True)
_PLOTS = (
    _Plot(
        "token-seconds",
        "Latency of one token",
        "token_seconds",
        Axis("one step", "s", log=True),
        "Without a cache the step grows with the context; with any cache it is nearly level.",
    ),
    _Plot(
        "total-seconds",
        "Latency in total, measured",
        "total_seconds",
        _SECONDS,
        "Total time: steeper without a cache than with one.",
    ),
    _Plot(
        "simulated-seconds",
        "Latency in total, simulated",
        "simulated_seconds",
        _SECONDS,
        "The simulator's total time for the same generations.",
    ),
    _Plot(
        "kv-bytes",
        "Peak memory of K and V, measured",
        "kv_peak_bytes",
        _BYTES,
        "A preallocated cache is level at its longest length; growing and paged ones follow"
        " the tokens.",
    ),
    _Plot(
        "simulated-kv-bytes",
        "Peak memory of K and V, simulated",
        "simulated_kv_bytes",
        _BYTES,
        "What the simulator's allocators hold for the same generations.",
    ),
    _Plot(
        "read-bytes",
        "Bytes read per token",
        "read_bytes_per_token",
        Axis("read and copied", "bytes", log=True),
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
        *(plot.of(rows) for plot in _PLOTS),
        Table("exponents", "Growth exponents", _exponent_rows(record["exponents"])),
    ]
    return html_page("Four ways to keep K and V", blocks)


def _exponent_rows(exponents: Record) -> list[Row]:
    return [
        {"cache": cache, "batch": int(batch), **slopes}
        for cache, batches in exponents.items()
        for batch, slopes in batches.items()
    ]
