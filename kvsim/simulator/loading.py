"""A scenario from its file or its name, and one with other values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kvsim.errors import InputError, UnknownNameError
from kvsim.simulator.facts import ContradictionError, named, overlay, where_given
from kvsim.simulator.families import FAMILIES
from kvsim.simulator.overrides import Layer, closest, layer_of
from kvsim.simulator.scenario import Scenario
from kvsim.specs.checked import FieldError, dotted, unknown_key
from kvsim.specs.yaml_files import data_folder, located, read_yaml
from kvsim.workload.spec import parse_workload, with_absolute_files
from kvsim.workload.validation import field_error

__all__ = [
    "allocator_names",
    "load_layers",
    "load_scenario",
    "placed",
    "read_content",
    "scenario_names",
    "scheduler_names",
    "with_overrides",
]

_SECTIONS = sorted(Scenario.model_fields.keys() - {"folder"})  # that is where the file lies


def allocator_names() -> list[str]:
    """Names of the memory policies: built in, registered, and offered by distributions."""
    return FAMILIES["allocators"].names()


def scheduler_names() -> list[str]:
    """Names of the schedulers: built in, registered, and offered by distributions."""
    return FAMILIES["schedulers"].names()


def scenario_names() -> list[str]:
    """Names of the scenarios that kvsim ships."""
    return sorted(path.stem for path in data_folder("scenarios").glob("*.yaml"))


def load_scenario(
    path: str | Path,
    overrides: Mapping[str, object] | None = None,
    *,
    spelled: Mapping[str, str] | None = None,
) -> Scenario:
    """Read a scenario from a file or by the name of a shipped one.

    Parameters
    ----------
    path : str or Path
        A YAML file, or a name such as "peer-w".
    overrides : mapping, optional
        Dotted keys, or names of flags, to values: ``{"workload.arrivals.rate": 20}``.
    spelled : mapping, optional
        How somebody wrote each override, to say which one is wrong; "override key=value" by
        default.

    Raises
    ------
    InputError
        For a file that is missing or malformed, an unknown key or an impossible value; the
        message names file, line and key, or the override.
    """
    return load_layers(path, [layer_of(overrides or {}, spelled or {})])


def load_layers(path: str | Path | None, layers: Sequence[Layer]) -> Scenario:
    """Read a scenario, and lay overrides over it: the last layer has the last word.

    Parameters
    ----------
    path : str, Path or None
        A file or a name; None where the layers say all of it.
    layers : sequence of Layer
        From first to last.

    Raises
    ------
    InputError
        As `load_scenario`.
    """
    if path is None:
        return _overridden({"name": "command line"}, layers, None)
    file, content = read_content(path)
    content.setdefault("name", file.stem)
    scenario = _overridden(content, layers, file)
    return scenario.model_copy(update={"folder": file.resolve().parent})


def read_content(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return the file of a scenario and what it says, flags' names in place, unchecked.

    Raises
    ------
    InputError
        For a file that is missing or is no YAML, and two keys that contradict each other.
    """
    file = _find(Path(path))
    with located(file):
        return file, named(read_yaml(file), _SECTIONS)


def placed(scenario: Scenario) -> Scenario:
    """Return the scenario with the files of its workload by their absolute paths."""
    content = scenario.workload.model_dump(exclude_unset=True)
    workload = parse_workload(with_absolute_files(content, scenario.folder))
    return scenario.model_copy(update={"workload": workload})


def with_overrides(
    scenario: Scenario,
    overrides: Mapping[str, object],
    *,
    spelled: Mapping[str, str] | None = None,
) -> Scenario:
    """Return the scenario with other values; keys and `spelled` as in `load_scenario`.

    Raises
    ------
    InputError
        For an unknown key or an impossible value, with the key.

    Examples
    --------
    >>> faster = with_overrides(load_scenario("peer-w"), {"workload.arrivals.rate": 20})
    >>> faster.workload.arrivals.rate
    20.0
    """
    content = scenario.model_dump(exclude_unset=True, exclude={"folder"})
    file, before = scenario.origin
    changed = _overridden(content, [layer_of(overrides, spelled or {})], file)
    changed = changed.from_origin(file, before | changed.origin[1])
    return changed.model_copy(update={"folder": scenario.folder})


def _overridden(content: dict[str, Any], layers: Sequence[Layer], file: Path | None) -> Scenario:
    """Build a scenario; blame an override for what is wrong, unless the file said it before."""
    changed, words = deepcopy(content), dict[str, str]()
    for layer in layers:
        words |= overlay(changed, layer, _SECTIONS)
    words = {key: said for key, said in words.items() if said}
    try:
        scenario = _validated(changed)
    except ContradictionError as wrong:
        places = [where_given(key, words, file).removesuffix(f": {key}") for key in wrong.given]
        raise ContradictionError(wrong.given, places) from None
    except FieldError as wrong:
        blamed = None if _is_in(content, wrong) else closest(wrong.place, words)
        if blamed is not None:
            fix = _whole_section(wrong, blamed) or wrong.fix
            raise InputError(wrong.what, where=words[blamed], fix=fix) from None
        with located(file or Path("scenario")):
            raise
    return scenario.from_origin(file, words)


def _whole_section(wrong: FieldError, blamed: str) -> str:
    """How to change a kind: the keys of the one before do not fit the new one."""
    section = dotted(wrong.place[:-1])
    if blamed != f"{section}.kind" or not wrong.what.startswith("unknown key"):
        return ""
    return f"the section had it before: set all of it, as {section}={{kind: ..., ...}}"


def _validated(content: dict[str, Any]) -> Scenario:
    """Build a scenario; what is wrong comes with its place."""
    if "folder" in content:
        raise unknown_key(("folder",), _SECTIONS)
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        raise field_error(error, content, Scenario) from None


def _is_in(content: dict[str, Any], wrong: FieldError) -> bool:
    """Whether the same is wrong with what the file alone says."""
    try:
        _validated(content)
    except FieldError as before:
        return before.what == wrong.what
    except ContradictionError:  # it comes after what is wrong with a field
        return False
    return False


def _find(path: Path) -> Path:
    """The file at `path`, or the shipped scenario of that name."""
    with suppress(OSError):  # too long to be a file's name
        if path.suffix in (".yaml", ".yml") or path.is_file():
            return path
    if str(path) not in scenario_names():
        raise UnknownNameError("scenario", str(path), scenario_names(), fix="or give a YAML file")
    return data_folder("scenarios") / f"{path}.yaml"
