"""From fitted parts to the coefficients of a step, once for each way of running it.

=========  =======================================  =======================================
way        host                                     decode attention
=========  =======================================  =======================================
"loop"     launches every kernel: a step takes the  the twin's own, over contexts that are
           larger of that and of the device         not alike
"kernels"  replays a CUDA graph                     of sequences that are equally long
=========  =======================================  =======================================

The first is the plain torch loop that ``kvsim validate`` runs; the second is what a serving
engine's graphs come near to. The device's seconds are those of replayed graphs in both, where it
has any; a CPU launches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvsim.calibrate.fit import fit_link, gemms_beside, round_significant, unfitted
from kvsim.calibrate.measure.attention import PagedDecodeCase
from kvsim.calibrate.measure.case import Row
from kvsim.calibrate.measure.collective import AllReduceCase
from kvsim.calibrate.measure.device import DeviceFacts
from kvsim.calibrate.measure.fitting import (
    NO_LAUNCHES,
    Launches,
    PartFit,
    fit_decode,
    fit_host,
    fit_launches,
    fit_layers,
    fit_prefill,
    overlap_of,
)
from kvsim.calibrate.measure.gemm import GemmCase
from kvsim.errors import InputError
from kvsim.specs.hardware import AcceleratorProfile, GemmRates, Link, StepCoefficients
from kvsim.steptime.defaults import class_coefficients

__all__ = ["WAYS", "Calibration", "calibrate_rows", "fastest"]

WAYS = ("loop", "kernels")


_DECODES = {"loop": "decode_paged", "kernels": "decode"}
_FEW_TOKENS = 16
_BOUND_BY_LAUNCHES = 1.5  # times its launches, up to which a launched row tells nothing else
_FEWEST_STACKS, _FEWEST_CACHES = 4, 3  # that can be fitted


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a session found.

    Parameters
    ----------
    facts : DeviceFacts
        The device.
    shipped : AcceleratorProfile or None
        The catalogue's profile of it.
    rows : tuple of Row
        What was timed.
    coefficients : dict of str to StepCoefficients
        By way: "loop" and "kernels".
    parts : dict of str to PartFit
        Fits by "way part": "loop layers", "kernels decode", "prefill", "host".
    launches : Launches
        What the host takes to launch kernels one by one; nothing on a CPU.
    checks : dict of str to PartFit
        What nothing was fitted to: stacks that were launched, by the loop's form.
    notes : tuple of str
        What could not be fitted, and why.
    """

    facts: DeviceFacts
    shipped: AcceleratorProfile | None
    rows: tuple[Row, ...]
    coefficients: dict[str, StepCoefficients]
    parts: dict[str, PartFit]
    launches: Launches = NO_LAUNCHES
    checks: dict[str, PartFit] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def calibrate_rows(
    rows: Sequence[Row],
    facts: DeviceFacts,
    shipped: AcceleratorProfile | None,
    date: str,
    kernels: str = "",
) -> Calibration:
    """Fit everything that the rows say.

    Parameters
    ----------
    rows : sequence of Row
        A session's rows.
    facts : DeviceFacts
        The device.
    shipped : AcceleratorProfile or None
        Its catalogue profile: what torch cannot measure (other engines' host costs, links of
        absent devices, fp8 attention) stays as it is there.
    date : str
        Of the measurement, ISO.
    kernels : str
        What ran, in words.

    Raises
    ------
    InputError
        When too few rows of a part are left.
    MissingExtraError
        Without scipy.
    """
    pick = _Picker(rows, facts.dtype)
    parts = {"host": fit_host(pick("host"))}
    launches = NO_LAUNCHES
    if facts.kind == "cuda":
        launched = pick("layers_host") + pick("decode_host")
        launches, (stacks, attention) = fit_launches(launched)
        parts |= {"launched layers": stacks, "launched attention": attention}
    parts["prefill"] = fit_prefill(_of_the_device(pick("prefill"), launches))
    ways = [way for way in WAYS if way == "loop" or _has_kernels(pick, facts)]
    only = facts.kind == "cuda" and "kernels" in ways
    stacks_kind = "layers_graph" if facts.kind == "cuda" else "layers"
    parts["layers"] = fit_layers(pick(stacks_kind, captured_only=only), launches)
    for way in ways:
        decodes = pick(_DECODES[way], captured_only=only)
        parts[f"{way} decode"] = fit_decode(_of_the_device(decodes, launches))
    checks = {}
    if facts.kind == "cuda" and (launched := pick("layers")):
        checks["launched stacks"] = overlap_of(launched, launches, parts["layers"].values)
    known = shipped.coefficients or class_coefficients(shipped) if shipped else None
    coefficients = {}
    for way in ways:
        base = _base(rows, facts, known, date, captured=way == "kernels")
        fitted = _coefficients(way, parts, base, launches)
        narrow = _with_gemms(fitted, rows, facts.dtype, known)
        coefficients[way] = narrow.model_copy(update={"kernels": kernels})
    notes = () if "kernels" in ways else (_NO_KERNELS,)
    return Calibration(facts, shipped, tuple(rows), coefficients, parts, launches, checks, notes)


