"""From rows to rates and fixed costs: small robust fits, none with a unit built in.

================  =================================================================
layers            ``host + layers * layer + pnorm(weights / BW, flops / P) * tile
                  + elementwise bytes / BW``
decode attention  ``start + KV bytes / BW + sequences * KV heads * head``
prefill           ``start + max(floor, flops / P) + tokens * query heads * token``
host              ``start + sequences * sequence``
launches          ``start + layers * layer``; attention ``start + sequences * sequence``
================  =================================================================

A stack that was launched layer by layer, and not replayed from a graph, takes what its launches
take, where that is more.

No part of a sum exceeds the whole, so the least of ``seconds / x`` over the rows is about the
most that a coefficient can be: that is the unit in which each is fitted, and why the same
code serves a laptop and an H200. Bounds leave room for a row that a cache made too fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvsim.calibrate.fit import predict, split_factors, unfitted
from kvsim.calibrate.measure.attention import DecodeCase, LaunchedDecodeCase, PrefillCase
from kvsim.calibrate.measure.case import Row
from kvsim.calibrate.measure.layers import LaunchedLayersCase, LayersCase
from kvsim.calibrate.measure.overhead import HostCase
from kvsim.calibrate.minimise import Free, at_bounds, least_squares
from kvsim.calibrate.rows import Floats, StepRows, rows_from_records
from kvsim.errors import InputError

__all__ = [
    "NO_LAUNCHES",
    "Launches",
    "PartFit",
    "fit_decode",
    "fit_host",
    "fit_launches",
    "fit_layers",
    "fit_prefill",
    "fit_sum",
    "overlap_of",
]

_FEWEST_ROWS = 2
_NEXT_TO_NOTHING = 1e-6
_UNSEEN = 1e-3  # of the row in which it would weigh most
_FLOOR = "floor"
_ROOM = 4.0  # above the most that the fastest row allows
_RATE_SHARE = 0.3  # of the row in which a rate weighs most
_FACTOR_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_FEW_ROWS = 8  # up to which GEMM libraries have paths of their own, slow ones on a CPU
_FACTOR_BOUNDS = {True: (0.3, 4.0), False: (0.7, 1.5)}
_FACTOR_STIFFNESS = 0.2  # how strongly tile factors are pulled towards 1
_ROWS_FOR_FACTORS = 12


@dataclass(frozen=True, slots=True)
class PartFit:
    """Coefficients of one part of a step and their error.

    Parameters
    ----------
    values : mapping of str to float
        Seconds (per call, byte, FLOP ...) or, from `fit_layers`, step coefficients.
    residuals : tuple of float
        ``predicted / measured - 1`` of every row, in order.
    labels : tuple of str
        The rows' names.
    at_bounds : tuple of str
        Parameters that ended where their search does.
    """

    values: Mapping[str, Any]
    residuals: tuple[float, ...]
    labels: tuple[str, ...]
    at_bounds: tuple[str, ...] = ()

    @property
    def error_percent(self) -> float:
        """Mean absolute percentage error."""
        return float(100 * np.mean(np.abs(self.residuals)))

    def outliers(self, beyond: float) -> list[str]:
        """Rows that the form misses by more than the share `beyond`, worst first."""
        off = sorted(zip(self.residuals, self.labels, strict=True), key=lambda pair: -abs(pair[0]))
        return [f"{label}: {100 * share:+.0f} %" for share, label in off if abs(share) > beyond]


def fit_sum(
    terms: Mapping[str, Sequence[float]],
    rows: Sequence[Row],
    what: str,
    rate: str = "",
    *,
    floored: bool = False,
) -> PartFit:
    """Fit ``seconds = sum of coefficient * term``, every coefficient at or above zero.

    Parameters
    ----------
    terms : mapping of str to sequence of float (n)
        Each row's amount of every term.
    rows : sequence of Row (n)
        Measured.
    what : str
        What they are of, for errors.
    rate : str
        The term that must be most of some row: noise alone would let a rate run to infinity.
    floored : bool
        Whether the rate's term takes a least time, "floor", as that of a kernel with little to do.

    Raises
    ------
    InputError
        For fewer rows than terms.
    MissingExtraError
        Without scipy.
    """
    if len(rows) < max(_FEWEST_ROWS, len(terms)):
        raise InputError(
            f"{len(rows)} rows of {what} are too few to fit {', '.join(terms)}",
            fix="time what is missing with --resume",
        )
    seconds = np.array([row.seconds for row in rows])
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in terms.items()}
    units = {name: _largest(seconds, column) for name, column in columns.items()}
    scaled = np.column_stack([columns[name] * units[name] for name in columns])
    free = tuple(Free(name, 0.6, _RATE_SHARE if name == rate else 0.0, _ROOM) for name in columns)
    at = list(columns).index(rate) if floored else 0
    if floored:
        units[_FLOOR] = float(seconds.min())
        free += (Free(_FLOOR, 0.2, 0.0, 1.0),)

    def errors(shares: Floats) -> Floats:
        parts = scaled * shares[: len(columns)]
        if floored:
            parts[:, at] = np.maximum(parts[:, at], shares[-1] * units[_FLOOR])
        return np.asarray(parts.sum(axis=1) / seconds - 1)

    found = least_squares(errors, free)
    residuals = errors(found)
    values = {
        name: float(share) * units[name] if share > _NEXT_TO_NOTHING else 0.0
        for name, share in zip(units, found, strict=True)
    }
    labels = tuple(row.case.label for row in rows)
    return PartFit(values, tuple(residuals.tolist()), labels, at_bounds(free, found))


def _largest(seconds: Floats, amounts: Floats) -> float:
    """Largest coefficient at which the term alone exceeds no measurement."""
    used = amounts > 0
    return float(np.min(seconds[used] / amounts[used]))


def fit_decode(rows: Sequence[Row]) -> PartFit:
    """Fit decode attention: "start" (s per layer), "byte" (s), "head" (s per KV head)."""
    cases = [row.case for row in rows if isinstance(row.case, DecodeCase)]
    terms = {
        "start": [1.0 for _ in cases],
        "byte": [case.moved_bytes for case in cases],
        "head": [case.starts for case in cases],
    }
    return fit_sum(terms, rows, "decode attention", rate="byte")


def fit_prefill(rows: Sequence[Row]) -> PartFit:
    """Fit prefill attention: "start" (s), "flop" (s), "token" (s per token and query head).

    Of the smallest prompts the FLOPs take a "floor" (s).
    """
    cases = [row.case for row in rows if isinstance(row.case, PrefillCase)]
    terms = {
        "start": [1.0 for _ in cases],
        "flop": [case.flops for case in cases],
        "token": [case.queries for case in cases],
    }
    return fit_sum(terms, rows, "prefill attention", rate="flop", floored=True)


def fit_host(rows: Sequence[Row]) -> PartFit:
    """Fit the ends of a step: "start" (s per step), "sequence" (s per sequence)."""
    cases = [row.case for row in rows if isinstance(row.case, HostCase)]
    terms = {
        "start": [1.0 for _ in cases],
        "sequence": [float(case.sequences) for case in cases],
    }
    return fit_sum(terms, rows, "the host")


# --- launches ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launches:
    """What the host takes to launch what a step computes, seconds.

    Parameters
    ----------
    stack, layer : float
        A stack of layers without attention: its ends, and each layer.
    attention, sequence : float
        A layer's attention, and what each sequence adds to it.
    """

    stack: float = 0.0
    layer: float = 0.0
    attention: float = 0.0
    sequence: float = 0.0

    def of_stack(self, case: LayersCase) -> float:
        """Seconds of launching a stack."""
        return self.stack + case.layers * self.layer

    def of_attention(self, sequences: int) -> float:
        """Seconds of launching one layer's attention."""
        return self.attention + sequences * self.sequence


