"""Recorded vLLM runs (``bench_<card>_<model>_*``) as scenarios that kvsim can simulate.

A run is three files: ``meta.json`` (model, release, engine flags), ``requests.csv`` (lengths
and timestamps of every request) and ``timeseries.csv`` (running, waiting and KV usage, one row
per second). The recorder's clocks::

    arrival_s            the client's clock, from the first arrival
    queued_s ... last    the engine's clock, from the first request's queueing; the engine
                         takes arrivals in between two steps, so this can be a step later
    timeseries t         a third zero, a part of a second before the first arrival; row t holds
                         the last step that ended in [t - 1, t)

Latencies count from ``arrival_s``, as a client sees them.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import InputError, UnsupportedError
from kvsim.simulator.scenario import Scenario
from kvsim.workload.traces.base import TraceRow
from kvsim.workload.traces.formats.kvsim_format import kvsim_lines

__all__ = [
    "BenchRun",
    "bench_runs",
    "latencies_of",
    "own_pool",
    "pool_blocks",
    "read_run",
    "scenario_of",
    "series_lag_seconds",
    "shared_block_ids",
    "write_trace",
]

Floats = NDArray[np.float64]
BlockIds = Sequence[Sequence[int]]

FOLDER = Path("reference/gpu/llmservingsim")
SHAREGPT = Path("traces/sharegpt300_llama31_blk16.jsonl")
SHAREGPT_BLOCK = 16

# Flags of the recorder that are kvsim's under the same name; `model` and `seed` are not flags.
_FLAGS = (
    "tensor_parallel_size",
    "data_parallel_size",
    "enable_expert_parallel",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "dtype",
    "kv_cache_dtype",
    "gpu_memory_utilization",
)
_NOT_FLAGS = ("model", "seed")
_NULL_BLOCKS = 1
_REQUEST_COLUMNS = (
    "input_toks",
    "output_toks",
    "arrival_s",
    "queued_s",
    "scheduled_s",
    "first_token_s",
    "last_token_s",
)
_SERIES_COLUMNS = ("t", "prompt_throughput", "running", "waiting", "kv_cache_pct")
_TIMEDELTA = re.compile(r"(?:(\d+) days? )?(\d+):(\d\d):(\d\d(?:\.\d+)?)$")


@dataclass(frozen=True, eq=False)
class BenchRun:
    """One recorded run.

    Parameters
    ----------
    card : str
        As the file name spells it; a name or an alias in kvsim's catalogue.
    model, version : str
        Hub name, and vLLM's release.
    flags : mapping
        Engine flags that were given, None left out.
    requests : mapping of str to float array (requests,)
        Columns of ``requests.csv``, in order of arrival; tokens and seconds.
    series : mapping of str to float array (rows,)
        Columns of ``timeseries.csv``.
    recorded_blocks : int or None
        ``kv_cache.num_gpu_blocks``, which newer recorders add to the meta file.
    """

    card: str
    model: str
    version: str
    flags: Mapping[str, Any]
    requests: Mapping[str, Floats]
    series: Mapping[str, Floats]
    recorded_blocks: int | None = None

    @property
    def name(self) -> str:
        """Card and model."""
        return f"{self.card} {self.model.rpartition('/')[2]}"

    def latencies(self) -> dict[str, Floats]:
        """Seconds of every request: ttft, tpot, e2el, and ttft's parts queue and prefill."""
        columns = self.requests
        arrival, scheduled = columns["arrival_s"], columns["scheduled_s"]
        first, last = columns["first_token_s"], columns["last_token_s"]
        return latencies_of(arrival, scheduled, first, last, output_tokens=columns["output_toks"])


def latencies_of(
    arrival: Floats, scheduled: Floats, first: Floats, last: Floats, *, output_tokens: Floats
) -> dict[str, Floats]:
    """Latencies of requests from their moments, seconds; a single token has no TPOT (NaN)."""
    gaps = np.where(output_tokens > 1, output_tokens - 1, np.nan)
    return {
        "ttft": first - arrival,
        "tpot": (last - first) / gaps,
        "e2el": last - arrival,
        "queue": scheduled - arrival,
        "prefill": first - scheduled,
    }


