"""The ten checks of ``make gpu-check``: what each runs, and the seconds that it should take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import gpu_check_verdicts as judge
from gpu_check_cases import ROOM, decode_cases, expected_seconds, overlap_cases
from gpu_check_clocks import judge_clocks
from gpu_check_probes import LOAD_SECONDS
from gpu_check_runner import Runner
from gpu_check_verdicts import BAD, LOOK, OK, Verdict, answered, failure, left_out

from kvsim.calibrate.measure.device import DeviceFacts, shipped_profile
from kvsim.calibrate.measure.gates import objections
from kvsim.calibrate.measure.grid import plan_cases
from kvsim.calibrate.measure.origin import Origin
from kvsim.calibrate.twin.blueprint import tiny_model
from kvsim.calibrate.twin.questions import capacity_requests_per_s, question_for
from kvsim.catalog.models import find_model
from kvsim.errors import InputError, KVSimError
from kvsim.memory.weights import weight_bytes
from kvsim.runs.simulate import run_setup
from kvsim.simulator.prepare import prepare
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec

MODELS = {"cuda": ("llama3-8b", "llama3.2-1b", "qwen2.5-0.5b", "gpt2"), "cpu": ("twin-tiny",)}
LOAD = 0.5
BAD_INPUT = 2
FEW_ROWS = 3  # that an interrupted calibration has
_WEIGHTS_SHARE = 0.75  # of free memory: the rest is for K and V
_NO_CUDA = "no CUDA"
_BESIDE = 2  # processes: the one that holds the memory, and the one that lacks it

# What no formula has. Of a GPU they are guesses until one has run this.
COMPILING_SECONDS = {"cuda": 30.0, "cpu": 0.0}  # torch.compile, the first time
WARMING_SECONDS = 3.0  # the twin's small batches
STUDY_SECONDS = 2.0  # four caches of a shrunk GPT-2, and the simulations beside them
UNKNOWN_SERVING_SECONDS = {"cuda": 40.0, "cpu": 6.0}  # of a device without coefficients


@dataclass(frozen=True)
class Bench:
    """The device, and where to run what.

    Parameters
    ----------
    device : str
        Torch's name, as it was asked for.
    facts : DeviceFacts
        What it is.
    out : Path
        Folder of the files.
    runner : Runner
        Runs commands in time.
    """

    device: str
    facts: DeviceFacts
    out: Path
    runner: Runner

    @property
    def is_cuda(self) -> bool:
        """Whether graphs, launches and counters are to be had."""
        return self.facts.kind == "cuda"

    @cached_property
    def shipped(self) -> AcceleratorProfile | None:
        """The catalogue's profile of it."""
        return shipped_profile(self.facts)

    @property
    def start_seconds(self) -> float:
        """Seconds of a process that times nothing."""
        return expected_seconds((), self.facts.kind)

    @property
    def calibrating_seconds(self) -> float:
        """Seconds of a quick calibration."""
        return plan_cases(self.facts, quick=True).expected_seconds

    def calibrate(self, name: str, *more: str) -> tuple[str, ...]:
        """Words of a quick calibration into a file of the folder."""
        words = ("calibrate", "--quick", "--device", self.device, "-o", str(self.out / name))
        return (*words, "--format", "json", *more)

    def probed(self, name: str) -> Mapping[str, Any] | Verdict:
        """A probe's answer, or the verdict when it gave none."""
        done = self.runner.probe(name, self.device)
        if done.code != 0:
            return failure(name, "its process", done)
        return answered(done)


def find_facts(runner: Runner, device: str) -> DeviceFacts:
    """Look at the device, in a process that leaves nothing on it.

    Raises
    ------
    InputError
        When it is not there, in the words of who looked.
    """
    done = runner.probe("facts", device)
    if done.code == BAD_INPUT:
        raise InputError(done.last_line)
    if done.code != 0:
        raise InputError(failure("facts", "looking at the device", done).says)
    found = dict(answered(done))
    return DeviceFacts(**{**found, "dtypes": tuple(found["dtypes"])})


def model_for(facts: DeviceFacts) -> ModelSpec | None:
    """The largest model whose weights leave room on the device."""
    for name in MODELS[facts.kind]:
        model = tiny_model() if name == tiny_model().name else find_model(name)
        if weight_bytes(model) <= _WEIGHTS_SHARE * facts.free_bytes:
            return model
    return None


# ---- in torch ------------------------------------------------------------------------------------


def facts(bench: Bench) -> Iterator[Verdict]:
    """What the device is."""
    shipped = bench.shipped
    yield judge.judge_facts(bench.facts, shipped.name if shipped else None)


