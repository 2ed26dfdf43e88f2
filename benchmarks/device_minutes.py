"""What each command of ``make gpu`` takes on a GPU, before it is run: no tensor is made.

::

    calibrate   its own estimate, `Plan.expected_seconds`
    study       steps of three caches that keep K and V, and a few without: each the larger of
                the device, by the card's profile or its class's, and of a dozen launches a layer
    validate    the seconds over which requests arrive, half as long again until all are answered,
                and what is built and warmed up before

The constants are assumptions until a GPU has run it.
"""

from __future__ import annotations

from kvsim.calibrate.measure.device import DeviceFacts, shipped_profile
from kvsim.calibrate.measure.grid import plan_cases
from kvsim.calibrate.study.plan import StudyPlan
from kvsim.calibrate.twin.questions import GPU_SECONDS
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines.base import Deployment
from kvsim.memory.footprint import bytes_per_token
from kvsim.memory.weights import weight_bytes
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.precision import kv_format
from kvsim.steptime.model import StepLoad, StepTimeModel

__all__ = ["calibrate_seconds", "study_seconds", "validate_seconds"]

_BEGIN = 15.0  # torch's import, the trial of kernels that are compiled already
_FILL_BYTES_PER_S = 4e9  # random weights
_LAUNCHES = 12 * 5e-6  # of a layer
_ENDS = 1e-3  # of a step of the loop
_KEPT, _UNKEPT_STEPS = 3, 3  # caches that keep K and V; tries of each length without one
_ANSWERED = 1.5  # times the seconds over which requests arrive


def calibrate_seconds(facts: DeviceFacts, *, quick: bool) -> float:
    """What the grid takes."""
    return plan_cases(facts, quick=quick).expected_seconds


def study_seconds(name: str, facts: DeviceFacts) -> float:
    """What a study of the usual lengths and batches takes."""
    model, plan = find_model(name), StudyPlan(name)
    card = shipped_profile(facts) or find_accelerator("h100")
    steps = StepTimeModel.from_deployment(Deployment(model, card, EngineOptions()))
    read = bytes_per_token(model, kv_format("bf16"))
    longest = plan.prompt_tokens + max(plan.tokens)
    least = model.num_layers * _LAUNCHES

    def step(load: StepLoad) -> float:
        return max(least, steps.cost(load).device_seconds) + _ENDS

    total = _BEGIN + 2 * weight_bytes(model) / _FILL_BYTES_PER_S
    for batch in plan.batches:
        kept = step(StepLoad(batch, batch, batch * longest * read / 2))
        pairs = batch * longest * (longest + 1) / 2
        unkept = step(StepLoad(batch * longest, batch, prefill_pairs=pairs))
        total += _KEPT * max(plan.tokens) * kept
        total += _UNKEPT_STEPS * (len(plan.tokens) + 1) * unkept
    return total


def validate_seconds(name: str, *, quick: bool) -> float:
    """What one load of a model takes."""
    built = 2 * weight_bytes(find_model(name)) / _FILL_BYTES_PER_S
    return _BEGIN + built + _ANSWERED * GPU_SECONDS[quick]
