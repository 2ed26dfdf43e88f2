"""Writing coefficients into a profile's YAML, all else left as its author wrote it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kvsim.calibrate.outputs import write_text
from kvsim.errors import InputError
from kvsim.specs.files import read_text
from kvsim.specs.hardware import AcceleratorProfile, StepCoefficients
from kvsim.specs.yaml_files import data_folder, read_yaml

__all__ = ["coefficient_lines", "lines_of", "profile_path", "write_coefficients"]

_BY_LINE = (
    "collectives",
    "engine_collectives",
    "engine_experts",
    "experts",
    "gemms",
    "host_costs",
)
# The top-level block: its key, and every line below it that is indented or empty.
_BLOCK = re.compile(r"^coefficients:.*\n(?:[ \t].*\n|\n(?=[ \t]))*", re.MULTILINE)


def profile_path(profile: AcceleratorProfile) -> Path:
    """Return the shipped file of a profile.

    Raises
    ------
    InputError
        When the profile does not come from the shipped folder.
    """
    for path in sorted(data_folder("hardware_profiles").glob("*.yaml")):
        if read_yaml(path).get("name") == profile.name:
            return path
    raise InputError(f"{profile.name} is not a shipped profile")


def lines_of(gpu: str, profile: AcceleratorProfile) -> Path:
    """Return the file that a profile was read from, where `gpu` asked for it.

    Raises
    ------
    InputError
        As `profile_path`.
    """
    given = Path(gpu).expanduser()
    return given if given.is_file() else profile_path(profile)


def write_coefficients(
    path: Path, coefficients: StepCoefficients, *, like: Path | None = None
) -> None:
    """Put coefficients into a profile, in place of those that it has.

    Parameters
    ----------
    path : Path
        Profile to write.
    coefficients : StepCoefficients
        The new block.
    like : Path, optional
        Profile whose other lines are taken where `path` does not exist yet.

    Raises
    ------
    InputError
        When there is no file to take the other lines from, or `path` cannot be written.
    """
    source = path if path.exists() or like is None else like
    rest = _BLOCK.sub("", read_text(source)).rstrip("\n")
    write_text(path, f"{rest}\n{coefficient_lines(coefficients)}")


def coefficient_lines(coefficients: StepCoefficients) -> str:
    """The YAML block: SI units, defaults left out, one line per collective, engine and format."""
    lines = ["coefficients:"]
    for name, value in coefficients.model_dump(exclude_defaults=True).items():
        if name in _BY_LINE:
            lines.append(f"  {name}:")
            lines += [f"    {key}: {_flow(part)}" for key, part in value.items()]
        else:
            lines.append(f"  {name}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """One value as YAML: text quoted, mappings in braces, numbers as YAML 1.1 reads them."""
    if isinstance(value, dict):
        inner = ", ".join(
            f"{key}: {_flow(part)}" for key, part in value.items() if part is not None
        )
        return f"{{{inner}}}"
    if isinstance(value, str):
        return json.dumps(value)
    return _number(value)


def _number(value: float) -> str:
    """A number that YAML 1.1 takes for one: an exponent needs a point and a sign.

    Examples
    --------
    >>> _number(3e-06), _number(1.5e12), _number(2), _number(0.25)
    ('3.0e-06', '1.5e+12', '2', '0.25')
    """
    if isinstance(value, int):
        return str(value)
    text = f"{value:.6g}"
    mantissa, mark, exponent = text.partition("e")
    if not mark:
        return text if "." in text else f"{text}.0"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
