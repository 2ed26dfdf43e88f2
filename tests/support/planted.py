"""A device whose every rate is known, to calibrate without one."""

from dataclasses import dataclass, field

import kvsim
from kvsim.calibrate.measure.attention import DecodeCase, LaunchedDecodeCase, PrefillCase
from kvsim.calibrate.measure.bandwidth import CopyCase, ReadCase
from kvsim.calibrate.measure.calibrate import measure
from kvsim.calibrate.measure.case import Timing
from kvsim.calibrate.measure.collective import AllReduceCase
from kvsim.calibrate.measure.device import DeviceFacts
from kvsim.calibrate.measure.fitting import Launches
from kvsim.calibrate.measure.gemm import GemmCase
from kvsim.calibrate.measure.grid import plan_cases
from kvsim.calibrate.measure.kernels import Kernels
from kvsim.calibrate.measure.layers import LaunchedLayersCase, LayersCase
from kvsim.calibrate.measure.overhead import HostCase
from kvsim.steptime.terms import roofline_seconds
from kvsim.units import GIB, MIB

H200 = DeviceFacts(
    kind="cuda",
    name="NVIDIA H200",
    count=1,
    memory_bytes=round(139.8 * GIB),
    free_bytes=round(139.3 * GIB),
    l2_bytes=60 * MIB,
    dtypes=("bf16", "fp16", "fp8"),
    torch_version="2.11.0+cu130",
    driver="driver 580.159.03, CUDA 13.0",
    clocks="clocks.sm 345 MHz",
)


LAUNCHES = Launches(stack=50e-6, layer=100e-6, attention=20e-6, sequence=0.3e-6)


@dataclass(frozen=True)
class PlantedBench:
    """A device whose every rate is known: what a case costs follows from the step's form."""

    copy: float = 4.3e12
    weights: float = 4.0e12
    flops: float = 750e12
    norm: float = 2.5
    layer: float = 21e-6
    launches: Launches = LAUNCHES
    kv: dict[str, float] = field(default_factory=lambda: {"decode": 3.5e12, "decode_paged": 1.2e12})
    decode_start: float = 13e-6
    head: float = 30e-9
    attention: float = 600e12
    token: float = 0.4e-9
    host: float = 60e-6
    sequence: float = 2e-6
    link: tuple[float, float] = (5e-6, 200e9)
    link_launch: float = 30e-6
    fp8_gain: float = 1.6

    def time(self, case):
        seconds = self.seconds(case)
        captured = getattr(case, "captured", False)
        return Timing(seconds, 0.99 * seconds, 1.01 * seconds, samples=9, captured=captured)

    def kernels(self, shape, dtype):
        """Name nothing that exists."""
        return Kernels("planted", "planted")

    def release(self):
        """Hold nothing, so give nothing back."""

    def memory(self):
        """Count nothing."""
        return ""

    notes = ()

    def seconds(self, case):
        match case:
            case CopyCase() | ReadCase():
                return case.moved_bytes / self.copy
            case GemmCase():
                twice = 2 * case.n * case.k / self.weights
                seconds = roofline_seconds(twice, case.flops / self.flops, self.norm)
                return seconds / (self.fp8_gain if case.dtype == "fp8" else 1)
            case LaunchedLayersCase():
                return self.launches.of_stack(case)
            case LayersCase():
                arms = case.moved_bytes / self.weights, case.flops / self.flops
                device = 25e-6 + case.layers * self.layer + roofline_seconds(*arms, self.norm)
                return device if case.captured else max(device, self.launches.of_stack(case))
            case LaunchedDecodeCase():
                return self.launches.of_attention(case.batch)
            case DecodeCase():
                read = case.moved_bytes / self.kv[case.kind]
                return self.decode_start + read + case.starts * self.head
            case PrefillCase():
                return 4e-6 + case.flops / self.attention + case.queries * self.token
            case HostCase():
                return self.host + case.sequences * self.sequence
            case AllReduceCase():
                launch = 0.0 if case.captured else self.link_launch
                return launch + self.link[0] + case.message / self.link[1]
            case _:
                return 3e-6


def measured(folder, bench, facts=H200, *, quick=False, name="card"):
    """Calibrate a planted device: (what was found, the profile as ``--gpu`` reads it)."""
    plan, output = plan_cases(facts, quick=quick), folder / f"{name}.yaml"
    found = measure(facts, plan, output, lambda *_: None, bench)
    return found, kvsim.find_accelerator(output)
