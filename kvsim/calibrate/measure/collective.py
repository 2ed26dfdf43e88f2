"""All-reduce between several devices of this machine, one process each.

Timed twice: launched one by one from Python, as a plain loop does, and replayed from a CUDA graph
by the device's own events, as serving engines do. The first is mostly the launch.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, ClassVar, NamedTuple

from kvsim.calibrate.measure.case import Case, Timing, summarise
from kvsim.calibrate.measure.workspace import load_torch
from kvsim.errors import UnsupportedError, first_line
from kvsim.units import KIB

__all__ = [
    "MESSAGE_BYTES",
    "AllReduceCase",
    "LinkTimings",
    "ReplayedAllReduceCase",
    "all_reduce_timings",
    "degrees",
]

MESSAGE_BYTES = tuple(4 * KIB << shift for shift in range(16))  # 4 KiB to 128 MiB
_WARM_UP_RUNS = 5
_INNER_RUNS = 10
_MOST_SECONDS = 120.0  # of all sizes together: NCCL by itself waits ten minutes for each


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduceCase(Case):
    """One message, added up over several devices.

    Parameters
    ----------
    ranks : int
        Devices.
    message : int
        Bytes of the message on each.
    """

    kind: ClassVar[str] = "all_reduce"
    captured: ClassVar[bool] = False
    ranks: int
    message: int

    @property
    def optional(self) -> bool:
        """Without it the catalogue's links stay."""
        return True

    @property
    def moved_bytes(self) -> float:
        """Bytes of the message."""
        return float(self.message)

    @property
    def buffer_bytes(self) -> float:
        """The message, on each device."""
        return float(self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedAllReduceCase(AllReduceCase):
    """The same inside a CUDA graph."""

    kind: ClassVar[str] = "all_reduce_graph"
    captured: ClassVar[bool] = True


class LinkTimings(NamedTuple):
    """All-reduces of one degree by message bytes; `failure` is why none was replayed."""

    launched: dict[int, Timing]
    replayed: dict[int, Timing]
    failure: str = ""


def degrees(devices: int) -> tuple[int, ...]:
    """Tensor-parallel degrees that so many devices allow: powers of two, and all of them.

    Examples
    --------
    >>> degrees(1), degrees(4), degrees(6), degrees(16)
    ((), (2, 4), (2, 4, 6), (2, 4, 8, 16))
    """
    powers = (1 << power for power in range(1, devices.bit_length()))
    return tuple(sorted({degree for degree in (*powers, devices) if 1 < degree <= devices}))


def all_reduce_timings(
    degree: int,
    kind: str,
    samples: int,
    message_bytes: tuple[int, ...] = MESSAGE_BYTES,
    most_seconds: float = _MOST_SECONDS,
) -> LinkTimings:
    """Time all-reduces of several sizes over `degree` ranks.

    Parameters
    ----------
    degree : int
        Ranks; rank i takes device i.
    kind : str
        "cuda" (NCCL) or "cpu" (Gloo), which has no graphs.
    samples : int
        Samples of each size.
    message_bytes : tuple of int
        Sizes of one message in 16-bit (on a CPU: 32-bit) elements.
    most_seconds : float
        Wall-clock time after which the ranks are ended.

    Raises
    ------
    UnsupportedError
        When this torch has no collectives, or the ranks do not reach each other in time.
    """
    torch = load_torch()
    if not torch.distributed.is_available():
        raise UnsupportedError("this torch is built without collectives")
    with tempfile.TemporaryDirectory() as folder:
        asked = _Asked(degree, kind, samples, message_bytes, folder, most_seconds)
        try:
            ranks = torch.multiprocessing.spawn(_rank, args=(asked,), nprocs=degree, join=False)
            _join(ranks, most_seconds)
            found = json.loads(_answer(folder).read_text())
        except Exception as error:  # a rank's own error, whatever it is, arrives wrapped
            reason = str(error).strip().splitlines()[-1]
            raise UnsupportedError(f"all-reduce over {degree} ranks failed: {reason}") from None
    return LinkTimings(
        _timings(found["launched"]), _timings(found["replayed"], captured=True), found["failure"]
    )


def _timings(samples: dict[str, list[float]], *, captured: bool = False) -> dict[int, Timing]:
    return {int(size): summarise(each, captured=captured) for size, each in samples.items()}


def _join(ranks: Any, most_seconds: float) -> None:
    """Wait for all ranks; end them when it takes too long, or somebody stops waiting."""
    ends = monotonic() + most_seconds
    try:
        while not ranks.join(timeout=1.0):
            if monotonic() > ends:
                raise TimeoutError(f"not done within {most_seconds:g} s")
    finally:
        for process in ranks.processes:
            process.kill()


def _answer(folder: str) -> Path:
    return Path(folder) / "samples.json"


class _Asked(NamedTuple):
    """What every rank is told."""

    degree: int
    kind: str
    samples: int
    sizes: tuple[int, ...]
    folder: str
    most_seconds: float


def _rank(rank: int, asked: _Asked) -> None:
    """One process: meet the others, reduce, and let the first rank write down the times."""
    torch = load_torch()
    is_cuda = asked.kind == "cuda"
    if is_cuda:
        torch.cuda.set_device(rank)
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")  # its watchdog ends captures
    torch.distributed.init_process_group(
        "nccl" if is_cuda else "gloo",
        init_method=f"file://{asked.folder}/meeting",
        rank=rank,
        world_size=asked.degree,
        timeout=timedelta(seconds=asked.most_seconds),
    )
    try:
        found = _Link(torch, asked.kind, asked.samples).timed(asked.sizes)
        if rank == 0:
            _answer(asked.folder).write_text(json.dumps(found))
    finally:
        torch.distributed.destroy_process_group()


@dataclass
class _Link:
    """What one rank times."""

    torch: Any
    kind: str
    samples: int
    failure: str = ""

    def timed(self, sizes: Sequence[int]) -> dict[str, Any]:
        """Seconds of one all-reduce, several times, each the mean of a few in a row."""
        launched, replayed = dict[int, list[float]](), dict[int, list[float]]()
        for size in sizes:
            message = self._message(size)
            launched[size] = self._launched(message)
            if seconds := self._replayed(message):
                replayed[size] = seconds
        return {"launched": launched, "replayed": replayed, "failure": self.failure}

    def _message(self, message_bytes: int) -> Any:
        dtype = self.torch.bfloat16 if self.kind == "cuda" else self.torch.float32
        message = self.torch.zeros(message_bytes // dtype.itemsize, dtype=dtype, device=self.kind)
        for _ in range(_WARM_UP_RUNS):
            self.torch.distributed.all_reduce(message)
        return message

    def _launched(self, message: Any) -> list[float]:
        """By the host's clock, launches and all."""
        wait = self.torch.cuda.synchronize if self.kind == "cuda" else (lambda: None)

        def once() -> float:
            wait()
            start = perf_counter()
            for _ in range(_INNER_RUNS):
                self.torch.distributed.all_reduce(message)
            wait()
            return perf_counter() - start

        return self._means(once)

    def _replayed(self, message: Any) -> list[float]:
        """By the device's events, around a graph; nothing where there are none, or one failed."""
        if self.kind != "cuda" or self.failure:
            return []
        cuda = self.torch.cuda
        graph = cuda.CUDAGraph()
        try:
            with cuda.graph(graph):
                for _ in range(_INNER_RUNS):
                    self.torch.distributed.all_reduce(message)
        except RuntimeError as error:
            self.failure = first_line(error)
            return []
        graph.replay()

        def once() -> float:
            cuda.synchronize()
            start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) * 1e-3

        return self._means(once)

    def _means(self, once: Callable[[], float]) -> list[float]:
        """Samples that all ranks begin together."""
        seconds = []
        for _ in range(self.samples):
            self.torch.distributed.barrier()
            seconds.append(once() / _INNER_RUNS)
        return seconds