def bench_runs(data: Path) -> list[BenchRun]:
    """Read every run below the reference folder `data`, by name.

    Raises
    ------
    InputError
        As `read_run`, and when there is none.
    """
    metas = sorted((data / FOLDER).glob("bench_*_meta.json"))
    if not metas:
        raise InputError("no bench_*_meta.json", where=str(data / FOLDER))
    return [read_run(meta) for meta in metas]


def read_run(meta_path: Path) -> BenchRun:
    """Read the run whose ``bench_<card>_<model>_meta.json`` is given.

    Raises
    ------
    InputError
        For a file or a column that is missing, a value that is no number, or a flag that
        this mapping does not know.
    """
    stem = meta_path.name.removesuffix("_meta.json")
    _, card, _ = stem.split("_", 2)
    meta = json.loads(meta_path.read_text("utf-8"))
    return BenchRun(
        card=card,
        model=meta["model"],
        version=meta["vllm_version"],
        flags=_flags(meta["engine_kwargs"], meta_path),
        requests=_columns(meta_path.with_name(f"{stem}_requests.csv"), _REQUEST_COLUMNS),
        series=_columns(meta_path.with_name(f"{stem}_timeseries.csv"), _SERIES_COLUMNS),
        recorded_blocks=_recorded_blocks(meta, meta_path),
    )


def _recorded_blocks(meta: Mapping[str, Any], path: Path) -> int | None:
    """The pool that vLLM settled on, where the recorder wrote it down."""
    blocks = (meta.get("kv_cache") or {}).get("num_gpu_blocks")
    if blocks is not None and (not isinstance(blocks, int) or blocks <= _NULL_BLOCKS):
        raise InputError(f"num_gpu_blocks = {blocks!r} is no pool", where=f"{path}: kv_cache")
    return blocks


def _flags(kwargs: Mapping[str, Any], path: Path) -> dict[str, Any]:
    unknown = sorted(set(kwargs) - {*_FLAGS, *_NOT_FLAGS})
    if unknown:
        raise InputError(
            f"engine flag {unknown[0]} has no counterpart here",
            where=f"{path}: engine_kwargs",
            fix="add it to the flags that bench_runs.py maps",
        )
    return {name: kwargs[name] for name in _FLAGS if kwargs.get(name) is not None}


def _columns(path: Path, names: Sequence[str]) -> dict[str, Floats]:
    if not path.is_file():
        raise InputError("the file is missing", where=str(path))
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    missing = [name for name in names if not rows or name not in rows[0]]
    if missing:
        raise InputError(f"no rows, or no column {missing[0]}", where=str(path))
    return {
        name: np.array([_seconds(row[name], f"{path}:{at}") for at, row in enumerate(rows, 2)])
        for name in names
    }


def _seconds(text: str, where: str) -> float:
    """Read a number, or a time as pandas writes it: "0 days 00:00:01.250000000".

    Examples
    --------
    >>> _seconds("0 days 00:01:01.250000000", "here")
    61.25
    """
    found = _TIMEDELTA.match(text)
    try:
        if not found:
            return float(text)
        days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    except ValueError:
        raise InputError(f"{text!r} is neither a number nor a time", where=where) from None
    return 86_400 * days + 3_600 * hours + 60 * minutes + seconds


# ---- what a run did not write down -----------------------------------------------------------


def shared_block_ids(run: BenchRun, data: Path) -> BlockIds | None:
    """Block identities of the run's prompts, when they are those of the ShareGPT trace.

    Returns
    -------
    sequence of sequence of int, or None
        One list per request, an identity per full block of 16 tokens; None when the trace is
        absent or a single length differs.
    """
    path = data / SHAREGPT
    if not path.is_file():
        return None
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
    lengths = [(row["input_length"], row["output_length"]) for row in rows]
    columns = run.requests
    recorded = zip(columns["input_toks"], columns["output_toks"], strict=True)
    return [row["hash_ids"] for row in rows] if list(recorded) == lengths else None


def own_pool(run: BenchRun) -> tuple[int, str] | None:
    """The run's ``num_gpu_blocks``, and where it is known from.

    vLLM withholds one of them, the null block, and its usage is a share of the others.

    Returns
    -------
    (int, str), or None
        "recorded" by the run itself, or "read" off its printed usage; None where neither is.
    """
    if run.recorded_blocks is not None:
        return run.recorded_blocks, "recorded"
    blocks = pool_blocks(run.series["kv_cache_pct"])
    return None if blocks is None else (blocks + _NULL_BLOCKS, "read")


