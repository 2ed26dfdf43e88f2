"""Calibrate a twin by its own steps: a few small batches served, one fit of the step's form.

A profile made elsewhere (``kvsim calibrate``) times kernels one by one; this one times whole
steps of one model, host included, and so says what the form itself can explain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.calibrate.fit import predict, unfitted
from kvsim.calibrate.minimise import load_optimize
from kvsim.calibrate.rows import StepRows, rows_from_records
from kvsim.calibrate.twin.clock import StepSample
from kvsim.calibrate.twin.serve import Twin
from kvsim.engines.base import Deployment
from kvsim.errors import InputError
from kvsim.memory.weights import decode_read_bytes
from kvsim.simulator.prepare import Setup
from kvsim.specs.hardware import AcceleratorProfile, StepCoefficients
from kvsim.specs.model import ModelSpec
from kvsim.steptime.model import StepLoad
from kvsim.steptime.rank_work import RankWork
from kvsim.steptime.rates import TWIN
from kvsim.workload.spec import parse_workload

__all__ = ["WarmUp", "fit_samples", "step_rows"]

Floats = NDArray[np.float64]

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_PROMPTS = (16, 64, 256, 1024, 4096)
_OUTPUT_TOKENS = 8
_QUICK_BATCHES, _QUICK_PROMPTS = 5, 3
_SOFT_ERROR = 0.05
_FEWEST_SAMPLES = 20
_INSIDE = 1e-6  # how far inside its bounds the search starts, in logarithms


@dataclass(frozen=True, slots=True)
class _Trial:
    """A batch that arrives at once; prompts are uniform from a quarter of the longest on."""

    requests: int
    prompt_tokens: int

    def within(self, setup: Setup) -> bool:
        """Whether the setup can run it all at once."""
        options = setup.deployment.options
        tokens = self.prompt_tokens + _OUTPUT_TOKENS
        blocks = self.requests * setup.curve.blocks_at(tokens)
        fits = blocks <= setup.num_blocks and self.requests <= options.max_num_seqs
        return fits and tokens <= options.max_model_len

    def of(self, setup: Setup) -> Setup:
        """Return the setup with this batch for its workload."""
        shortest = self.prompt_tokens // 4
        spec = parse_workload(
            {
                "arrivals": {"kind": "at_once"},
                "lengths": {
                    "prompt": {"kind": "uniform", "low": shortest, "high": self.prompt_tokens},
                    "output": {"kind": "fixed", "tokens": _OUTPUT_TOKENS},
                },
                "requests": self.requests,
            }
        )
        return replace(setup, scenario=setup.scenario.model_copy(update={"workload": spec}))


class WarmUp:
    """Small batches over a grid of batch and prompt, served again and again.

    A round before and after everything that is to be predicted says what the device did
    meanwhile; the first one, which pays for what is done once, is forgotten.

    Parameters
    ----------
    twin : Twin
        What serves them.
    quick : bool
        Whether the grid is small.

    Attributes
    ----------
    rounds : list of list of StepSample
        Every step of every round that counts.
    """

    def __init__(self, twin: Twin, *, quick: bool = False) -> None:
        self._twin = twin
        self._trials = list(_trials(twin.setup, quick=quick))
        self.rounds: list[list[StepSample]] = []
        self._serve()

    def round(self) -> None:
        """Serve the grid once more."""
        self.rounds.append(self._serve())

    def fit(self) -> StepCoefficients:
        """Fit the step-time form to all rounds; see `fit_samples`."""
        samples = [sample for each in self.rounds for sample in each]
        launches = self._twin.device.is_cuda
        return fit_samples(samples, self._twin.setup.deployment, launches=launches)

    @property
    def drift_percent(self) -> float:
        """How much slower the slowest round was than the fastest, percent.

        The rounds are equal work, so this is the device's doing: another job, or its clock.
        """
        totals = [sum(sample.seconds for sample in each) for each in self.rounds]
        return 100 * (max(totals) / min(totals) - 1)

    def _serve(self) -> list[StepSample]:
        twin = self._twin
        runs = [twin.serve(trial.of(twin.setup)) for trial in self._trials]
        return [sample for run in runs for sample in run.samples]


def _trials(setup: Setup, *, quick: bool) -> Iterator[_Trial]:
    batches = _BATCHES[:_QUICK_BATCHES] if quick else _BATCHES
    prompts = _PROMPTS[:_QUICK_PROMPTS] if quick else _PROMPTS
    for prompt in prompts:
        for batch in batches:
            trial = _Trial(batch, prompt)
            if trial.within(setup):
                yield trial


# ---- the fit ------------------------------------------------------------------------------


def step_rows(samples: Sequence[StepSample], deployment: Deployment) -> StepRows:
    """Samples as the columns that `kvsim.calibrate.fit` reads, one rank."""
    model = deployment.model.model_copy(update={"dtype": deployment.options.dtype})
    work = RankWork.from_model(model)
    return rows_from_records([_record(sample, work, model) for sample in samples])


def _record(sample: StepSample, work: RankWork, model: ModelSpec) -> dict[str, Any]:
    load = sample.load
    return {
        "model": model.name,
        "phase": _phase(load),
        "layers": work.layers,
        "tokens": load.tokens,
        "sequences": load.sequences,
        "weight_bytes": decode_read_bytes(model, load.tokens),
        "flops": work.body_flops * load.tokens + work.head_flops * load.sequences,
        "kv_bytes": load.kv_read_bytes,
        "kv_heads": work.kv_heads,
        "attention_flops": load.prefill_pairs * work.pair_flops,
        "query_tokens": max(0, load.tokens - load.sequences) * work.query_heads,
        "tp": 1,
        "message_bytes": load.tokens * work.message_bytes,
        "seconds": sample.seconds,
    }


def _phase(load: StepLoad) -> str:
    """Name a step's phase: decode, prefill or mixed."""
    if not load.prefill_pairs:
        return "decode"
    return "mixed" if load.kv_read_bytes else "prefill"


