"""The scenarios that kvsim ships: what each asks, and its file."""

from __future__ import annotations

from typing import Any

from kvsim.errors import UnknownNameError
from kvsim.simulator.loading import load_scenario, scenario_names
from kvsim.specs.files import read_text
from kvsim.specs.yaml_files import data_folder
from kvsim.workload.words import in_words

__all__ = ["describe_scenarios", "scenario_text"]


def describe_scenarios() -> list[dict[str, Any]]:
    """List the shipped scenarios, each with its question, model, accelerator and load in words.

    Examples
    --------
    >>> next(row for row in describe_scenarios() if row["name"] == "peer-w")["load"]
    'poisson 4/s, 512 in, 128 out, 10,000 requests'
    """
    return [_described(name) for name in scenario_names()]


def _described(name: str) -> dict[str, Any]:
    scenario = load_scenario(data_folder("scenarios") / f"{name}.yaml")
    return {
        "name": name,
        "question": scenario.question,
        "model": scenario.model,
        "accelerator": scenario.accelerator,
        "engine": scenario.engine.name,
        "load": in_words(scenario.workload),
    }


def scenario_text(name: str) -> str:
    """Return the YAML of a shipped scenario as it stands, comments included.

    Raises
    ------
    UnknownNameError
        For any other name.
    """
    names = scenario_names()
    if name not in names:
        raise UnknownNameError("scenario", name, names, fix="`kvsim scenarios` lists them")
    return read_text(data_folder("scenarios") / f"{name}.yaml")
