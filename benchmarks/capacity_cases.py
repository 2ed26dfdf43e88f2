"""Start-ups of 2025-2026 that nothing was fitted on, beside what kvsim predicts for each.

Read from ``reference/capacity_2026/cases.json``: the arguments of ``kvsim plan`` that stand for
a start-up, and what the engine printed. ``capacity_accuracy.py`` prints them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.cli.options import given
from kvsim.cli.plan import command
from kvsim.engines import Deployment, Engine, get_engine
from kvsim.engines.base import ResolvedDeployment
from kvsim.memory.footprint import layer_caches
from kvsim.planning.planner import engine_options
from kvsim.specs.model import ModelSpec, MoeMlp
from kvsim.units import GIB

__all__ = ["CLASSES", "Case", "by_class", "cases", "mean_and_worst"]

# What a case may be classed by, and the name of each.
CLASSES = ("fabric", "release", "kind")
# Printed sizes are rounded to 0.01 GiB.
_HALF_GIB = 0.005


@dataclass(frozen=True, slots=True)
class Case:
    """One start-up: what was printed of it, and kvsim's answer.

    Parameters
    ----------
    name, what : str
        The row, and what ran, in words.
    fabric, release, kind : str
        Classes: how the cards reach each other, the engine's release, the kind of model.
    printed_gib, predicted_gib : float or None, float
        KV bytes; None where the log printed none.
    printed_tokens, predicted_tokens : int
        Tokens as the engine logs them.
    weights_percent : float or None
        Error of the loaded weights, where the log printed them.
    exact : bool or None
        Whether some byte count within the rounding of the printed size gives the printed
        tokens; None where no size was printed.
    engine, deployment : Engine, ResolvedDeployment
        What was predicted.
    """

    name: str
    what: str
    fabric: str
    release: str
    kind: str
    printed_gib: float | None
    predicted_gib: float
    printed_tokens: int
    predicted_tokens: int
    weights_percent: float | None
    exact: bool | None
    engine: Engine
    deployment: ResolvedDeployment

    @property
    def kv_percent(self) -> float | None:
        """Error of the KV bytes."""
        return self.printed_gib and _percent(self.predicted_gib, self.printed_gib)

    @property
    def tokens_percent(self) -> float:
        """Error of the logged tokens."""
        return _percent(self.predicted_tokens, self.printed_tokens)


def cases(data: Path) -> list[Case]:
    """Predict every start-up of the folder; none is dropped."""
    folder = data / "reference" / "capacity_2026"
    rows = json.loads((folder / "cases.json").read_text("utf-8"))
    return [_case(row, folder) for row in rows]


def _case(row: dict[str, Any], folder: Path) -> Case:
    arguments = [argument.replace("{cases}", str(folder)) for argument in row["args"]]
    asked = given(command.make_context("plan", arguments).params)
    for unused in ("output_format", "retention"):
        asked.pop(unused)
    weights = row.get("weights_gib")
    engine, deployment = _resolved(asked)
    budget = engine.budget(deployment)
    capacity = engine.capacity(deployment, budget.kv_cache_bytes)
    return Case(
        name=row["id"],
        what=row["what"],
        fabric=_fabric(deployment),
        release=f"{engine.name} {'.'.join(engine.version.split('.')[:2])}",
        kind=_kind(deployment.model),
        printed_gib=row.get("kv_gib"),
        predicted_gib=budget.kv_cache_bytes / GIB,
        printed_tokens=row["tokens"],
        predicted_tokens=capacity.logged_tokens,
        weights_percent=weights and _percent(budget.weights_bytes / GIB, weights),
        exact=_is_exact(row, engine, deployment),
        engine=engine,
        deployment=deployment,
    )


def _resolved(asked: dict[str, Any]) -> tuple[Engine, ResolvedDeployment]:
    options = {name: value for name, value in asked.items() if name not in _TARGET}
    engine = get_engine(asked["engine"], asked["engine_version"])
    model, accelerator = find_model(asked["model"]), find_accelerator(asked["gpu"])
    return engine, engine.resolve(Deployment(model, accelerator, engine_options(options)))


def _fabric(deployment: ResolvedDeployment) -> str:
    options = deployment.options
    if options.tensor_parallel_size * options.pipeline_parallel_size == 1:
        return "one card"
    return "NVSwitch" if deployment.accelerator.interconnect.is_switched else "PCIe"


def _kind(model: ModelSpec) -> str:
    if any(cache.keeps("state") for _, cache in layer_caches(model)):
        return "recurrent layers"
    has_experts = any(isinstance(group.mlp, MoeMlp) for group in model.layer_groups)
    return "experts" if has_experts else "dense"


def _is_exact(row: dict[str, Any], engine: Engine, deployment: ResolvedDeployment) -> bool | None:
    """Whether the printed tokens come out of the printed bytes."""
    if "kv_gib" not in row:
        return None
    least, most = (int((row["kv_gib"] + half) * GIB) for half in (-_HALF_GIB, _HALF_GIB))
    block = engine.capacity(deployment, most).bytes_per_block
    return any(
        engine.capacity(deployment, blocks * block).logged_tokens == row["tokens"]
        for blocks in range(least // block, most // block + 1)
    )


_TARGET = ("model", "gpu", "engine", "engine_version")


def by_class(found: list[Case], what: str) -> Iterator[tuple[str, list[Case]]]:
    """Yield the cases of each class of `CLASSES`, in order of its name."""
    for name in sorted({str(getattr(case, what)) for case in found}):
        yield name, [case for case in found if getattr(case, what) == name]


def mean_and_worst(found: list[Case]) -> tuple[float, float] | None:
    """Mean and largest absolute error of the KV bytes, percent; None where none was printed."""
    errors = [abs(case.kv_percent) for case in found if case.kv_percent is not None]
    return (sum(errors) / len(errors), max(errors)) if errors else None


def _percent(predicted: float, printed: float) -> float:
    return 100 * (predicted - printed) / printed