# Bounds of the fitted coefficients: seconds, and rates as shares of the device's own. A tiny
# model's weights stay in a CPU's caches, which are several times as fast as its memory.
_SECONDS = {"layer_seconds": (1e-7, 1.0), "sequence_seconds": (1e-9, 1.0)}
_SHARE_OF_BANDWIDTH = {"weight_bytes_per_s": (1e-3, 8.0), "kv_bytes_per_s": (1e-3, 8.0)}
_SHARE_OF_FLOPS = {"flops_per_s": (1e-4, 2.0), "attention_flops_per_s": (1e-5, 2.0)}

# Few rows are a special case of every GEMM library, one row above all.
_FACTOR_TOKENS = (1, 2, 4, 8, 16, 64, 256)
_FACTOR = (0.1, 4.0)
_STIFFNESS = 0.05  # how strongly tile factors are pulled towards 1

Bounds = dict[str | int, tuple[float, float]]


def fit_samples(
    samples: Sequence[StepSample], deployment: Deployment, *, launches: bool = False
) -> StepCoefficients:
    """Fit the step-time form to one model's steps, by robust relative least squares.

    Host and layer costs cannot be told apart on one model: the layers carry both. Nor can
    the cost of a sequence's KV heads and of the sequence itself.

    Parameters
    ----------
    samples : sequence of StepSample
        Steps that were run.
    deployment : Deployment
        Whose.
    launches : bool
        Whether the host launches kernels while the device works: then a step takes the larger.

    Raises
    ------
    InputError
        For fewer than 20 samples.
    MissingExtraError
        Without scipy.
    """
    if len(samples) < _FEWEST_SAMPLES:
        raise InputError(
            f"{len(samples)} steps are too few to fit", fix="allow longer sequences or more blocks"
        )
    rows = step_rows(samples, deployment)
    bounds = _bounds(deployment.accelerator, int(rows.tokens.max()))
    if launches:
        bounds["launch_seconds"] = _SECONDS["layer_seconds"]
    base = _base_coefficients(deployment, rows)

    def residuals(logs: Floats) -> Floats:
        values = dict(zip(bounds, logs, strict=True))
        pulls = [_STIFFNESS * log for name, log in values.items() if isinstance(name, int)]
        predicted = predict(rows, _built(base, values))
        return np.concatenate([np.log(predicted / rows.seconds), pulls])

    best = _minimise(residuals, _starts(rows), bounds)
    fitted = _built(base, dict(zip(bounds, best, strict=True)))
    error = 100 * np.median(np.abs(predict(rows, fitted) / rows.seconds - 1))
    return fitted.model_copy(update={"error_percent": round(float(error), 2)})


