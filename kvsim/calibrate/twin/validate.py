"""What ``kvsim validate`` does: calibrate, serve for real, predict the same, compare."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from kvsim.calibrate.twin.blueprint import tiny_model
from kvsim.calibrate.twin.questions import Question, capacity_requests_per_s, question_for
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.errors import MissingExtraError
from kvsim.interrupts import released
from kvsim.simulator.caching import says_caching
from kvsim.simulator.loading import load_scenario
from kvsim.simulator.prepare import Setup, prepare
from kvsim.simulator.scenario import Scenario
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec
from kvsim.steptime.rates import TWIN

if TYPE_CHECKING:
    from kvsim.calibrate.twin.compare import TwinComparison
    from kvsim.calibrate.twin.device import Device
    from kvsim.calibrate.twin.serve import Twin, TwinRun
    from kvsim.calibrate.twin.warmup import WarmUp

__all__ = ["Validation", "ValidationRequest", "require_torch", "validate"]

LOADS = (0.3, 0.7, 1.1)
QUICK_LOADS = (0.6,)
_GPU_MODEL = "llama3-8b"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ValidationRequest:
    """What is to be validated.

    Parameters
    ----------
    model : str or None
        Catalogue name or path; None is the scenario's, a tiny one on a CPU, llama3-8b on CUDA.
    device : str
        Torch's name: "cpu", "cuda", "cuda:1".
    scenario : str or None
        Scenario file or name; None asks a few loads up to saturation.
    profile : str or None
        Accelerator with measured coefficients; None calibrates on the twin's own warm-up.
    loads : tuple of float
        Shares of the estimated capacity, without a scenario; empty is the default.
    quick : bool
        Less of everything.
    seed : int
        Of arrivals, lengths and prompts.
    """

    model: str | None = None
    device: str = "cpu"
    scenario: str | None = None
    profile: str | None = None
    loads: tuple[float, ...] = ()
    quick: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Validation:
    """What came out.

    Parameters
    ----------
    device, model : str
        What ran where.
    kernels : str
        Which kernels ran, in words.
    profile : AcceleratorProfile
        The profile that predicted; calibrated here unless one was given.
    provenance : str
        Where its coefficients come from.
    torch_version, clock : str
        The torch that ran; what seconds were counted.
    drift_percent : float or None
        How much slower equal work was at one time than at another: what no model can
        predict. None where nothing was calibrated.
    runs : tuple of TwinComparison
        One per load.
    interrupted : bool
        Whether loads are missing, because it was cut.
    """

    device: str
    model: str
    kernels: str
    profile: AcceleratorProfile
    provenance: str
    torch_version: str
    clock: str
    drift_percent: float | None
    runs: tuple[TwinComparison, ...]
    interrupted: bool = False

    def record(self) -> dict[str, Any]:
        """The validation as JSON."""
        return {
            "kind": "kvsim-validation",
            "device": self.device,
            "model": self.model,
            "kernels": self.kernels,
            "torch": self.torch_version,
            "clock": self.clock,
            "drift_percent": self.drift_percent,
            "provenance": self.provenance,
            "interrupted": self.interrupted,
            "profile": self.profile.model_dump(mode="json"),
            "runs": [run.record() for run in self.runs],
        }


def require_torch(purpose: str) -> None:
    """Check that torch is there, without importing it.

    Raises
    ------
    MissingExtraError
        When it is not.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", "calibrate", purpose)


def validate(request: ValidationRequest, say: Say = lambda line: None) -> Validation:
    """Run the twin and the simulator on the same workloads.

    Parameters
    ----------
    request : ValidationRequest
        What to run.
    say : callable
        Told what is being done, a line at a time.

    Raises
    ------
    MissingExtraError
        Without torch (or scipy, where it calibrates).
    InputError, UnsupportedError
        For names that are unknown, a device that is not there, a model that the twin cannot
        build or that does not fit.
    """
    require_torch("validating")
    import torch

    from kvsim.calibrate.twin.compare import compare
    from kvsim.calibrate.twin.device import Device
    from kvsim.runs.simulate import run_setup

    device = Device.named(request.device)
    case = _case(request, device)
    with released(), device.answering(f"validating {case.model.name}"):
        served = _serve(case, device, request, say)
    profile = served.calibration.profile()
    runs = []
    for label, scenario, measured in served.runs:
        setup = prepare(scenario, model=case.model, accelerator=profile)
        runs.append(compare(label, setup, measured, run_setup(setup, request.seed)))
    return Validation(
        device=device.name,
        model=case.model.name,
        kernels=served.kernels,
        profile=profile,
        provenance=setup.step_time.provenance,
        torch_version=torch.__version__,
        clock=device.clock,
        drift_percent=served.calibration.drift_percent,
        runs=tuple(runs),
        interrupted=served.interrupted,
    )


class _Served(NamedTuple):
    """What was run, by which kernels, what will predict it, and whether loads are missing."""

    runs: list[tuple[str, Scenario, TwinRun]]
    kernels: str
    calibration: _Calibration
    interrupted: bool = False


