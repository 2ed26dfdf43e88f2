"""kvsim: a discrete-event simulator and capacity planner for KV-cache memory.

Names are imported when they are first used: ``import kvsim`` loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvsim.bench_result import compare_bench as compare_bench
    from kvsim.bench_result import read_bench_result as read_bench_result
    from kvsim.calibrate.records import measured_steps as measured_steps
    from kvsim.calibrate.records import read_validation as read_validation
    from kvsim.camera import Camera as Camera
    from kvsim.catalog.accelerators import accelerator_names as accelerator_names
    from kvsim.catalog.accelerators import describe_accelerators as describe_accelerators
    from kvsim.catalog.accelerators import find_accelerator as find_accelerator
    from kvsim.catalog.accelerators import load_accelerator as load_accelerator
    from kvsim.catalog.models import describe_models as describe_models
    from kvsim.catalog.models import find_model as find_model
    from kvsim.catalog.models import model_names as model_names
    from kvsim.cells import pool_cells as pool_cells
    from kvsim.comparison import Replications as Replications
    from kvsim.comparison import SimulationComparison as SimulationComparison
    from kvsim.comparison import compare as compare
    from kvsim.comparison import replicate as replicate
    from kvsim.engines import EngineOptions as EngineOptions
    from kvsim.engines import engine_names as engine_names
    from kvsim.errors import InputError as InputError
    from kvsim.errors import InvariantError as InvariantError
    from kvsim.errors import KVSimError as KVSimError
    from kvsim.errors import MissingExtraError as MissingExtraError
    from kvsim.errors import UnknownNameError as UnknownNameError
    from kvsim.errors import UnsupportedError as UnsupportedError
    from kvsim.hardware import AcceleratorProfile as AcceleratorProfile
    from kvsim.model import ModelSpec as ModelSpec
    from kvsim.planner import Comparison as Comparison
    from kvsim.planner import Plan as Plan
    from kvsim.planner import plan as plan
    from kvsim.planner import plan_engines as plan_engines
    from kvsim.precision import kv_format_names as kv_format_names
    from kvsim.precision import weight_format_names as weight_format_names
    from kvsim.results import SimulationResult as SimulationResult
    from kvsim.scenario import SLO as SLO
    from kvsim.scenario import Scenario as Scenario
    from kvsim.scenario import allocator_names as allocator_names
    from kvsim.scenario import load_scenario as load_scenario
    from kvsim.scenario import scenario_names as scenario_names
    from kvsim.scenario import scheduler_names as scheduler_names
    from kvsim.scenario import with_overrides as with_overrides
    from kvsim.search import FleetOption as FleetOption
    from kvsim.search import RateSearch as RateSearch
    from kvsim.search import SearchSettings as SearchSettings
    from kvsim.search import highest_rate as highest_rate
    from kvsim.search import size_fleet as size_fleet
    from kvsim.simulation import simulate as simulate
    from kvsim.tiers import CacheTier as CacheTier
    from kvsim.tiers import PrefixTrace as PrefixTrace
    from kvsim.tiers import cache_policy_names as cache_policy_names
    from kvsim.tiers import cache_sizes as cache_sizes
    from kvsim.tiers import example_prefix_names as example_prefix_names
    from kvsim.tiers import example_prefixes as example_prefixes
    from kvsim.tiers import hit_costs as hit_costs
    from kvsim.tiers import hit_ratio_curve as hit_ratio_curve
    from kvsim.tiers import read_prefixes as read_prefixes
    from kvsim.tiers import tier_gains as tier_gains
    from kvsim.timebins import time_bins as time_bins
    from kvsim.workload.trace_stats import trace_stats as trace_stats

__version__ = "0.1.0"

# public name: the module that defines it
_HOMES = {
    "AcceleratorProfile": "kvsim.hardware",
    "CacheTier": "kvsim.tiers",
    "Camera": "kvsim.camera",
    "Comparison": "kvsim.planner",
    "EngineOptions": "kvsim.engines",
    "FleetOption": "kvsim.search",
    "InputError": "kvsim.errors",
    "InvariantError": "kvsim.errors",
    "KVSimError": "kvsim.errors",
    "MissingExtraError": "kvsim.errors",
    "ModelSpec": "kvsim.model",
    "Plan": "kvsim.planner",
    "PrefixTrace": "kvsim.tiers",
    "RateSearch": "kvsim.search",
    "Replications": "kvsim.comparison",
    "SLO": "kvsim.scenario",
    "Scenario": "kvsim.scenario",
    "SearchSettings": "kvsim.search",
    "SimulationComparison": "kvsim.comparison",
    "SimulationResult": "kvsim.results",
    "UnknownNameError": "kvsim.errors",
    "UnsupportedError": "kvsim.errors",
    "accelerator_names": "kvsim.catalog.accelerators",
    "allocator_names": "kvsim.scenario",
    "cache_policy_names": "kvsim.tiers",
    "cache_sizes": "kvsim.tiers",
    "compare": "kvsim.comparison",
    "compare_bench": "kvsim.bench_result",
    "describe_accelerators": "kvsim.catalog.accelerators",
    "describe_models": "kvsim.catalog.models",
    "engine_names": "kvsim.engines",
    "example_prefix_names": "kvsim.tiers",
    "example_prefixes": "kvsim.tiers",
    "find_accelerator": "kvsim.catalog.accelerators",
    "find_model": "kvsim.catalog.models",
    "highest_rate": "kvsim.search",
    "hit_costs": "kvsim.tiers",
    "hit_ratio_curve": "kvsim.tiers",
    "kv_format_names": "kvsim.precision",
    "load_accelerator": "kvsim.catalog.accelerators",
    "load_scenario": "kvsim.scenario",
    "measured_steps": "kvsim.calibrate.records",
    "model_names": "kvsim.catalog.models",
    "plan": "kvsim.planner",
    "plan_engines": "kvsim.planner",
    "pool_cells": "kvsim.cells",
    "read_bench_result": "kvsim.bench_result",
    "read_prefixes": "kvsim.tiers",
    "read_validation": "kvsim.calibrate.records",
    "replicate": "kvsim.comparison",
    "scenario_names": "kvsim.scenario",
    "scheduler_names": "kvsim.scenario",
    "simulate": "kvsim.simulation",
    "size_fleet": "kvsim.search",
    "tier_gains": "kvsim.tiers",
    "time_bins": "kvsim.timebins",
    "trace_stats": "kvsim.workload.trace_stats",
    "weight_format_names": "kvsim.precision",
    "with_overrides": "kvsim.scenario",
}

__all__ = [  # noqa: RUF022 - sorted without regard to case
    "accelerator_names",
    "AcceleratorProfile",
    "allocator_names",
    "cache_policy_names",
    "cache_sizes",
    "CacheTier",
    "Camera",
    "compare",
    "compare_bench",
    "Comparison",
    "describe_accelerators",
    "describe_models",
    "engine_names",
    "EngineOptions",
    "example_prefix_names",
    "example_prefixes",
    "find_accelerator",
    "find_model",
    "FleetOption",
    "highest_rate",
    "hit_costs",
    "hit_ratio_curve",
    "InputError",
    "InvariantError",
    "kv_format_names",
    "KVSimError",
    "load_accelerator",
    "load_scenario",
    "measured_steps",
    "MissingExtraError",
    "model_names",
    "ModelSpec",
    "Plan",
    "plan",
    "plan_engines",
    "pool_cells",
    "PrefixTrace",
    "RateSearch",
    "read_bench_result",
    "read_prefixes",
    "read_validation",
    "replicate",
    "Replications",
    "Scenario",
    "scenario_names",
    "scheduler_names",
    "SearchSettings",
    "simulate",
    "SimulationComparison",
    "SimulationResult",
    "size_fleet",
    "SLO",
    "tier_gains",
    "time_bins",
    "trace_stats",
    "UnknownNameError",
    "UnsupportedError",
    "weight_format_names",
    "with_overrides",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home, once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kvsim' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