def capture(bench: Bench) -> Iterator[Verdict]:
    """CUDA graphs, and what is left after one that fails."""
    if not bench.is_cuda:
        yield left_out("capture", _NO_CUDA)
        return
    found = bench.probed("capture")
    yield from [found] if isinstance(found, Verdict) else judge.judge_capture(found)


def kernels(bench: Bench) -> Iterator[Verdict]:
    """Which kernels run, and how fast."""
    found, shipped = bench.probed("kernels"), bench.shipped
    if isinstance(found, Verdict):
        yield found
    else:
        yield judge.judge_kernels(found, shipped.bandwidth_bytes_per_s if shipped else None)


def overlap(bench: Bench) -> Iterator[Verdict]:
    """Whether launches overlap with the device, and layers and attention add up."""
    if not bench.is_cuda:
        yield left_out("overlap", _NO_CUDA)
        return
    needed = max(case.buffer_bytes for case in overlap_cases(bench.facts).values())
    if needed > ROOM * bench.facts.free_bytes:
        yield left_out("overlap", f"a few layers and their K and V need {needed / 1e9:.1f} GB")
        return
    found = bench.probed("overlap")
    if isinstance(found, Verdict):
        yield found
        return
    for note in found["notes"]:
        yield Verdict("overlap", LOOK, note)
    yield from judge.judge_overlap(found["seconds"])


def clocks(bench: Bench) -> Iterator[Verdict]:
    """Clocks, power and heat under load."""
    if not bench.is_cuda:
        yield left_out("clocks", _NO_CUDA)
        return
    found, shipped, dtype = bench.probed("clocks"), bench.shipped, bench.facts.dtype
    if isinstance(found, Verdict):
        yield found
        return
    peak = shipped.flops_per_s(dtype) if shipped and dtype in shipped.flops else None
    yield judge_clocks(found, peak)


# ---- kvsim's commands ----------------------------------------------------------------------------


def calibrate(bench: Bench) -> Iterator[Verdict]:
    """A quick calibration, what speaks against it, and whether it took what it should."""
    _remove(bench.out, "quick")
    expected = bench.calibrating_seconds
    done = bench.runner.kvsim(*bench.calibrate("quick.yaml"))
    if done.code != 0:
        yield failure("calibrate", "kvsim calibrate --quick", done)
        return
    record = answered(done)
    yield from judge.judge_calibration(record, _against(bench, record))
    yield judge.judge_estimate("calibrate", expected, done.seconds)


def _against(bench: Bench, record: Mapping[str, Any]) -> list[str] | None:
    """What speaks against publishing; None of a device that is not published at all."""
    if not bench.is_cuda:
        return None
    rows = bench.out / "quick.csv"
    try:
        return list(objections(record, rows.read_text("utf-8"), str(rows)))
    except KVSimError as error:
        return [str(error)]


def _remove(folder: Path, stem: str) -> None:
    """Remove what an earlier check left: it would be taken for this one's."""
    for suffix in (".yaml", ".kernels.yaml", ".csv"):
        (folder / f"{stem}{suffix}").unlink(missing_ok=True)


def validate(bench: Bench) -> Iterator[Verdict]:
    """The twin beside its prediction."""
    model, profile = model_for(bench.facts), bench.out / "quick.yaml"
    if model is None:
        yield left_out("validate", f"not even {MODELS[bench.facts.kind][-1]} fits")
        return
    if not profile.exists():
        yield left_out("validate", f"there is no {profile}, which calibrate writes")
        return
    words = ("validate", "--quick", "--device", bench.device, "--model", model.name)
    words += ("--profile", str(profile), "--load", str(LOAD), "--format", "json")
    done = bench.runner.kvsim(*words)
    if done.code != 0:
        yield failure("validate", f"kvsim validate of {model.name}", done)
        return
    yield from judge.judge_validation(answered(done))


def study(bench: Bench) -> Iterator[Verdict]:
    """Four caches that must agree."""
    words = ("study", "cache", "--quick", "--device", bench.device, "--model", "gpt2")
    words += ("--batch", "1", "--tokens", "50", "--tokens", "100", "--format", "json")
    done = bench.runner.kvsim(*words)
    if done.code == 0:
        yield judge.judge_study(answered(done))
    else:
        yield failure("study", "kvsim study cache", done)


def memory(bench: Bench) -> Iterator[Verdict]:
    """A calibration on a card that somebody else holds."""
    if not bench.is_cuda:
        yield left_out("memory", _NO_CUDA)
        return
    with bench.runner.holding(bench.device) as said:
        if not said.startswith("{"):
            yield Verdict("memory", BAD, "the program that holds the memory did not get it")
            return
        words = bench.calibrate("full.yaml")
        done = bench.runner.kvsim(*words, most_seconds=judge.LONGEST_SQUEEZED)
    yield judge.judge_memory(done, json.loads(said)["held_bytes"])