def _serve(case: _Case, device: Device, request: ValidationRequest, say: Say) -> _Served:
    """Serve every question for real."""
    from kvsim.calibrate.twin.serve import Twin

    setup = case.setup(case.scenario())
    say(f"building {case.model.name} on {device.name}, {setup.num_blocks:,} blocks of KV cache")
    twin = Twin(setup, device)
    calibration = _Calibration.of(case, twin, request, say)
    served = _Served([], twin.kernels.words, calibration)
    try:
        for label, scenario in case.questions(request, calibration.profile()):
            say(f"serving {label}")
            served.runs.append((label, scenario, twin.serve(case.setup(scenario), request.seed)))
            calibration.again()
    except KeyboardInterrupt:  # the loads before it are whole
        if not served.runs:
            raise
        return served._replace(interrupted=True)
    return served


@dataclass(frozen=True, slots=True)
class _Case:
    """The model, the device's profile, and either a scenario or a question to ask."""

    model: ModelSpec
    profile: AcceleratorProfile
    dtype: str
    given: Scenario | None
    question: Question

    def setup(self, scenario: Scenario) -> Setup:
        """A scenario on the device as it is described, measured or not."""
        return prepare(scenario, model=self.model, accelerator=self.profile)

    def scenario(self, rate: float | None = None) -> Scenario:
        """The scenario that was given, in a dtype that the device has; else the question.

        The twin finds no prefixes: unless the scenario asks for that, nor does the simulation.
        """
        if self.given is None:
            return self.question.scenario(self.model, self.dtype, rate)
        said: dict[str, object] = {"dtype": self.dtype}
        if not says_caching(self.given):
            said["enable_prefix_caching"] = False
        engine = self.given.engine.model_copy(update=said)
        return self.given.model_copy(update={"engine": engine})

    def questions(
        self, request: ValidationRequest, profile: AcceleratorProfile
    ) -> Iterator[tuple[str, Scenario]]:
        """What to run: the one scenario, or the question at every load."""
        if self.given is not None:
            yield self.given.name, self.scenario()
            return
        setup = prepare(self.scenario(), model=self.model, accelerator=profile)
        capacity = capacity_requests_per_s(setup, self.question)
        for load in request.loads or (QUICK_LOADS if request.quick else LOADS):
            rate = load * capacity
            yield f"load {load:g} ({rate:.3g} requests/s)", self.scenario(rate)


def _case(request: ValidationRequest, device: Device) -> _Case:
    """Read the request's names."""
    given = load_scenario(request.scenario) if request.scenario else None
    model = _model(request, given, device)
    profile = find_accelerator(request.profile) if request.profile else device.datasheet()
    asked = given.engine.dtype if given else None
    dtype = asked if asked not in (None, "auto") else device.dtype_for(model.dtype)
    question = question_for(model, on_gpu=device.is_cuda, quick=request.quick)
    return _Case(model, profile, str(dtype), given, question)


def _model(request: ValidationRequest, given: Scenario | None, device: Device) -> ModelSpec:
    name = request.model or (given.model if given else None)
    if name == tiny_model().name or (name is None and not device.is_cuda):
        return tiny_model()
    return find_model(name or _GPU_MODEL)


@dataclass(frozen=True, slots=True)
class _Calibration:
    """The profile that predicts: the one that was given, else the warm-up's, round by round."""

    given: AcceleratorProfile
    warm_up: WarmUp | None

    @classmethod
    def of(cls, case: _Case, twin: Twin, request: ValidationRequest, say: Say) -> _Calibration:
        """Take a measured profile as it is; warm the twin up for want of one."""
        from kvsim.calibrate.twin.warmup import WarmUp

        known = case.profile.coefficients
        if request.profile and known is not None:
            if known.kernels and known.kernels != twin.kernels.words:
                say(f"caution: the profile stands for other kernels ({known.kernels})")
            say("warming up: what is done once must not be the first request's")
            WarmUp(twin, quick=True)  # whose first round is thrown away
            return cls(_of_the_loop(case.profile), None)
        say("warming up, to fit the step time to it")
        calibration = cls(case.profile, WarmUp(twin, quick=request.quick))
        calibration.again()
        return calibration

    @property
    def drift_percent(self) -> float | None:
        """How much the device's speed changed meanwhile, where that was looked at."""
        return self.warm_up.drift_percent if self.warm_up else None

    def again(self) -> None:
        """Serve another round of the warm-up."""
        if self.warm_up:
            self.warm_up.round()

    def profile(self) -> AcceleratorProfile:
        """The profile, with what has been measured so far."""
        if self.warm_up is None:
            return self.given
        return self.given.model_copy(update={"coefficients": self.warm_up.fit()})


def _of_the_loop(profile: AcceleratorProfile) -> AcceleratorProfile:
    """Return the profile with its own host costs: no serving engine runs here."""
    rates = profile.coefficients
    own = rates.model_copy(update={"engine": TWIN, "host_costs": {}}) if rates else None
    return profile.model_copy(update={"coefficients": own})
