"""From coefficients to a profile that every command takes, and what to say about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kvsim.calibrate.measure.bandwidth import CopyCase, ReadCase
from kvsim.calibrate.measure.case import Row
from kvsim.calibrate.measure.coefficients import Calibration, fastest
from kvsim.calibrate.measure.device import DeviceFacts
from kvsim.calibrate.measure.gemm import GemmCase
from kvsim.calibrate.outputs import write_text
from kvsim.calibrate.profile import coefficient_lines
from kvsim.calibrate.quality import poor_fit
from kvsim.catalog.accelerators import load_accelerator
from kvsim.specs.hardware import AcceleratorProfile, ByteQuantity, Interconnect, Quantity
from kvsim.specs.yaml_files import dump_yaml
from kvsim.units import GIB, format_bytes

__all__ = [
    "DatasheetComparison",
    "comparisons",
    "measured_profile",
    "noisy_rows",
    "poor_parts",
    "slug",
    "write_profile",
]

_NOISY = 0.2  # interquartile range as a share of the median
_MISSED = 0.25  # of a measurement
_MANY = 5
_FEW = 2


@dataclass(frozen=True, slots=True)
class DatasheetComparison:
    """One number that was measured, beside the datasheet's.

    Parameters
    ----------
    name, unit : str
        What it is; "bytes/s", "FLOP/s", "s" or "bytes".
    measured : float
        Here.
    datasheet : float or None
        The catalogue's, where it has one.
    """

    name: str
    unit: str
    measured: float
    datasheet: float | None = None

    @property
    def share(self) -> float | None:
        """Measured as a share of the datasheet."""
        return self.measured / self.datasheet if self.datasheet else None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "share": self.share}


def comparisons(found: Calibration) -> Iterator[DatasheetComparison]:
    """Yield every measured number beside the datasheet's."""
    sheet, facts = found.shipped, found.facts
    bandwidth = sheet.bandwidth_bytes_per_s if sheet else None
    peak = sheet.flops_per_s(facts.dtype) if sheet else None
    main = [row for row in found.rows if row.case.dtype == facts.dtype]
    memory = float(sheet.memory_bytes) if sheet else None
    yield DatasheetComparison("memory that the driver reports", "bytes", facts.memory_bytes, memory)
    if facts.kind == "cuda":
        yield DatasheetComparison("context, gone at the start", "bytes", facts.context_bytes)
    yield DatasheetComparison("copy", "bytes/s", fastest(main, CopyCase, "moved_bytes"), bandwidth)
    yield DatasheetComparison("read", "bytes/s", fastest(main, ReadCase, "moved_bytes"), bandwidth)
    yield DatasheetComparison(
        "weights, GEMM", "bytes/s", fastest(main, GemmCase, "moved_bytes"), bandwidth
    )
    for dtype, rate in gemm_rates(found.rows).items():
        datasheet = sheet.flops_per_s(dtype) if sheet and dtype in sheet.flops else None
        yield DatasheetComparison(f"{dtype} GEMM", "FLOP/s", rate, datasheet)
    yield from _fitted(found, bandwidth, peak)
    yield from _launches(found.rows)


def _fitted(
    found: Calibration, bandwidth: float | None, peak: float | None
) -> Iterator[DatasheetComparison]:
    """Yield the coefficients of both ways of running, and what they share once."""
    rates = found.coefficients["loop"]
    weights, gemms = rates.weight_bytes_per_s, rates.flops_per_s
    yield DatasheetComparison("weights in a step", "bytes/s", weights, bandwidth)
    yield DatasheetComparison("GEMMs in a step", "FLOP/s", gemms, peak)
    if moved := rates.elementwise_bytes_per_s:
        yield DatasheetComparison("norms, rotary, gates", "bytes/s", moved)
    for way, each in found.coefficients.items():
        yield DatasheetComparison(f"{way}: KV read", "bytes/s", each.kv_bytes_per_s, bandwidth)
        yield DatasheetComparison(f"{way}: layer", "s", each.layer_seconds)
        yield DatasheetComparison(f"{way}: decode, per KV head", "s", each.head_seconds)
    if rates.launch_seconds:
        yield DatasheetComparison("loop: launches of a layer", "s", rates.launch_seconds)
        each_one = rates.sequence_launch_seconds
        yield DatasheetComparison("loop: launches, per layer and sequence", "s", each_one)
    yield DatasheetComparison("prefill attention", "FLOP/s", rates.attention_flops_per_s, peak)
    yield DatasheetComparison("prefill, per token and head", "s", rates.attention_token_seconds)
    yield DatasheetComparison("host, per step", "s", rates.host_seconds)
    yield DatasheetComparison("host, per sequence", "s", rates.sequence_seconds)


