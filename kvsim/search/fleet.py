"""How many replicas a demand needs on each card, and what they cost per hour.

::

    every card       throughput under overload: what it costs at least
    cheapest first   two at a time: the load that one replica sustains, the fleet that it takes
    the rest         not searched, once it could not be cheaper than what was found
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from time import monotonic
from typing import Any

import numpy as np

from kvsim.catalog.accelerators import find_accelerator
from kvsim.errors import InputError, KVSimError, shortened
from kvsim.results.result import SimulationResult
from kvsim.results.words import SHORT
from kvsim.runs.copies import at_once, gather
from kvsim.search.fleet_option import FleetOption, cheapest
from kvsim.search.highest import Search, TimeIsUpError, require_end
from kvsim.search.load import OVERLOAD_RATE, load_of
from kvsim.search.objectives import Objective, objectives_of
from kvsim.search.rate import RateSearch, SearchSettings, judge
from kvsim.simulator.loading import with_overrides
from kvsim.simulator.prepare import prepare
from kvsim.simulator.replica import Watch
from kvsim.simulator.scenario import Scenario
from kvsim.specs.hardware import Price

__all__ = ["replica_scenario", "size_fleet"]

_SIMULATIONS = 20  # of a search, about
_AT_A_TIME = 2  # the same for any number of cores, so that the same cards are searched


def size_fleet(
    scenario: Scenario,
    demand: float,
    cards: Iterable[tuple[str, int]],
    settings: SearchSettings | None = None,
    *,
    objectives: Sequence[Objective] | None = None,
    prices: Mapping[str, Price | None] | None = None,
    search_all: bool = True,
    watch: Watch | None = None,
    jobs: int | None = None,
) -> tuple[FleetOption, ...]:
    """Size a fleet of each card for a demand, under objectives.

    Parameters
    ----------
    scenario : Scenario
        Traffic, model, engine and `slo`; its accelerator and degree are replaced.
    demand : float
        Load of the whole fleet, requests per second or users, split evenly: of Poisson arrivals a
        random split is Poisson again.
    cards : iterable of (str, int)
        Accelerator and tensor-parallel degree.
    settings, watch
        See `highest_rate`. An interrupt keeps the cards that are finished; so does
        `settings.max_seconds`, which here is of all cards together.
    objectives : sequence of Objective, optional
        In place of the scenario's own.
    prices : mapping of str to Price or None, optional
        By accelerator's name, in place of the catalogue's; None is none.
    search_all : bool
        Whether to search cards that cannot be cheaper than what was found, too.
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
        raise InputError(f"a demand of {demand:g} is not above 0 and below {OVERLOAD_RATE:g}")
    chosen = settings or SearchSettings()
    asked = objectives_of(scenario.slo, chosen.share) if objectives is None else tuple(objectives)
    sizing = _Sizing(scenario, demand, asked, chosen, prices or {})
    known = [sizing.candidate(*card) for card in cards]
    work = _Work(sizing, watch, jobs)
    options: dict[int, FleetOption] = {}
    with suppress(KeyboardInterrupt):
        work.screen(known)
        work.search(known, options, search_all=search_all)
    return tuple(options[number] for number in sorted(options))


def replica_scenario(scenario: Scenario, option: FleetOption) -> Scenario:
    """One rank of a fleet under its share of the demand, as a scenario.

    Parameters
    ----------
    scenario : Scenario
        That which was sized.
    option : FleetOption
        A fleet that carries the demand.
    """
    load = load_of(scenario)
    placed = with_overrides(
        scenario,
        {
            "accelerator": option.profile,
            "engine.tensor_parallel_size": option.tensor_parallel_size,
        },
    )
    probe = option.at_demand
    if probe is None:
        return placed
    workload = load.workload(placed.workload, probe.rate, probe.requests)
    return placed.model_copy(update={"workload": workload})


@dataclass
class _Sizing:
    """What is asked of every card."""

    scenario: Scenario
    demand: float
    objectives: tuple[Objective, ...]
    settings: SearchSettings
    prices: Mapping[str, Price | None]

    def __post_init__(self) -> None:
        self._load = load_of(self.scenario)
        require_end(self._load, self.objectives)
        self._ends = monotonic() + self.settings.max_seconds

    def candidate(self, card: str, degree: int) -> FleetOption:
        """An option of which nothing is known yet."""
        profile = find_accelerator(card)
        return FleetOption(
            profile.name,
            degree,
            self.demand,
            profile=card,
            unit=self._load.unit,
            price=self.prices.get(profile.name, profile.price),
        )

    def searching(self, option: FleetOption, watch: Watch | None) -> Search:
        """The search of one card's rank, prepared."""
        overrides = {
            "accelerator": option.profile,
            "engine.tensor_parallel_size": option.tensor_parallel_size,
        }
        setup = prepare(with_overrides(self.scenario, overrides))
        return Search(
            setup,
            self._load,
            self.objectives,
            self.settings,
            watch,
            self._ends,
            known_throughput=option.throughput,
            variability=option.variability,
        )

    def screened(self, option: FleetOption, watch: Watch | None = None) -> FleetOption:
        """What is known of it before it is searched: whether it runs, and its throughput."""
        try:
            search = self.searching(option, watch)
            throughput = search.throughput(search.first_seed)
        except KVSimError as error:
            return replace(option, problem=_problem(error))
        deployment = search.setup.deployment
        return replace(
            option,
            throughput=None if throughput == inf else throughput,
            variability=search.variability,
            stages=deployment.options.pipeline_parallel_size,
            ranks=deployment.options.data_parallel_size,
            command=search.setup.sizing.engine.command(search.setup.sizing.asked),
            provenance=search.setup.step_time.provenance,
        )

    def searched(self, option: FleetOption, watch: Watch | None = None) -> FleetOption:
        """What one rank sustains, and how it does under its share of the demand."""
        try:
            search = self.searching(option, watch)
            found = search.run()
            option = replace(option, search=found)
            if option.replicas is None:
                return replace(option, problem=_hopeless(found))
            share = self._load.rounded(self.demand / option.replicas / option.ranks)
            result = search.serve(share, found.throughput or inf, search.first_seed)
        except KVSimError as error:
            return replace(option, problem=_problem(error))
        probe = judge(share, result, self.objectives, self.settings.share)
        return replace(option, at_demand=probe, **_under_load(result))


