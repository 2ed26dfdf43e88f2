"""Kernel tables in, whole steps out.

A table holds the time of one kernel at many sizes; a step of a real model is the sum of its
kernels over its layers::

    step = layers * (qkv + o + gate_up + down GEMM + attention)

So a kernel sum has no launch gaps, no norms, no collectives and no sampling: a lower bound on a
real step, and the cleanest view of the rates. GEMM times between the table's sizes are bilinear in
n and k (exact for ``a + b n + c k + d n k``) and linear in m.

Formats: the CSVs of aiconfigurator (``gemm_*``, ``generation_attention_*``,
``context_attention_*``), one folder, one set a card; and AISimulate's Parquet files
(`kvsim.calibrate.public.aisimulate`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kvsim.calibrate.csv_files import CsvRow, read_csv
from kvsim.calibrate.rows import StepRows, rows_from_records
from kvsim.calibrate.shapes import PUBLIC_SHAPES, DecoderShape
from kvsim.errors import InputError
from kvsim.units import MIB

__all__ = ["GemmTable", "KernelTables", "Precision", "interpolate", "kernel_sums"]

_DECODE_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_CONTEXTS = (128, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_PROMPTS = (128, 256, 512, 1024, 2048, 4096, 8192)
_MIXED = ((16, 1024), (64, 1024), (32, 4096), (128, 512))
_MOST_PREFILL_TOKENS = 8192
_LARGE_L2 = 64 * MIB
_WEIGHT_BYTES = {"bfloat16": 2.0, "fp8": 1.0, "fp8_block": 1 + 4 / 128**2, "nvfp4": 0.5625}


@dataclass(frozen=True, slots=True)
class Precision:
    """The dtypes of one set of rows, in the tables' words.

    Parameters
    ----------
    weights, kv : str
        "bfloat16", "fp8", "fp8_block" or "nvfp4"; of KV the first two.
    """

    weights: str = "bfloat16"
    kv: str = "bfloat16"

    @property
    def weight_bytes(self) -> float:
        """Bytes per weight, scales included."""
        return _WEIGHT_BYTES[self.weights]

    @property
    def kv_bytes(self) -> int:
        """Bytes per element of K or V."""
        return 2 if self.kv == "bfloat16" else 1


def _bracket(sizes: list[int], size: float) -> list[tuple[int, float]] | None:
    """Neighbours of `size` and their weights; None outside twice the table's reach."""
    if not sizes or size < sizes[0] or size > 2 * sizes[-1]:
        return None
    right = min(bisect_left(sizes, size), len(sizes) - 1)
    if sizes[right] == size:
        return [(sizes[right], 1.0)]
    low, high = sizes[right - 1], sizes[right]
    share = (size - low) / (high - low)
    return [(low, 1 - share), (high, share)]


class GemmTable:
    """Times of ``(m, k) @ (k, n)``, seconds.

    Parameters
    ----------
    times : mapping of (m, n, k) to float
        Measured seconds.
    """

    def __init__(self, times: Mapping[tuple[int, int, int], float]) -> None:
        self.times = dict(times)
        self._ms = sorted({m for m, _, _ in times})
        self._sizes = sorted({n for _, n, _ in times})

    def seconds(self, m: int, n: int, k: int) -> float | None:
        """Time of one GEMM; None where the table cannot tell."""
        if m > self._ms[-1]:
            return None
        return self._blend([(row, w) for row, w in _bracket(self._ms, m) or ()], n, k)

    def _blend(self, rows: list[tuple[int, float]], n: int, k: int) -> float | None:
        across, down = _bracket(self._sizes, n), _bracket(self._sizes, k)
        if not rows or across is None or down is None:
            return None
        total = 0.0
        for m, share_m in rows:
            for near_n, share_n in across:
                for near_k, share_k in down:
                    time = self.times.get((m, near_n, near_k))
                    if time is None:
                        return None
                    total += share_m * share_n * share_k * time
        return total


