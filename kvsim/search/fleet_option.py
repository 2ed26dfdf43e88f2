"""One deployment as an answer to a demand: replicas, devices, cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil, floor, inf
from typing import Any

from kvsim.results.latencies import sure_words
from kvsim.search.rate import Probe, RateSearch
from kvsim.specs.hardware import Price
from kvsim.steptime.bands import TimeBand

__all__ = ["RULED_OUT", "FleetOption", "cheapest", "costs_more", "ranked", "replicas_for"]

RULED_OUT = {
    "unfit": "it cannot be run, in the plan's words",
    "unreachable": "an objective that even an empty server misses, in closed form",
    "same": "another one is the same deployment",
    "dear": "it cannot be cheaper than what was found",
    "hopeless": "simulated, and no load meets the objectives",
    "unsearched": "there was no time for it, or the search was interrupted",
}
"""Why a deployment is no answer, by the word for it."""

_ROUNDING = 1e-6  # of a division
_SLACK = 1.02  # throughputs differ between seeds


@dataclass(frozen=True)
class FleetOption:
    """One deployment, as an answer to a demand.

    Parameters
    ----------
    accelerator : str
        Its name.
    tensor_parallel_size : int
        Devices that share a layer.
    demand : float
        Load that the fleet must carry, in `unit`.
    profile : str
        What it was asked by: a name, or the path of a profile.
    unit : str
        "requests/s" or "users".
    values : mapping of str to object
        What sets it apart from others, by key of the scenario or name of a flag.
    problem : str
        Why it is no answer; "" when it is one.
    ruled_out : str
        The same in a word, of `RULED_OUT`; "" when it is an answer.
    stages, ranks : int
        Pipeline stages of a replica, and its data-parallel ranks, each of which is simulated.
    throughput : float or None
        Requests per second of a rank under overload; None for users.
    variability : float
        Squared coefficients of variation of gaps and of work, added.
    generations : float
        How often the batch was replaced under overload.
    search : RateSearch or None
        What one rank sustains; None when the model does not run on it, or it is too dear.
    at_demand : Probe or None
        One rank under its share of the demand; its latencies are means over seeds.
    bound_by : mapping of str to float
        Share of the busy time that each resource binds, under that load.
    memory_limited : float or None
        Share of the time that memory kept requests waiting, under that load.
    tokens_per_s : (float, float) or None
        Prompt and output tokens per second of one rank under that load.
    price : Price or None
        Of one device and hour; None: none is known.
    command : str
        The engine's launch line of one replica.
    provenance : str
        Where the step times come from.
    time_bands : mapping of str to TimeBand
        How sure the latencies are, by their names.
    unsaid : tuple of str
        What is simulated and no launch line says, as "scheduler.policy=orca".
    """

    accelerator: str
    tensor_parallel_size: int
    demand: float
    profile: str = ""
    unit: str = "requests/s"
    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    ruled_out: str = ""
    stages: int = 1
    ranks: int = 1
    throughput: float | None = None
    variability: float = 2.0
    generations: float = inf
    search: RateSearch | None = None
    at_demand: Probe | None = None
    bound_by: Mapping[str, float] = field(default_factory=dict)
    memory_limited: float | None = None
    tokens_per_s: tuple[float, float] | None = None
    price: Price | None = None
    command: str = ""
    provenance: str = ""
    time_bands: Mapping[str, TimeBand] = field(default_factory=dict)
    unsaid: tuple[str, ...] = ()

    @property
    def degrees(self) -> str:
        """How a replica is divided: "TP 2 PP 2"."""
        words = [f"TP {self.tensor_parallel_size}"]
        words += [f"PP {self.stages}"] if self.stages > 1 else []
        words += [f"DP {self.ranks}"] if self.ranks > 1 else []
        return " ".join(words)

    @property
    def label(self) -> str:
        """What sets it apart, in words that do not depend on the order of the keys given."""
        return ", ".join(f"{key} {value}" for key, value in sorted(self.values.items()))

    @property
    def how_sure(self) -> list[str]:
        """What the bands of the latencies rest on, in sentences."""
        judged = self.at_demand.latency_ms if self.at_demand else ()
        return sure_words(
            {name: self.time_bands[name] for name in judged if name in self.time_bands}
        )

    @property
    def highest_rate(self) -> float | None:
        """Load that one replica sustains, all its ranks together; None: none."""
        return self.ranks * self.search.rate if self.search and self.search.rate else None

    @property
    def replicas(self) -> int | None:
        """How many replicas carry the demand; None when one carries nothing.

        ``replicas = ceil(demand / highest rate)``
        """
        return replicas_for(self.demand, self.highest_rate) if self.highest_rate else None

    @property
    def share(self) -> float | None:
        """Load of one rank when the demand is split evenly; None without replicas."""
        return None if self.replicas is None else self.demand / self.replicas / self.ranks

    @property
    def devices_per_replica(self) -> int:
        """Devices of one replica: ranks of each layer, stages and data-parallel ranks."""
        return self.tensor_parallel_size * self.stages * self.ranks

    @property
    def devices(self) -> int | None:
        """Devices of the whole fleet."""
        return None if self.replicas is None else self.replicas * self.devices_per_replica

    @property
    def cost_per_hour(self) -> tuple[float, float] | None:
        """What the fleet costs per hour, low and high; None when no price is known."""
        if self.devices is None or self.price is None:
            return None
        return self.devices * self.price.low, self.devices * self.price.high

    @property
    def middle_cost(self) -> float | None:
        """The same in the middle of the price's range, by which fleets are ranked."""
        if self.devices is None or self.price is None:
            return None
        return self.devices * self.price.middle

    @property
    def least_devices(self) -> int:
        """Devices that the demand takes at least: those of its throughput, one replica of users."""
        most = _SLACK * self.ranks * self.throughput if self.throughput else inf
        return replicas_for(self.demand, most) * self.devices_per_replica

    @property
    def least_cost(self) -> float:
        """What the fleet costs per hour at least, at its lowest price; 0 where none is known."""
        return self.least_devices * self.price.low if self.price else 0.0

    @property
    def headroom(self) -> float | None:
        """Share of the demand that could come on top of it."""
        if self.replicas is None or self.highest_rate is None:
            return None
        return self.replicas * self.highest_rate / self.demand - 1

    @property
    def headroom_percent(self) -> int:
        """The same in whole per cents, never more than there are."""
        return floor(100 * (self.headroom or 0.0) + _ROUNDING)

    @property
    def cost_per_million_tokens(self) -> tuple[float, float] | None:
        """Cost of a million tokens, prompt and output together, low and high."""
        cost, replicas = self.cost_per_hour, self.replicas
        if cost is None or self.tokens_per_s is None or replicas is None:
            return None
        millions_per_hour = replicas * self.ranks * sum(self.tokens_per_s) * 3600 / 1e6
        return cost[0] / millions_per_hour, cost[1] / millions_per_hour


