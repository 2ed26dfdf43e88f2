"""Fleets, sized once for every card, degree and question that anybody asks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import kvsim
from app.parts.runs import Watch
from kvsim import FleetOption, Scenario, SearchSettings

__all__ = ["Demand", "sized"]

REMEMBERED = 256

_known: OrderedDict[str, FleetOption] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class Demand:
    """What the fleets are sized for; catalogue names only, so answers may be shared."""

    scenario: Scenario
    rate: float
    settings: SearchSettings

    def identity(self, card: str, degree: int) -> str:
        """Everything that one card's answer depends on."""
        scenario = self.scenario.model_dump_json(exclude={"folder"})
        return f"{scenario} {self.rate} {self.settings} {card} {degree}"


def sized(
    demand: Demand, cards: Sequence[tuple[str, int]], watch: Watch
) -> tuple[FleetOption, ...]:
    """Size each card's fleet, or remember it; a stop keeps those that are finished."""
    options: list[FleetOption] = []
    for card, degree in cards:
        found = _known.get(demand.identity(card, degree)) or _size(demand, card, degree, watch)
        if found is None:
            break
        options.append(found)
    return tuple(options)


def _size(demand: Demand, card: str, degree: int, watch: Watch) -> FleetOption | None:
    """Size one card's fleet; None when it was stopped."""
    options = kvsim.size_fleet(
        demand.scenario, demand.rate, [(card, degree)], demand.settings, watch=watch
    )
    if not options:
        return None
    with _lock:
        _known[demand.identity(card, degree)] = options[0]
        while len(_known) > REMEMBERED:
            _known.popitem(last=False)
    return options[0]
