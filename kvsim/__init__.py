"""kvsim: a discrete-event simulator and capacity planner for KV-cache memory.

Names are imported when they are first used: ``import kvsim`` loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvsim.catalog.accelerators import accelerator_names as accelerator_names
    from kvsim.catalog.accelerators import describe_accelerators as describe_accelerators
    from kvsim.catalog.accelerators import find_accelerator as find_accelerator
    from kvsim.catalog.accelerators import load_accelerator as load_accelerator
    from kvsim.catalog.models import describe_models as describe_models
    from kvsim.catalog.models import find_model as find_model
    from kvsim.catalog.models import model_names as model_names
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
    from kvsim.scenario import Scenario as Scenario
    from kvsim.scenario import load_scenario as load_scenario
    from kvsim.scenario import scenario_names as scenario_names
    from kvsim.simulation import simulate as simulate

__version__ = "0.1.0"

# public name: the module that defines it
_HOMES = {
    "AcceleratorProfile": "kvsim.hardware",
    "Comparison": "kvsim.planner",
    "EngineOptions": "kvsim.engines",
    "InputError": "kvsim.errors",
    "InvariantError": "kvsim.errors",
    "KVSimError": "kvsim.errors",
    "MissingExtraError": "kvsim.errors",
    "ModelSpec": "kvsim.model",
    "Plan": "kvsim.planner",
    "Replications": "kvsim.comparison",
    "Scenario": "kvsim.scenario",
    "SimulationComparison": "kvsim.comparison",
    "SimulationResult": "kvsim.results",
    "UnknownNameError": "kvsim.errors",
    "UnsupportedError": "kvsim.errors",
    "accelerator_names": "kvsim.catalog.accelerators",
    "compare": "kvsim.comparison",
    "describe_accelerators": "kvsim.catalog.accelerators",
    "describe_models": "kvsim.catalog.models",
    "engine_names": "kvsim.engines",
    "find_accelerator": "kvsim.catalog.accelerators",
    "find_model": "kvsim.catalog.models",
    "kv_format_names": "kvsim.precision",
    "load_accelerator": "kvsim.catalog.accelerators",
    "load_scenario": "kvsim.scenario",
    "model_names": "kvsim.catalog.models",
    "plan": "kvsim.planner",
    "plan_engines": "kvsim.planner",
    "replicate": "kvsim.comparison",
    "scenario_names": "kvsim.scenario",
    "simulate": "kvsim.simulation",
    "weight_format_names": "kvsim.precision",
}

__all__ = [  # noqa: RUF022 - sorted without regard to case
    "accelerator_names",
    "AcceleratorProfile",
    "compare",
    "Comparison",
    "describe_accelerators",
    "describe_models",
    "engine_names",
    "EngineOptions",
    "find_accelerator",
    "find_model",
    "InputError",
    "InvariantError",
    "kv_format_names",
    "KVSimError",
    "load_accelerator",
    "load_scenario",
    "MissingExtraError",
    "model_names",
    "ModelSpec",
    "Plan",
    "plan",
    "plan_engines",
    "replicate",
    "Replications",
    "Scenario",
    "scenario_names",
    "simulate",
    "SimulationComparison",
    "SimulationResult",
    "UnknownNameError",
    "UnsupportedError",
    "weight_format_names",
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
