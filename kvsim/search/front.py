"""Cost against latency: which latency decides, and the fleets that no other beats in both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvsim.search.fleet_option import FleetOption, cheapest
from kvsim.search.objectives import Objective

__all__ = ["binding_latency", "pareto_front"]

_USUAL = "ttft"


def binding_latency(options: Iterable[FleetOption], objectives: Sequence[Objective]) -> str:
    """Name the latency that the cheapest fleet's load ends by, or that is nearest its limit.

    Without objectives it is the time to first token, which a queue lengthens first.
    """
    best = next(iter(cheapest(options)), None)
    judged = {each.latency for each in objectives}
    if best is not None and best.search is not None and best.search.limit in judged:
        return best.search.limit
    seen = best.at_demand.reached_ms if best is not None and best.at_demand else {}
    used = [((seen.get(each.name) or 0.0) / each.limit_ms, each.latency) for each in objectives]
    return max(used, default=(0.0, _USUAL), key=lambda each: each[0])[1]


def pareto_front(options: Iterable[FleetOption], latency: str) -> tuple[FleetOption, ...]:
    """Fleets for which no other is both cheaper and quicker, the cheapest first.

    Parameters
    ----------
    options : iterable of FleetOption
        Those that were not searched, or have no price, are on no front.
    latency : str
        "ttft", "tpot" or "e2el", under each one's share of the demand.

    Notes
    -----
    Cost is the middle of the price range. Of equals in both all are on the front.
    """
    places = [(place, option) for option in options if (place := _place(option, latency))]
    places.sort(key=lambda each: each[0])
    front: list[tuple[tuple[float, float], FleetOption]] = []
    for place, option in places:
        if not front or place[1] < front[-1][0][1] or place == front[-1][0]:
            front.append((place, option))
    return tuple(option for _, option in front)


def _place(option: FleetOption, latency: str) -> tuple[float, float] | None:
    """Middle cost an hour, and milliseconds."""
    cost, probe = option.middle_cost, option.at_demand
    seen = probe.latency_ms.get(latency) if probe else None
    return None if cost is None or seen is None else (cost, seen)
