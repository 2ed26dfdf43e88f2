"""A few decode steps as both profiles price them, host and device apart.

::

    launched   ends + max(launches, device)        the loop
    replayed   ends + device                       a CUDA graph
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from kvsim.calibrate.measure.coefficients import Calibration
from kvsim.calibrate.measure.profile import measured_profile
from kvsim.calibrate.twin.blueprint import tiny_model
from kvsim.catalog.models import find_model
from kvsim.engines.base import Deployment
from kvsim.memory.footprint import bytes_per_token
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.precision import kv_format
from kvsim.steptime.model import StepLoad, StepTimeModel
from kvsim.steptime.rates import TWIN

__all__ = ["PricedStep", "priced_steps"]

_BATCHES = (1, 16, 64)
_CONTEXT = 1024
_MODEL = "llama3-8b"


@dataclass(frozen=True, slots=True)
class PricedStep:
    """One decode step, seconds.

    Parameters
    ----------
    way : str
        "launched" or "replayed".
    model : str
        Whose step.
    sequences, context : int
        Batch, and tokens of each.
    ends_seconds : float
        The host before and after.
    launch_seconds : float
        Launching every kernel; 0 where a graph is replayed.
    device_seconds : float
        What the device computes.
    step_seconds : float
        The whole.
    """

    way: str
    model: str
    sequences: int
    context: int
    ends_seconds: float
    launch_seconds: float
    device_seconds: float
    step_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


def priced_steps(found: Calibration) -> Iterator[PricedStep]:
    """Price a few steps of Llama-3-8B, of a tiny model on a CPU, launched and replayed."""
    model = tiny_model() if found.facts.kind == "cpu" else find_model(_MODEL)
    dtype = found.facts.dtype
    read = bytes_per_token(model, kv_format(dtype))
    for way, words in (("loop", "launched"), ("kernels", "replayed")):
        if way not in found.coefficients:
            continue
        known = found.coefficients[way].model_copy(update={"engine": TWIN, "host_costs": {}})
        device = measured_profile(found, way, known.date)
        steps = StepTimeModel.from_deployment(
            Deployment(model, device, EngineOptions(dtype=dtype)), known
        )
        for batch in _BATCHES:
            load = StepLoad(batch, batch, float(batch * _CONTEXT * read))
            cost = steps.cost(load)
            yield PricedStep(
                way=words,
                model=model.name,
                sequences=batch,
                context=_CONTEXT,
                ends_seconds=cost.host_seconds + cost.sequence_seconds,
                launch_seconds=steps.launches(load),
                device_seconds=cost.device_seconds,
                step_seconds=cost.seconds,
            )
