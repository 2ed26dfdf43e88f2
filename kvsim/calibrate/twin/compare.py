"""Predicted beside measured: the steps, the latencies and the memory of one run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log2
from typing import Any

import numpy as np

from kvsim.calibrate.pairs import Pair, latency_keys, pairs_of
from kvsim.calibrate.twin.clock import StepSample
from kvsim.calibrate.twin.memory import workspace_bytes
from kvsim.calibrate.twin.serve import MemoryUse, TwinRun
from kvsim.engines import get_engine
from kvsim.results.result import SimulationResult
from kvsim.simulator.prepare import Setup
from kvsim.steptime.model import StepLoad

__all__ = ["FirstStep", "StepErrors", "StepGroup", "TwinComparison", "compare"]

_FIRST_STEPS = 5  # in which shows what the warm-up has left cold

# Keys of the two summaries that are set side by side; those of `vllm bench serve`.
SUMMARY_KEYS = (
    *latency_keys("ttft", "tpot", "e2el"),
    "output_throughput",
    "request_throughput",
    "duration",
    "completed",
    "preemptions",
)


@dataclass(frozen=True, slots=True)
class StepGroup:
    """Steps alike in phase, batch and context.

    Parameters
    ----------
    phase : str
        "decode" or "prefill" (with or without decodes beside it).
    sequences, context : int
        Largest batch and mean context (tokens per sequence) of the group: powers of two.
    steps : int
        How many there were.
    predicted_seconds, measured_seconds : float
        Medians.
    """

    phase: str
    sequences: int
    context: int
    steps: int
    predicted_seconds: float
    measured_seconds: float

    @property
    def error_percent(self) -> float:
        """How far the predicted median is off, percent."""
        return 100 * (self.predicted_seconds / self.measured_seconds - 1)


@dataclass(frozen=True, slots=True)
class StepErrors:
    """Errors of single steps, percent of the measured time.

    `total_percent` compares the sums, where the noise of single steps averages out.
    """

    median_percent: float
    p95_percent: float
    bias_percent: float
    total_percent: float


@dataclass(frozen=True, slots=True)
class FirstStep:
    """A single step from the start of a run.

    Parameters
    ----------
    tokens, sequences : int
        What it computed, and for how many sequences.
    predicted_seconds, measured_seconds : float
        What it should have taken, and what it took.
    """

    tokens: int
    sequences: int
    predicted_seconds: float
    measured_seconds: float


@dataclass(frozen=True, slots=True)
class TwinComparison:
    """One run, predicted and measured.

    Parameters
    ----------
    label : str
        What was run.
    steps : int
        Steps measured.
    step_errors : StepErrors
        How far single steps are off.
    groups : tuple of StepGroup
        Step times by batch and context.
    latency, memory : tuple of Pair
        Latencies and throughput; bytes and blocks.
    first_steps : tuple of FirstStep
        The first after the warm-up, one by one.
    """

    label: str
    steps: int
    step_errors: StepErrors
    groups: tuple[StepGroup, ...]
    latency: tuple[Pair, ...]
    memory: tuple[Pair, ...]
    first_steps: tuple[FirstStep, ...]

    def pair(self, name: str) -> Pair:
        """Find a latency or memory pair (KeyError when there is none)."""
        for found in (*self.latency, *self.memory):
            if found.name == name:
                return found
        raise KeyError(name)

    def record(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {
            "label": self.label,
            "steps": self.steps,
            "step_errors": asdict(self.step_errors),
            "first_steps": [asdict(step) for step in self.first_steps],
            "step_groups": [{**asdict(g), "error_percent": g.error_percent} for g in self.groups],
            "latency": [pair.record() for pair in self.latency],
            "memory": [pair.record() for pair in self.memory],
        }


def compare(label: str, setup: Setup, run: TwinRun, predicted: SimulationResult) -> TwinComparison:
    """Set a run of the twin beside the simulator's prediction of it.

    Parameters
    ----------
    label : str
        What was run.
    setup : Setup
        Holds the step-time model that predicts single steps.
    run : TwinRun
        What happened.
    predicted : SimulationResult
        What the simulator says of the same workload.
    """
    seconds = [setup.step_time.cost(sample.load).seconds for sample in run.samples]
    measured_peak = run.memory.peak_blocks
    return TwinComparison(
        label=label,
        steps=len(run.samples),
        step_errors=_step_errors(seconds, run.samples),
        groups=_groups(setup, seconds, run.samples),
        latency=pairs_of(predicted.observed, run.result.observed, SUMMARY_KEYS),
        memory=(
            *_byte_pairs(setup, run.memory),
            Pair("peak_blocks", _peak_blocks(predicted), measured_peak),
        ),
        first_steps=tuple(
            FirstStep(sample.load.tokens, sample.load.sequences, guess, sample.seconds)
            for guess, sample in zip(seconds[:_FIRST_STEPS], run.samples, strict=False)
        ),
    )


def _step_errors(predicted: Sequence[float], samples: Sequence[StepSample]) -> StepErrors:
    measured = np.array([sample.seconds for sample in samples])
    errors = 100 * (np.array(predicted) / measured - 1)
    median, p95 = np.percentile(np.abs(errors), (50, 95))
    total = 100 * (sum(predicted) / measured.sum() - 1)
    return StepErrors(float(median), float(p95), float(np.median(errors)), float(total))


def _groups(
    setup: Setup, predicted: Sequence[float], samples: Sequence[StepSample]
) -> tuple[StepGroup, ...]:
    """Step times by phase, batch and context, each up to the next power of two."""
    groups: dict[tuple[str, int, int], list[tuple[float, float]]] = defaultdict(list)
    for seconds, sample in zip(predicted, samples, strict=True):
        groups[_group_of(sample.load, setup.token_bytes)].append((seconds, sample.seconds))
    return tuple(
        StepGroup(*group, len(times), *np.median(np.array(times), axis=0).tolist())
        for group, times in sorted(groups.items())
    )


def _group_of(load: StepLoad, token_bytes: int) -> tuple[str, int, int]:
    """Phase, batch and context of a step; a prefill's context is the tokens it computes."""
    if load.prefill_pairs:
        return "prefill", _power_above(load.sequences), _power_above(load.tokens)
    context = load.kv_read_bytes / token_bytes / load.sequences
    return "decode", _power_above(load.sequences), _power_above(context)


