"""Measured steps as columns, and the CSV in which a user may hand in their own.

One row is one engine step on one rank. Columns of the CSV, in any order:

==================  =====================================================================
``model``           name, to leave one model out at a time
``phase``           "decode", "prefill" or "mixed"
``layers``          layers that a token passes through
``tokens``          tokens computed: one per decoding sequence, and the prefill tokens
``sequences``       decoding sequences, and prompts
``weight_bytes``    weight bytes read by the rank
``flops``           GEMM FLOPs of the rank
``kv_bytes``        KV bytes read by decode attention on the rank
``kv_heads``        KV heads of the rank, summed over layers
``attention_flops`` prefill-attention FLOPs of the rank (causal)
``query_tokens``    prefill tokens times query heads of the rank, summed over layers
``tp``              tensor-parallel ranks
``message_bytes``   bytes of one all-reduce (tokens * hidden size * 2 in bf16)
``seconds``         the measured step
==================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.calibrate.csv_files import read_csv
from kvsim.errors import InputError

__all__ = ["Floats", "StepRows", "read_rows", "rows_from_records"]

Floats = NDArray[np.float64]

_PHASES = ("decode", "prefill", "mixed")
# Outside these a number is in the wrong unit: no memory of 2026 is so fast or so slow.
_BYTES_PER_S = (1e7, 2e13)
_FLOPS_PER_S = (0.0, 2e16)
_SLOWEST_SECONDS = 60.0


@dataclass(frozen=True)
class StepRows:
    """Steps as columns of equal length n; see the module's table for units."""

    model: NDArray[np.str_]
    phase: NDArray[np.str_]
    layers: Floats
    tokens: Floats
    sequences: Floats
    weight_bytes: Floats
    flops: Floats
    kv_bytes: Floats
    kv_heads: Floats
    attention_flops: Floats
    query_tokens: Floats
    tp: Floats
    message_bytes: Floats
    seconds: Floats

    def __len__(self) -> int:
        return len(self.seconds)

    def where(self, keep: NDArray[np.bool_]) -> StepRows:
        """Return the rows at which `keep` (n) is true."""
        return StepRows(**{f.name: getattr(self, f.name)[keep] for f in fields(self)})

    def distinct(self) -> int:
        """How many kinds of steps there are: rows that differ in more than their time."""
        names = [f.name for f in fields(self) if f.name not in ("model", "seconds")]
        return len(set(zip(*(getattr(self, name).tolist() for name in names), strict=True)))

    def models(self) -> list[str]:
        """Names of the models, sorted."""
        return sorted(set(self.model.tolist()))


def rows_from_records(records: Sequence[Mapping[str, Any]]) -> StepRows:
    """Turn records (one per step) into columns."""
    columns: dict[str, Any] = {}
    for column in fields(StepRows):
        values = [record[column.name] for record in records]
        kind = np.str_ if column.name in ("model", "phase") else np.float64
        columns[column.name] = np.array(values, dtype=kind)
    return StepRows(**columns)


def read_rows(path: Path) -> StepRows:
    """Read a user's own measured steps.

    Raises
    ------
    InputError
        For a missing column, a bad cell, or a step time that no memory could reach, which
        means milliseconds or gigabytes where seconds and bytes belong.
    """
    names = [column.name for column in fields(StepRows)]
    records = []
    for row in read_csv(path, names):
        record: dict[str, Any] = {name: row.number(name) for name in names[2:]}
        record |= {"model": row["model"], "phase": row["phase"]}
        _check_record(record, row.where)
        records.append(record)
    return rows_from_records(records)


def _check_record(record: Mapping[str, Any], where: str) -> None:
    """Refuse a step whose numbers cannot be in the units that the columns name."""
    if record["phase"] not in _PHASES:
        fix = f"write {', '.join(_PHASES)}"
        raise InputError(f"phase = {record['phase']!r} is unknown", where=where, fix=fix)
    seconds = record["seconds"]
    if not 0 < seconds < _SLOWEST_SECONDS:
        fix = "write seconds, not milliseconds"
        raise InputError(f"seconds = {seconds:g} is not a step time", where=where, fix=fix)
    if min(record[name] for name in ("tokens", "layers", "weight_bytes", "tp")) < 1:
        raise InputError("tokens, layers, weight_bytes and tp are at least 1", where=where)
    moved = (record["weight_bytes"] + record["kv_bytes"]) / seconds
    computed = (record["flops"] + record["attention_flops"]) / seconds
    for rate, unit, (low, high) in (
        (moved, "bytes/s", _BYTES_PER_S),
        (computed, "FLOP/s", _FLOPS_PER_S),
    ):
        if not low <= rate <= high:
            fix = "write bytes, FLOPs and seconds"
            raise InputError(f"{rate:.3g} {unit} is not plausible", where=where, fix=fix)
