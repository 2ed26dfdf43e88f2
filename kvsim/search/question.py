"""A demand and what it asks of every deployment: screened in closed form, under overload, searched.

::

    described   values over the scenario, the price of its card
    screened    does it run, is it another one, can an empty server do it       no simulation
    loaded      throughput under overload: what it costs at least               one simulation
    searched    the load that one rank sustains, and its share of the demand    about twenty

All deployments meet the same requests: the workload's streams are named and their seeds are those
of the settings, so that only the replica differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from statistics import fmean
from time import monotonic
from typing import Any

import numpy as np

from kvsim.catalog.accelerators import find_accelerator
from kvsim.errors import InputError, KVSimError, shortened
from kvsim.results.result import SimulationResult
from kvsim.results.words import SHORT
from kvsim.search.fleet_option import FleetOption
from kvsim.search.highest import Search, TimeIsUpError, refuse_cut, require_end
from kvsim.search.load import OVERLOAD_RATE, Load, load_of
from kvsim.search.lowest import Lengths, beyond_reach, sampled_lengths
from kvsim.search.objectives import Objective, objectives_of
from kvsim.search.rate import Probe, RateSearch, SearchSettings, judge
from kvsim.simulator.launchable import unsaid
from kvsim.simulator.loading import with_overrides
from kvsim.simulator.names import refuse_unknown
from kvsim.simulator.prepare import Setup, prepare
from kvsim.simulator.replica import Watch
from kvsim.simulator.scenario import Scenario
from kvsim.specs.hardware import Price
from kvsim.units import digits

__all__ = ["Question"]

# Beside what pools and step times are made from, all that a run reads of an engine's flags.
_READ = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "async_scheduling",
)


@dataclass
class Question:
    """What is asked of every deployment.

    Parameters
    ----------
    scenario : Scenario
        Traffic, model and engine.
    asked : float or None
        Load of the whole fleet; None: the scenario's own.
    settings : SearchSettings
        How a rate is searched; `max_seconds` from now on is for all of it together.
    objectives : tuple of Objective or None
        What must be met; None: the scenario's own.
    prices : mapping of str to Price or None
        By accelerator's name, in place of the catalogue's; None is none.
    spelled : mapping of str to str
        Where each key of a deployment's values was written.

    Attributes
    ----------
    load : Load
        What the demand is of.
    demand : float
        Load of the whole fleet.

    Raises
    ------
    InputError
        For a demand that is not above 0, and users without an objective.
    UnsupportedError
        For arrivals without one rate.
    """

    scenario: Scenario
    asked: float | None
    settings: SearchSettings
    objectives: tuple[Objective, ...] | None = None
    prices: Mapping[str, Price | None] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.load: Load = load_of(self.scenario)
        own = self.load.stated(self.scenario.workload)
        self.demand = own if self.asked is None else self.asked
        if not 0 < self.demand < OVERLOAD_RATE:
            raise InputError(
                f"a demand of {self.demand:g} is not above 0 and below {OVERLOAD_RATE:g}"
            )
        require_end(self.load, self.goals)
        refuse_cut(self.scenario)
        self._ends = monotonic() + self.settings.max_seconds

    @cached_property
    def goals(self) -> tuple[Objective, ...]:
        """What must be met."""
        if self.objectives is not None:
            return self.objectives
        return objectives_of(self.scenario.slo, self.settings.share)

    @cached_property
    def _lengths(self) -> Lengths | None:
        return sampled_lengths(self.scenario, self.settings.requests)

    # --- no simulation ------------------------------------------------------------------------

    def described(self, values: Mapping[str, Any]) -> FleetOption:
        """An option of which nothing is known yet.

        Raises
        ------
        InputError
            For an unknown key, model, accelerator, engine, release or format, or an impossible
            value.
        """
        placed = self.placed(values)
        profile = find_accelerator(placed.accelerator)
        refuse_unknown(placed)
        options = placed.engine.options
        return FleetOption(
            profile.name,
            options.tensor_parallel_size,
            self.demand,
            profile=placed.accelerator,
            values=dict(values),
            unit=self.load.unit,
            stages=options.pipeline_parallel_size,
            ranks=options.data_parallel_size,
            price=self.prices.get(profile.name, profile.price),
        )

    def placed(self, values: Mapping[str, Any]) -> Scenario:
        """The scenario with a deployment's values."""
        words = {key: f"{said}={values[key]}" for key, said in self.spelled.items()}
        return with_overrides(self.scenario, values, spelled=words)

    def screened(
        self, option: FleetOption, *, bounded: bool = True
    ) -> tuple[FleetOption, Setup | None]:
        """Say whether it runs and, by bounds, meets the objectives; the setup where it may."""
        try:
            setup = prepare(self.placed(option.values))
            lengths = self._lengths if bounded else None
            missed = beyond_reach(setup, lengths, self.goals) if lengths else ""
        except KVSimError as error:
            return replace(option, ruled_out="unfit", problem=_problem(error)), None
        if missed:
            return replace(option, ruled_out="unreachable", problem=missed), None
        deployment = setup.deployment.options
        return replace(
            option,
            stages=deployment.pipeline_parallel_size,
            ranks=deployment.data_parallel_size,
            command=setup.sizing.engine.command(setup.sizing.asked),
            provenance=setup.step_time.provenance,
            unsaid=tuple(unsaid(setup.scenario)),
        ), setup

    @staticmethod
    def identity(setup: Setup) -> tuple[Any, ...]:
        """All that a run depends on, and the price: equal for two that are the same deployment."""
        options, scenario = setup.deployment.options, setup.scenario
        return (
            setup.deployment.accelerator.name,
            setup.deployment.model,
            setup.sizing.engine.name,
            setup.sizing.engine.version,
            setup.step_time,
            setup.pools,
            scenario.memory,
            scenario.scheduler,
            tuple(getattr(options, name) for name in _READ),
        )

    # --- simulations --------------------------------------------------------------------------

    def _searching(self, option: FleetOption, watch: Watch | None) -> Search:
        """The search of one rank, prepared."""
        return Search(
            prepare(self.placed(option.values)),
            self.load,
            self.goals,
            self.settings,
            watch,
            self._ends,
            known_throughput=option.throughput,
            variability=option.variability,
            generations=option.generations,
            demand=self.load.rounded(self.demand / option.ranks),
        )

    def loaded(self, option: FleetOption, watch: Watch | None = None) -> FleetOption:
        """Its throughput under overload."""
        try:
            search = self._searching(option, watch)
            throughput = search.throughput(search.first_seed)
        except KVSimError as error:
            return self._failed(option, error, "unfit")
        known = None if throughput == inf else throughput
        return replace(
            option,
            throughput=known,
            variability=search.variability,
            generations=search.generations,
        )

    def searched(self, option: FleetOption, watch: Watch | None = None) -> FleetOption:
        """What one rank sustains, and how it does under its share of the demand."""
        try:
            search = self._searching(option, watch)
            found = search.run()
            option = replace(option, search=found)
            if option.replicas is None:
                return replace(option, ruled_out="hopeless", problem=_hopeless(found))
        except KVSimError as error:
            return self._failed(option, error, "hopeless")
        return self._at_demand(option, search)

    def _at_demand(self, option: FleetOption, search: Search) -> FleetOption:
        """One rank under its share of the demand."""
        exact = option.share or self.demand
        share, throughput = self.load.rounded(exact), option.throughput or inf
        probes: list[Probe] = []
        for seed in range(self.settings.replications if self.load.is_drawn else 1):
            with suppress(TimeIsUpError):  # what is known of the first seeds is kept
                result = search.serve(share, throughput, search.first_seed + seed)
                probes.append(judge(share, result, self.goals, self.settings.share))
                if seed == 0:
                    option = replace(option, **_under_load(result, self.load, exact))
        return replace(option, at_demand=_mean_probe(probes)) if probes else option

    def _failed(self, option: FleetOption, error: KVSimError, word: str) -> FleetOption:
        if isinstance(error, TimeIsUpError):
            return replace(option, ruled_out="unsearched", problem=str(error))
        return replace(option, ruled_out=word, problem=_problem(error))


