"""Which deployment carries a demand at the least cost: every point of a space, or a scenario's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kvsim.errors import InputError
from kvsim.search.evaluations import evaluate
from kvsim.search.explain import Explanation, explained
from kvsim.search.fleet_option import FleetOption, cheapest, ranked
from kvsim.search.front import binding_latency, pareto_front
from kvsim.search.objectives import Objective
from kvsim.search.prices import prices_by_name
from kvsim.search.question import Question
from kvsim.search.rate import SearchSettings
from kvsim.search.space import Space
from kvsim.search.work import Told, Work
from kvsim.simulator.facts import fact_of
from kvsim.simulator.replica import Watch
from kvsim.simulator.scenario import Scenario
from kvsim.specs.hardware import Price

__all__ = ["FleetSearch", "find_cheapest", "settings_of", "usual_space"]

_DEGREES = (1, 2, 4, 8)
_KV_DTYPES = ("auto", "fp8")
_ASKED = ("workload", "run", "slo", "name", "question")


@dataclass(frozen=True)
class FleetSearch:
    """What a search over deployments found.

    Parameters
    ----------
    options : tuple of FleetOption
        One a point that was tried, in the space's order or in that of the sampler; one that is
        no answer says why.
    demand : float
        Load of the whole fleet.
    unit : str
        "requests/s" or "users".
    objectives : tuple of Objective
        What had to be met.
    points : int
        Points of the space.
    interrupted : bool
        Whether an interrupt ended it before all points were settled.
    """

    options: tuple[FleetOption, ...]
    demand: float
    unit: str
    objectives: tuple[Objective, ...]
    points: int
    interrupted: bool = False

    @cached_property
    def cheapest(self) -> tuple[FleetOption, ...]:
        """The winner and its ties; see `kvsim.search.cheapest`."""
        return cheapest(self.options)

    @cached_property
    def answers(self) -> tuple[FleetOption, ...]:
        """All fleets that carry the demand: those with a price by their cost, then the others."""
        priced = ranked(self.options)
        free = [each for each in self.options if each.replicas and each.price is None]
        return (*priced, *free)

    @property
    def ruled_out(self) -> tuple[FleetOption, ...]:
        """The others, each with its `problem`."""
        return tuple(option for option in self.options if not option.replicas)

    @cached_property
    def latency(self) -> str:
        """The latency of the front: that which ends the winner's load, or is nearest its limit."""
        return binding_latency(self.options, self.objectives)

    @cached_property
    def front(self) -> tuple[FleetOption, ...]:
        """Fleets for which no searched one is both cheaper and quicker."""
        return pareto_front(self.options, self.latency)

    @property
    def is_cut(self) -> bool:
        """Whether an interrupt or the end of the time left points that nothing is known of."""
        return any(option.ruled_out == "unsearched" for option in self.options)

    @property
    def simulated(self) -> int:
        """Points of which a load was simulated."""
        return sum(option.search is not None for option in self.options)

    @cached_property
    def explanation(self) -> Explanation | None:
        """Why the winner wins, and what would change it; None without a winner."""
        return explained(self.answers, self.objectives)


