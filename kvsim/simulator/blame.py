"""Say of what turns out wrong inside a run where the scenario asked for it.

The living parts name their own parameters (`think`, `page_bytes`, a flag of the engine); under
which key a scenario gives them, and in which line or override, is known here alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from kvsim.errors import InputError
from kvsim.simulator.scenario import EngineSpec, Scenario
from kvsim.specs.checked import defaults

__all__ = ["blaming"]

# parameter of a living part: the scenario's key
_KEYS = {
    "admission": "scheduler.admission",
    "allocator": "memory.allocator",
    "eviction": "memory.eviction",
    "max_context_tokens": "workload.prefix.max_context_tokens",
    "page_bytes": "memory.page_bytes",
    "placement": "memory.placement",
    "priorities": "workload.priorities",
    "scheduler": "scheduler.policy",
    "think": "workload.arrivals.think",
    "trace": "workload.trace",
    "turns": "workload.prefix.turns",
}


@contextmanager
def blaming(scenario: Scenario, key: str = "") -> Iterator[None]:
    """Place an error in the scenario: by the parameter that it names, else at `key`.

    Raises
    ------
    InputError
        The one that was raised inside, with the file and line, or the override, of its key.
    """
    try:
        yield
    except InputError as error:
        found = _key_of(error.where, scenario) if error.where else _flag_in(error.what, key)
        if not found:
            raise
        raise InputError(error.what, where=scenario.where(found), fix=error.fix) from None


def _flag_in(what: str, key: str) -> str:
    """The engine's key of the first flag that it complains of, where it names no place."""
    flag = re.search(r"--([a-z][a-z-]+)", what) if key == "engine" else None
    name = flag[1].replace("-", "_") if flag else ""
    return f"engine.{name}" if name in defaults(EngineSpec) else key


def _key_of(parameter: str, scenario: Scenario) -> str:
    """The scenario's key of a parameter, a flag of the engine, or a key of the workload."""
    if parameter.startswith("workload."):
        return parameter
    flag = parameter.removeprefix("--").removeprefix("engine-").replace("-", "_")
    return f"engine.{flag}" if flag in dict(scenario.engine) else _KEYS.get(parameter, "")
