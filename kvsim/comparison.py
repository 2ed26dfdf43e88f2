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

from kvsim.assembly import prepare
from kvsim.errors import InputError, UnsupportedError
from kvsim.metrics import Interval, confidence_interval
from kvsim.replica import Watch
from kvsim.results import SimulationResult, swap_break_even_tokens
from kvsim.scenario import Scenario, with_overrides
from kvsim.simulation import run_setup

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
    """

    first: SimulationResult
    summaries: tuple[dict[str, Any], ...]

    @property
    def interrupted(self) -> bool:
        """Whether the last run was cut short, or the rest were never begun."""
        return bool(self.summaries[-1]["interrupted"])

    @property
    def saturated(self) -> bool:
        """Whether any run was past saturation."""
        return any(summary["saturated"] for summary in self.summaries)

    @property
    def intervals(self) -> dict[str, Interval]:
        """Mean and 95 % interval of every number of the summary, by dotted key."""
        rows = [dict(numbers(summary)) for summary in self.summaries]
        samples = {key: [row.get(key) for row in rows] for key in rows[0]}
        return {key: found for key in rows[0] if (found := _interval(samples[key])) is not None}


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
    """Variants of a scenario that met the same requests; the first is the baseline."""

    variants: tuple[Variant, ...]

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
            In the key's unit; None where either side has no value.
        """
        pairs = zip(self.variants[0].runs.summaries, variant.runs.summaries, strict=False)
        return _interval(
            [_minus(dict(numbers(b)).get(key), dict(numbers(a)).get(key)) for a, b in pairs]
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: each variant's summary, intervals and differences from the first."""
        return {"variants": [self._record(variant) for variant in self.variants]}

    def _record(self, variant: Variant) -> dict[str, Any]:
        keys = dict(numbers(variant.runs.summaries[0]))
        record: dict[str, Any] = {
            "overrides": variant.overrides,
            "summary": variant.runs.summaries[0],
            "saturated": variant.runs.saturated,
            "difference": {
                key: found._asdict()
                for key in keys
                if (found := self.difference(variant, key)) is not None
            },
        }
        if len(variant.runs.summaries) > 1:
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
    """
    setup = prepare(scenario)
    start = scenario.run.seed if seed is None else seed
    results: list[SimulationResult] = []
    summaries: list[dict[str, Any]] = []
    for number in range(replications or scenario.run.replications):
        result = run_setup(setup, start + number, watch=watch)
        results = results or [result]
        summaries.append(result.summary)
        if result.interrupted:
            break
    return Replications(results[0], tuple(summaries))


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
        For an unknown key, an impossible value, or no value at all; the message names the
        combination.
    """
    variants: list[Variant] = []
    for overrides in _combinations(vary):
        try:
            changed = with_overrides(scenario, overrides)
            runs = replicate(changed, seed=seed, replications=replications, watch=watch)
        except (InputError, UnsupportedError) as error:
            named = ", ".join(f"{key}={value}" for key, value in overrides.items())
            raise InputError(str(error), where=f"vary {named}") from None
        variants.append(Variant(overrides, runs))
        if runs.interrupted:
            break
    return SimulationComparison(tuple(variants))


def numbers(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Yield the numbers of a summary by dotted key; None is a quantity without observations."""
    for key, value in summary.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{key}.")
        elif not isinstance(value, bool):
            yield prefix + key, value


def _combinations(vary: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    if not vary:
        raise InputError(
            "nothing to vary", fix="give a key with values: memory.allocator=paged,grow"
        )
    for key, values in vary.items():
        if isinstance(values, str) or not values:
            raise InputError(f"{key} needs a list of values", where="vary")
    for chosen in product(*vary.values()):
        yield dict(zip(vary, chosen, strict=True))


def _minus(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def _interval(samples: Sequence[float | None]) -> Interval | None:
    """Interval of what was observed; None where nothing was."""
    known = [sample for sample in samples if sample is not None]
    return confidence_interval(np.array(known, dtype=float)) if known else None
