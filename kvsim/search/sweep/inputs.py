"""What a run is made from, found before anything runs: that is its key, and what travels with it.

::

    scenario, resolved      its name and question aside: they change no number
    model, accelerator      what their names, paths or KVSIM_PATH lead to here
    files                   digests of traces and lengths, and of a config that flags override
    seed, version, environment
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.readers.huggingface.config import CONFIG_FILE
from kvsim.search.space import Point, Space
from kvsim.search.sweep.task import Task, digest, environment
from kvsim.simulator.names import refuse_unknown
from kvsim.simulator.scenario import Scenario
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec
from kvsim.version import __version__
from kvsim.workload.lengths import PairsFile

__all__ = ["Inputs"]

_KEY_LETTERS = 32  # 128 bits: no two of 10^9 runs share one


class Inputs:
    """Everything that the runs of one sweep are made from; what they share is found once."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.seeds = range(space.scenario.run.seed, space.scenario.run.seed + space.seeds)
        self._environment = environment()
        self._digest = cache(digest)
        self._find_model = cache(_described_model)
        self._find_accelerator = cache(_described_accelerator)

    def keys(self, point: Point) -> list[str]:
        """Return the key of each of a point's runs.

        Raises
        ------
        InputError
            For a name that no catalogue knows and a file that cannot be read, with where it was
            asked for.
        """
        parts = self._parts(point.scenario)
        return [_hash([*parts, seed])[:_KEY_LETTERS] for seed in self.seeds]

    def tasks(self, point: Point) -> list[Task]:
        """Return a point's runs."""
        scenario, files = point.scenario, self._files(point.scenario)
        model, _ = self._find_model(scenario.model)
        accelerator, _ = self._find_accelerator(scenario.accelerator)
        update: dict[str, Any] = {"folder": scenario.folder.absolute()}
        if _overrides(scenario) and Path(scenario.model).exists():
            update["model"] = str(Path(scenario.model).absolute())
        bare = scenario.model_copy(update=update).from_origin(None, {})
        own = None if _overrides(scenario) else model
        return [
            Task(key, bare, seed, own, accelerator, files, self._environment)
            for key, seed in zip(self.keys(point), self.seeds, strict=True)
        ]

    def _parts(self, scenario: Scenario) -> list[Any]:
        content = scenario.model_dump(mode="json", exclude={"folder", "name", "question"})
        for decided in ("seed", "replications"):
            del content["run"][decided]
        refuse_unknown(scenario)
        _, model = self._find_model(scenario.model)
        _, accelerator = self._find_accelerator(scenario.accelerator)
        digests = [found for _, found in self._files(scenario)]
        return [__version__, self._environment, content, model, accelerator, digests]

    def _files(self, scenario: Scenario) -> tuple[tuple[str, str], ...]:
        return tuple((str(path), self._digest(path)) for path in _read_by(scenario))


def _read_by(scenario: Scenario) -> Iterator[Path]:
    """Files and folders that a run reads, its model's and accelerator's aside."""
    workload, folder = scenario.workload, scenario.folder.absolute()
    if workload.trace is not None:
        yield folder / workload.trace.file
    if isinstance(workload.lengths, PairsFile) and workload.lengths.file is not None:
        yield folder / workload.lengths.file
    model = Path(scenario.model).absolute()
    if _overrides(scenario) and model.exists():
        yield model / CONFIG_FILE if model.is_dir() else model


def _overrides(scenario: Scenario) -> bool:
    """Whether flags change the model's config, so that a run must read it itself."""
    return bool(scenario.engine.hf_overrides or scenario.engine.rope_scaling)


def _described_model(name: str) -> tuple[ModelSpec, str]:
    model = find_model(name)
    return model, _hash(model.model_dump(mode="json"))


def _described_accelerator(name: str) -> tuple[AcceleratorProfile, str]:
    accelerator = find_accelerator(name)
    return accelerator, _hash(accelerator.model_dump(mode="json"))


def _hash(content: Any) -> str:
    words = json.dumps(content, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(words.encode()).hexdigest()
