"""Variants of one question on the same requests.

Streams of random numbers are named, so a variant that changes the memory, the scheduler or
the card meets exactly the requests that the first variant met, replication by replication.
Differences are therefore taken in pairs, which is what makes their intervals narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from kvsim.errors import InputError, UnsupportedError
from kvsim.results.latencies import grows_with_the_run
from kvsim.results.result import SimulationResult, swap_break_even_tokens
from kvsim.results.statistics import Interval
from kvsim.runs.replicate import (
    Asked,
    Replications,
    mean_interval,
    numbers,
    replicate_each,
)
from kvsim.runs.vary import checked_values, combinations
from kvsim.simulator.camera import Camera
from kvsim.simulator.facts import key_of
from kvsim.simulator.loading import with_overrides
from kvsim.simulator.prepare import Setup
from kvsim.simulator.replica import Watch
from kvsim.simulator.scenario import Scenario
from kvsim.version import __version__

__all__ = ["SimulationComparison", "Variant", "compare"]


@dataclass(frozen=True)
class Variant:
    """One scenario among those compared.

    Parameters
    ----------
    overrides : dict of str to object
        What sets it apart, by key as it was given.
    runs : Replications
        What came of it.
    """

    overrides: dict[str, Any]
    runs: Replications

    @property
    def label(self) -> str:
        """The values that set it apart, in the order of the keys."""
        return ", ".join(_said(value) for value in self.overrides.values())


def _said(value: object) -> str:
    """A value as a column's head; a policy by its name and its parameters."""
    if not isinstance(value, Mapping):
        return str(value)
    parts = [str(value["name"])] if "name" in value else []
    return " ".join([*parts, *(f"{key}={each}" for key, each in value.items() if key != "name")])


_CACHING = {"engine.enable_prefix_caching", "memory.allocator"}
_FOLLOWING: tuple[tuple[set[str], str, Callable[[Setup], bool]], ...] = (
    (_CACHING, "prefixes are cached", attrgetter("caches_prefixes")),
    (
        {"engine.async_scheduling"},
        "a step is scheduled while another is computed",
        attrgetter("is_async"),
    ),
)


_ALIKE = "Differences are surer than that: on one card, model and engine the step times err alike."
_APART = (
    "Differences between cards, models or engines are no surer than both sides are: their step"
    " times may err apart, and an interval of a difference is of chance alone."
)


