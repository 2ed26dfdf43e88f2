"""kvsim: a discrete-event simulator and capacity planner for KV-cache memory.

Names are imported when they are first used: ``import kvsim`` loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvsim.catalog.accelerators import accelerator_names as accelerator_names
    from kvsim.catalog.accelerators import find_accelerator as find_accelerator
    from kvsim.catalog.models import find_model as find_model
    from kvsim.catalog.models import model_names as model_names
    from kvsim.engines import EngineOptions as EngineOptions
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
    "UnknownNameError": "kvsim.errors",
    "UnsupportedError": "kvsim.errors",
    "accelerator_names": "kvsim.catalog.accelerators",
    "find_accelerator": "kvsim.catalog.accelerators",
    "find_model": "kvsim.catalog.models",
    "model_names": "kvsim.catalog.models",
    "plan": "kvsim.planner",
    "plan_engines": "kvsim.planner",
}

__all__ = [  # noqa: RUF022 - sorted without regard to case
    "AcceleratorProfile",
    "accelerator_names",
    "Comparison",
    "EngineOptions",
    "find_accelerator",
    "find_model",
    "InputError",
    "InvariantError",
    "KVSimError",
    "MissingExtraError",
    "model_names",
    "ModelSpec",
    "Plan",
    "plan",
    "plan_engines",
    "UnknownNameError",
    "UnsupportedError",
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
