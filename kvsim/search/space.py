"""A space: a scenario, the keys that vary in it, and the seeds that each combination is run with.

As a file (`Space.read`)::

    scenario: peer-w                 # a shipped name, or a file relative to this one
    set: {workload.requests: 2000}   # fixed, as ``kvsim simulate --set``
    vary:                            # every combination, the last key's values fastest
      accelerator: [a100, h100]
      engine.tensor_parallel_size: [1, 2]
    seeds: 3                         # counted up from run.seed, the same for each combination
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from kvsim.errors import InputError
from kvsim.runs.vary import checked_values, combinations
from kvsim.simulator.facts import fact_of
from kvsim.simulator.loading import load_scenario, scenario_names, with_overrides
from kvsim.simulator.scenario import Scenario
from kvsim.specs.checked import Checked, PositiveInt
from kvsim.specs.yaml_files import line_of, read_described

__all__ = ["Point", "Space"]

_SEEDS = 2**63
_SEEDED = {"run.seed": "set it, and say how many with seeds", "run.replications": "say seeds"}


class _Written(Checked):
    """The keys of a space's file."""

    scenario: str
    vary: dict[str, tuple[Any, ...]]
    set: dict[str, Any] = {}  # noqa: RUF012 - the default of a field
    seeds: PositiveInt | None = None


@dataclass(frozen=True)
class Point:
    """One combination.

    Parameters
    ----------
    values : dict of str to object
        What sets it apart, by key as it was written.
    scenario : Scenario
        The scenario with these values.
    """

    values: dict[str, Any]
    scenario: Scenario


@dataclass(frozen=True)
class Space:
    """A scenario, values that vary in it, and seeds.

    Parameters
    ----------
    scenario : Scenario
        What is fixed.
    vary : dict of str to sequence
        Values by dotted key or name of a flag; all their combinations are points, the last key's
        values the fastest.
    seeds : int, optional
        Runs of each point, their seeds counted up from ``run.seed``: all points meet the same
        random numbers. The scenario's ``run.replications`` by default.
    spelled : mapping of str to str
        Where each key of `vary` was written.

    Attributes
    ----------
    is_seeded : bool
        Whether somebody said how many seeds, here or in the scenario.

    Raises
    ------
    InputError
        For an empty space, a key or value given twice, a null, or a key that `seeds` decides.
    """

    scenario: Scenario
    vary: dict[str, Sequence[Any]]
    seeds: int = 0
    spelled: Mapping[str, str] = field(default_factory=dict)
    is_seeded: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        values = checked_values(self.vary)
        words = {key: self.spelled.get(key, f"vary {key}") for key in values}
        for key, given in values.items():
            _refuse_seeds(key, words[key])
            if None in given:
                raise InputError("null is no value to vary: name them all", where=words[key])
        if self.seeds < 0:
            raise InputError(f"{self.seeds} runs of a point answer nothing", where="seeds")
        run = self.scenario.run
        if run.seed + self.seeds > _SEEDS:
            raise InputError(
                f"{self.seeds} seeds from {run.seed} on are more than 63 bits hold",
                where="seeds",
                fix="begin with a smaller run.seed",
            )
        seeded = bool(self.seeds) or "replications" in run.model_fields_set
        seeds = self.seeds or run.replications
        frozen = {"vary": values, "spelled": words, "seeds": seeds, "is_seeded": seeded}
        for name, value in frozen.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """How many points there are."""
        return prod(map(len, self.vary.values()))

    def values(self, number: int) -> dict[str, Any]:
        """What sets a point apart, by its place in `points`, counted from 0."""
        found: list[tuple[str, Any]] = []
        for key, values in reversed(self.vary.items()):
            number, place = divmod(number, len(values))
            found.append((key, values[place]))
        return dict(reversed(found))

    def points(self) -> Iterator[Point]:
        """Yield every combination, made when it is asked for.

        Raises
        ------
        InputError
            For an unknown key or an impossible value, in its turn.
        """
        for values, scenario in combinations(self.scenario, self.vary, self.spelled):
            yield Point(values, scenario)

    @classmethod
    def read(cls, path: Path | str) -> Space:
        """Read a space's file.

        Raises
        ------
        InputError
            For a file that is missing or malformed, an unknown key or scenario, and what `Space`
            refuses; with the file's line.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "space.yaml")
        ...     _ = file.write_text("{scenario: peer-w, vary: {tp: [1, 2], block_size: [16, 32]}}")
        ...     space = Space.read(file)
        >>> [point.values for point in space.points()][1]
        {'tp': 1, 'block_size': 32}
        """
        path = Path(path)
        if not path.exists() and path.name in scenario_names():
            raise InputError(
                "is a scenario, and a space is a file that varies one",
                where=str(path),
                fix=f"write `scenario: {path.name}` and `vary:` into a file",
            )
        written = read_described(path, _Written)
        vary = {key: _line(path, "vary", key) for key in written.vary}
        fixed = {key: _line(path, "set", key) for key in written.set}
        _refuse_fixed(written, vary, fixed)
        scenario = _scenario(written.scenario, path)
        words = {key: f"{said}={written.set[key]!s:.80}" for key, said in fixed.items()}
        scenario = with_overrides(scenario, written.set, spelled=words)
        try:
            return cls(scenario, dict(written.vary), written.seeds or 0, vary)
        except InputError as error:
            if error.where.startswith(str(path)):
                raise
            key = error.where.removeprefix("vary").strip()
            place = f"{vary.get(key) or _line(path, 'vary')}"
            raise InputError(error.what, where=place, fix=error.fix) from None


def _scenario(name: str, path: Path) -> Scenario:
    """The scenario that a space's file names: a file relative to it, or a shipped one."""
    beside = path.parent / name
    is_file = beside.suffix in (".yaml", ".yml") or beside.is_file()
    try:
        return load_scenario(beside if is_file else name)
    except InputError as error:
        if error.where:
            raise
        where = f"{_line(path, 'scenario')}={name}"
        raise InputError(error.what, where=where, fix=error.fix) from None


def _refuse_fixed(written: _Written, vary: Mapping[str, str], fixed: Mapping[str, str]) -> None:
    """Refuse to set what varies, which would have no effect, and what `seeds` says."""
    varied = {fact_of(key, next(iter(values), None)): key for key, values in written.vary.items()}
    for key, value in written.set.items():
        found = varied.get(fact_of(key, value))
        if found is not None:
            raise InputError(f"{vary[found]} takes its place", where=fixed[key], fix="leave it out")
        if fact_of(key, value) == "run.replications":
            _refuse_seeds(key, fixed[key])


def _refuse_seeds(key: str, where: str) -> None:
    fix = _SEEDED.get(fact_of(key))
    if fix is not None:
        raise InputError("seeds says which runs a point has", where=where, fix=fix)


def _line(path: Path, *place: str) -> str:
    """Where a key of the file stands, in words."""
    line = line_of(path, place)
    return f"{path}, line {line}: {' '.join(place)}" if line else f"{path}: {' '.join(place)}"