@dataclass(frozen=True)
class SimulationComparison:
    """Variants of a scenario that met the same requests; the first is the baseline.

    `interrupted` says that the last one was cut short, or that others were never begun;
    `never_begun` has what would have set those apart.
    """

    variants: tuple[Variant, ...]
    interrupted: bool = False
    never_begun: tuple[dict[str, Any], ...] = ()

    @property
    def same_requests(self) -> bool:
        """Whether nothing that was varied draws other requests."""
        keys = [key_of(name, value) for name, value in self.variants[0].overrides.items()]
        return not any(key == "run.seed" or key.partition(".")[0] == "workload" for key in keys)

    def cautions(self, but: Collection[str] = ()) -> list[str]:
        """What a reader must know first, with the names of the variants unless it is of all.

        Parameters
        ----------
        but : collection of str
            What was said elsewhere.
        """
        each = {
            variant.label: [said for said in variant.runs.cautions if said not in but]
            for variant in self.variants
        }
        return self._unlike() + self._said(each)

    @staticmethod
    def _said(each: Mapping[str, Iterable[str]]) -> list[str]:
        """What is said of variants, each sentence once, with the names unless it is of all."""
        of: dict[str, list[str]] = {}
        for name, sentences in each.items():
            for said in dict.fromkeys(sentences):
                of.setdefault(said, []).append(name)
        return [
            said if len(names) == len(each) else f"{'; '.join(names)}: {said}"
            for said, names in of.items()
        ]

    def _unlike(self) -> list[str]:
        """What sets variants apart though nobody varied it: a default that follows from another."""
        varied = {key_of(name, value) for name, value in self.variants[0].overrides.items()}
        found = []
        for keys, words, does in _FOLLOWING:
            has = {variant.label: does(variant.runs.first.setup) for variant in self.variants}
            if len(set(has.values())) > 1 and not keys & varied:
                those = ", ".join(label for label, each in has.items() if each)
                found.append(f"{words} in {those}, and not in the others: say {min(keys)} for all")
        return found

    @property
    def how_sure(self) -> list[str]:
        """What the bands of the latencies rest on, with the variants' names unless it is of all.

        The last sentence says how sure differences are.
        """
        said = self._said({v.label: v.runs.first.how_sure for v in self.variants})
        if len(self.variants) < 2 or not said:
            return said
        return [*said, _APART if self._differ() else _ALIKE]

    def _differ(self) -> bool:
        """Whether variants have cards, models or engines apart: then step times may err apart."""
        setups = [variant.runs.first.setup for variant in self.variants]
        whose = {
            (each.deployment.accelerator.name, each.deployment.model.name, each.sizing.engine.name)
            for each in setups
        }
        return len(whose) > 1

    def difference(self, variant: Variant, key: str) -> Interval | None:
        """Mean of the paired differences from the baseline, with its 95 % interval.

        The bands of the times do not widen it: on one card and model the step-time model errs
        alike on both sides.

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
        return mean_interval(
            [_minus(dict(numbers(b)).get(key), dict(numbers(a)).get(key)) for a, b in pairs]
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: how sure it is, each variant's summary, intervals and differences."""
        first = self.variants[0].runs.first
        return {
            "kvsim": __version__,
            "scenario": first.setup.scenario.name,
            "seed": first.recording.seed,
            "same_requests": self.same_requests,
            "warnings": self._unlike(),
            "how_sure": self.how_sure,
            "variants": [self._record(variant) for variant in self.variants],
            "interrupted": self.interrupted,
            "never_begun": list(self.never_begun),
        }

    def _record(self, variant: Variant) -> dict[str, Any]:
        keys = dict(numbers(variant.runs.summary))
        record: dict[str, Any] = {
            "overrides": variant.overrides,
            "pool_slots": variant.runs.first.setup.pool_slots,
            "pool_tokens": variant.runs.first.setup.pool_tokens,
            "warnings": list(variant.runs.cautions),
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


def compare(
    scenario: Scenario,
    vary: Mapping[str, Sequence[Any]],
    *,
    seed: int | None = None,
    replications: int | None = None,
    watch: Watch | None = None,
    jobs: int | None = None,
) -> SimulationComparison:
    """Run every combination of the values given, on the same requests.

    Parameters
    ----------
    scenario : Scenario
        The question.
    vary : mapping of str to sequence
        Values by dotted key or name of a flag: ``{"engine": ["vllm", "sglang"]}``. Several
        keys give all their combinations; the first is the baseline.
    seed, replications, watch, jobs
        See `replicate`.

    Raises
    ------
    InputError
        For an unknown key, an impossible value, a key or value given twice, or no value at all;
        the message names the value, or the combination that cannot be run.
    """
    stated = {"run.seed": seed, "run.replications": replications}
    scenario = with_overrides(scenario, {k: v for k, v in stated.items() if v is not None})
    wanted = list(combinations(scenario, checked_values(vary)))  # a wrong one before any is run
    asked = [_Varied(changed, overrides=overrides) for overrides, changed in wanted]
    found, interrupted = replicate_each(asked, watch=watch, jobs=jobs)
    pairs = zip(asked, found, strict=False)
    variants = tuple(Variant(each.overrides, runs) for each, runs in pairs)
    never_begun = tuple(each.overrides for each in asked[len(found) :])
    return SimulationComparison(variants, interrupted, never_begun)


@dataclass
class _Varied(Asked):
    """A variant that is to be run: what goes wrong names what sets it apart."""

    overrides: dict[str, Any] = field(default_factory=dict)

    def run(self, place: int, watch: Watch | None, camera: Camera | None) -> SimulationResult:
        """Do one of the runs, counted from 0."""
        try:
            return super().run(place, watch, camera)
        except (InputError, UnsupportedError) as error:
            said = str(error)
            if not said.startswith("vary "):
                named = ", ".join(f"{key}={value}" for key, value in self.overrides.items())
                said = f"vary {named}: {said}"
            raise InputError(said) from None


def _minus(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base