_NO_KERNELS = "too few rows were replayed from a CUDA graph: there is no profile of the kernels"


def _has_kernels(pick: _Picker, facts: DeviceFacts) -> bool:
    """Whether the kernels can be told from their launches; where nothing is launched, they can."""
    kinds = ("layers_graph", _DECODES["kernels"])
    layers, decode = (len(pick(kind, captured_only=True)) for kind in kinds)
    return facts.kind != "cuda" or (layers >= _FEWEST_STACKS and decode >= _FEWEST_CACHES)


def _of_the_device(rows: list[Row], launches: Launches) -> list[Row]:
    """Rows of attention that tell the device's seconds: replayed, or far beyond their launches."""
    told = [
        row
        for row in rows
        if row.timing.captured or row.seconds > _BOUND_BY_LAUNCHES * _launching(row, launches)
    ]
    return told if len(told) >= _FEWEST_CACHES else rows


def _launching(row: Row, launches: Launches) -> float:
    """What launching a row's attention takes: of the twin's, it may grow with the sequences."""
    case = row.case
    return launches.of_attention(case.batch if isinstance(case, PagedDecodeCase) else 1)


@dataclass(frozen=True, slots=True)
class _Picker:
    """Rows by kind, of one dtype."""

    rows: Sequence[Row]
    dtype: str

    def __call__(self, kind: str, *, captured_only: bool = False) -> list[Row]:
        return [
            row
            for row in self.rows
            if (row.case.kind, row.case.dtype) == (kind, self.dtype)
            and (row.timing.captured or not captured_only)
        ]


def fastest(rows: Sequence[Row], kinds: type | tuple[type, ...], what: str) -> float:
    """Highest rate among rows of some kinds: `what` is "moved_bytes" or "flops", a second.

    Raises
    ------
    InputError
        When there is no such row.
    """
    rates = [getattr(row.case, what) / row.seconds for row in rows if isinstance(row.case, kinds)]
    if not rates:
        raise InputError(f"no row gives a rate of {what}")
    return float(max(rates))


def _coefficients(
    way: str, parts: dict[str, PartFit], base: StepCoefficients, launches: Launches
) -> StepCoefficients:
    """Put the parts of one way of running together."""
    used = [parts["layers"], parts[f"{way} decode"], parts["prefill"], parts["host"]]
    layers, decode, prefill, host = (part.values for part in used)
    residuals = np.concatenate([part.residuals for part in used])
    values = {
        "weight_bytes_per_s": layers["weight_bytes_per_s"],
        "flops_per_s": layers["flops_per_s"],
        "layer_seconds": layers["layer_seconds"] + decode["start"],
        "norm": layers["norm"],
        "host_seconds": layers["host_seconds"] + host["start"],
        "sequence_seconds": host["sequence"],
        "kv_bytes_per_s": 1 / decode["byte"],
        "head_seconds": decode["head"],
        "attention_flops_per_s": 1 / prefill["flop"],
        "attention_token_seconds": prefill["token"],
    }
    if layers["elementwise_bytes_per_s"]:
        values["elementwise_bytes_per_s"] = layers["elementwise_bytes_per_s"]
    if way == "loop":
        values["launch_seconds"] = launches.layer + launches.attention
        values["sequence_launch_seconds"] = launches.sequence
    factors = layers["token_factors"]
    return base.model_copy(
        update={
            **{name: round_significant(value) for name, value in values.items()},
            "token_factors": {n: round_significant(factor) for n, factor in factors.items()},
            "source": f"{base.source}, {_WORDS[way]}",
            "fitted_on": ", ".join(_counts(used)),
            "error_percent": round(float(100 * np.mean(np.abs(residuals))), 2),
        }
    )


