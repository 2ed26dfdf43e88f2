"""Timing calls: a device's clock, warm-up, samples, their median and spread.

::

    warm-up · warm-up · [run][run][run] · [run][run][run] · ...
                         one sample: at least four milliseconds of runs over all rotated inputs

CUDA is timed by its own events. A CPU is shared with whatever else runs, so there torch gets
one thread and that thread's own seconds count, as in the twin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import Any, NamedTuple, Protocol

from kvsim.calibrate.measure.attention import BLOCK_SIZE
from kvsim.calibrate.measure.case import Call, Case, LocalCase, Timing, summarise
from kvsim.calibrate.measure.collective import (
    AllReduceCase,
    LinkTimings,
    all_reduce_timings,
)
from kvsim.calibrate.measure.failures import is_out_of_memory
from kvsim.calibrate.measure.kernels import Kernels
from kvsim.calibrate.measure.workspace import Workspace, steady_torch
from kvsim.calibrate.shapes import DecoderShape
from kvsim.errors import UnsupportedError, first_line
from kvsim.units import ceil_div, format_bytes

__all__ = [
    "FULL_PACE",
    "QUICK_PACE",
    "Bench",
    "Pace",
    "TorchBench",
]

_LEAST_SAMPLE_SECONDS = 4e-3  # against 10 us of the first launch, and events of half a microsecond
_MOST_RUNS = 2000
_ATTEMPTS = 2  # the second after memory was given back
_FEWEST_SAMPLES = 3  # that have quartiles
_PATIENCE = 5  # times the pace's seconds, whatever samples are missing


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to look at one case.

    Parameters
    ----------
    seconds : float
        Time to spend on samples.
    least_samples, most_samples : int
        Samples taken whatever the time.
    """

    seconds: float
    least_samples: int
    most_samples: int

    def expected_seconds(self, run_seconds: float) -> float:
        """What a case takes whose inputs, all in turn, take so long: two runs, then the samples.

        Examples
        --------
        >>> Pace(0.4, 7, 100).expected_seconds(0.001), Pace(0.4, 7, 100).expected_seconds(0.125)
        (0.402, 1.125)
        """
        sample = max(run_seconds, _LEAST_SAMPLE_SECONDS)
        wanted = max(self.least_samples, math.ceil(self.seconds / sample))
        patient = max(_FEWEST_SAMPLES, math.ceil(_PATIENCE * self.seconds / sample))
        return 2 * run_seconds + sample * min(wanted, patient, self.most_samples)


QUICK_PACE = Pace(0.08, 5, 20)
FULL_PACE = Pace(0.4, 7, 100)


class Bench(Protocol):
    """Whatever can time a case."""

    def time(self, case: Case) -> Timing:
        """Time one case.

        Raises
        ------
        RuntimeError, MemoryError
            Torch's own, when memory is short or the device lacks something.
        """

    def release(self) -> None:
        """Give memory back before a smaller case is tried."""

    def memory(self) -> str:
        """How full the device is, in words; "" where nobody counts."""

    @property
    def notes(self) -> list[str]:
        """What the device would not do."""

    def kernels(self, shape: DecoderShape, dtype: str) -> Kernels:
        """What a decoder of these heads runs on."""