def _problem(error: KVSimError) -> str:
    """Say what is wrong, less the place: that of this option, which its row names."""
    if not isinstance(error, InputError):
        return str(error)
    return shortened("; ".join(part for part in (error.what, error.fix) if part))


def _hopeless(found: RateSearch) -> str:
    at, ended = f"even at {digits(found.failed_rate or 0.0)} {found.unit}", found.ended
    if ended is None or any(probe.passed for probe in found.probes):
        return f"{at} some seeds meet the objectives and others do not: simulate more requests"
    if ended.limit == "rejected":
        return f"{at} too many requests are rejected: longer than max_model_len, or than the pool"
    if ended.goal is None:
        return f"{at} the queue grows"
    seen = ended.reached_ms[ended.goal.name]
    reached = "" if seen is None else f": {SHORT[ended.goal.latency]} is {seen:,.4g} ms"
    return f"{at} {ended.goal.words} is missed{reached}"


def _mean_probe(probes: Sequence[Probe]) -> Probe:
    """The first seed's, with the means of the latencies that every seed saw."""
    return replace(
        probes[0],
        latency_ms=_means([each.latency_ms for each in probes]),
        reached_ms=_means([each.reached_ms for each in probes]),
    )


def _means(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        name: None if None in column else fmean(value for value in column if value is not None)
        for name, column in columns.items()
    }


def _under_load(result: SimulationResult, load: Load, asked: float) -> dict[str, Any]:
    """What a rank does under its share of the demand, and its tokens a second."""
    summary, columns = result.summary, result.columns
    served = ~np.isnan(columns["finish_seconds"])
    if load.is_open:
        per_second = asked / len(served)
    else:  # how often users ask is the server's doing
        arrivals = columns["arrival_seconds"]
        per_second = 1 / (float(arrivals.max() - arrivals.min()) or 1.0)
        per_second *= asked / load.rounded(asked)
    tokens = (
        per_second * float(np.sum(columns[f"{name}_tokens"][served]))
        for name in ("prompt", "output")
    )
    return {
        "bound_by": summary["bound_by"],
        "memory_limited": summary["memory_limited"],
        "time_bands": result.time_bands,
        "tokens_per_s": tuple(tokens),
    }
