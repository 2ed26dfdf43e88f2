"""Several runs of one question: replications of it, and variants on the same requests.

Streams of random numbers are named, so a variant that changes the memory, the scheduler or
the card meets exactly the requests that the first variant met, replication by replication.
Differences are therefore taken in pairs, which is what makes their intervals narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from kvsim.errors import InputError, UnsupportedError
from kvsim.results.result import (
    SimulationResult,
    grows_with_the_run,
    swap_break_even_tokens,
    without_growing,
)
from kvsim.results.statistics import Interval, confidence_interval
from kvsim.runs.simulate import run_setup
from kvsim.simulator.camera import Camera
from kvsim.simulator.prepare import prepare
from kvsim.simulator.replica import Watch
from kvsim.simulator.scenario import Scenario, with_overrides

__all__ = ["Replications", "SimulationComparison", "Variant", "compare", "numbers", "replicate"]


@dataclass(frozen=True)
class Replications:
    """Independent runs of one scenario.

    Parameters
    ----------
    first : SimulationResult
        The run with the scenario's own seed, in full.
    summaries : tuple of dict
        Every run's summary; seeds count up from the first.
    stopped : bool
        Whether an interrupt fell between two runs, so that the rest were never begun.
    """

    first: SimulationResult
    summaries: tuple[dict[str, Any], ...]
    stopped: bool = False

    @property
    def summary(self) -> dict[str, Any]:
        """The first run's summary; if any run was saturated, as that of a saturated one."""
        first = self.summaries[0]
        return without_growing(first) if self.saturated else first

    @property
    def interrupted(self) -> bool:
        """Whether the last run was cut short, or the rest were never begun."""
        return self.stopped or bool(self.summaries[-1]["interrupted"])

    @property
    def whole(self) -> tuple[dict[str, Any], ...]:
        """Summaries of the runs that came to their end."""
        return tuple(summary for summary in self.summaries if not summary["interrupted"])

    @property
    def saturated(self) -> bool:
        """Whether any run was past saturation."""
        return any(summary["saturated"] for summary in self.summaries)

    @property
    def intervals(self) -> dict[str, Interval]:
        """Mean and 95 % interval of every number of the summary, by dotted key.

        Of the runs that came to their end, if there is one: a run that was cut answers a
        shorter question. What grows with a saturated run has no mean.
        """
        rows = [dict(numbers(summary)) for summary in self.whole or self.summaries]
        keys = [key for key in rows[0] if not (self.saturated and grows_with_the_run(key))]
        samples = {key: [row.get(key) for row in rows] for key in keys}
        return {key: found for key in keys if (found := _interval(samples[key])) is not None}


@dataclass(frozen=True)
class Variant:
    """One scenario among those compared.

    Parameters
    ----------
    overrides : dict of str to object
        What sets it apart, by dotted key.
    runs : Replications
        What came of it.
    """

    overrides: dict[str, Any]
    runs: Replications

    @property
    def label(self) -> str:
        """The values that set it apart, in the order of the keys."""
        return ", ".join(str(value) for value in self.overrides.values())