def _launches(rows: tuple[Row, ...]) -> Iterator[DatasheetComparison]:
    for row in rows:
        if row.case.kind == "launch":
            yield DatasheetComparison("launch", "s", row.seconds)
        elif row.case.kind == "launch_graph":
            yield DatasheetComparison("launch in a graph", "s", row.seconds)


def gemm_rates(rows: tuple[Row, ...]) -> dict[str, float]:
    """Fastest products by dtype, FLOP/s."""
    dtypes = dict.fromkeys(row.case.dtype for row in rows if isinstance(row.case, GemmCase))
    return {
        dtype: fastest([row for row in rows if row.case.dtype == dtype], GemmCase, "flops")
        for dtype in dtypes
    }


def poor_parts(found: Calibration) -> list[str]:
    """Name the parts whose fit is not to be trusted."""
    judged = ((name, poor_fit(part.error_percent)) for name, part in found.parts.items())
    return [f"the fit of {name} {poor}" for name, poor in judged if poor]


def noisy_rows(found: Calibration) -> list[str]:
    """Name the rows that vary much or that the forms miss by much, a few of each."""
    spread = sorted(found.rows, key=lambda row: -row.timing.spread)
    noisy = [
        f"{row.case.label}: quartiles {100 * row.timing.spread:.0f} % of the median apart"
        for row in spread[:_MANY]
        if row.timing.spread > _NOISY
    ]
    missed = [
        f"{name}: {line} off"
        for name, part in found.parts.items()
        for line in part.outliers(_MISSED)[:_FEW]
    ]
    return noisy + missed


# --- the profile ---------------------------------------------------------------------------------


def slug(name: str) -> str:
    """Turn a device's name into one for a file.

    Examples
    --------
    >>> slug("NVIDIA H200"), slug("AMD EPYC one thread")
    ('nvidia-h200', 'amd-epyc-one-thread')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def measured_profile(found: Calibration, way: str, date: str) -> AcceleratorProfile:
    """Describe the device: the catalogue's facts where it is known, else what was measured.

    Parameters
    ----------
    found : Calibration
        A session's fits.
    way : str
        "loop" or "kernels".
    date : str
        Of the measurement, ISO.
    """
    facts = found.facts
    described = found.shipped or _unknown_device(found)
    memory = ByteQuantity(value=facts.memory_bytes, source=f"the driver, {_origin(facts, date)}")
    notes = ""
    if facts.kind == "cuda":
        notes = f"{format_bytes(facts.context_bytes)} taken before the first tensor."
    if facts.clocks:
        notes += f" At the start: {facts.clocks}."
    return described.model_copy(
        update={
            "memory": memory,
            "coefficients": found.coefficients[way],
            "notes": " ".join(filter(None, (described.notes, notes))),
        }
    )


def _unknown_device(found: Calibration) -> AcceleratorProfile:
    """A device that the catalogue does not have: its rates are those that were reached."""
    facts, rows = found.facts, found.rows
    bandwidth = fastest(rows, (CopyCase, ReadCase), "moved_bytes")
    rates = gemm_rates(rows)
    return AcceleratorProfile(
        name=slug(facts.name),
        vendor=facts.vendor,
        advertised_memory_gb=facts.memory_bytes / GIB,
        memory=ByteQuantity(value=facts.memory_bytes, source="the driver"),
        bandwidth=Quantity(value=bandwidth, source="fastest copy or read that was measured"),
        flops={
            dtype: Quantity(value=rate, source="fastest product that was measured")
            for dtype, rate in rates.items()
        },
        l2_bytes=facts.l2_bytes,
        interconnect=Interconnect(name="none", bytes_per_s=0.0),
    )


def _origin(facts: DeviceFacts, date: str) -> str:
    parts = (f"torch {facts.torch_version}", facts.driver, date)
    return ", ".join(part for part in parts if part)


def write_profile(path: Path, profile: AcceleratorProfile) -> None:
    """Write a profile and read it back, as ``--gpu`` will.

    Raises
    ------
    InputError
        When it cannot be written, or a number in it is not plausible.
    """
    described = profile.model_dump(mode="json", exclude={"coefficients"}, exclude_none=True)
    text = dump_yaml(described, width=100)
    if profile.coefficients is not None:
        text += coefficient_lines(profile.coefficients)
    write_text(path, text)
    load_accelerator(path)
