"""Names in a scenario that nobody knows: slips, told before anything is sized or run."""

from __future__ import annotations

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import get_engine
from kvsim.simulator.blame import blaming
from kvsim.simulator.scenario import Scenario
from kvsim.specs.precision import kv_format, weight_format

__all__ = ["refuse_unknown"]


def refuse_unknown(scenario: Scenario) -> None:
    """Refuse an unknown model, accelerator, engine, release or format.

    A deployment that is possible and does not fit is an answer to a search or a sweep; a name that
    nobody knows is none.

    Raises
    ------
    InputError
        With where the name was written, and the nearest that are known.
    """
    engine = scenario.engine
    with blaming(scenario, "engine.name"):
        get_engine(engine.name, engine.version)
    with blaming(scenario, "model"):
        find_model(scenario.model)
    with blaming(scenario, "accelerator"):
        find_accelerator(scenario.accelerator)
    with blaming(scenario, "engine.kv_cache_dtype"):
        if engine.kv_cache_dtype not in (None, "auto"):
            kv_format(engine.kv_cache_dtype)
    with blaming(scenario, "engine.quantization"):
        if engine.quantization is not None:
            weight_format(engine.quantization)
