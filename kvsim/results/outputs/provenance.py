"""Where a result comes from: enough to ask the same question again, and to trust the answer."""

from __future__ import annotations

from typing import Any

from kvsim.engines import get_engine
from kvsim.results.result import SimulationResult
from kvsim.simulator.scenario import Scenario
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.version import __version__

__all__ = ["provenance", "resolved_scenario"]


def provenance(result: SimulationResult) -> dict[str, Any]:
    """Describe the run's question and the sources of its numbers, JSON-ready.

    The notes say which rows of a trace were left out or changed.

    Parameters
    ----------
    result : SimulationResult
        The run.
    """
    setup = result.setup
    scenario, deployment = setup.scenario, setup.deployment
    engine = get_engine(scenario.engine.name, scenario.engine.version)
    options = deployment.options.model_dump(mode="json", exclude_none=True)
    return {
        "kvsim": __version__,
        "seed": result.recording.seed,
        "notes": list(result.recording.notes),
        "scenario": resolved_scenario(scenario),
        "engine": {"name": engine.name, "version": engine.version, "options": options},
        "scheduler": setup.scheduler.mimics,
        "model": {
            "name": deployment.model.name,
            "hf_id": deployment.model.hf_id,
            "source": deployment.model.source,
        },
        "accelerator": _sources(deployment.accelerator),
        "step_time": setup.step_time.provenance,
        "pool": {
            "num_blocks": setup.pools.main.num_blocks,
            "withheld_blocks": setup.pools.main.withheld_blocks,
            "block_size": setup.pools.main.block_size,
            "bytes_per_token": setup.token_bytes,
            "kv_cache_dtype": setup.kv.name,
        },
    }


def resolved_scenario(scenario: Scenario) -> dict[str, Any]:
    """Return the scenario with every default written out, JSON- and YAML-ready.

    Where it was read from is left out: the same question has the same words everywhere.
    """
    content: dict[str, Any] = scenario.model_dump(mode="json", exclude={"folder"})
    return content


def _sources(card: AcceleratorProfile) -> dict[str, Any]:
    """Name the card, and who says how much memory, bandwidth and arithmetic it has."""
    facts = {"memory": card.memory, "bandwidth": card.bandwidth}
    facts |= {f"flops.{kind}": fact for kind, fact in card.flops.items()}
    return {
        "name": card.name,
        "sources": {
            key: {"value": fact.value, "source": fact.source, "confidence": fact.confidence}
            for key, fact in facts.items()
            if fact is not None
        },
    }