class TorchBench:
    """Times cases in torch.

    Parameters
    ----------
    name : str
        "cuda:0", "cpu" or "mps".
    pace : Pace
        How long to look at each.
    """

    def __init__(self, name: str, pace: Pace) -> None:
        self.space = Workspace(name)
        self._pace = pace
        self._links: dict[int, LinkTimings | UnsupportedError] = {}
        self._capture_failure = ""
        self._clock = (
            _CudaClock(self.space.torch)
            if self.space.device.type == "cuda"
            else _HostClock(self.space)
        )

    def time(self, case: Case) -> Timing:
        """Allocate, warm up, sample; nothing is kept but the pool."""
        if isinstance(case, AllReduceCase):
            return self._time_link(case)
        if not isinstance(case, LocalCase):
            raise UnsupportedError(f"{case.kind} is nothing that torch can time")
        torch, kind = self.space.torch, self.space.device.type
        with steady_torch(torch, kind), torch.inference_mode():
            calls = case.calls(self.space)
            replay = self._replay(calls) if case.captured else None
            clock = _LaunchClock(self._wait) if case.hosted else self._clock
            run = _Run(replay or _in_turn(calls), len(calls), captured=bool(replay))
            timing = self._sample(run, clock)
        del calls, replay
        if self.space.device.type != "cpu":
            self.space.trim()
        return timing

    def kernels(self, shape: DecoderShape, dtype: str) -> Kernels:
        """Those of the twin, found by trying."""
        from kvsim.calibrate.twin.chosen import chosen_kernels
        from kvsim.calibrate.twin.decodes import Geometry

        heads = shape.heads, shape.kv_heads, shape.head_dim
        kind, device = self.space.dtype(dtype), self.space.device
        said = ""
        for _ in range(_ATTEMPTS):
            try:
                return chosen_kernels(Geometry(*heads, BLOCK_SIZE, kind, device))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = first_line(error)
            self.release()
        raise UnsupportedError(
            f"memory is short before anything is timed ({self.memory()}): {said}"
        )

    def release(self) -> None:
        """Free the pool."""
        self.space.release()

    def memory(self) -> str:
        """Free and all bytes of a GPU, and what torch holds of them."""
        if self.space.device.type != "cuda":
            return ""
        cuda, device = self.space.torch.cuda, self.space.device
        free, total = cuda.mem_get_info(device)
        held = cuda.memory_reserved(device)
        words = (format_bytes(each) for each in (free, total, held))
        return "{} of {} are free, torch holds {}".format(*words)

    @property
    def notes(self) -> list[str]:
        """That captures fail, where one did."""
        if not self._capture_failure:
            return []
        return [
            f"a CUDA graph could not be captured ({self._capture_failure}): from there on kernels"
            " were launched one by one, and those rows are not among what the kernels profile is"
            " fitted to"
        ]

    def _time_link(self, case: AllReduceCase) -> Timing:
        """Start the ranks once a degree, for all sizes; later sizes are looked up."""
        if case.ranks not in self._links:
            self.release()
            self._links[case.ranks] = self._link_timings(case.ranks)
        timings = self._links[case.ranks]
        if isinstance(timings, UnsupportedError):
            raise timings
        known = timings.replayed if case.captured else timings.launched
        if case.message not in known:
            raise UnsupportedError(f"all-reduce cannot be captured: {timings.failure}")
        return known[case.message]

    def _link_timings(self, ranks: int) -> LinkTimings | UnsupportedError:
        """What was timed, or why there is nothing: ranks take long to fail."""
        try:
            kind, samples = self.space.device.type, self._pace.least_samples
            return all_reduce_timings(ranks, kind, samples)
        except UnsupportedError as error:
            return error

    def _replay(self, calls: list[Call]) -> Call | None:
        """Capture the calls as a CUDA graph; None where that is not possible.

        A capture that fails may leave torch's allocator in a state in which the next one, or
        giving memory back, fails too: so it was the last.
        """
        if self.space.device.type != "cuda" or self._capture_failure:
            return None
        try:
            return _capture(self.space.torch, calls)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._capture_failure = first_line(error)
            self.space.keep_memory()
            self.space.torch.cuda.synchronize()
            return None

    def _wait(self) -> None:
        """Until everything that was launched is done."""
        self.space.torch.cuda.synchronize()

    def _sample(self, run: _Run, clock: _Clock) -> Timing:
        """Sample a run of so many calls."""
        run.call()
        once = clock.sample(run.call, 1)
        runs = min(_MOST_RUNS, ceil_div(int(_LEAST_SAMPLE_SECONDS * 1e9), max(1, int(once * 1e9))))
        samples = [seconds / (runs * run.calls) for seconds in self._samples(run.call, runs, clock)]
        return summarise(samples, captured=run.captured)

    def _samples(self, run: Call, runs: int, clock: _Clock) -> Iterator[float]:
        """Yield samples until the pace's time is spent; a busy machine gives fewer of them."""
        pace, start = self._pace, perf_counter()
        for taken in range(pace.most_samples):
            spent = perf_counter() - start
            enough = spent > pace.seconds and taken >= pace.least_samples
            if enough or (spent > _PATIENCE * pace.seconds and taken >= _FEWEST_SAMPLES):
                return
            yield clock.sample(run, runs)


class _Run(NamedTuple):
    """What one sample repeats: so many calls, launched or replayed."""

    call: Call
    calls: int
    captured: bool


def _in_turn(calls: list[Call]) -> Call:
    def run() -> None:
        for call in calls:
            call()

    return run


def _capture(torch: Any, calls: list[Call]) -> Callable[[], object]:
    """Record the calls into a graph, after the warm-up on a side stream that torch asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls[:2]:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    replay: Callable[[], object] = graph.replay
    return replay


class _Clock(Protocol):
    def sample(self, run: Call, runs: int) -> float:
        """Seconds of so many runs."""


class _HostClock:
    """The host's clock around work that is waited for."""

    def __init__(self, space: Workspace) -> None:
        module = getattr(space.torch, space.device.type, None)
        self._now = thread_time if space.device.type == "cpu" else perf_counter
        self._wait: Callable[[], object] = getattr(module, "synchronize", lambda: None)

    def sample(self, run: Call, runs: int) -> float:
        self._wait()
        start = self._now()
        for _ in range(runs):
            run()
        self._wait()
        return self._now() - start


class _LaunchClock:
    """The host's seconds alone: each run begins on an idle device and is not waited for.

    A run is so short that the device's queue of launches never fills, which would make the host
    wait.
    """

    def __init__(self, wait: Callable[[], object]) -> None:
        self._wait = wait

    def sample(self, run: Call, runs: int) -> float:
        seconds = 0.0
        for _ in range(runs):
            self._wait()
            start = perf_counter()
            run()
            seconds += perf_counter() - start
        self._wait()
        return seconds


class _CudaClock:
    """Events on the device's own clock; a run that waits for the device counts whole."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def sample(self, run: Call, runs: int) -> float:
        cuda = self._torch.cuda
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda.synchronize()
        start.record()
        for _ in range(runs):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3
