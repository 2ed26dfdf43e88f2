"""Serve a scenario for real: the simulator's replica, with the wall clock put into it."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import partial

from kvsim.calibrate.twin.blueprint import Blueprint
from kvsim.calibrate.twin.chosen import chosen_kernels
from kvsim.calibrate.twin.clock import StepSample, WallClock
from kvsim.calibrate.twin.decoder import Decoder
from kvsim.calibrate.twin.device import TORCH_DTYPES, Device
from kvsim.calibrate.twin.engine import TwinEngine
from kvsim.calibrate.twin.kernels import choose_kernel
from kvsim.calibrate.twin.paged import BlockPool
from kvsim.errors import UnsupportedError
from kvsim.memory.weights import weight_bytes
from kvsim.results.result import SimulationResult
from kvsim.simulator.arrival_queue import arrival_queue
from kvsim.simulator.assemble import make_scheduler
from kvsim.simulator.blame import blaming
from kvsim.simulator.prepare import Setup
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.replica import Replica, run_replica
from kvsim.simulator.run import Recording, collector_paused
from kvsim.steptime.kv_reads import prefill_pairs
from kvsim.workload.spec import build_workload
from kvsim.workload.streams import Streams

__all__ = ["MemoryUse", "Twin", "TwinRun"]


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Where the twin's memory went, bytes.

    Parameters
    ----------
    weights_bytes, pool_bytes : int
        Tensors of the weights and of the whole block pool.
    peak_blocks : int
        Most blocks of the pool held at once.
    peak_bytes : int or None
        Torch's own peak counter; None on a device without one.
    gathers : bool
        Whether decode attention copied blocks together.
    kernel_bytes : int
        What the attention kernel holds for itself.
    """

    weights_bytes: int
    pool_bytes: int
    peak_blocks: int
    peak_bytes: int | None
    gathers: bool = True
    kernel_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TwinRun:
    """One run that really happened.

    Parameters
    ----------
    result : SimulationResult
        Its requests, steps and summary, in the simulator's own tables.
    samples : tuple of StepSample
        Every step: what it had to do and how long it took.
    memory : MemoryUse
        Where the memory went.
    texts : dict of int to list of int
        Tokens of every request, by row.
    """

    result: SimulationResult
    samples: tuple[StepSample, ...]
    memory: MemoryUse
    texts: dict[int, list[int]]


class Twin:
    """A decoder on a device and a block pool, ready to serve scenarios.

    Parameters
    ----------
    setup : Setup
        Model, flags and pool; its workload may differ from run to run.
    device : Device
        Where to run.

    Attributes
    ----------
    kernels : Kernels
        What it runs on.

    Raises
    ------
    UnsupportedError
        For what the twin cannot do: sharding, quantised weights, an allocator with
        addresses or shared prefixes, swapping; or a model that does not fit the device.
    """

    def __init__(self, setup: Setup, device: Device) -> None:
        _check(setup)
        self.setup, self.device = setup, device
        dtype = TORCH_DTYPES[str(setup.deployment.options.dtype)]
        shape = Blueprint.of(setup.deployment.model)
        pool_bytes = setup.pool_slots * setup.token_bytes
        model = setup.deployment.model.model_copy(update={"dtype": setup.deployment.options.dtype})
        needed = round(weight_bytes(model)) + pool_bytes
        device.refuse_if_too_large(needed, f"{setup.deployment.model.name} with its pool")
        self.decoder = Decoder(shape, device.torch_device, dtype)
        self.pool = BlockPool(
            shape,
            setup.num_blocks,
            setup.curve.block_size,
            device=device.torch_device,
            dtype=dtype,
        )
        geometry = self.pool.geometry(shape.heads)
        self.kernels = chosen_kernels(geometry)
        self._kernel = choose_kernel(geometry).kernel

    def serve(self, setup: Setup | None = None, seed: int = 0) -> TwinRun:
        """Serve the workload of `setup` (by default the twin's own) to its last request.

        Model and pool are those that the twin was built for.
        """
        setup = setup or self.setup
        recorder, streams = Recorder(), Streams(seed)
        with blaming(setup.scenario):
            workload = build_workload(setup.scenario.workload, setup.scenario.folder)
            arrivals = arrival_queue(workload, streams, recorder)
        scheduler = make_scheduler(setup, recorder)
        pool = self.pool
        pool.clear()
        engine = TwinEngine(self.decoder, pool, scheduler, seed)
        pairs = partial(prefill_pairs, setup.deployment.model)
        self.device.start_peak()
        gc.collect()  # what is garbage already must not be collected while the clock runs
        with collector_paused(), blaming(setup.scenario), self.device.steady():
            clock = WallClock(engine, pairs, self.device.now)
            replica = Replica(scheduler, clock, arrivals, recorder)
            run_replica(replica)
        memory = MemoryUse(
            self.decoder.weight_bytes,
            pool.bytes,
            pool.peak_blocks,
            self.device.peak_bytes(),
            self._kernel.gathers,
            self._kernel.held_bytes,
        )
        result = SimulationResult(Recording(setup, seed, recorder, replica.now))
        return TwinRun(result, tuple(clock.samples), memory, engine.texts)


def _check(setup: Setup) -> None:
    """Refuse what the twin does not do."""
    options, scenario = setup.deployment.options, setup.scenario
    problems = {
        "more than one rank": options.tensor_parallel_size * options.pipeline_parallel_size > 1,
        f"the allocator {scenario.memory.allocator!r}": scenario.memory.allocator != "paged",
        "swapping": scenario.scheduler.preemption == "swap",
        "a time limit (run.max_seconds)": scenario.run.max_seconds is not None,
        "parallel samples": scenario.workload.samples > 1,
        f"weights in {options.quantization}": options.quantization is not None,
        f"activations in {options.dtype}": options.dtype not in TORCH_DTYPES,
        f"a KV cache in {setup.kv.name}": setup.kv.name != options.dtype,
    }
    for problem, present in problems.items():
        if present:
            raise UnsupportedError(f"the twin does not do {problem}: change the scenario")