@dataclass
class _Work:
    """The cards, each done by one of some processes."""

    sizing: _Sizing
    watch: Watch | None
    jobs: int | None

    def screen(self, known: list[FleetOption]) -> None:
        """Find every card's throughput."""
        found: dict[int, FleetOption] = {}
        self._do(self.sizing.screened, known, range(len(known)), found)
        known[:] = [found[number] for number in range(len(known))]

    def search(
        self, known: Sequence[FleetOption], options: dict[int, FleetOption], *, search_all: bool
    ) -> None:
        """Search the cards that run, cheapest first."""
        options.update({number: each for number, each in enumerate(known) if each.problem})
        order = sorted(set(range(len(known))) - set(options), key=lambda at: known[at].least_cost)
        while order:
            best = inf if search_all else _most_paid(options.values())
            dear = [number for number in order if known[number].least_cost > best]
            options.update({number: _too_dear(known[number], best) for number in dear})
            order = [number for number in order if number not in options]
            now, order = order[:_AT_A_TIME], order[_AT_A_TIME:]
            self._do(self.sizing.searched, known, now, options)

    def _do(
        self,
        what: Any,
        known: Sequence[FleetOption],
        numbers: Sequence[int],
        found: dict[int, FleetOption],
    ) -> None:
        """Do one thing with some of the cards; an interrupt keeps what is finished."""
        answers: dict[int, FleetOption] = {}

        def here(place: int) -> FleetOption:
            return what(known[numbers[place]], self.watch)  # type: ignore[no-any-return]

        def there(place: int) -> FleetOption:
            return what(known[numbers[place]])  # type: ignore[no-any-return]

        requests = _SIMULATIONS * self.sizing.settings.requests * len(numbers)
        try:
            processes = at_once(self.jobs, requests)
            gather(answers, here, there, tasks=len(numbers), processes=processes)
        finally:
            found.update({numbers[place]: each for place, each in answers.items()})


def _most_paid(options: Iterable[FleetOption]) -> float:
    """The highest price of the cheapest fleet so far."""
    best = cheapest(options)
    cost = best[0].usd_per_hour if best else None
    return cost[1] if cost else inf


def _too_dear(option: FleetOption, best: float) -> FleetOption:
    """Say that no search could make it the cheapest."""
    return replace(
        option,
        problem=f"cannot be cheaper: at {option.throughput:.3g} requests/s, its throughput under"
        f" overload, the fleet costs {option.least_cost:,.2f} an hour or more, and"
        f" {best:,.2f} is enough",
    )


def _problem(error: KVSimError) -> str:
    """Say what is wrong, less the place: the card of this option, which its row names."""
    if isinstance(error, TimeIsUpError):
        return str(error)
    if not isinstance(error, InputError):
        return str(error)
    return shortened("; ".join(part for part in (error.what, error.fix) if part))


def _hopeless(found: RateSearch) -> str:
    said = {"saturation": "the queue grows", "": "too few requests meet the objectives"}
    at = f"even at {found.failed_rate:.3g} {found.unit}"
    failed = [probe for probe in found.probes if probe.rate == found.failed_rate]
    missed = [each for each in found.objectives if each.latency == found.limit]
    if not missed or not failed:
        return f"{at} {said.get(found.limit, 'the objectives are missed')}"
    seen = failed[-1].latency_ms[found.limit]
    reached = "" if seen is None else f": {SHORT[found.limit]} is {seen:,.4g} ms"
    return f"{at} {missed[-1].words} is missed{reached}"


def _under_load(result: SimulationResult) -> dict[str, Any]:
    summary, columns = result.summary, result.columns
    arrivals = columns["arrival_seconds"]
    span = float(arrivals.max() - arrivals.min()) or 1.0
    tokens = (float(np.sum(columns[f"{name}_tokens"])) / span for name in ("prompt", "output"))
    return {
        "bound_by": summary["bound_by"],
        "memory_limited": summary["memory_limited"],
        "time_bands": result.time_bands,
        "tokens_per_s": tuple(tokens),
    }