def interrupt(bench: Bench) -> Iterator[Verdict]:
    """Ctrl-C into a calibration, and the session that goes on with its rows."""
    _remove(bench.out, "cut")
    file = bench.out / "cut.csv"
    head = len(Origin._fields) + 1  # whose rows they are, and the columns
    cut = bench.runner.interrupted(bench.calibrate("cut.yaml"), file, head + FEW_ROWS)
    kept = _rows(file)
    if wrong := judge.judge_interrupt(cut, kept):
        yield wrong
        return
    done = bench.runner.kvsim(*bench.calibrate("cut.yaml", "--resume"))
    yield judge.judge_resumed(done, kept, _rows(file))


def _rows(file: Path) -> list[str]:
    """Lines of a CSV below its head."""
    text = file.read_text("utf-8") if file.exists() else ""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("#")]
    return lines[1:]


# ---- seconds -------------------------------------------------------------------------------------


def _of_start(bench: Bench) -> float:
    return bench.start_seconds


def _of_cuda_start(bench: Bench) -> float:
    return bench.start_seconds if bench.is_cuda else 0.0


def _of_kernels(bench: Bench) -> float:
    kind = bench.facts.kind
    return expected_seconds(list(decode_cases(bench.facts)), kind) + COMPILING_SECONDS[kind]


def _of_overlap(bench: Bench) -> float:
    if not bench.is_cuda:
        return 0.0
    return expected_seconds(list(overlap_cases(bench.facts).values()), bench.facts.kind)


def _of_calibrate(bench: Bench) -> float:
    return bench.calibrating_seconds


def _of_validate(bench: Bench) -> float:
    """The simulator says how long a run takes, of a card whose coefficients it has."""
    model, shipped, kind = model_for(bench.facts), bench.shipped, bench.facts.kind
    if model is None:
        return 0.0
    if shipped is None or shipped.coefficients is None:
        return bench.start_seconds + UNKNOWN_SERVING_SECONDS[kind]
    question = question_for(model, on_gpu=bench.is_cuda, quick=True)
    dtype = bench.facts.dtype
    asked = prepare(question.scenario(model, dtype), model=model, accelerator=shipped)
    rate = LOAD * capacity_requests_per_s(asked, question)
    served = prepare(question.scenario(model, dtype, rate), model=model, accelerator=shipped)
    seconds: float = run_setup(served, 0).observed["duration"]
    return bench.start_seconds + WARMING_SECONDS + seconds


def _of_study(bench: Bench) -> float:
    return bench.start_seconds + STUDY_SECONDS


def _of_memory(bench: Bench) -> float:
    return _BESIDE * bench.start_seconds if bench.is_cuda else 0.0


def _of_interrupt(bench: Bench) -> float:
    """Two processes share the work of one."""
    return bench.start_seconds + bench.calibrating_seconds


def _of_clocks(bench: Bench) -> float:
    return bench.start_seconds + LOAD_SECONDS if bench.is_cuda else 0.0


class Check(NamedTuple):
    """A check by its name.

    Parameters
    ----------
    run : callable
        Yields its verdicts as they are known.
    seconds : callable
        What it should take on a device.
    """

    run: Callable[[Bench], Iterator[Verdict]]
    seconds: Callable[[Bench], float]


CHECKS = {
    "facts": Check(facts, _of_start),
    "capture": Check(capture, _of_cuda_start),
    "kernels": Check(kernels, _of_kernels),
    "overlap": Check(overlap, _of_overlap),
    "calibrate": Check(calibrate, _of_calibrate),
    "validate": Check(validate, _of_validate),
    "study": Check(study, _of_study),
    "memory": Check(memory, _of_memory),
    "interrupt": Check(interrupt, _of_interrupt),
    "clocks": Check(clocks, _of_clocks),
}


def made(bench: Bench, name: str) -> Iterator[Verdict]:
    """Make a check, or say that it is too late for it.

    What it did not foresee is the check's own failure: those after it are made all the same.
    """
    if bench.runner.is_late:
        yield left_out(name, f"{bench.runner.spent_seconds:.0f} s are over, which is the limit")
        return
    try:
        yield from CHECKS[name].run(bench)
    except (KVSimError, OSError, ValueError, KeyError) as error:
        yield Verdict(name, BAD, f"{type(error).__name__}: {error}")


def counted(verdicts: list[Verdict]) -> str:
    """How many of each word."""
    words = [verdict.word for verdict in verdicts]
    return ", ".join(f"{words.count(word)} {word}" for word in (OK, LOOK, BAD))
