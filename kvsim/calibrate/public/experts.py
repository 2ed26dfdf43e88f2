"""Rates of routed experts, fitted to AISimulate's tables of grouped GEMMs (Apache-2.0)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvsim.calibrate.fit import round_significant
from kvsim.calibrate.minimise import Free, least_squares
from kvsim.calibrate.public.aisimulate import FOLDER, read_table, releases
from kvsim.calibrate.rows import Floats
from kvsim.specs.hardware import AcceleratorProfile, ExpertRates
from kvsim.steptime.terms import expert_padding

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ExpertFit", "engine_experts", "fit_experts"]

# Formats in kvsim's word of what they compute in; of fp8's the one that checkpoints have first.
_FORMATS = {"bf16": ("bfloat16",), "fp8": ("fp8_block", "fp8"), "fp4": ("nvfp4",)}
_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625}
_ENGINES = {"sglang": "sglang", "tensorrt-llm": "trtllm"}
_UNGATED = "nongated"  # kernels of two matrices an expert
_MOST_RANKS = 8
_MOST_TOKENS = 16384
_FEWEST_ROWS = 30
# Tokens choose experts unevenly: a power law of 1.2, which the tables have for every shape.
_IMBALANCE = "power_law_1.2"


class ExpertFit(NamedTuple):
    """Rates of one format, and how well they describe the rows that they were fitted on."""

    rates: ExpertRates
    error_percent: float
    rows: int


class _Rows(NamedTuple):
    """What each row of a table reads and computes on its rank."""

    bytes: Floats
    flops: Floats
    seconds: Floats


def fit_experts(
    folder: Path, system: str, profile: AcceleratorProfile, engine: str = "vllm"
) -> dict[str, ExpertFit]:
    """Fit an engine's grouped GEMMs on a card, by format; empty without tables.

    Parameters
    ----------
    folder : Path
        Folder that holds ``aisimulate``.
    system, engine : str
        The card and the engine in the tables' words ("h100_sxm").
    profile : AcceleratorProfile
        Its datasheet bounds the rates.
    """
    place = folder / FOLDER
    if not releases(place, system, "moe", engine):
        return {}
    table = read_table(place, system, "moe", engine, "moe_perf")
    table = table[~table["kernel_source"].str.contains(_UNGATED)]
    found = {}
    for name, words in _FORMATS.items():
        for word in words:
            rows = _rows(table[table["moe_dtype"] == word], _BYTES[name])
            if len(rows.seconds) >= _FEWEST_ROWS:
                found[name] = _fit(rows, profile)
                break
    return found


def engine_experts(
    folder: Path, system: str, profile: AcceleratorProfile
) -> dict[str, dict[str, ExpertRates]]:
    """Fit the grouped GEMMs of the engines beside vLLM that have tables, by engine and format."""
    fits = {name: fit_experts(folder, system, profile, word) for name, word in _ENGINES.items()}
    return {
        name: {form: fit.rates for form, fit in each.items()} for name, each in fits.items() if each
    }


def _rows(table: pd.DataFrame, weight_bytes: float) -> _Rows:
    """Rows of the sizes that steps have."""
    small = (table["moe_tp_size"] <= _MOST_RANKS) & (table["moe_ep_size"] <= _MOST_RANKS)
    kept = table[
        small & (table["num_tokens"] <= _MOST_TOKENS) & (table["distribution"] == _IMBALANCE)
    ]
    columns = ("num_tokens", "topk", "num_experts", "hidden_size", "inter_size")
    tokens, used, units, hidden, inner = (kept[name].to_numpy(dtype=float) for name in columns)
    parameters = 3 * hidden * inner / kept["moe_tp_size"].to_numpy(dtype=float)
    ranks = kept["moe_ep_size"].to_numpy(dtype=float)
    touched = units * (1 - (1 - used / units) ** tokens) / ranks
    shapes = zip(tokens, used, units, strict=True)
    padding = np.array([expert_padding(n, int(k), int(e)) for n, k, e in shapes])
    return _Rows(
        touched * parameters * weight_bytes,
        2 * tokens * used / ranks * parameters * padding,
        kept["latency"].to_numpy(dtype=float) * 1e-3,
    )


def _fit(rows: _Rows, profile: AcceleratorProfile) -> ExpertFit:
    """Fit start and rates by relative errors, with a p-norm of 2 as dense GEMMs have."""
    free = (
        Free("seconds", 30.0, 1.0, 300.0),
        Free("bytes_per_s", 0.8, 0.3, 1.0),
        Free("flops_per_s", 0.4, 0.02, 2.0),
    )
    units = np.array([1e-6, profile.bandwidth_bytes_per_s, profile.flops_per_s("bf16")])

    def errors(values: Floats) -> Floats:
        start, bandwidth, rate = values * units
        return np.asarray(
            (start + np.hypot(rows.bytes / bandwidth, rows.flops / rate)) / rows.seconds - 1
        )

    values = least_squares(errors, free)
    percent = 100 * float(np.mean(np.abs(errors(values))))
    start, bandwidth, rate = (round_significant(value) for value in values * units)
    rates = ExpertRates(seconds=start, bytes_per_s=bandwidth, flops_per_s=rate)
    return ExpertFit(rates, round(percent, 1), len(rows.seconds))
