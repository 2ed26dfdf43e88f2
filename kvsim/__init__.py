"""kvsim: a discrete-event simulator and capacity planner for KV-cache memory.

Names are imported when they are first used: ``import kvsim`` loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvsim.calibrate.records import measured_steps as measured_steps
    from kvsim.calibrate.records import read_validation as read_validation
    from kvsim.calibrate.served.bench import compare_bench as compare_bench
    from kvsim.calibrate.served.bench import read_bench_result as read_bench_result
    from kvsim.calibrate.served.learn import learn_served as learn_served
    from kvsim.calibrate.served.requests import read_served_requests as read_served_requests
    from kvsim.catalog.accelerators import accelerator_names as accelerator_names
    from kvsim.catalog.accelerators import describe_accelerators as describe_accelerators
    from kvsim.catalog.accelerators import find_accelerator as find_accelerator
    from kvsim.catalog.accelerators import load_accelerator as load_accelerator
    from kvsim.catalog.models import describe_models as describe_models
    from kvsim.catalog.models import find_model as find_model
    from kvsim.catalog.models import model_names as model_names
    from kvsim.engines import engine_names as engine_names
    from kvsim.errors import InputError as InputError
    from kvsim.errors import InvariantError as InvariantError
    from kvsim.errors import KVSimError as KVSimError
    from kvsim.errors import MissingExtraError as MissingExtraError
    from kvsim.errors import UnknownNameError as UnknownNameError
    from kvsim.errors import UnsupportedError as UnsupportedError
    from kvsim.planning.many import plan_many as plan_many
    from kvsim.planning.planner import EngineComparison as EngineComparison
    from kvsim.planning.planner import Plan as Plan
    from kvsim.planning.planner import plan as plan
    from kvsim.planning.planner import plan_engines as plan_engines
    from kvsim.results.pool_cells import pool_cells as pool_cells
    from kvsim.results.result import SimulationResult as SimulationResult
    from kvsim.results.time_bins import time_bins as time_bins
    from kvsim.runs.compare import SimulationComparison as SimulationComparison
    from kvsim.runs.compare import compare as compare
    from kvsim.runs.replicate import Replications as Replications
    from kvsim.runs.replicate import replicate as replicate
    from kvsim.runs.simulate import simulate as simulate
    from kvsim.search import FleetOption as FleetOption
    from kvsim.search import FleetSearch as FleetSearch
    from kvsim.search import Objective as Objective
    from kvsim.search import RateSearch as RateSearch
    from kvsim.search import SearchSettings as SearchSettings
    from kvsim.search import cheapest as cheapest
    from kvsim.search import deployment_manifest as deployment_manifest
    from kvsim.search import find_cheapest as find_cheapest
    from kvsim.search import fleet_of as fleet_of
    from kvsim.search import highest_rate as highest_rate
    from kvsim.search import kserve_manifest as kserve_manifest
    from kvsim.search import size_fleet as size_fleet
    from kvsim.search import usual_space as usual_space
    from kvsim.search.space import Space as Space
    from kvsim.search.sweep.answer import Sweep as Sweep
    from kvsim.search.sweep.runner import sweep as sweep
    from kvsim.simulator.camera import Camera as Camera
    from kvsim.simulator.families import register as register
    from kvsim.simulator.loading import allocator_names as allocator_names
    from kvsim.simulator.loading import load_scenario as load_scenario
    from kvsim.simulator.loading import scenario_names as scenario_names
    from kvsim.simulator.loading import scheduler_names as scheduler_names
    from kvsim.simulator.loading import with_overrides as with_overrides
    from kvsim.simulator.scenario import SLO as SLO
    from kvsim.simulator.scenario import Scenario as Scenario
    from kvsim.simulator.shipped import describe_scenarios as describe_scenarios
    from kvsim.specs.engine_options import EngineOptions as EngineOptions
    from kvsim.specs.hardware import AcceleratorProfile as AcceleratorProfile
    from kvsim.specs.hardware import Price as Price
    from kvsim.specs.model import ModelSpec as ModelSpec
    from kvsim.specs.precision import kv_format_names as kv_format_names
    from kvsim.specs.precision import weight_format_names as weight_format_names
    from kvsim.studies.cache import CacheTier as CacheTier
    from kvsim.studies.cache import PrefixTrace as PrefixTrace
    from kvsim.studies.cache import cache_policy_names as cache_policy_names
    from kvsim.studies.cache import cache_sizes as cache_sizes
    from kvsim.studies.cache import example_prefix_names as example_prefix_names
    from kvsim.studies.cache import example_prefixes as example_prefixes
    from kvsim.studies.cache import hit_costs as hit_costs
    from kvsim.studies.cache import hit_ratio_curve as hit_ratio_curve
    from kvsim.studies.cache import read_prefixes as read_prefixes
    from kvsim.studies.cache import tier_gains as tier_gains
    from kvsim.version import __version__ as __version__
    from kvsim.workload.traces.stats import trace_stats as trace_stats
    from kvsim.workload.traffic import Traffic as Traffic
    from kvsim.workload.traffic import describe_workload as describe_workload

# public name: the module that defines it
_HOMES = {
    "AcceleratorProfile": "kvsim.specs.hardware",
    "Price": "kvsim.specs.hardware",
    "CacheTier": "kvsim.studies.cache",
    "Camera": "kvsim.simulator.camera",
    "EngineComparison": "kvsim.planning.planner",
    "EngineOptions": "kvsim.specs.engine_options",
    "FleetOption": "kvsim.search",
    "FleetSearch": "kvsim.search",
    "Objective": "kvsim.search",
    "InputError": "kvsim.errors",
    "InvariantError": "kvsim.errors",
    "KVSimError": "kvsim.errors",
    "MissingExtraError": "kvsim.errors",
    "ModelSpec": "kvsim.specs.model",
    "Plan": "kvsim.planning.planner",
    "PrefixTrace": "kvsim.studies.cache",
    "RateSearch": "kvsim.search",
    "Replications": "kvsim.runs.replicate",
    "SLO": "kvsim.simulator.scenario",
    "Scenario": "kvsim.simulator.scenario",
    "SearchSettings": "kvsim.search",
    "SimulationComparison": "kvsim.runs.compare",
    "SimulationResult": "kvsim.results.result",
    "Traffic": "kvsim.workload.traffic",
    "Space": "kvsim.search.space",
    "Sweep": "kvsim.search.sweep.answer",
    "UnknownNameError": "kvsim.errors",
    "UnsupportedError": "kvsim.errors",
    "accelerator_names": "kvsim.catalog.accelerators",
    "allocator_names": "kvsim.simulator.loading",
    "cache_policy_names": "kvsim.studies.cache",
    "cache_sizes": "kvsim.studies.cache",
    "cheapest": "kvsim.search",
    "compare": "kvsim.runs.compare",
    "compare_bench": "kvsim.calibrate.served.bench",
    "deployment_manifest": "kvsim.search",
    "describe_accelerators": "kvsim.catalog.accelerators",
    "describe_models": "kvsim.catalog.models",
    "describe_scenarios": "kvsim.simulator.shipped",
    "describe_workload": "kvsim.workload.traffic",
    "engine_names": "kvsim.engines",
    "example_prefix_names": "kvsim.studies.cache",
    "example_prefixes": "kvsim.studies.cache",
    "find_cheapest": "kvsim.search",
    "find_accelerator": "kvsim.catalog.accelerators",
    "find_model": "kvsim.catalog.models",
    "fleet_of": "kvsim.search",
    "highest_rate": "kvsim.search",
    "hit_costs": "kvsim.studies.cache",
    "hit_ratio_curve": "kvsim.studies.cache",
    "kserve_manifest": "kvsim.search",
    "kv_format_names": "kvsim.specs.precision",
    "learn_served": "kvsim.calibrate.served.learn",
    "load_accelerator": "kvsim.catalog.accelerators",
    "load_scenario": "kvsim.simulator.loading",
    "measured_steps": "kvsim.calibrate.records",
    "model_names": "kvsim.catalog.models",
    "plan": "kvsim.planning.planner",
    "plan_engines": "kvsim.planning.planner",
    "plan_many": "kvsim.planning.many",
    "pool_cells": "kvsim.results.pool_cells",
    "read_bench_result": "kvsim.calibrate.served.bench",
    "read_prefixes": "kvsim.studies.cache",
    "read_served_requests": "kvsim.calibrate.served.requests",
    "read_validation": "kvsim.calibrate.records",
    "register": "kvsim.simulator.families",
    "replicate": "kvsim.runs.replicate",
    "scenario_names": "kvsim.simulator.loading",
    "scheduler_names": "kvsim.simulator.loading",
    "simulate": "kvsim.runs.simulate",
    "size_fleet": "kvsim.search",
    "sweep": "kvsim.search.sweep.runner",
    "tier_gains": "kvsim.studies.cache",
    "time_bins": "kvsim.results.time_bins",
    "trace_stats": "kvsim.workload.traces.stats",
    "usual_space": "kvsim.search",
    "weight_format_names": "kvsim.specs.precision",
    "with_overrides": "kvsim.simulator.loading",
}

__all__ = sorted(_HOMES, key=lambda name: (name.casefold(), name))

_HOMES["__version__"] = "kvsim.version"  # there, and in no list


def __getattr__(name: str) -> Any:
    """Import a public name from its home, once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kvsim' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