NO_LAUNCHES = Launches()


def fit_launches(rows: Sequence[Row]) -> tuple[Launches, tuple[PartFit, PartFit]]:
    """Fit what launching takes: of stacks of layers, and of attention.

    Raises
    ------
    InputError
        For fewer than two rows of either.
    """
    stacks = [row for row in rows if isinstance(row.case, LaunchedLayersCase)]
    attended = [row for row in rows if isinstance(row.case, LaunchedDecodeCase)]
    depths = [float(row.case.layers) for row in stacks if isinstance(row.case, LayersCase)]
    batches = [float(row.case.batch) for row in attended if isinstance(row.case, DecodeCase)]
    layers = fit_sum({"start": [1.0] * len(stacks), "layer": depths}, stacks, "launched layers")
    attention = fit_sum(
        {"start": [1.0] * len(attended), "sequence": batches}, attended, "launched attention"
    )
    found = *layers.values.values(), *attention.values.values()
    return Launches(*found), (layers, attention)


# --- layers --------------------------------------------------------------------------------------


def fit_layers(rows: Sequence[Row], launches: Launches = NO_LAUNCHES) -> PartFit:
    """Fit stacks of layers; the values are fields of `StepCoefficients`.

    With a dozen rows and more, tile factors are fitted too, at the token counts that were timed.

    Parameters
    ----------
    rows : sequence of Row
        Stacks, replayed or launched.
    launches : Launches
        What those that were launched take at least.

    Raises
    ------
    InputError
        For fewer than four rows.
    """
    if len(rows) < _FEWEST_STACKS:
        raise InputError(f"{len(rows)} stacks of layers are too few to fit")
    form = _LayerForm.of(rows, launches, tiles=len(rows) >= _ROWS_FOR_FACTORS)
    found = least_squares(form.residuals, form.free)
    residuals = form.residuals(found)[: len(rows)]
    labels = tuple(row.case.label for row in rows)
    # that memory and arithmetic overlap wholly, or not at all, is an answer
    bounds = tuple(name for name in at_bounds(form.free, found) if name != "norm")
    return PartFit(form.updates(found), tuple(residuals.tolist()), labels, bounds)


