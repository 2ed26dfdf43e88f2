"""The device that the twin runs on: its name, its clock and its memory counters.

A GPU is timed by the wall. A CPU is shared with whatever else runs, so there torch gets one
thread and that thread's own seconds count: how long the work took, not how long it waited.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import Any

import torch

from kvsim.calibrate.measure.device import (
    available_bytes,
    cuda_dtypes,
    physical_bytes,
    vendor_of,
)
from kvsim.calibrate.measure.failures import is_out_of_memory
from kvsim.calibrate.measure.workspace import steady_torch
from kvsim.catalog.accelerators import find_accelerator
from kvsim.errors import InputError, UnknownNameError, UnsupportedError, first_line
from kvsim.specs.hardware import AcceleratorProfile, ByteQuantity, Interconnect, Quantity
from kvsim.units import GB

__all__ = ["TORCH_DTYPES", "Device"]

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_TRIAL_BYTES = 1 << 27
_TRIAL_SIDE = {"cpu": 1024, "cuda": 8192}  # a wave of tiles of 132 SMs many times over
_TRIALS = 5
_FAILURES = ("CUDA", "CUBLAS", "cuBLAS", "cuDNN", "HIP")  # how such an error begins


def _check_cuda(device: torch.device) -> None:
    """Refuse a GPU that is not there."""
    if not torch.cuda.is_available():
        raise InputError(
            "this torch sees no CUDA device", where="--device", fix="choose cpu, or see nvidia-smi"
        )
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise InputError(
            f"there is no {device}: torch sees {count} of them",
            where="--device",
            fix=f"choose cuda:0 to cuda:{count - 1}" if count > 1 else "choose cuda",
        )


def _is_cuda_failure(error: BaseException) -> bool:
    """Whether the driver or one of its libraries speaks, not a mistake of ours."""
    words = str(error)
    return type(error).__name__ == "AcceleratorError" or words.startswith(_FAILURES)


@dataclass(frozen=True, slots=True)
class Device:
    """One device, by torch's name for it: "cpu", "cuda", "cuda:1"."""

    torch_device: torch.device

    @classmethod
    def named(cls, name: str) -> Device:
        """Find a device.

        Raises
        ------
        InputError
            When torch does not know it, or sees none of its kind.
        """
        try:
            device = torch.device(name)
        except RuntimeError:
            raise InputError(
                f"unknown device {name!r}", where="--device", fix="choose cpu or cuda"
            ) from None
        if device.type not in ("cpu", "cuda"):
            raise InputError(f"no support for {name!r}", where="--device", fix="choose cpu or cuda")
        if device.type == "cuda":
            _check_cuda(device)
        return cls(device)

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU, with counters of its own."""
        return self.torch_device.type == "cuda"

    @property
    def name(self) -> str:
        """What the driver or the platform calls it."""
        if self.is_cuda:
            return torch.cuda.get_device_name(self.torch_device)
        return f"CPU {platform.machine()}, one thread"

    @property
    def memory_bytes(self) -> int:
        """Memory of the device, bytes."""
        if self.is_cuda:
            return int(torch.cuda.get_device_properties(self.torch_device).total_memory)
        return physical_bytes()

    @property
    def free_bytes(self) -> int:
        """Of those, free now, with what torch holds and uses for nothing.

        A CPU's is what the operating system would still hand out.
        """
        if self.is_cuda:
            free = int(torch.cuda.mem_get_info(self.torch_device)[0])
            held = torch.cuda.memory_reserved(self.torch_device)
            return free + int(held - torch.cuda.memory_allocated(self.torch_device))
        return available_bytes(self.memory_bytes)

    def dtype_for(self, native: str) -> str:
        """Dtype to compute in: that which a GPU serves the model in, fp32 on a CPU.

        Engines serve a model of another or wider dtype in the device's first 16-bit one, which is
        also what `kvsim calibrate` measures: fp16 before compute capability 8.0.
        """
        if not self.is_cuda:
            return "fp32"
        halves = [name for name in cuda_dtypes(torch, self.torch_device) if name in TORCH_DTYPES]
        return native if native in halves else halves[0]

    def now(self) -> float:
        """Seconds, once everything that was launched is done; only differences mean anything."""
        if not self.is_cuda:
            return thread_time()
        torch.cuda.synchronize(self.torch_device)
        return perf_counter()

    @property
    def clock(self) -> str:
        """What `now` counts, in words."""
        return "wall seconds" if self.is_cuda else "CPU seconds of one thread"

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Run as everything that is timed runs; see `steady_torch`."""
        with steady_torch(torch, self.torch_device.type):
            yield

    @contextmanager
    def answering(self, what: str) -> Iterator[None]:
        """Turn what a device says when it fails or is full into one line.

        Raises
        ------
        UnsupportedError
            When memory runs out, or the device stops answering.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            reason = first_line(error)
            if is_out_of_memory(error):
                raise UnsupportedError(
                    f"{self.name} ran out of memory while {what}: choose a smaller model,"
                    f" fewer sequences or shorter ones ({reason})"
                ) from None
            if not self.is_cuda or not _is_cuda_failure(error):
                raise
            raise UnsupportedError(f"{self.name} failed while {what}: {reason}") from None

    def start_peak(self) -> None:
        """Count peak memory from now on."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats(self.torch_device)

    def peak_bytes(self) -> int | None:
        """Most bytes that torch held since `start_peak`; None where torch does not count."""
        if not self.is_cuda:
            return None
        return int(torch.cuda.max_memory_allocated(self.torch_device))

    def refuse_if_too_large(self, needed_bytes: int, what: str) -> None:
        """Refuse what will not fit, before anything is allocated.

        Raises
        ------
        UnsupportedError
            With both sizes.
        """
        free = self.free_bytes
        if needed_bytes > free:
            raise UnsupportedError(
                f"{what} needs {needed_bytes / 2**30:.2f} GiB and {self.name} has"
                f" {free / 2**30:.2f} GiB: choose a smaller model or fewer blocks"
            )

    def datasheet(self) -> AcceleratorProfile:
        """Profile of this device: the catalogue's, else its memory and two quick trials."""
        try:
            return find_accelerator(self.name)
        except UnknownNameError:
            with self.answering("trying its rates"), self.steady():
                return self._measured_sheet()

    def _measured_sheet(self) -> AcceleratorProfile:
        dtype = self.dtype_for("bf16")
        rate = Quantity(
            value=self._product_rate(dtype), source=f"one matrix product in {dtype}, timed here"
        )
        return AcceleratorProfile(
            name=self.name,
            vendor=vendor_of(self.torch_device.type, self.name),
            advertised_memory_gb=self.memory_bytes / GB,
            memory=ByteQuantity(value=self.memory_bytes, source="the operating system"),
            bandwidth=Quantity(value=self._copy_rate(), source="one copy, timed here"),
            flops=dict.fromkeys(("bf16", dtype), rate),
            interconnect=Interconnect(name="none", bytes_per_s=0.0),
        )

    def _copy_rate(self) -> float:
        """Bytes/s of a copy, read and write counted."""
        source = torch.ones(_TRIAL_BYTES // 4, device=self.torch_device)
        target = torch.empty_like(source)
        return 2 * _TRIAL_BYTES / self._fastest(lambda: target.copy_(source))

    def _product_rate(self, dtype: str) -> float:
        """FLOP/s of a square product, on a GPU of one that fills it."""
        side = _TRIAL_SIDE["cuda" if self.is_cuda else "cpu"]
        kind = TORCH_DTYPES[dtype]
        square = torch.ones(side, side, device=self.torch_device, dtype=kind)
        return 2 * side**3 / self._fastest(lambda: square @ square)

    def _fastest(self, work: Callable[[], object]) -> float:
        """Seconds of the fastest of a few runs."""
        return min(self._lap(work) for _ in range(_TRIALS))

    def _lap(self, work: Callable[[], object]) -> float:
        """Seconds of a run: of a GPU by its own events, without the launch."""
        if not self.is_cuda:
            begun = self.now()
            work()
            return self.now() - begun
        timed: Any = torch.cuda.Event  # which torch does not annotate
        start, end = timed(enable_timing=True), timed(enable_timing=True)
        with torch.cuda.device(self.torch_device):
            start.record()
            work()
            end.record()
        end.synchronize()
        return 1e-3 * float(start.elapsed_time(end))