_WORDS = {
    "loop": "a plain torch loop that launches every kernel",
    "kernels": "kernels without launches",
}


def _counts(used: Sequence[PartFit]) -> list[str]:
    names = ("stacks of layers", "decode attentions", "prefill attentions", "host steps")
    return [f"{len(part.labels)} {name}" for name, part in zip(names, used, strict=True)]


def _base(
    rows: Sequence[Row],
    facts: DeviceFacts,
    known: StepCoefficients | None,
    date: str,
    *,
    captured: bool,
) -> StepCoefficients:
    """Everything but the fitted values: provenance, links, KV in fp8, engines' host costs."""
    software = f"torch {facts.torch_version}" + (f", {facts.driver}" if facts.driver else "")
    updates: dict[str, Any] = {
        "collectives": {**(known.collectives if known else {}), **_links(rows, captured=captured)}
    }
    if known is not None:
        updates["host_costs"] = known.host_costs
        updates["fp8_kv_speedup"] = known.fp8_kv_speedup
        updates["experts"] = known.experts
        updates["engine_experts"] = known.engine_experts
    source = f"measured by kvsim calibrate: {facts.name}, {software}"
    return unfitted(engine="torch", source=source, date=date, **updates)


def _links(rows: Sequence[Row], *, captured: bool) -> dict[int, Link]:
    """All-reduce by degree, where several devices were there to measure it."""
    times: dict[int, dict[int, float]] = {}
    for row in rows:
        if isinstance(row.case, AllReduceCase) and row.case.captured == captured:
            times.setdefault(row.case.ranks, {})[row.case.message] = row.seconds
    return {ranks: fit_link(sizes) for ranks, sizes in sorted(times.items())}


def _with_gemms(
    rates: StepCoefficients, rows: Sequence[Row], dtype: str, known: StepCoefficients | None
) -> StepCoefficients:
    """Add GEMMs in narrower formats: as many times bf16's as they are on a card that is known.

    Those in fp8 are as fast as was measured: the median gain of few rows, which weights bind, and
    of many.
    """
    gemms = gemms_beside(rates, known) if known is not None else {}
    reading, multiplying = _fp8_gains(rows, dtype)
    if reading and multiplying:
        seconds = gemms["fp8"].seconds if "fp8" in gemms else 0.0
        gemms["fp8"] = GemmRates(
            seconds=seconds,
            bytes_per_s=round_significant(reading / 2 * rates.weight_bytes_per_s),
            flops_per_s=round_significant(multiplying * rates.flops_per_s),
            token_factors=rates.token_factors,
        )
    return rates.model_copy(update={"gemms": gemms})


def _fp8_gains(rows: Sequence[Row], dtype: str) -> tuple[float | None, float | None]:
    """Median gain of fp8 products of few rows, and of many; None where there are none."""
    seconds: dict[tuple[str, int, int, int], float] = {}
    for row in rows:
        if isinstance(row.case, GemmCase):
            seconds[row.case.dtype, row.case.m, row.case.n, row.case.k] = row.seconds
    gains: dict[bool, list[float]] = {True: [], False: []}
    for (name, m, n, k), time in seconds.items():
        if name == "fp8" and (dtype, m, n, k) in seconds:
            gains[m <= _FEW_TOKENS].append(seconds[dtype, m, n, k] / time)
    few, many = (float(np.median(gains[way])) if gains[way] else None for way in (True, False))
    return few, many
