"""All-reduce between several devices of this machine, one process each."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

from kvsim.calibrate.measure.case import Case, Timing, summarise
from kvsim.calibrate.measure.workspace import load_torch
from kvsim.errors import UnsupportedError
from kvsim.units import KIB

__all__ = ["MESSAGE_BYTES", "AllReduceCase", "all_reduce_timings", "degrees"]

MESSAGE_BYTES = tuple(4 * KIB << shift for shift in range(16))  # 4 KiB to 128 MiB
_WARM_UP_RUNS = 5
_INNER_RUNS = 10


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


def degrees(devices: int) -> tuple[int, ...]:
    """Tensor-parallel degrees that so many devices allow: powers of two up to 8.

    Examples
    --------
    >>> degrees(1), degrees(4), degrees(6)
    ((), (2, 4), (2, 4))
    """
    return tuple(degree for degree in (2, 4, 8) if degree <= devices)


def all_reduce_timings(
    degree: int,
    kind: str,
    samples: int,
    message_bytes: tuple[int, ...] = MESSAGE_BYTES,
) -> dict[int, Timing]:
    """Time all-reduces of several sizes over `degree` ranks.

    Parameters
    ----------
    degree : int
        Ranks; rank i takes device i.
    kind : str
        "cuda" (NCCL) or "cpu" (Gloo).
    samples : int
        Samples of each size.
    message_bytes : tuple of int
        Sizes of one message in 16-bit (on a CPU: 32-bit) elements.

    Returns
    -------
    dict of int to Timing
        By message bytes.

    Raises
    ------
    UnsupportedError
        When this torch has no collectives, or the ranks cannot reach each other.
    """
    torch = load_torch()
    if not torch.distributed.is_available():
        raise UnsupportedError("this torch is built without collectives")
    with tempfile.TemporaryDirectory() as folder:
        arguments = (degree, kind, samples, message_bytes, folder)
        try:
            torch.multiprocessing.spawn(_rank, args=arguments, nprocs=degree)
            times = json.loads(_answer(folder).read_text())
        except Exception as error:  # a rank's own error, whatever it is, arrives wrapped
            reason = str(error).strip().splitlines()[-1]
            raise UnsupportedError(f"all-reduce over {degree} ranks failed: {reason}") from None
    return {int(size): summarise(seconds) for size, seconds in times.items()}


def _answer(folder: str) -> Path:
    return Path(folder) / "samples.json"


def _rank(
    rank: int, degree: int, kind: str, samples: int, sizes: tuple[int, ...], folder: str
) -> None:
    """One process: meet the others, reduce, and let the first rank write down the times."""
    torch = load_torch()
    if kind == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=degree,
    )
    try:
        times = {size: _samples(torch, kind, size, samples) for size in sizes}
        if rank == 0:
            _answer(folder).write_text(json.dumps(times))
    finally:
        torch.distributed.destroy_process_group()


def _samples(torch: Any, kind: str, message_bytes: int, count: int) -> list[float]:
    """Seconds of one all-reduce, several times, each the mean of a few in a row."""
    dtype = torch.bfloat16 if kind == "cuda" else torch.float32
    message = torch.zeros(message_bytes // dtype.itemsize, dtype=dtype, device=kind)
    wait = torch.cuda.synchronize if kind == "cuda" else (lambda: None)
    for _ in range(_WARM_UP_RUNS):
        torch.distributed.all_reduce(message)
    seconds = []
    for _ in range(count):
        torch.distributed.barrier()
        wait()
        start = perf_counter()
        for _ in range(_INNER_RUNS):
            torch.distributed.all_reduce(message)
        wait()
        seconds.append((perf_counter() - start) / _INNER_RUNS)
    return seconds