def ranked(options: Iterable[FleetOption]) -> list[FleetOption]:
    """Return the fleets that have a price, by their middle price.

    Of those that cost the same the ones that can be launched as simulated are first, the one with
    the most headroom before the others. The order in which they were given changes nothing.
    """

    def place(option: FleetOption) -> tuple[float, bool, float, str, str]:
        cost, spare = option.middle_cost or 0.0, option.headroom or 0.0
        return cost, bool(option.unsaid), -spare, option.label, option.accelerator

    return sorted((option for option in options if option.middle_cost is not None), key=place)


def cheapest(options: Iterable[FleetOption]) -> tuple[FleetOption, ...]:
    """Return the cheapest fleets: the one with the lowest middle price, and its ties.

    A tie is what could be the cheapest for some price within each card's range: no other
    `costs_more` than it is. Fleets without a price are no candidates.
    """
    known = ranked(options)
    return tuple(each for each in known if not any(costs_more(each, other) for other in known))


def costs_more(option: FleetOption, other: FleetOption) -> bool:
    """Whether a fleet costs more than another, whatever the prices are within their ranges.

    Where both pay the same for each device it is the devices that tell. Of a fleet that was not
    searched, what it costs at least counts.
    """
    devices, most = option.devices or option.least_devices, other.cost_per_hour
    if other.devices is None or most is None or option.price is None:
        return False
    if (option.accelerator, option.price) == (other.accelerator, other.price):
        return devices > other.devices
    return devices * option.price.low > most[1]


def replicas_for(demand: float, rate: float) -> int:
    """Return the fewest replicas that carry a demand: ``ceil(demand / rate)``.

    Examples
    --------
    >>> replicas_for(10, 4), replicas_for(8, 4)
    (3, 2)
    """
    return max(1, ceil(demand / rate))