def _power_above(count: float) -> int:
    """Least power of two at or above `count`."""
    return 1 << max(0, int(np.ceil(log2(max(1.0, count)))))


def _byte_pairs(setup: Setup, memory: MemoryUse) -> tuple[Pair, ...]:
    """Bytes by the plan's arithmetic, beside the bytes of the tensors."""
    engine = setup.scenario.engine
    budget = get_engine(engine.name, engine.version).budget(setup.deployment)
    pool = setup.num_blocks * setup.curve.block_size * setup.token_bytes
    pairs = (
        Pair("weights_bytes", budget.weights_bytes, memory.weights_bytes),
        Pair("pool_bytes", pool, memory.pool_bytes),
    )
    if memory.peak_bytes is None:
        return pairs
    peak = budget.weights_bytes + pool + _workspace(setup, memory)
    return (*pairs, Pair("peak_bytes", peak, memory.peak_bytes))


def _workspace(setup: Setup, memory: MemoryUse) -> int:
    workspace = workspace_bytes(setup, round(setup.kv.bits / 8), gathers=memory.gathers)
    return workspace + memory.kernel_bytes


def _peak_blocks(predicted: SimulationResult) -> float:
    """Most blocks that the simulated pool held."""
    usage: float = predicted.kv_cache()["usage_peak"]
    return round(usage * predicted.setup.num_blocks)
