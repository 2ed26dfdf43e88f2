"""Fleets, sized once for every card, degree and question that anybody asks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kvsim
from app.parts.runs import Watch
from kvsim import FleetOption, Scenario, SearchSettings, Traffic

__all__ = ["LATENCIES", "PERCENTILES", "Demand", "demand", "sized"]

REMEMBERED = 256
SEEDS = 1  # a page is waited for; the command line takes three and gives an interval
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
LATENCIES = ("ttft", "tpot", "e2el")

_known: OrderedDict[str, FleetOption] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class Demand:
    """What the fleets are sized for; catalogue names only, so answers may be shared."""

    scenario: Scenario
    rate: float
    settings: SearchSettings

    @property
    def limits_ms(self) -> list[tuple[str, float]]:
        """What each latency must stay within, where it must."""
        slo = self.scenario.slo
        limits = ((key, getattr(slo, f"{key}_ms")) for key in LATENCIES)
        return [(key, limit) for key, limit in limits if limit is not None]

    def identity(self, card: str, degree: int) -> str:
        """Everything that one card's answer depends on."""
        scenario = self.scenario.model_dump_json(exclude={"folder"})
        return f"{scenario} {self.rate} {self.settings} {card} {degree}"


def demand(values: Mapping[str, Any]) -> Demand:
    """Say what the fleets are sized for.

    Raises
    ------
    KVSimError
        For a value that no scenario takes.
    """
    overrides: dict[str, Any] = {
        "question": "What does one replica sustain?",
        "model": values["model"],
        "engine": {} if values["kv"] == "auto" else {"kv_cache_dtype": values["kv"]},
        "workload": kvsim.describe_workload(_traffic(values)),
        "memory": {"allocator": "paged"},
        "slo": {f"{key}_ms": values[key] for key in LATENCIES if values[key]},
        "run.seed": values["seed"],
    }
    settings = SearchSettings(
        share=PERCENTILES[values["percentile"]],
        requests=values["requests"],
        seed=values["seed"],
        replications=SEEDS,
    )
    return Demand(kvsim.load_scenario("peer-w", overrides), values["rate"], settings)


def _traffic(values: Mapping[str, Any]) -> Traffic:
    return Traffic(
        rate=values["rate"],
        prompt_tokens=values["prompt"],
        output_tokens=values["output"],
        spread=values["spread"],
        requests=values["requests"],
    )


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
    try:
        (option,) = kvsim.size_fleet(
            demand.scenario, demand.rate, [(card, degree)], demand.settings, watch=watch
        )
    except KeyboardInterrupt:
        return None
    with _lock:
        _known[demand.identity(card, degree)] = option
        while len(_known) > REMEMBERED:
            _known.popitem(last=False)
    return option
