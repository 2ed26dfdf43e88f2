"""Reading back what was measured elsewhere: a validation's JSON, somebody's own steps.

Nothing here needs torch. A file may come from anybody: every value that is used later is
checked, and what is not known is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvsim.calibrate.fit import predict
from kvsim.calibrate.rows import read_rows
from kvsim.errors import InputError
from kvsim.readers.json_file import read_json_object
from kvsim.specs.checked import Checked, FieldError, NonNegativeInt, PositiveFloat, read
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.steptime.defaults import class_coefficients

__all__ = ["measured_steps", "read_validation"]

_MOST_RUNS = 16
_MOST_ROWS = 2000


class _Group(Checked):
    """Steps alike in phase, batch and context; see `kvsim.calibrate.twin.compare.StepGroup`."""

    phase: str
    sequences: NonNegativeInt
    context: NonNegativeInt
    steps: NonNegativeInt
    predicted_seconds: PositiveFloat
    measured_seconds: PositiveFloat
    error_percent: float


class _Pair(Checked):
    """One quantity; see `kvsim.calibrate.pairs.Pair`."""

    name: str
    predicted: float
    measured: float
    error_percent: float | None = None


class _FirstStep(Checked):
    """One step; see `kvsim.calibrate.twin.compare.FirstStep`."""

    tokens: NonNegativeInt
    sequences: NonNegativeInt
    predicted_seconds: PositiveFloat
    measured_seconds: PositiveFloat


class _Run(Checked):
    """One load; see `kvsim.calibrate.twin.compare.TwinComparison`."""

    label: str
    steps: NonNegativeInt
    step_errors: dict[str, float]
    first_steps: tuple[_FirstStep, ...] = ()
    step_groups: tuple[_Group, ...]
    latency: tuple[_Pair, ...]
    memory: tuple[_Pair, ...] = ()


class _Validation(Checked):
    """What ``kvsim validate`` writes, without the profile."""

    device: str
    model: str
    kernels: str = ""
    torch: str
    clock: str
    drift_percent: float | None = None
    provenance: str
    interrupted: bool = False
    runs: tuple[_Run, ...]


def read_validation(path: Path) -> dict[str, Any]:
    """Read the ``comparison.json`` that ``kvsim validate --output`` writes.

    Returns
    -------
    dict
        Its content, every value checked: what `kvsim.figures.step_time_chart` and
        `error_chart` take is under "runs".

    Raises
    ------
    InputError
        When it cannot be read, is no validation, or a value in it is missing or wrong.
    """
    content = read_json_object(path)
    if content.get("kind") != "kvsim-validation":
        raise InputError(
            "no validation of kvsim's",
            where=str(path),
            fix="run `kvsim validate --output FOLDER` and give its comparison.json",
        )
    known = {key: value for key, value in content.items() if key not in ("kind", "profile")}
    _refuse_large(known.get("runs"), path)
    try:
        record = read(_Validation, known)
    except FieldError as error:
        raise InputError(error.what, where=str(path), fix=error.fix) from None
    return record.model_dump(mode="json")


def _refuse_large(runs: object, path: Path) -> None:
    """Refuse more than anybody could look at, before it is checked value by value."""
    if not isinstance(runs, Sequence) or isinstance(runs, str) or not runs:
        raise InputError("has no runs", where=str(path))
    rows = [
        len(value)
        for run in runs
        if isinstance(run, Mapping)
        for value in run.values()
        if isinstance(value, Sequence)
    ]
    if len(runs) > _MOST_RUNS or max(rows, default=0) > _MOST_ROWS:
        raise InputError(
            f"has more than {_MOST_RUNS} runs, or more than {_MOST_ROWS:,} rows in one",
            where=str(path),
        )


def measured_steps(path: Path, profile: AcceleratorProfile) -> dict[str, Any]:
    """Read somebody's measured steps and predict each with a card's coefficients.

    Parameters
    ----------
    path : Path
        CSV of `kvsim.calibrate.rows`: one engine step per row.
    profile : AcceleratorProfile
        Its coefficients predict; without any, those of its class.

    Returns
    -------
    dict of str to array (n,)
        "phase", "tokens", "predicted_seconds" and "measured_seconds".

    Raises
    ------
    InputError
        As `kvsim.calibrate.rows.read_rows`.
    """
    rows = read_rows(path)
    coefficients = profile.coefficients or class_coefficients(profile)
    return {
        "phase": rows.phase,
        "tokens": rows.tokens,
        "predicted_seconds": predict(rows, coefficients),
        "measured_seconds": rows.seconds,
    }