@dataclass(frozen=True)
class KernelTables:
    """The kernel times of one card in one precision, seconds.

    Parameters
    ----------
    gemm : GemmTable
        Matrix products.
    decode : mapping of (batch, heads, kv_heads, context) to float
        Decode attention of one layer.
    prefill : mapping of (batch, heads, kv_heads, prompt) to float
        Causal prefill attention of one layer.
    precision : Precision
        Dtypes of weights and KV.
    """

    gemm: GemmTable
    decode: Mapping[tuple[int, int, int, int], float]
    prefill: Mapping[tuple[int, int, int, int], float]
    precision: Precision

    @classmethod
    def read(cls, folder: Path, card: str, precision: Precision | None = None) -> KernelTables:
        """Read the three tables of a card ("h100_sxm") from a folder.

        Raises
        ------
        InputError
            When a table is missing, or holds no rows of that precision.
        """
        precision = precision or Precision()
        return cls(
            gemm=_read_gemm(_find(folder, "gemm", card), precision),
            decode=_read_attention(_find(folder, "generation_attention", card), precision),
            prefill=_read_attention(_find(folder, "context_attention", card), precision),
            precision=precision,
        )


def _find(folder: Path, kind: str, card: str) -> Path:
    """Return the one table of that kind and card."""
    found = sorted(folder.glob(f"{kind}_{card}_*.csv"))
    if not found:
        have = sorted(path.name for path in folder.glob(f"{kind}_*.csv"))
        there = f"there are {', '.join(have)}" if have else "there are no tables of that kind"
        raise InputError(f"no {kind}_{card}_*.csv", where=str(folder), fix=there)
    return found[0]


def _read_gemm(path: Path, precision: Precision) -> GemmTable:
    columns = ("gemm_dtype", "m", "n", "k", "latency_ms")
    times = {
        (row.whole("m"), row.whole("n"), row.whole("k")): seconds
        for row, seconds in _timed(path, columns)
        if row["gemm_dtype"] == precision.weights
    }
    if not times:
        raise InputError(f"no rows with gemm_dtype {precision.weights}", where=str(path))
    return GemmTable(times)


def _read_attention(path: Path, precision: Precision) -> dict[tuple[int, int, int, int], float]:
    """Read decode (context is isl + step) or prefill attention (step is 0)."""
    sizes = ("batch_size", "num_heads", "num_key_value_heads")
    columns = (*sizes, "isl", "step", "kv_cache_dtype", "latency_ms")
    times = {}
    for row, seconds in _timed(path, columns):
        if row["kv_cache_dtype"] == precision.kv:
            batch, heads, kv_heads = (row.whole(name) for name in sizes)
            times[batch, heads, kv_heads, row.whole("isl") + row.whole("step")] = seconds
    if not times:
        raise InputError(f"no rows with kv_cache_dtype {precision.kv}", where=str(path))
    return times


def _timed(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[CsvRow, float]]:
    """Yield each row with its ``latency_ms`` in seconds."""
    for row in read_csv(path, columns):
        yield row, row.number("latency_ms") * 1e-3


# --- whole steps ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Step:
    """One step to make up: decoding sequences at a context, and prompts."""

    decodes: int = 0
    context: int = 0
    prompts: int = 0
    prompt_tokens: int = 0

    @property
    def phase(self) -> str:
        """decode, prefill or mixed."""
        if self.decodes and self.prompts:
            return "mixed"
        return "decode" if self.decodes else "prefill"

    @property
    def tokens(self) -> int:
        """Rows of every GEMM."""
        return self.decodes + self.prompts * self.prompt_tokens


def _steps() -> Iterator[_Step]:
    """Every step of the grid."""
    for batch in _DECODE_BATCHES:
        for context in _CONTEXTS:
            yield _Step(batch, context)
    for prompts in (1, 2, 4):
        for tokens in _PROMPTS:
            if prompts * tokens <= _MOST_PREFILL_TOKENS:
                yield _Step(prompts=prompts, prompt_tokens=tokens)
    for batch, context in _MIXED:
        for tokens in (256, 512, 1024, 2048):
            yield _Step(batch, context, 1, tokens)


