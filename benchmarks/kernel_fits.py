"""One kernel at a time: the affine forms that the whole step is made of.

=================  ==========================================================
decode attention   ``t0 + KV bytes / BW [+ sequences * KV heads * head]``
GEMM               ``t0 + max(bytes / BW, FLOPs / P)``
prefill attention  ``t0 + 2 B S^2 H D / P + c B S H``
=================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from kvsim.calibrate.minimise import Free, least_squares
from kvsim.calibrate.rows import Floats

__all__ = ["KernelFit", "fit_decode_attention", "fit_gemm", "fit_prefill_attention"]

Sizes = Mapping[tuple[int, int, int, int], float]

_HEAD_DIM = 128
_GROUPED = (4, 8)  # query heads per KV head, of the models that are served today
_LARGE_BYTES = 256e6  # calls above it are not read from a cache
_SHORTEST_PROMPT = 128


@dataclass(frozen=True, slots=True)
class KernelFit:
    """A kernel's coefficients, SI units, and their error on the rows judged.

    Parameters
    ----------
    start_seconds : float
        Fixed cost of a call.
    bytes_per_s, flops_per_s : float
        Rates; 0 where the form has none.
    item_seconds : float
        Cost of one KV head of one sequence (decode), or of one head of one token (prefill).
    error_percent : float
        Mean absolute error.
    row_count : int
        Rows judged.
    """

    start_seconds: float
    bytes_per_s: float
    flops_per_s: float
    item_seconds: float
    error_percent: float
    row_count: int


def fit_decode_attention(times: Sizes, *, large_only: bool, per_head: bool) -> KernelFit:
    """Fit one layer's bf16 decode attention with 4 to 8 query heads per KV head.

    Parameters
    ----------
    times : mapping of (batch, heads, kv_heads, context) to float
        Seconds.
    large_only : bool
        Whether only calls of more than 256 MB count.
    per_head : bool
        Whether every KV head of every sequence has a cost of its own.
    """
    kept = [(key, t) for key, t in times.items() if _counts(key, large_only=large_only)]
    keys = np.array([key for key, _ in kept], dtype=np.float64)
    seconds = np.array([t for _, t in kept])
    batch, kv_heads, context = keys[:, 0], keys[:, 2], keys[:, 3]
    read_bytes = batch * context * kv_heads * 4.0 * _HEAD_DIM
    starts = batch * kv_heads * (1.0 if per_head else 0.0)
    free = (
        Free("start", 12.0, 0.0, 200.0),
        Free("rate", 2.0, 0.05, 20.0),
        Free("head", 10.0, 0.0, 500.0),
    )

    def predict(v: Floats) -> Floats:
        return np.asarray(v[0] * 1e-6 + read_bytes / (v[1] * 1e12) + v[2] * 1e-9 * starts)

    values, error = _fit(predict, seconds, free)
    head = values[2] * 1e-9 if per_head else 0.0
    return KernelFit(values[0] * 1e-6, values[1] * 1e12, 0.0, head, error, len(seconds))


def _counts(key: tuple[int, int, int, int], *, large_only: bool) -> bool:
    batch, heads, kv_heads, context = key
    read_bytes = batch * context * kv_heads * 4 * _HEAD_DIM
    grouped = _GROUPED[0] <= heads / kv_heads <= _GROUPED[1]
    return grouped and (read_bytes > _LARGE_BYTES or not large_only)


def fit_gemm(times: Mapping[tuple[int, int, int], float], element_bytes: int = 2) -> KernelFit:
    """Fit GEMMs by (m, n, k): the start, and the larger of reading and computing."""
    sizes = np.array(list(times), dtype=np.float64)
    seconds = np.array(list(times.values()))
    m, n, k = sizes.T
    moved, flops = element_bytes * (n * k + m * k + m * n), 2 * m * n * k
    free = (
        Free("start", 4.0, 0.0, 200.0),
        Free("rate", 2.0, 0.05, 20.0),
        Free("flops", 400.0, 10.0, 5000.0),
    )

    def predict(v: Floats) -> Floats:
        longest = np.maximum(moved / (v[1] * 1e12), flops / (v[2] * 1e12))
        return np.asarray(v[0] * 1e-6 + longest)

    values, error = _fit(predict, seconds, free)
    return KernelFit(values[0] * 1e-6, values[1] * 1e12, values[2] * 1e12, 0.0, error, len(seconds))


def fit_prefill_attention(times: Sizes) -> KernelFit:
    """Fit causal prefill attention of prompts of 128 tokens and more."""
    kept = [(key, t) for key, t in times.items() if key[3] >= _SHORTEST_PROMPT]
    keys = np.array([key for key, _ in kept], dtype=np.float64)
    seconds = np.array([t for _, t in kept])
    batch, heads, prompt = keys[:, 0], keys[:, 1], keys[:, 3]
    flops, queries = 2 * batch * prompt**2 * heads * _HEAD_DIM, batch * prompt * heads
    free = (
        Free("start", 12.0, 0.0, 200.0),
        Free("flops", 400.0, 10.0, 5000.0),
        Free("token", 0.5, 0.0, 50.0),
    )

    def predict(v: Floats) -> Floats:
        return np.asarray(v[0] * 1e-6 + flops / (v[1] * 1e12) + v[2] * 1e-9 * queries)

    values, error = _fit(predict, seconds, free)
    return KernelFit(values[0] * 1e-6, 0.0, values[1] * 1e12, values[2] * 1e-9, error, len(seconds))


def _fit(
    predict: Callable[[Floats], Floats], seconds: Floats, free: tuple[Free, ...]
) -> tuple[list[float], float]:
    """Fit in the logarithm, which weighs twice too long like twice too short."""
    values = least_squares(lambda v: np.log(predict(v) / seconds), free)
    error = float(100 * np.mean(np.abs(predict(values) / seconds - 1)))
    return [float(value) for value in values], error
