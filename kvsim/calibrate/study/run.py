"""The study itself, once torch is known to be there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from kvsim.calibrate.study.caches import (
    BLOCK_TOKENS,
    CACHES,
    BatchCache,
    NoCache,
    PagedCache,
    Preallocated,
)
from kvsim.calibrate.study.findings import Study, StudyRow, claims_of, exponents_of
from kvsim.calibrate.study.lockstep import (
    Lockstep,
    StudyStep,
    equal_texts,
    prompts,
    time_cached,
    time_uncached,
)
from kvsim.calibrate.study.plan import StudyPlan
from kvsim.calibrate.study.predict import (
    Generation,
    predict_generation,
    samples_of,
    study_scenario,
)
from kvsim.calibrate.twin.blueprint import Blueprint
from kvsim.calibrate.twin.clock import StepSample
from kvsim.calibrate.twin.decoder import Decoder
from kvsim.calibrate.twin.device import TORCH_DTYPES, Device
from kvsim.calibrate.twin.warmup import fit_samples
from kvsim.errors import UnsupportedError
from kvsim.interrupts import released
from kvsim.memory.weights import weight_bytes
from kvsim.simulator.prepare import prepare
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec

__all__ = ["run_study"]

Say = Callable[[str], None]
_NEIGHBOURS = 8  # steps on each side whose median stands for one
_WARM_STEPS = 4
_FITTED_STEPS = 50  # of each cache and batch
_CHECKED_SHARE = 0.5  # of the free memory, for weights in fp32


@dataclass(frozen=True, slots=True)
class _Timed:
    """The timed steps of one cache at one batch, and torch's peak beside them."""

    kind: type[BatchCache]
    batch: int
    steps: list[StudyStep]
    torch_peak_bytes: int | None

    def token_seconds(self, context: int) -> float:
        """Seconds of the step at a context: the median of those around it, else interpolated."""
        contexts = np.array([step.context for step in self.steps])
        seconds = np.array([step.seconds for step in self.steps])
        near = np.abs(contexts - context) <= _NEIGHBOURS
        if near.sum() > _NEIGHBOURS:
            return float(np.median(seconds[near]))
        return float(np.interp(context, contexts, seconds))

    def total_seconds(self, prompt: int, tokens: int) -> float:
        """Seconds of all steps; without a cache, of the line through the timed ones."""
        if self.is_kept:
            return sum(step.seconds for step in self.steps[:tokens])
        contexts = range(prompt, prompt + tokens)
        return sum(self.token_seconds(context) for context in contexts)

    @property
    def is_kept(self) -> bool:
        """Whether anything is kept between steps."""
        return self.kind is not NoCache

    def at(self, tokens: int, context: int) -> StudyStep:
        """The step that gave token number `tokens`, at that context."""
        if self.is_kept:
            return self.steps[tokens - 1]
        return StudyStep(context, context, self.token_seconds(context), 0, 0, 0)

    def copied_bytes(self, tokens: int) -> float:
        """Bytes that the step moved for each sequence: what it copied, read and written."""
        if not self.is_kept or tokens < 2:
            return 0.0
        copied = self.steps[tokens - 1].copied_bytes - self.steps[tokens - 2].copied_bytes
        return 2 * copied / self.batch


@dataclass(frozen=True, slots=True)
class _Bench:
    """What is studied, on what."""

    plan: StudyPlan
    model: ModelSpec
    decoder: Decoder
    device: Device
    sheet: AcceleratorProfile

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.plan.prompt_tokens + max(self.plan.tokens)

    @property
    def token_bytes(self) -> int:
        """K and V of one token, bytes."""
        return NoCache(self.decoder, 1, 1).token_bytes


def run_study(plan: StudyPlan, model: ModelSpec, say: Say) -> Study:
    """Check, time, fit, simulate, conclude; see `kvsim.calibrate.study.study_caches`."""
    device = Device.named(plan.device)
    dtype = device.dtype_for(model.dtype)
    model = model.model_copy(update={"dtype": dtype})
    device.refuse_if_too_large(round(weight_bytes(model)), model.name)
    with released(), device.answering(f"studying {model.name}"), device.steady():
        _check_equal(plan, model, device, say)
        decoder = Decoder(Blueprint.of(model), device.torch_device, TORCH_DTYPES[dtype])
        sheet = device.datasheet()  # while it answers
        bench = _Bench(plan, model, decoder, device, sheet)
        timings = _time_all(bench, say)
    say("fitting the step time, and simulating the same")
    profile = _fitted(bench, timings.whole)
    rows = tuple(_row(bench, each, n, profile) for each in timings.whole for n in plan.tokens)
    return Study(
        model=model.name,
        device=device.name,
        clock=device.clock,
        torch_version=torch.__version__,
        dtype=dtype,
        weight_bytes=decoder.weight_bytes,
        token_bytes=bench.token_bytes,
        prompt_tokens=plan.prompt_tokens,
        longest=decoder.shape.longest,
        checked_tokens=plan.checked_tokens,
        rows=rows,
        exponents=exponents_of(rows, plan.prompt_tokens),
        claims=claims_of(rows, bench.token_bytes, BLOCK_TOKENS),
        interrupted=timings.interrupted,
        stopped=timings.stopped,
        left_out=tuple(timings.left_out),
    )


