"""What ``kvsim calibrate fit`` does: choose the rows, fit, write, and say how good it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from kvsim.calibrate.fit import Fit
from kvsim.calibrate.profile import coefficient_lines, lines_of, write_coefficients
from kvsim.calibrate.public.cards import (
    DERIVED,
    derived,
    fit_card,
    fit_rows,
)
from kvsim.calibrate.quality import poor_fit, refuse_meaningless
from kvsim.calibrate.rows import read_rows
from kvsim.catalog.accelerators import find_accelerator
from kvsim.engines import ENGINE_NAMES
from kvsim.errors import InputError
from kvsim.specs.hardware import AcceleratorProfile, HostCost, StepCoefficients
from kvsim.steptime.defaults import class_coefficients

__all__ = ["FitAnswer", "fit_command", "fit_profile"]


@dataclass(frozen=True, slots=True)
class FitAnswer:
    """What ``kvsim calibrate fit`` answers.

    Parameters
    ----------
    profile : AcceleratorProfile
        The accelerator, as it was before.
    fit : Fit
        Its coefficients, and how well they describe their own rows.
    output : Path or None
        The profile that was written.
    kept : tuple of str
        Coefficients that the rows say nothing of: they are the profile's.
    """

    profile: AcceleratorProfile
    fit: Fit
    output: Path | None
    kept: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What not to trust; empty for a good fit."""
        poor = poor_fit(self.fit.error_percent)
        return [f"the fit {poor}"] if poor else []

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON."""
        return {
            "accelerator": self.profile.name,
            "rows": self.fit.row_count,
            "error_percent": self.fit.error_percent,
            "warnings": self.warnings,
            "kept": list(self.kept),
            "coefficients": self.fit.coefficients.model_dump(mode="json", exclude_defaults=True),
            "output": None if self.output is None else str(self.output),
        }

    def block(self) -> str:
        """The answer as the YAML that a profile takes."""
        said = f"# {self.profile.name}: {self.fit.row_count} rows,"
        said += f" {self.fit.error_percent:.1f} % off\n"
        if self.kept:
            said += f"# kept from the profile: {', '.join(self.kept)}\n"
        return said + coefficient_lines(self.fit.coefficients)


def fit_command(
    *, gpu: str, tables: Path | None, rows: Path | None, output: Path | None
) -> FitAnswer:
    """Fit, and write the profile where `output` is given.

    Raises
    ------
    InputError
        Unless exactly one of `tables` and `rows` is given, when they cannot be read, or when
        nothing that the accelerator could do takes the times that they state.
    UnsupportedError
        When no table covers the accelerator.
    """
    profile = find_accelerator(gpu)
    kept: tuple[str, ...] = ()
    if tables is not None and rows is None:
        fit = fit_profile(tables, profile)
    elif rows is not None and tables is None:
        known = _known(profile, rows)
        fit = fit_rows(read_rows(rows), profile, known)
        kept = _kept(known, fit.coefficients)
    else:
        raise InputError("give either --tables FOLDER or --rows FILE")
    refuse_meaningless(fit.error_percent, tables or rows)
    if output is not None:
        write_coefficients(output, fit.coefficients, like=lines_of(gpu, profile))
    return FitAnswer(profile, fit, output, kept)


def fit_profile(tables: Path, profile: AcceleratorProfile) -> Fit:
    """Fit one accelerator from a folder of tables, or restate its sibling's fit.

    Raises
    ------
    InputError
        When the folder or a table is missing.
    UnsupportedError
        When no table covers the accelerator.
    """
    if not tables.is_dir():
        raise InputError("no such folder", where=str(tables))
    if profile.name not in DERIVED:
        return fit_card(tables, profile)
    sibling = find_accelerator(DERIVED[profile.name])
    fit = fit_card(tables, sibling)
    return replace(fit, coefficients=derived(profile, sibling, fit.coefficients))


def _known(profile: AcceleratorProfile, rows: Path) -> StepCoefficients:
    """What a user's own steps do not say: links, experts and fp8 are the profile's.

    What the host and kernels without a matrix take is in the steps, whatever engine is asked for.
    """
    known = profile.coefficients or class_coefficients(profile)
    inside = HostCost(host_seconds=0.0, source=f"in the steps of {rows.name}")
    return known.model_copy(
        update={
            "source": f"rows of {rows.name}",
            "date": date.today().isoformat(),
            "derived_from": "",
            "host_seconds": 0.0,
            "sequence_seconds": 0.0,
            "host_costs": dict.fromkeys(ENGINE_NAMES, inside),
            "elementwise_bytes_per_s": None,
        }
    )


def _kept(known: StepCoefficients, fitted: StepCoefficients) -> tuple[str, ...]:
    """Coefficients that have the value that they had before the fit."""
    before, after = known.model_dump(), fitted.model_dump(exclude_defaults=True)
    numbers = (name for name, value in after.items() if not isinstance(value, str))
    return tuple(name for name in numbers if after[name] == before[name])