def kernel_sums(
    tables: KernelTables,
    memory_bytes: float,
    shapes: tuple[DecoderShape, ...] = PUBLIC_SHAPES,
    *,
    l2_bytes: float = 0.0,
) -> StepRows:
    """Make up whole steps of real models: models x TP x batch x context.

    Parameters
    ----------
    tables : KernelTables
        One card, one precision.
    memory_bytes : float
        Memory of the card; steps whose weights and KV take over 90 % of it are left out.
    shapes : tuple of DecoderShape
        Models.
    l2_bytes : float
        Last-level cache. A table's KV that fits in it was read from it; in a real step the
        other layers have evicted it. So where the cache is large (64 MiB and more), steps
        whose KV per layer is between a sixteenth and twice of it are left out.

    Returns
    -------
    StepRows
        Every step that the tables cover.
    """
    records = [
        record
        for shape in shapes
        for tp in shape.shards()
        for step in _steps()
        if (record := _record(tables, shape, tp, step)) is not None
        and float(record["weight_bytes"]) + float(record["kv_bytes"]) < 0.9 * memory_bytes
        and not _from_cache(float(record["kv_bytes"]) / shape.layers, l2_bytes)
    ]
    return rows_from_records(records)


def _from_cache(layer_kv_bytes: float, l2_bytes: float) -> bool:
    """Whether one layer's KV was likely read from a large last-level cache."""
    return l2_bytes >= _LARGE_L2 and l2_bytes / 16 < layer_kv_bytes < 2 * l2_bytes


def _record(
    tables: KernelTables, shape: DecoderShape, tp: int, step: _Step
) -> dict[str, str | float] | None:
    """One step of one model on one rank; None where a table has no such kernel."""
    heads, kv_heads = shape.heads // tp, shape.kv_heads // tp
    kernels: list[float | None] = [
        *(tables.gemm.seconds(step.tokens, n, k) for n, k in shape.gemms(tp)),
        *_attention_times(tables, heads, kv_heads, step),
    ]
    times = [time for time in kernels if time is not None]
    if len(times) < len(kernels):
        return None
    token_bytes = 2 * shape.head_dim * kv_heads * tables.precision.kv_bytes
    pairs = step.prompts * step.prompt_tokens * (step.prompt_tokens + 1) / 2
    parameters = shape.layer_parameters(tp) * shape.layers
    return {
        "model": shape.name,
        "phase": step.phase,
        "layers": shape.layers,
        "tokens": step.tokens,
        "sequences": step.decodes + step.prompts,
        "weight_bytes": parameters * tables.precision.weight_bytes,
        "flops": 2.0 * parameters * step.tokens,
        "kv_bytes": float(step.decodes * step.context * token_bytes * shape.layers),
        "kv_heads": kv_heads * shape.layers,
        "attention_flops": 4.0 * pairs * heads * shape.head_dim * shape.layers,
        "query_tokens": float(step.prompts * step.prompt_tokens * heads * shape.layers),
        "tp": 1,  # collectives are not in the tables
        "message_bytes": 0.0,
        "seconds": shape.layers * sum(times),
    }


def _attention_times(
    tables: KernelTables, heads: int, kv_heads: int, step: _Step
) -> list[float | None]:
    """Times of the attention kernels of one layer, None where the table lacks one."""
    times: list[float | None] = []
    if step.decodes:
        times.append(tables.decode.get((step.decodes, heads, kv_heads, step.context)))
    if step.prompts:
        times.append(tables.prefill.get((step.prompts, heads, kv_heads, step.prompt_tokens)))
    return times


def interpolate(times: Mapping[int, float], size: float) -> float:
    """Return the time at a size: linear between the table's sizes, level below and above them."""
    sizes = sorted(times)
    right = bisect_left(sizes, size)
    if right in (0, len(sizes)):
        return times[sizes[min(right, len(sizes) - 1)]]
    low, high = sizes[right - 1], sizes[right]
    share = (size - low) / (high - low)
    return times[low] + share * (times[high] - times[low])