def find_cheapest(
    question: Scenario | Space,
    demand: float | None = None,
    settings: SearchSettings | None = None,
    *,
    objectives: Sequence[Objective] | None = None,
    prices: Mapping[str, Price | float | None] | None = None,
    search_all: bool = False,
    evaluations: int | None = None,
    watch: Watch | None = None,
    told: Told | None = None,
    jobs: int | None = None,
) -> FleetSearch:
    """Find the deployment that carries a demand at the least cost, among those of a space.

    Its name is a verb of its own, as `kvsim.search` is the room that this is in.

    Parameters
    ----------
    question : Scenario or Space
        Traffic, model and `slo`; of a scenario the points are those of `usual_space`.
    demand : float, optional
        Load of the whole fleet, requests per second or users; the scenario's own by default.
    settings : SearchSettings, optional
        How each rate is searched, by default as `settings_of` the space says; `max_seconds` is of
        all points together.
    objectives, prices, watch, jobs
        See `size_fleet`.
    search_all : bool
        Whether to simulate whatever runs: the winner is the same, and the front has all points.
    evaluations : int, optional
        How many points are tried where the space has more: a sampler chooses them by what it
        found before, from the seed alone. All by default.
    told : callable, optional
        ``told(stage, done, of, best)`` as points are settled.

    Raises
    ------
    InputError
        For a demand that is not above 0, a space that varies the question itself, and unknown
        keys, names or impossible values.
    UnsupportedError
        For arrivals without one rate.
    MissingExtraError
        For `evaluations` without the package optuna.

    Examples
    --------
    >>> from kvsim import SearchSettings, Space, load_scenario
    >>> scenario = load_scenario("peer-w", {"slo": {"ttft_ms": 500}, "memory.num_blocks": None})
    >>> space = Space(scenario, {"gpu": ["h100", "l4"], "tp": [1, 3]})
    >>> quick = SearchSettings(requests=300, tolerance=0.1, replications=1)
    >>> found = find_cheapest(space, 10, quick)
    >>> found.cheapest[0].values["gpu"], found.ruled_out[0].values, found.ruled_out[0].ruled_out
    ('h100', {'gpu': 'h100', 'tp': 3}, 'unfit')
    """
    space = question if isinstance(question, Space) else usual_space(question)
    _refuse_the_question(space)
    asked = Question(
        space.scenario,
        demand,
        settings or settings_of(space),
        None if objectives is None else tuple(objectives),
        prices_by_name(prices or {}),
        space.spelled,
    )
    work = Work(asked, watch, jobs, told)
    if evaluations is None or evaluations >= len(space):
        every = [asked.described(space.values(number)) for number in range(len(space))]
        work.run(every, search_all=search_all)
    else:
        evaluate(work, space, evaluations, search_all=search_all)
    return FleetSearch(
        tuple(work.all_answers),
        asked.demand,
        asked.load.unit,
        asked.goals,
        len(space),
        work.interrupted,
    )


def usual_space(scenario: Scenario, cards: Iterable[str] = ()) -> Space:
    """Return the points that are searched where none are named.

    Parameters
    ----------
    scenario : Scenario
        What they are set over.
    cards : iterable of str
        Accelerators; the scenario's own by default.

    Returns
    -------
    Space
        Each card with 1, 2, 4 and 8 devices a replica, KV in the model's own format and in fp8.
    """
    return Space(
        scenario,
        {
            "accelerator": list(cards) or [scenario.accelerator],
            "engine.tensor_parallel_size": _DEGREES,
            "engine.kv_cache_dtype": _KV_DTYPES,
        },
    )


def _refuse_the_question(space: Space) -> None:
    """Refuse to vary what all points have in common."""
    for key, values in space.vary.items():
        if fact_of(key, values[0]).partition(".")[0] in _ASKED:
            raise InputError(
                "all points of a search serve the same requests under the same objectives",
                where=space.spelled[key],
                fix="`kvsim sweep` varies a workload",
            )


def settings_of(space: Space, **stated: Any) -> SearchSettings:
    """How a rate is searched: as stated, else as the space says, else as usual.

    Parameters
    ----------
    space : Space
        Its seeds are replications; ``workload.requests``, where somebody set it over the scenario,
        are the least that a run has.
    **stated
        Fields of `SearchSettings`.

    Raises
    ------
    InputError
        For an impossible value.
    """
    limits = space.scenario.workload.limits
    if limits.requests is not None and "workload.requests" in space.scenario.origin[1]:
        stated.setdefault("requests", limits.requests)
    if space.is_seeded:
        stated.setdefault("replications", space.seeds)
    most = max(stated.get("replications", 1), SearchSettings.most_replications)
    return SearchSettings(**{"most_replications": most, **stated})
