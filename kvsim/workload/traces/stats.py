"""What a trace looks like: arrivals, lengths, and how much of the prompts is shared.

Conventions: CV is the standard deviation over the mean (ddof 0); percentiles interpolate
linearly; the rate is that of the gaps, (requests - 1) / span; per-minute and per-second counts
start at the first arrival, and the last, partial minute is left out. Sharing supposes an
infinite cache in which a block is present once a request that holds it has been seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kvsim.errors import UnsupportedError
from kvsim.workload.base import Floats, Ints
from kvsim.workload.traces import ReadReport, Trace, open_trace
from kvsim.workload.traces.base import Reading, TraceRow
from kvsim.workload.traces.formats.servegen import Client, load_clients

__all__ = [
    "ArrivalStats",
    "LengthStats",
    "ServeGenStats",
    "SharingStats",
    "TraceStats",
    "arrival_stats",
    "length_stats",
    "servegen_stats",
    "spearman",
    "trace_stats",
]


@dataclass(frozen=True)
class ArrivalStats:
    """Arrivals of an open-loop trace; None where the trace is too short to say."""

    span_seconds: float
    requests_per_second: float | None
    interarrival_cv: float | None
    peak_per_minute: int | None
    mean_per_minute: float | None
    peak_to_mean_per_minute: float | None
    variance_to_mean_per_minute: float | None
    variance_to_mean_per_second: float | None
    distinct_times: int


@dataclass(frozen=True)
class LengthStats:
    """Lengths in tokens."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int


@dataclass(frozen=True)
class SharingStats:
    """Hits of an infinite prefix cache; the ratios are shares from 0 to 1."""

    hash_block_size: int
    references: int
    distinct_blocks: int
    hit_ratio_blocks: float
    hit_ratio_full_blocks: float
    hit_ratio_tokens: float
    hit_ratio_request_mean: float
    hit_ratio_request_mean_tokens: float
    single_use_share: float


@dataclass(frozen=True)
class TraceStats:
    """Everything `kvsim trace stats` prints; None where the trace cannot tell."""

    path: Path
    format: str
    requests: int
    sessions: int | None
    arrivals: ArrivalStats | None
    prompt_tokens: LengthStats
    output_tokens: LengthStats
    spearman: float | None
    sharing: SharingStats | None
    think_seconds: LengthStats | None
    report: ReadReport = field(compare=False)

    def record(self) -> dict[str, Any]:
        """Return the statistics as JSON-ready values."""
        return {**asdict(self), "path": str(self.path), "report": self.report.record()}


def length_stats(values: Floats | Ints) -> LengthStats:
    """Summarise lengths (or seconds)."""
    p50, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
    largest = values.max().item()
    return LengthStats(float(values.mean()), p50, p90, p99, largest)


