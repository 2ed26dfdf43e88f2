"""How many replicas a demand needs on each card, and what they cost per hour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvsim.search.fleet_option import FleetOption
from kvsim.search.load import WARMUP, load_of
from kvsim.search.objectives import Objective, stated_as_slo
from kvsim.search.prices import prices_by_name
from kvsim.search.question import Question
from kvsim.search.rate import SearchSettings
from kvsim.search.work import Work
from kvsim.simulator.loading import with_overrides
from kvsim.simulator.replica import Watch
from kvsim.simulator.scenario import SLO, Scenario
from kvsim.specs.hardware import Price
from kvsim.units import digits

_REQUESTS = 2000

__all__ = ["card_values", "replica_scenario", "size_fleet"]


def size_fleet(
    scenario: Scenario,
    demand: float,
    cards: Iterable[tuple[str, int]],
    settings: SearchSettings | None = None,
    *,
    objectives: Sequence[Objective] | None = None,
    prices: Mapping[str, Price | float | None] | None = None,
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
        See `highest_rate`. An interrupt keeps the cards that are finished, and the others say that
        they are not; so does `settings.max_seconds`, which here is of all cards together.
    objectives : sequence of Objective, optional
        In place of the scenario's own.
    prices : mapping of str to Price, float or None, optional
        Of one device and hour, by any name of the accelerator, in place of the catalogue's; None
        is none.
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
    KeyboardInterrupt
        When nothing at all was finished before it.
    InputError
        For a demand that is not above 0, or an unknown card.
    UnsupportedError
        For arrivals without one rate.
    """
    chosen = settings or SearchSettings()
    goals = None if objectives is None else tuple(objectives)
    question = Question(scenario, demand, chosen, goals, prices_by_name(prices or {}))
    work = Work(question, watch, jobs)
    known = [question.described(card_values(*card)) for card in cards]
    work.run(known, search_all=search_all)
    if work.interrupted and not work.done:
        raise KeyboardInterrupt
    return tuple(work.all_answers)


def card_values(card: str, degree: int) -> dict[str, Any]:
    """The values of a deployment on one card: its name and its tensor-parallel degree."""
    return {"accelerator": card, "engine.tensor_parallel_size": degree}


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
    placed = with_overrides(scenario, option.values)
    share = load.rounded(option.share or load.stated(placed.workload))
    requests = option.at_demand.requests if option.at_demand else placed.workload.requests
    workload = load.workload(placed.workload, share, requests or _REQUESTS)
    warmup = max(WARMUP, placed.run.warmup_fraction)
    run = placed.run.model_copy(update={"warmup_fraction": warmup})
    slo = SLO(**stated_as_slo(option.search.objectives)) if option.search else placed.slo
    question = (
        f"Does one of {option.replicas} x {option.accelerator} {option.degrees} carry its share of"
        f" {digits(option.demand, 4)} {option.unit}?"
    )
    update = {"question": question, "workload": workload, "run": run, "slo": slo}
    return placed.model_copy(update=update)
