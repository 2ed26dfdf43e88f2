"""What ``kvsim calibrate`` does: look, plan, time, fit, write, and say what was found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from kvsim.calibrate.measure.coefficients import WAYS, Calibration, calibrate_rows
from kvsim.calibrate.measure.device import DeviceFacts, find_device, shipped_profile
from kvsim.calibrate.measure.grid import Plan, plan_cases
from kvsim.calibrate.measure.origin import Origin
from kvsim.calibrate.measure.profile import (
    comparisons,
    measured_profile,
    noisy_rows,
    poor_parts,
    slug,
    write_profile,
)
from kvsim.calibrate.measure.session import Progress, Session, kept_timings
from kvsim.calibrate.measure.steps import priced_steps
from kvsim.calibrate.measure.timing import Bench, TorchBench
from kvsim.calibrate.minimise import load_optimize
from kvsim.errors import InputError

__all__ = ["Outputs", "measure", "planned", "planned_dict"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Files of one session, side by side.

    Parameters
    ----------
    profile : Path
        Of the torch loop: for ``kvsim validate``, and for torch engines.
    kernels_profile : Path
        Of its kernels alone: for serving engines.
    rows : Path
        Raw rows, CSV.
    """

    profile: Path
    kernels_profile: Path
    rows: Path

    @classmethod
    def beside(cls, profile: Path) -> Outputs:
        """Name the files after the profile.

        Raises
        ------
        InputError
            When it does not end in ``.yaml``, or its folder is not there.

        Examples
        --------
        >>> str(Outputs.beside(Path("h200.yaml")).kernels_profile)
        'h200.kernels.yaml'
        """
        if profile.suffix not in (".yaml", ".yml"):
            fix = f"write {profile.name}.yaml"
            raise InputError(f"{str(profile)!r} is no name of a profile", where="-o", fix=fix)
        if not profile.absolute().parent.is_dir():
            raise InputError(f"there is no folder {str(profile.parent)!r}", where="-o")
        kernels = profile.with_suffix(f".kernels{profile.suffix}")
        return cls(profile, kernels, profile.with_suffix(".csv"))

    def to_dict(self) -> dict[str, str | None]:
        """Return JSON-ready values."""
        return {
            "profile": str(self.profile),
            "kernels_profile": str(self.kernels_profile),
            "rows": str(self.rows),
        }


def planned(device: str | None, *, quick: bool) -> tuple[DeviceFacts, Plan]:
    """Look at the device and plan, without a tensor.

    Raises
    ------
    MissingExtraError
        Without torch.
    InputError
        When there is no such device.
    """
    facts = find_device(device)
    return facts, plan_cases(facts, quick=quick)


def planned_dict(facts: DeviceFacts, plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON-ready values."""
    return {
        "device": facts.to_dict(),
        "cases": len(plan.cases),
        "buffer_bytes": plan.buffer_bytes,
        "expected_seconds": plan.expected_seconds,
        "grid": plan.summary(),
        "notes": list(plan.notes),
    }


def measure(
    facts: DeviceFacts,
    plan: Plan,
    output: Path | None,
    progress: Progress,
    bench: Bench | None = None,
    *,
    resume: bool = False,
) -> dict[str, Any]:
    """Run a plan, write the two profiles and the rows, and return what was found.

    Parameters
    ----------
    facts : DeviceFacts
        The device.
    plan : Plan
        What to time.
    output : Path or None
        Profile to write; None names it after the device, in this folder.
    progress : callable
        See `kvsim.calibrate.measure.session.Session`.
    bench : Bench, optional
        What times the cases; torch on the device by default.
    resume : bool
        Whether the rows that the CSV already has are kept, and not timed again.

    Raises
    ------
    InputError
        When a file cannot be written, or too few rows are left to fit.
    MissingExtraError
        Without scipy.
    UnsupportedError
        When the device fails.
    """
    begun = perf_counter()
    load_optimize()  # fail before the first measurement, not after the last
    outputs = Outputs.beside(output or Path(f"{slug(facts.name)}.yaml"))
    timer = bench or TorchBench(facts.torch_name, plan.pace)
    kernels = timer.kernels(plan.shape, facts.dtype)
    origin = Origin.of(facts, kernels)
    kept = kept_timings(outputs.rows, origin) if resume else {}
    session = Session(timer, outputs.rows, progress, kept, origin.head, plan.least_bytes)
    rows = session.run(plan)
    date = datetime.now(UTC).date().isoformat()
    found = calibrate_rows(rows, facts, shipped_profile(facts), date, kernels.words)
    paths = dict(zip(WAYS, (outputs.profile, outputs.kernels_profile), strict=True))
    for way in found.coefficients:
        write_profile(paths[way], measured_profile(found, way, date))
    files = outputs.to_dict()
    if "kernels" not in found.coefficients:
        files["kernels_profile"] = None
    said = {
        "kernels": {**kernels._asdict(), "words": kernels.words},
        "quick": plan.is_quick,
        "expected_seconds": plan.expected_seconds,
        "took_seconds": perf_counter() - begun,
        "files": files,
    }
    return {**_found_dict(found), **said, **_notes(plan, session, found)}


def _found_dict(found: Calibration) -> dict[str, Any]:
    return {
        "device": found.facts.to_dict(),
        "datasheet": found.shipped.name if found.shipped else None,
        "comparisons": [entry.to_dict() for entry in comparisons(found)],
        "error_percent": {name: round(part.error_percent, 2) for name, part in found.parts.items()},
        "check_percent": {
            name: round(part.error_percent, 2) for name, part in found.checks.items()
        },
        "steps": [step.to_dict() for step in priced_steps(found)],
        "at_bounds": [
            f"{name}: {each}" for name, part in found.parts.items() for each in part.at_bounds
        ],
        "coefficients": {
            way: rates.model_dump(mode="json") for way, rates in found.coefficients.items()
        },
    }


def _notes(plan: Plan, session: Session, found: Calibration) -> dict[str, Any]:
    """What did not go as planned, and what to look at again."""
    return {
        "notes": [*plan.notes, *session.bench.notes, *found.notes],
        "shrunk": session.shrunk,
        "skipped": session.skipped,
        "outliers": noisy_rows(found),
        "warnings": poor_parts(found),
    }
