"""One run: what a worker needs to do it, and what came of it. Both travel between processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.engines.sglang.lengths import ALLOWS_LONGER as SGLANG_ALLOWS_LONGER
from kvsim.engines.vllm.lengths import ALLOWS_LONGER as VLLM_ALLOWS_LONGER
from kvsim.errors import KVSimError
from kvsim.results.latencies import TIME_BANDS
from kvsim.runs.replicate import numbers
from kvsim.runs.simulate import run_setup
from kvsim.simulator.prepare import prepare
from kvsim.simulator.scenario import Scenario
from kvsim.specs.files import once_per_file, open_binary
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec

__all__ = [
    "DEATHS",
    "Outcome",
    "StoppedError",
    "Task",
    "band_key",
    "died",
    "digest",
    "environment",
    "run",
]

DEATHS = 3  # of workers under one run, before it is taken for the cause
_PIECE_BYTES = 2**20


class StoppedError(KVSimError):
    """A sweep cannot go on: its workers, its scheduler or its disk fail it; what is kept stays."""


@dataclass(frozen=True)
class Task:
    """A run that is to be done.

    Parameters
    ----------
    key : str
        Hash of all that it is made from.
    scenario : Scenario
        The question, without where its values were written.
    seed : int
        Of every random stream.
    model : ModelSpec or None
        In place of the scenario's name or path; None where flags override its config.
    accelerator : AcceleratorProfile
        In place of the scenario's.
    files : tuple of (str, str)
        What else is read: paths and digests.
    environment : mapping of str to str
        Variables that the answer depends on.
    """

    key: str
    scenario: Scenario
    seed: int
    model: ModelSpec | None
    accelerator: AcceleratorProfile
    files: tuple[tuple[str, str], ...]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Parameters
    ----------
    key : str
        The task's.
    row : str
        Numbers of its summary by dotted key, as JSON; "" of a run that failed.
    reason : str
        Why it failed.
    unfit : str
        Why this worker cannot do it, though another might: nothing is to be kept then.
    """

    key: str
    row: str = ""
    reason: str = ""
    unfit: str = ""


def died(key: str) -> Outcome:
    """Say of a run that no worker survives it."""
    return Outcome(key, reason=f"its worker died {DEATHS} times or more: out of memory, perhaps")


def run(task: Task) -> Outcome:
    """Do a run; whatever is wrong with it is its outcome, too."""
    unfit = next(_unfit(task), "")
    if unfit:
        return Outcome(task.key, unfit=unfit)
    try:
        setup = prepare(task.scenario, model=task.model, accelerator=task.accelerator)
        summary = run_setup(setup, task.seed).summary
    except KVSimError as error:
        return Outcome(task.key, reason=str(error))
    except MemoryError:
        return Outcome(task.key, reason="memory ran out")
    except Exception as error:  # a bug, which must not end the thousand runs beside it
        return Outcome(task.key, reason=str(KVSimError(f"{type(error).__name__}: {error}")))
    return Outcome(task.key, row=_row(summary))


def _row(summary: Mapping[str, Any]) -> str:
    factors = summary[TIME_BANDS]["factors"]
    bands = {band_key(name, end): factors[name][end] for name in factors for end in ("low", "high")}
    return json.dumps({**dict(numbers(summary)), **bands, "saturated": summary["saturated"]})


def band_key(latency: str, end: str) -> str:
    """Key of a row under which an end of a latency's band is: a factor of what is predicted."""
    return f"{TIME_BANDS}.{latency}.{end}"


def _unfit(task: Task) -> Iterator[str]:
    """Say what this machine lacks that the run was asked with."""
    for name, value in environment().items() ^ task.environment.items():
        yield f"the variable {name} is {value!r} on one side of the sweep only"
    for path, wanted in task.files:
        try:
            found = digest(Path(path))
        except KVSimError as error:
            yield str(error)
        else:
            if found != wanted:
                yield f"{path}: differs from the file that the sweep began with"


def environment() -> dict[str, str]:
    """Variables that are set here and that the answer of a run depends on."""
    names = (SGLANG_ALLOWS_LONGER, VLLM_ALLOWS_LONGER)
    return {name: os.environ[name] for name in names if name in os.environ}


def digest(path: Path) -> str:
    """Hash of a file, or of all files in a folder with their names.

    Raises
    ------
    InputError
        When one cannot be read.
    """
    if not path.is_dir():
        return _of_file(path)
    files = sorted(each for each in path.rglob("*") if each.is_file())
    named = [(each.relative_to(path).as_posix(), _of_file(each)) for each in files]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


@once_per_file
def _of_file(path: Path) -> str:
    found = hashlib.sha256()
    with open_binary(path) as stream:
        while piece := stream.read(_PIECE_BYTES):
            found.update(piece)
    return found.hexdigest()
