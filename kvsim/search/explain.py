"""Why a fleet is the cheapest, and what would change that: prices, the demand, the objectives.

Every number follows from what was computed: devices, prices and sustained loads in closed form,
latencies from the probes. A deployment that was left out as too dear is no rival here: it was
left out because it could not be cheaper at this demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kvsim.results.statistics import Floats
from kvsim.search.fleet_option import FleetOption
from kvsim.search.objectives import Objective

__all__ = ["Explanation", "Reach", "explained"]

_FARTHEST = 10  # times the demand: how far ahead a change of the winner is looked for
_JUST_ABOVE = 1 + 1e-9
_MOST_STEPS = 1_000_000  # of replicas: with so many, one more decides nothing


class Reach(NamedTuple):
    """How far one objective of the winner could be tightened.

    Parameters
    ----------
    objective : Objective
        As asked.
    at_demand_ms : float or None
        What the winner reaches under its share of the demand: a lower limit is missed there.
    least_ms : float or None
        The lowest that any probe of it saw: below that it fails at every load that was tried.
    """

    objective: Objective
    at_demand_ms: float | None
    least_ms: float | None


@dataclass(frozen=True)
class Explanation:
    """Why the winner wins, and what would change it.

    Parameters
    ----------
    winner : FleetOption
        The cheapest.
    runner_up : FleetOption or None
        The next by cost; None: no other carries the demand.
    rival : FleetOption or None
        The cheapest on another card, or at another price of it.
    price_ratio, price_ratio_now : float or None
        Price of the rival's device over that of the winner's: below the first it takes over; the
        second is what the middle prices say.
    more_replicas_above : float
        The demand above which the winner needs another replica.
    overtaken_above : float or None
        The demand above which another searched one is cheaper; None: at none up to ten times it.
    overtaken_by : FleetOption or None
        Which one.
    reaches : tuple of Reach
        The objectives, one by one.
    """

    winner: FleetOption
    runner_up: FleetOption | None
    rival: FleetOption | None
    price_ratio: float | None
    price_ratio_now: float | None
    more_replicas_above: float
    overtaken_above: float | None
    overtaken_by: FleetOption | None
    reaches: tuple[Reach, ...]


def explained(
    answers: Sequence[FleetOption], objectives: Sequence[Objective]
) -> Explanation | None:
    """Explain the first of the fleets; None where none has a price.

    Parameters
    ----------
    answers : sequence of FleetOption
        Fleets that carry the demand, the cheapest first.
    objectives : sequence of Objective
        What had to be met.
    """
    priced = [option for option in answers if option.price is not None]
    if not priced:
        return None
    winner, *others = priced
    rival = next((each for each in others if _card(each) != _card(winner)), None)
    ratio, ratio_now = _price_ratios(winner, rival) if rival else (None, None)
    above, by = _overtaken(winner, others)
    return Explanation(
        winner=winner,
        runner_up=next(iter(others), None),
        rival=rival,
        price_ratio=ratio,
        price_ratio_now=ratio_now,
        more_replicas_above=_carried(winner),
        overtaken_above=above,
        overtaken_by=by,
        reaches=tuple(_reach(winner, each) for each in objectives),
    )


def _card(option: FleetOption) -> tuple[object, ...]:
    return option.accelerator, option.price


def _price_ratios(winner: FleetOption, rival: FleetOption) -> tuple[float, float]:
    """The ratio of prices at which both cost the same, and today's.

    ``devices of the winner * its price = devices of the rival * its price``
    """
    assert winner.devices is not None
    assert rival.devices is not None
    assert winner.price is not None
    assert rival.price is not None
    return winner.devices / rival.devices, rival.price.middle / winner.price.middle


def _carried(option: FleetOption, replicas: int | None = None) -> float:
    """Load that so many replicas sustain; those of the fleet by default."""
    assert option.replicas is not None
    assert option.highest_rate is not None
    return (replicas or option.replicas) * option.highest_rate


def _costs(option: FleetOption, demands: Floats) -> Floats:
    """Middle cost an hour of carrying each demand."""
    assert option.highest_rate is not None
    assert option.price is not None
    replicas = np.maximum(1.0, np.ceil(demands / option.highest_rate))
    return replicas * (option.devices_per_replica * option.price.middle)


def _overtaken(
    winner: FleetOption, others: Sequence[FleetOption]
) -> tuple[float | None, FleetOption | None]:
    """The demand above which another is cheaper, and which.

    Costs are steps that rise with the demand, so that only where the winner's own rises, just
    above a whole number of its replicas, can another become cheaper.
    """
    least, rate = winner.replicas or 1, winner.highest_rate or 0.0
    steps = min(_MOST_STEPS, int(_FARTHEST * winner.demand / rate) - least + 1) if others else 0
    if steps < 1:
        return None, None
    above = rate * np.arange(least, least + steps, dtype=np.float64)
    own = _costs(winner, above * _JUST_ABOVE)
    every = np.stack([_costs(each, above * _JUST_ABOVE) for each in others])
    cheaper = np.flatnonzero(every.min(axis=0) < own)
    if not len(cheaper):
        return None, None
    at = int(cheaper[0])
    return float(above[at]), others[int(every[:, at].argmin())]


def _reach(winner: FleetOption, objective: Objective) -> Reach:
    probe, search = winner.at_demand, winner.search
    probes = [*(search.probes if search else ()), *([probe] if probe else [])]
    seen = [p.reached_ms.get(objective.name) for p in probes if not p.saturated]
    known = [each for each in seen if each is not None]
    at_demand = probe.reached_ms.get(objective.name) if probe else None
    return Reach(objective, at_demand, min(known, default=None))