def pool_blocks(percentages: Floats, most: int = 5_000) -> int | None:
    """Blocks of the pool, read off the usage it printed: every usage is a multiple of 1/blocks.

    Parameters
    ----------
    percentages : float array
        Printed usage, 0-100, rounded to 0.01.
    most : int
        Largest pool to look for; from 10,000 blocks on, rounding hides every pool.

    Returns
    -------
    int or None
        The smallest pool that explains every row, if all others are its multiples; None
        when no pool does, several do, or nothing but zeros was printed.

    Examples
    --------
    >>> usage = np.round(100 * np.array([17, 250, 698, 1201, 1999, 2586]) / 2587, 2)
    >>> pool_blocks(usage, most=3000)
    2587
    """
    printed = percentages[percentages > 0]
    if not len(printed):
        return None
    found = [blocks for blocks in range(1, most + 1) if _explains(blocks, printed)]
    if not found or any(blocks % found[0] for blocks in found):
        return None
    return found[0]


def _explains(blocks: int, printed: Floats) -> bool:
    nearest = np.rint(printed * blocks / 100)
    return bool(np.all(np.abs(100 * nearest / blocks - printed) <= 0.00501))


def series_lag_seconds(run: BenchRun) -> float:
    """Seconds by which the series' clock is ahead of the arrivals' clock.

    A row counts the prompt tokens whose first token came in its second, so shifting the
    requests' first tokens until most rows agree finds the lag; it is the middle of the lags
    that do equally well.
    """
    ends, counted = run.series["t"], run.series["prompt_throughput"]
    first, prompts = run.requests["first_token_s"], run.requests["input_toks"]
    lags = np.arange(-1.0, 3.0, 0.005)
    agreeing = []
    for lag in lags:
        second = np.floor(first + lag) + 1
        found = [prompts[second == end].sum() for end in ends]
        agreeing.append(int(np.sum(np.abs(np.array(found) - counted) < 1)))
    best = lags[np.array(agreeing) == max(agreeing)]
    return float(best.mean())


# ---- the way into the simulator --------------------------------------------------------------


def write_trace(run: BenchRun, block_ids: BlockIds | None, path: Path) -> None:
    """Write the run's arrivals and lengths as a trace in kvsim's own format."""
    columns = run.requests
    arrivals = columns["arrival_s"]
    if (np.diff(arrivals) < 0).any():
        raise InputError("arrival_s goes back in time", where=run.name)
    rows = [
        TraceRow(
            line=at,
            arrival_seconds=float(arrivals[at]),
            prompt_tokens=math.trunc(columns["input_toks"][at]),
            output_tokens=math.trunc(columns["output_toks"][at]),
            block_ids=None if block_ids is None else block_ids[at],
        )
        for at in range(len(arrivals))
    ]
    size = None if block_ids is None else SHAREGPT_BLOCK
    path.write_text("\n".join(kvsim_lines(rows, size)) + "\n", encoding="utf-8")


def scenario_of(run: BenchRun, trace: Path, num_blocks: int | None = None) -> Scenario:
    """Build the scenario of a run.

    Parameters
    ----------
    run : BenchRun
        The run.
    trace : Path
        What `write_trace` wrote.
    num_blocks : int, optional
        ``--num-gpu-blocks-override``; by default the engine's accounting rules predict them.

    Raises
    ------
    UnsupportedError
        For a run of several data-parallel engines: one is simulated, and which requests each
        of them served is not recorded.
    """
    engines = run.flags.get("data_parallel_size", 1)
    if engines > 1:
        raise UnsupportedError(f"{run.name}: {engines} data-parallel engines cannot be replayed")
    return Scenario.model_validate(
        {
            "name": run.name,
            "model": run.model,
            "accelerator": run.card,
            "engine": {
                "name": "vllm",
                "version": run.version,
                "enable_prefix_caching": True,
                "num_gpu_blocks_override": num_blocks,
                **run.flags,
            },
            "workload": {"trace": {"file": str(trace.resolve()), "format": "kvsim"}},
        }
    )