def _built(base: StepCoefficients, logs: Mapping[str | int, float]) -> StepCoefficients:
    """Coefficients from their logarithms; those with a number for a name are tile factors."""
    values = {name: float(np.exp(log)) for name, log in logs.items()}
    named = {name: value for name, value in values.items() if isinstance(name, str)}
    factors = {name: value for name, value in values.items() if isinstance(name, int)}
    return base.model_copy(update={**named, "token_factors": factors})


def _bounds(device: AcceleratorProfile, most_tokens: int) -> Bounds:
    """Bounds of every fitted coefficient, SI units, and of the tile factors that rows reach."""
    units = (
        (_SECONDS, 1.0),
        (_SHARE_OF_BANDWIDTH, device.bandwidth_bytes_per_s),
        (_SHARE_OF_FLOPS, device.flops_per_s("bf16")),
    )
    rates: Bounds = {
        name: (low * unit, high * unit)
        for shares, unit in units
        for name, (low, high) in shares.items()
    }
    return rates | {tokens: _FACTOR for tokens in _FACTOR_TOKENS if tokens <= most_tokens}


def _base_coefficients(deployment: Deployment, rows: StepRows) -> StepCoefficients:
    """Provenance, and rates that the fit will replace."""
    model, device = deployment.model.name, deployment.accelerator.name
    return unfitted(
        engine=TWIN,
        source=f"the twin's own warm-up steps of {model} on {device}",
        date=datetime.now(tz=UTC).date().isoformat(),
        fitted_on=f"{len(rows)} steps",
    )


def _starts(rows: StepRows) -> dict[str | int, float]:
    """Where the search begins: each term alone explains the step that has most of it."""

    def rate(column: Floats) -> float:
        return float((column / rows.seconds).max())

    return {
        "layer_seconds": float((rows.seconds / rows.layers).min()) / 2,
        "sequence_seconds": float((rows.seconds / rows.sequences).min()) / 10,
        "weight_bytes_per_s": 2 * rate(rows.weight_bytes),
        "kv_bytes_per_s": 2 * rate(rows.kv_bytes),
        "flops_per_s": rate(rows.flops),
        "attention_flops_per_s": 10 * rate(rows.attention_flops),
        "launch_seconds": float((rows.seconds / rows.layers).min()),  # the shortest step waits
    }


def _minimise(
    residuals: Callable[[Floats], Floats], starts: Mapping[str | int, float], bounds: Bounds
) -> Floats:
    """Logarithms of the best coefficients, in the order of their bounds."""
    optimize = load_optimize()
    low, high = np.log(np.array(list(bounds.values()))).T
    first = [max(starts.get(name, 1.0), least) for name, (least, _) in bounds.items()]
    found = optimize.least_squares(
        residuals,
        np.clip(np.log(first), low + _INSIDE, high - _INSIDE),
        bounds=(low, high),
        loss="soft_l1",
        f_scale=_SOFT_ERROR,
    )
    return np.asarray(found.x, dtype=np.float64)
