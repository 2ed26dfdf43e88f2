"""How many replicas a demand needs on each card, and what they cost per hour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from typing import Any

from kvsim.catalog.accelerators import find_accelerator
from kvsim.errors import InputError, KVSimError, shortened
from kvsim.results.latencies import sure_words
from kvsim.results.result import SimulationResult
from kvsim.runs.copies import at_once, gather
from kvsim.search.rate import (
    OVERLOAD_RATE,
    Probe,
    RateSearch,
    Search,
    SearchSettings,
    judge,
    require_steady,
)
from kvsim.simulator.loading import with_overrides
from kvsim.simulator.prepare import prepare
from kvsim.simulator.replica import Watch
from kvsim.simulator.scenario import Scenario
from kvsim.specs.hardware import Price
from kvsim.steptime.bands import TimeBand

__all__ = ["FleetOption", "replicas_for", "size_fleet"]

_SIMULATIONS = 10  # of a search, about


@dataclass(frozen=True)
class FleetOption:
    """One card and tensor-parallel degree, as an answer to a demand.

    Parameters
    ----------
    accelerator : str
        Its name.
    tensor_parallel_size : int
        Devices per replica.
    demand : float
        Requests per second that the fleet must carry.
    problem : str
        Why it is no answer; "" when it is one.
    search : RateSearch or None
        What one replica sustains; None when the model does not run on it.
    at_demand : Probe or None
        One replica under its share of the demand.
    bound_by : mapping of str to float
        Share of the busy time that each resource binds, under that load.
    memory_limited : float or None
        Share of the time that memory kept requests waiting, under that load.
    price : Price or None
        Of one device and hour, US dollars; None: the profile has none.
    provenance : str
        Where the step times come from.
    time_bands : mapping of str to TimeBand
        How sure the latencies are, by their names.
    """

    accelerator: str
    tensor_parallel_size: int
    demand: float
    problem: str = ""
    search: RateSearch | None = None
    at_demand: Probe | None = None
    bound_by: Mapping[str, float] = field(default_factory=dict)
    memory_limited: float | None = None
    price: Price | None = None
    provenance: str = ""
    time_bands: Mapping[str, TimeBand] = field(default_factory=dict)

    @property
    def how_sure(self) -> list[str]:
        """What the bands of the latencies rest on, in sentences."""
        judged = self.at_demand.latency_ms if self.at_demand else ()
        return sure_words(
            {name: self.time_bands[name] for name in judged if name in self.time_bands}
        )

    @property
    def highest_rate(self) -> float | None:
        """Requests per second that one replica sustains; None: none."""
        return self.search.rate if self.search else None

    @property
    def replicas(self) -> int | None:
        """How many replicas carry the demand; None when one carries nothing.

        ``replicas = ceil(demand / highest rate)``
        """
        return replicas_for(self.demand, self.highest_rate) if self.highest_rate else None

    @property
    def devices(self) -> int | None:
        """Devices of the whole fleet."""
        return None if self.replicas is None else self.replicas * self.tensor_parallel_size

    @property
    def usd_per_hour(self) -> tuple[float, float] | None:
        """What the fleet costs per hour, low and high; None when no price is known."""
        if self.devices is None or self.price is None:
            return None
        return self.devices * self.price.low, self.devices * self.price.high


def replicas_for(demand: float, rate: float) -> int:
    """Return the fewest replicas that carry a demand: ``ceil(demand / rate)``.

    Examples
    --------
    >>> replicas_for(10, 4), replicas_for(8, 4)
    (3, 2)
    """
    return max(1, ceil(demand / rate))


def size_fleet(
    scenario: Scenario,
    demand: float,
    cards: Iterable[tuple[str, int]],
    settings: SearchSettings | None = None,
    *,
    watch: Watch | None = None,
    jobs: int | None = None,
) -> tuple[FleetOption, ...]:
    """Size a fleet of each card for a demand, under the scenario's objectives.

    Parameters
    ----------
    scenario : Scenario
        Traffic, model, engine and `slo`; its accelerator and degree are replaced.
    demand : float
        Requests per second of the whole fleet, split evenly: of Poisson arrivals a random split
        is Poisson again.
    cards : iterable of (str, int)
        Accelerator and tensor-parallel degree.
    settings, watch
        See `highest_rate`. An interrupt keeps the cards that are finished.
    jobs : int, optional
        See `kvsim.replicate`: a card is searched by one process, since each rate follows from
        the rates before it.

    Returns
    -------
    tuple of FleetOption
        One per card, in the order given; a card that the model does not run on says why.

    Raises
    ------
    InputError
        For a demand that is not above 0, or an unknown card.
    UnsupportedError
        For arrivals without one rate.
    """
    if not 0 < demand < OVERLOAD_RATE:
        raise InputError(f"a demand of {demand:g} requests/s is not above 0 and finite")
    require_steady(scenario)
    chosen, asked = settings or SearchSettings(), list(cards)

    def option(number: int, watch: Watch | None = None) -> FleetOption:
        return _option(scenario, demand, asked[number], chosen, watch)

    requests = _SIMULATIONS * chosen.requests * len(asked)
    options: dict[int, FleetOption] = {}
    with suppress(KeyboardInterrupt):
        gather(
            options,
            partial(option, watch=watch),
            option,
            tasks=len(asked),
            processes=at_once(jobs, requests),
        )
    return tuple(options[number] for number in sorted(options))


def _option(
    scenario: Scenario,
    demand: float,
    card: tuple[str, int],
    settings: SearchSettings,
    watch: Watch | None,
) -> FleetOption:
    profile = find_accelerator(card[0])
    option = FleetOption(profile.name, card[1], demand, price=profile.price)
    overrides = {"accelerator": card[0], "engine.tensor_parallel_size": card[1]}
    try:
        search = Search(prepare(with_overrides(scenario, overrides)), settings, watch)
        found = search.run()
    except KVSimError as error:
        return replace(option, problem=_problem(error))
    option = replace(option, search=found, provenance=search.setup.step_time.provenance)
    if option.replicas is None:
        return replace(option, problem=_hopeless(found))
    result = search.serve(demand / option.replicas)
    return replace(option, **_under_load(demand / option.replicas, result, settings))


def _problem(error: KVSimError) -> str:
    """Say what is wrong, less the place: the card of this option, which its row names."""
    if not isinstance(error, InputError):
        return str(error)
    return shortened("; ".join(part for part in (error.what, error.fix) if part))


def _hopeless(found: RateSearch) -> str:
    limit = {"saturation": "the queue grows", "": "too few requests meet the objectives"}
    missed = limit.get(found.limit, f"the {found.limit.upper()} objective is missed")
    return f"even at {found.failed_rate:.3g} requests/s {missed}"


def _under_load(rate: float, result: SimulationResult, settings: SearchSettings) -> dict[str, Any]:
    summary = result.summary
    return {
        "at_demand": judge(rate, result, settings.share),
        "bound_by": summary["bound_by"],
        "memory_limited": summary["memory_limited"],
        "time_bands": result.time_bands,
    }