@dataclass(frozen=True)
class SimulationComparison:
    """Variants of a scenario that met the same requests; the first is the baseline.

    `interrupted` says that the last one was cut short, or that others were never begun.
    """

    variants: tuple[Variant, ...]
    interrupted: bool = False

    def difference(self, variant: Variant, key: str) -> Interval | None:
        """Mean of the paired differences from the baseline, with its 95 % interval.

        Parameters
        ----------
        variant : Variant
            One of `variants`.
        key : str
            Dotted key of the summary, such as "mean_ttft_ms".

        Returns
        -------
        Interval or None
            In the key's unit, over the pairs of runs that both came to their end; None where
            a side has no value.
        """
        base, other = self.variants[0].runs, variant.runs
        if (base.saturated or other.saturated) and grows_with_the_run(key):
            return None
        pairs = zip(base.whole, other.whole, strict=False)
        return _interval(
            [_minus(dict(numbers(b)).get(key), dict(numbers(a)).get(key)) for a, b in pairs]
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: each variant's summary, intervals and differences from the first."""
        return {
            "variants": [self._record(variant) for variant in self.variants],
            "interrupted": self.interrupted,
        }

    def _record(self, variant: Variant) -> dict[str, Any]:
        keys = dict(numbers(variant.runs.summary))
        record: dict[str, Any] = {
            "overrides": variant.overrides,
            "pool_slots": variant.runs.first.setup.pool_slots,
            "summary": variant.runs.summary,
            "saturated": variant.runs.saturated,
            "interrupted": variant.runs.interrupted,
            "step_times": variant.runs.first.setup.step_time.provenance,
            "difference": {
                key: found._asdict()
                for key in keys
                if (found := self.difference(variant, key)) is not None
            },
        }
        if len(variant.runs.whole) > 1:
            record["intervals"] = {
                key: found._asdict() for key, found in variant.runs.intervals.items()
            }
        if "scheduler.preemption" in variant.overrides:
            record["swap_break_even_tokens"] = swap_break_even_tokens(variant.runs.first.setup)
        return record


def replicate(
    scenario: Scenario,
    *,
    seed: int | None = None,
    replications: int | None = None,
    watch: Watch | None = None,
    camera: Camera | None = None,
) -> Replications:
    """Run a scenario several times with seeds that count up.

    Parameters
    ----------
    scenario : Scenario
        The question.
    seed : int, optional
        Seed of the first run; the scenario's own when left out.
    replications : int, optional
        Number of runs; the scenario's own when left out.
    watch : callable, optional
        See `kvsim.simulate`. An interrupt ends the run it falls in and begins no other.
    camera : Camera, optional
        Keeps frames of the first run; see `kvsim.simulator.camera`.

    Raises
    ------
    InputError, UnsupportedError
        As `kvsim.simulate`, and for a number of runs below 1.
    KeyboardInterrupt
        When nothing at all was finished before it.
    """
    runs = scenario.run.replications if replications is None else replications
    if runs < 1:
        raise InputError(f"{runs} runs answer nothing", where="replications")
    setup = prepare(scenario)
    start = scenario.run.seed if seed is None else seed
    first = run_setup(setup, start, watch=watch, camera=camera)
    summaries = [first.summary]
    try:
        while len(summaries) < runs and not summaries[-1]["interrupted"]:
            result = run_setup(setup, start + len(summaries), watch=watch)
            summaries.append(result.summary)
    except KeyboardInterrupt:  # between two runs: those before it are whole
        return Replications(first, tuple(summaries), stopped=True)
    return Replications(first, tuple(summaries))


def compare(
    scenario: Scenario,
    vary: Mapping[str, Sequence[Any]],
    *,
    seed: int | None = None,
    replications: int | None = None,
    watch: Watch | None = None,
) -> SimulationComparison:
    """Run every combination of the values given, on the same requests.

    Parameters
    ----------
    scenario : Scenario
        The question.
    vary : mapping of str to sequence
        Values by dotted key: ``{"memory.allocator": ["reserve-max", "paged"]}``. Several
        keys give all their combinations; the first is the baseline.
    seed, replications, watch
        See `replicate`.

    Raises
    ------
    InputError
        For an unknown key, an impossible value, a value given twice, or no value at all;
        the message names the value, or the combination that cannot be run.
    """
    variants: list[Variant] = []
    for overrides, changed in _variants(scenario, vary):
        try:
            runs = replicate(changed, seed=seed, replications=replications, watch=watch)
        except (InputError, UnsupportedError) as error:
            said = str(error)
            if not said.startswith("vary "):
                named = ", ".join(f"{key}={value}" for key, value in overrides.items())
                said = f"vary {named}: {said}"
            raise InputError(said) from None
        except KeyboardInterrupt:
            if not variants:
                raise
            return SimulationComparison(tuple(variants), interrupted=True)
        variants.append(Variant(overrides, runs))
        if runs.interrupted:
            return SimulationComparison(tuple(variants), interrupted=True)
    return SimulationComparison(tuple(variants))


def numbers(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Yield the numbers of a summary by dotted key; None is a quantity without observations."""
    for key, value in summary.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{key}.")
        elif not isinstance(value, bool):
            yield prefix + key, value


def _variants(
    scenario: Scenario, vary: Mapping[str, Sequence[Any]]
) -> list[tuple[dict[str, Any], Scenario]]:
    """Every combination of values, with its scenario: a wrong one is found before any is run."""
    values = _checked(vary)
    combinations = [dict(zip(vary, chosen, strict=True)) for chosen in product(*values)]
    return [(overrides, _changed(scenario, overrides)) for overrides in combinations]


def _changed(scenario: Scenario, overrides: dict[str, Any]) -> Scenario:
    spelled = {key: f"vary {key}={value}" for key, value in overrides.items()}
    return with_overrides(scenario, overrides, spelled=spelled)


def _checked(vary: Mapping[str, Sequence[Any]]) -> list[list[Any]]:
    """Refuse what would vary nothing, or compare a variant with itself; numpy's become plain."""
    if not vary:
        raise InputError(
            "nothing to vary", fix="give a key with values: memory.allocator=paged,grow"
        )
    return [_values(key, values) for key, values in vary.items()]


def _values(key: str, given: Sequence[Any]) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray) or not len(given):
        raise InputError(f"{key} needs a list of values", where="vary")
    values = [value.item() if isinstance(value, np.generic) else value for value in given]
    twice = [value for at, value in enumerate(values) if value in values[:at]]
    if twice:
        raise InputError(f"the value {twice[0]!r} is given twice", where=f"vary {key}")
    return values


def _minus(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def _interval(samples: Sequence[float | None]) -> Interval | None:
    """Interval of what was observed; None where nothing was."""
    known = [sample for sample in samples if sample is not None]
    return confidence_interval(np.array(known, dtype=float)) if known else None
