"""The same generation in the simulator: its allocators in place of the four caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvsim.calibrate.study.caches import BLOCK_TOKENS, BatchCache
from kvsim.calibrate.study.lockstep import StudyStep
from kvsim.calibrate.twin.clock import StepSample
from kvsim.runs.simulate import run_setup
from kvsim.simulator.prepare import prepare
from kvsim.simulator.scenario import EngineSpec, MemorySpec, Scenario, SchedulerSpec
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec
from kvsim.steptime.kv_reads import prefill_pairs
from kvsim.steptime.model import StepLoad
from kvsim.units import ceil_div
from kvsim.workload.spec import parse_workload

__all__ = [
    "Generation",
    "Prediction",
    "load_of",
    "predict_generation",
    "samples_of",
    "study_scenario",
]

_ROOM = 4  # pool, in batches of the longest sequences: copies and holes never run it dry


@dataclass(frozen=True, slots=True)
class Generation:
    """What is generated: `batch` prompts of equal length, `tokens` new ones each."""

    batch: int
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the simulator says: seconds in all, and most bytes of K and V held."""

    seconds: float
    kv_bytes: int


def load_of(step: StudyStep, batch: int, model: ModelSpec, token_bytes: int) -> StepLoad:
    """A step of the study in the terms of the step-time model."""
    computed = batch * step.computed
    if step.computed > 1:
        pairs = batch * prefill_pairs(model, step.context - step.computed, step.computed)
        return StepLoad(computed, batch, prefill_pairs=pairs)
    return StepLoad(computed, batch, kv_read_bytes=batch * step.context * token_bytes)


def samples_of(
    steps: Sequence[StudyStep], batch: int, model: ModelSpec, token_bytes: int
) -> list[StepSample]:
    """Timed steps as samples to fit."""
    return [StepSample(load_of(step, batch, model, token_bytes), step.seconds) for step in steps]


def predict_generation(
    generation: Generation, kind: type[BatchCache], model: ModelSpec, profile: AcceleratorProfile
) -> Prediction:
    """Simulate a generation with the allocator that stands for a cache."""
    setup = prepare(study_scenario(generation, kind, model), model=model, accelerator=profile)
    result = run_setup(setup, 0)
    held = result.kv_cache()["usage_peak"] * setup.pool_slots
    return Prediction(result.recording.end_seconds, round(held) * setup.token_bytes)


def study_scenario(generation: Generation, kind: type[BatchCache], model: ModelSpec) -> Scenario:
    """A batch that arrives at once and is never joined by another."""
    longest = model.max_position_embeddings
    options = EngineOptions(
        dtype=model.dtype,
        max_num_seqs=generation.batch,
        max_num_batched_tokens=generation.batch * longest,
        max_model_len=longest,
        num_gpu_blocks_override=_ROOM * generation.batch * ceil_div(longest, BLOCK_TOKENS),
        block_size=BLOCK_TOKENS,
    )
    lengths = {"prompt": generation.prompt_tokens, "output": generation.tokens}
    workload = parse_workload(
        {
            "arrivals": {"kind": "at_once"},
            "lengths": {key: {"kind": "fixed", "tokens": n} for key, n in lengths.items()},
            "requests": generation.batch,
        }
    )
    return Scenario(
        name="study",
        model=model.name,
        accelerator=kind.name,
        engine=EngineSpec(**options.model_dump()),
        workload=workload,
        memory=MemorySpec(allocator=kind.allocator),
        scheduler=SchedulerSpec(policy="orca"),
    )