def overlap_of(rows: Sequence[Row], launches: Launches, fitted: Mapping[str, Any]) -> PartFit:
    """How far launched stacks are from the larger of their launches and of the device's seconds.

    Nothing is fitted to them: the device's coefficients are those of replayed ones.
    """
    form = _LayerForm.of(rows, launches, tiles=False)
    residuals = form.seconds(fitted) / form.rows.seconds - 1
    return PartFit({}, tuple(residuals.tolist()), tuple(row.case.label for row in rows))


_FEWEST_STACKS = 4
_LAYER_PARAMETERS = (
    Free("weight", 0.7, 0.05, _ROOM),
    Free("compute", 0.7, 0.05, _ROOM),
    Free("layer_seconds", 0.3, 0.0, _ROOM),
    Free("host_seconds", 0.2, 0.0, _ROOM),
    Free("norm", 2.0, 1.0, 8.0),
    Free("elementwise", 0.1, 0.0, _ROOM),
)


@dataclass(frozen=True, slots=True)
class _LayerForm:
    """The layers' share of `kvsim.steptime.model` with its coefficients free."""

    rows: StepRows
    elementwise_bytes: Floats
    launches: Floats  # seconds, 0 of a stack that was replayed
    units: Mapping[str, float]
    free: tuple[Free, ...]

    @classmethod
    def of(cls, stacks: Sequence[Row], launches: Launches, *, tiles: bool) -> _LayerForm:
        rows, cases = rows_from_records([_record(row) for row in stacks]), _stacks(stacks)
        moved = np.array([case.elementwise_bytes for case in cases])
        launched = [
            0.0 if row.timing.captured else launches.of_stack(case)
            for row, case in zip(stacks, cases, strict=True)
        ]
        units = {
            "weight": _largest(rows.seconds, rows.weight_bytes),
            "compute": _largest(rows.seconds, rows.flops),
            "layer_seconds": _largest(rows.seconds, rows.layers),
            "host_seconds": float(rows.seconds.min()),
            "elementwise": _largest(rows.seconds, moved),
        }
        seen = set(rows.tokens.tolist())
        reached = [n for n in _FACTOR_TOKENS if tiles and n in seen]
        factors = tuple(Free(f"factor_{n}", 1.0, *_FACTOR_BOUNDS[n <= _FEW_ROWS]) for n in reached)
        free = _LAYER_PARAMETERS + factors
        return cls(rows, moved, np.array(launched), units, free)

    def updates(self, values: Floats) -> dict[str, Any]:
        """Turn a vector of parameters into fields of `StepCoefficients`."""
        named, factors = split_factors(self.free, values)
        return {
            "weight_bytes_per_s": 1 / (named["weight"] * self.units["weight"]),
            "flops_per_s": 1 / (named["compute"] * self.units["compute"]),
            "layer_seconds": named["layer_seconds"] * self.units["layer_seconds"],
            "host_seconds": named["host_seconds"] * self.units["host_seconds"],
            "norm": named["norm"],
            "token_factors": factors,
            "elementwise_bytes_per_s": None
            if named["elementwise"] < _UNSEEN
            else 1 / (named["elementwise"] * self.units["elementwise"]),
        }

    def seconds(self, updates: Mapping[str, Any]) -> Floats:
        """Seconds of every row with these fields of `StepCoefficients`."""
        rates = _BLANK.model_copy(update=dict(updates))
        device = predict(self.rows, rates)
        if rates.elementwise_bytes_per_s:
            device = device + self.elementwise_bytes / rates.elementwise_bytes_per_s
        return np.maximum(device, self.launches)

    def residuals(self, values: Floats) -> Floats:
        """Relative errors of the rows, then the pull of every tile factor."""
        errors = self.seconds(self.updates(values)) / self.rows.seconds - 1
        pulls = [v - 1 for p, v in zip(self.free, values, strict=True) if "factor" in p.name]
        return np.concatenate([errors, _FACTOR_STIFFNESS * np.array(pulls)])


_BLANK = unfitted(engine="torch", source="", date="")


def _stacks(rows: Sequence[Row]) -> list[LayersCase]:
    return [row.case for row in rows if isinstance(row.case, LayersCase)]


def _record(row: Row) -> dict[str, Any]:
    """A stack of layers as a step without attention."""
    case = row.case
    if not isinstance(case, LayersCase):
        raise InputError(f"{case.label} is no stack of layers")
    absent = ("kv_bytes", "kv_heads", "attention_flops", "query_tokens", "message_bytes")
    return {
        **dict.fromkeys(absent, 0.0),
        "model": case.shape.name,
        "phase": "prefill",
        "layers": case.layers,
        "tokens": case.tokens,
        "sequences": 1,
        "weight_bytes": case.moved_bytes,
        "flops": case.flops,
        "tp": 1,
        "seconds": row.seconds,
    }