def _check_equal(plan: StudyPlan, model: ModelSpec, device: Device, say: Say) -> None:
    """Generate the same text four ways, in fp32 so that rounding decides nothing.

    Of a model that is too large in fp32 the first layers do: caches know nothing of depth.
    """
    shape = Blueprint.of(model)
    in_fp32 = model.model_copy(update={"dtype": "fp32", "weight_bytes_on_disk": None})
    share = _CHECKED_SHARE * device.free_bytes / weight_bytes(in_fp32)
    shape = replace(shape, layers=max(1, min(shape.layers, int(share * shape.layers))))
    whole = shape.layers == model.num_layers
    words = "" if whole else f" with {shape.layers} of its {model.num_layers} layers"
    say(f"checking that four caches generate the same {plan.checked_tokens} tokens{words}")
    decoder = Decoder(shape, device.torch_device, torch.float32)
    batch = min(2, max(plan.batches))
    equal_texts(decoder, prompts(decoder, batch, plan.prompt_tokens), plan.checked_tokens)


@dataclass(slots=True)
class _Timings:
    """The batches that have all four caches, and what became of the others."""

    whole: list[_Timed] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    interrupted: bool = False
    stopped: str = ""


def _time_all(bench: _Bench, say: Say) -> _Timings:
    """Time all four caches batch by batch.

    An interrupt, memory that is short and a device that fails keep the batches that have all four.
    A batch that the device cannot hold is left out before it is begun.

    Raises
    ------
    UnsupportedError
        When no batch is whole.
    """
    timings = _Timings()
    with bench.device.answering("choosing its kernels"):
        PagedCache(bench.decoder, 1, 1)  # one may hold memory: from the first peak on
    try:
        for batch in bench.plan.batches:
            if problem := _too_large(bench, batch):
                timings.left_out.append(problem)
                say(f"left out: {problem}")
                continue
            with bench.device.answering(f"timing batch {batch}"):
                timings.whole += [_time(bench, kind, batch, say) for kind in CACHES]
    except KeyboardInterrupt:
        if not timings.whole:
            raise
        timings.interrupted = True
    except UnsupportedError as error:
        if not timings.whole:
            raise
        timings.stopped = str(error)
    if not timings.whole:
        raise UnsupportedError("; ".join(timings.left_out))
    return timings


def _too_large(bench: _Bench, batch: int) -> str:
    """Why a batch is not begun: its preallocated cache reaches to the model's last position."""
    needed = batch * bench.decoder.shape.longest * bench.token_bytes
    try:
        bench.device.refuse_if_too_large(needed, f"the cache of {batch} sequences")
    except UnsupportedError as error:
        return str(error)
    return ""


def _time(bench: _Bench, kind: type[BatchCache], batch: int, say: Say) -> _Timed:
    """Time one cache at one batch, after a few steps that warm it up."""
    say(f"timing {kind.name}, batch {batch}")
    plan, decoder, now = bench.plan, bench.decoder, bench.device.now
    text = prompts(decoder, batch, plan.prompt_tokens)
    time_cached(Lockstep(decoder, kind(decoder, batch, bench.longest), text), _WARM_STEPS, now)
    bench.device.start_peak()
    if kind is NoCache:
        contexts = [plan.prompt_tokens + tokens for tokens in (0, *plan.tokens)]
        steps = time_uncached(decoder, batch, contexts, now)
    else:
        loop = Lockstep(decoder, kind(decoder, batch, bench.longest), text)
        steps = time_cached(loop, max(plan.tokens), now)
    return _Timed(kind, batch, steps, bench.device.peak_bytes())


def _fitted(bench: _Bench, timed: Sequence[_Timed]) -> AcceleratorProfile:
    """Fit the step-time form to recomputing and to the preallocated cache; no other is shown."""
    samples: list[StepSample] = []
    for each in timed:
        if each.kind in (NoCache, Preallocated):
            steps = each.steps[:: max(1, len(each.steps) // _FITTED_STEPS)]
            samples += samples_of(steps, each.batch, bench.model, bench.token_bytes)
    sheet = bench.sheet
    question = study_scenario(Generation(1, bench.plan.prompt_tokens, 1), NoCache, bench.model)
    setup = prepare(question, model=bench.model, accelerator=sheet)
    fitted = fit_samples(samples, setup.deployment, launches=bench.device.is_cuda)
    return sheet.model_copy(update={"coefficients": fitted})


def _row(bench: _Bench, timed: _Timed, tokens: int, profile: AcceleratorProfile) -> StudyRow:
    """Everything about one cache, batch and length."""
    prompt = bench.plan.prompt_tokens
    generation = Generation(timed.batch, prompt, tokens)
    predicted = predict_generation(generation, timed.kind, bench.model, profile)
    context = prompt + tokens - 1
    step = timed.at(tokens, context)
    weights = bench.decoder.weight_bytes
    return StudyRow(
        cache=timed.kind.name,
        batch=timed.batch,
        tokens=tokens,
        token_seconds=timed.token_seconds(context),
        total_seconds=timed.total_seconds(prompt, tokens),
        kv_peak_bytes=step.peak_bytes,
        total_bytes=weights + step.peak_bytes,
        torch_peak_bytes=timed.torch_peak_bytes,
        read_bytes_per_token=weights / timed.batch
        + timed.copied_bytes(tokens)
        + (context * bench.token_bytes if timed.is_kept else 0),
        computed_per_token=step.computed,
        simulated_seconds=predicted.seconds,
        simulated_kv_bytes=predicted.kv_bytes,
    )