def arrival_stats(seconds: Floats) -> ArrivalStats:
    """Summarise arrival times given in order."""
    elapsed = seconds - seconds[0]
    span = float(elapsed[-1])
    gaps = np.diff(elapsed)
    minutes = np.bincount((elapsed // 60).astype(np.int64))[:-1] if span < 60 * 10**7 else None
    per_second = np.bincount(elapsed.astype(np.int64)) if span < 10**8 else None
    has_minutes = minutes is not None and len(minutes) > 0
    return ArrivalStats(
        span,
        (len(seconds) - 1) / span if span else None,
        _ratio(gaps.std(), gaps.mean()) if len(gaps) else None,
        int(minutes.max()) if has_minutes else None,  # type: ignore[union-attr]
        float(minutes.mean()) if has_minutes else None,  # type: ignore[union-attr]
        _ratio(minutes.max(), minutes.mean()) if has_minutes else None,  # type: ignore[union-attr]
        _ratio(minutes.var(), minutes.mean()) if has_minutes else None,  # type: ignore[union-attr]
        _ratio(per_second.var(), per_second.mean()) if per_second is not None else None,
        len(np.unique(seconds)),
    )


def _ratio(top: Any, bottom: Any) -> float | None:
    return float(top / bottom) if bottom else None


def spearman(first: Ints, second: Ints) -> float | None:
    """Rank correlation, ties at their mean rank; None where a side is constant.

    Examples
    --------
    >>> spearman(np.array([1, 2, 3]), np.array([10, 20, 15]))
    0.5
    """
    if first.min() == first.max() or second.min() == second.max():
        return None
    return round(float(np.corrcoef(_ranks(first), _ranks(second))[0, 1]), 12)


def _ranks(values: Ints) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(mean_rank[place])


class _Sharing:
    """Counts hits of an infinite cache while rows stream by."""

    def __init__(self) -> None:
        self.uses: dict[int, int] = {}
        self.references = self.hits = 0
        self.full_references = self.full_hits = 0
        self.tokens = self.hit_tokens = 0
        self.ratios: list[float] = []
        self.token_ratios: list[float] = []

    def see(self, row: TraceRow, size: int) -> None:
        """Count one request: what leads its prompt and is known, then remember it all."""
        ids = row.block_ids or ()
        uses = self.uses
        full = row.prompt_tokens // size
        present = [block in uses for block in ids]
        hits, full_hits = sum(present), sum(present[:full])
        hit_tokens = full_hits * size
        if len(present) > full and present[full]:
            hit_tokens += row.prompt_tokens % size
        for block in ids:
            uses[block] = uses.get(block, 0) + 1
        self.references += len(present)
        self.hits += hits
        self.full_references += full
        self.full_hits += full_hits
        self.tokens += row.prompt_tokens
        self.hit_tokens += hit_tokens
        self.ratios.append(hits / len(present) if present else 0.0)
        self.token_ratios.append(hit_tokens / row.prompt_tokens)

    def stats(self, size: int) -> SharingStats | None:
        """Summarise, or None where no row had an identity."""
        if not self.references:
            return None
        single = sum(1 for count in self.uses.values() if count == 1)
        return SharingStats(
            size,
            self.references,
            len(self.uses),
            self.hits / self.references,
            self.full_hits / self.full_references if self.full_references else 0.0,
            self.hit_tokens / self.tokens,
            math.fsum(self.ratios) / len(self.ratios),
            math.fsum(self.token_ratios) / len(self.token_ratios),
            single / len(self.uses),
        )


class _Collector:
    """Columns of a trace, gathered in one pass."""

    def __init__(self, rows: Iterable[TraceRow], reading: Reading) -> None:
        self.arrivals: list[float] = []
        self.prompts: list[int] = []
        self.outputs: list[int] = []
        self.sessions: set[int] = set()
        self.sharing = _Sharing()
        for row in rows:
            self._see(row, reading.hash_block_size)

    def _see(self, row: TraceRow, hash_block_size: int | None) -> None:
        self.prompts.append(row.prompt_tokens)
        self.outputs.append(row.output_tokens)
        if row.arrival_seconds is not None:
            self.arrivals.append(row.arrival_seconds)
        if row.session is not None:
            self.sessions.add(row.session)
        if hash_block_size is not None:
            self.sharing.see(row, hash_block_size)


def trace_stats(path: Path | str, format_name: str | None = None) -> TraceStats:
    """Read a trace once and summarise it.

    Parameters
    ----------
    path : Path or str
        Any file that kvsim reads, but ServeGen's (see `servegen_stats`).
    format_name : str, optional
        By default told by the content.

    Raises
    ------
    InputError
        As `kvsim.workload.traces.open_trace` and ``Trace.rows``.
    UnsupportedError
        For ServeGen, which has clients in place of requests.
    """
    trace = open_trace(path, format_name)
    if trace.format.arrivals == "rates":
        raise UnsupportedError(f"{path}: ServeGen describes clients; use servegen_stats")
    reading = trace.reading()
    columns = _Collector(trace.rows(reading), reading)
    prompts, outputs = np.array(columns.prompts), np.array(columns.outputs)
    recorded = trace.format.arrivals == "recorded" and bool(columns.arrivals)
    return TraceStats(
        path=trace.path,
        format=trace.format.name,
        requests=len(prompts),
        sessions=len(columns.sessions) or None,
        arrivals=arrival_stats(np.array(columns.arrivals)) if recorded else None,
        prompt_tokens=length_stats(prompts),
        output_tokens=length_stats(outputs),
        spearman=spearman(prompts, outputs),
        sharing=columns.sharing.stats(reading.hash_block_size or 1),
        think_seconds=_think_stats(trace) if trace.format.arrivals == "closed-loop" else None,
        report=reading.report,
    )


def _think_stats(trace: Trace) -> LengthStats | None:
    """Think times of every request; a thread's first has 0."""
    from kvsim.workload.traces.formats.weka import conversations

    thinks = [
        turn.think_seconds
        for talk in conversations(trace.reading())
        for thread in talk.threads
        for turn in thread.turns
    ]
    return length_stats(np.array(thinks)) if thinks else None


@dataclass(frozen=True)
class ServeGenStats:
    """A ServeGen folder: rates in requests/s over time, loads of the clients, mean lengths."""

    path: Path
    clients: int
    span_seconds: float
    mean_rate: float
    peak_rate: float
    gamma_windows: int
    weibull_windows: int
    top_client_share: float
    top_ten_share: float
    mean_prompt_tokens: float | None
    mean_output_tokens: float | None

    def record(self) -> dict[str, Any]:
        """Return the statistics as JSON-ready values."""
        return {**asdict(self), "path": str(self.path)}


def servegen_stats(path: Path | str) -> ServeGenStats:
    """Summarise a ServeGen folder or archive.

    Mean lengths weigh each histogram with the rate of the window that it is dated to.
    """
    clients = load_clients(Path(path))
    totals: dict[float, float] = {}
    for client in clients:
        for window in client.windows:
            totals[window.start_seconds] = totals.get(window.start_seconds, 0.0) + window.rate
    families = [at.family for client in clients for at in client.windows if at.rate > 0]
    loads = sorted((sum(at.rate for at in client.windows) for client in clients), reverse=True)
    starts = sorted(totals)
    width = starts[1] - starts[0] if len(starts) > 1 else 600.0
    prompt, output = _weighted_means(clients)
    return ServeGenStats(
        path=Path(path),
        clients=len(clients),
        span_seconds=starts[-1] + width - starts[0],
        mean_rate=sum(totals.values()) / len(totals),
        peak_rate=max(totals.values()),
        gamma_windows=families.count("Gamma"),
        weibull_windows=families.count("Weibull"),
        top_client_share=loads[0] / sum(loads),
        top_ten_share=sum(loads[:10]) / sum(loads),
        mean_prompt_tokens=prompt,
        mean_output_tokens=output,
    )


def _weighted_means(clients: list[Client]) -> tuple[float | None, float | None]:
    weights, prompts, outputs = [], [], []
    for client in clients:
        rates = {window.start_seconds: window.rate for window in client.windows}
        for start, prompt, output in client.histograms:
            weights.append(rates.get(start, 0.0))
            prompts.append(prompt.mean)
            outputs.append(output.mean)
    if not sum(weights):
        return None, None
    return float(np.average(prompts, weights=weights)), float(np.average(outputs, weights=weights))
