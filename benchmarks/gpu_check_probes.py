"""What ``make gpu-check`` asks torch itself, each in a process of its own.

    python benchmarks/gpu_check_probes.py kernels cuda

A capture that fails, a kernel that crashes or one that never ends so costs its own check alone,
and no memory is held while another is made. The answer is the last line of stdout, JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import gpu_check_cases as cases
from gpu_check_verdicts import CAPTURE, EMPTY_CACHE, PRODUCT

from kvsim.calibrate.measure.attention import BLOCK_SIZE
from kvsim.calibrate.measure.device import DeviceFacts, driver_answers, find_device
from kvsim.calibrate.measure.failures import is_out_of_memory
from kvsim.calibrate.measure.timing import QUICK_PACE, TorchBench
from kvsim.calibrate.measure.workspace import TORCH_DTYPES, load_torch
from kvsim.errors import KVSimError, first_line
from kvsim.units import GIB, MIB, ceil_div

CLOCKS = ("clocks.sm", "clocks.max.sm", "power.draw", "power.limit", "temperature.gpu")
# The driver's name of them since release 535, and before.
REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
LOAD_SECONDS = 3.0
SIDE = 16384  # a product of 9 TFLOP: a queue of them needs few launches
LEFT_FREE = GIB  # a context takes half of it, so that it is cases that do not fit
_CHUNK = 256 * MIB

Answer = dict[str, Any]


def facts(device: DeviceFacts) -> Answer:
    """What the device is."""
    found = device.to_dict()
    del found["context_bytes"]
    return found


# ---- captures ------------------------------------------------------------------------------------


def capture(device: DeviceFacts) -> Answer:
    """Capture a graph that can be captured and one that cannot; then see what is left."""
    torch = load_torch()
    torch.cuda.set_device(device.torch_name)
    replay = _said(lambda: _replayed(torch, device.torch_name))
    failed = _failed_capture(torch, device.torch_name)
    tries: dict[str, Callable[[], object]] = {
        PRODUCT: lambda: _right(torch, device.torch_name),
        EMPTY_CACHE: torch.cuda.empty_cache,
        CAPTURE: lambda: _replayed(torch, device.torch_name),
    }
    after = {name: _said(attempt) for name, attempt in tries.items()}
    return {"replay": replay, "failure": failed, "after": after}


def _said(attempt: Callable[[], object]) -> str:
    """Why an attempt failed; "" when it did not."""
    try:
        attempt()
    except RuntimeError as error:
        return first_line(error)
    return ""


def _replayed(torch: Any, where: str) -> None:
    """Capture a product, change its factors, and replay it.

    Raises
    ------
    RuntimeError
        When it cannot be captured, or the replay computes something else.
    """
    factor, product = torch.ones(64, 64, device=where), torch.zeros(64, 64, device=where)
    torch.mm(factor, factor, out=product)  # libraries load outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.mm(factor, factor, out=product)
    factor.fill_(2.0)
    product.zero_()
    graph.replay()
    torch.cuda.synchronize()
    _check(product)


def _right(torch: Any, where: str) -> None:
    factor = torch.full((64, 64), 2.0, device=where)
    _check(torch.mm(factor, factor))


def _check(product: Any) -> None:
    """Twos times twos over 64 is 256 everywhere."""
    wrong = int((product != 256).sum())
    if wrong:
        raise RuntimeError(f"{wrong} of {product.numel()} elements are wrong")


def _failed_capture(torch: Any, where: str) -> str | None:
    """Wait for the device inside a capture; what it says, or None when that was captured."""
    factor = torch.ones(64, device=where)
    try:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            factor.sum().item()
    except RuntimeError as error:
        return first_line(error)
    return None


# ---- kernels and overlap -------------------------------------------------------------------------


def kernels(device: DeviceFacts) -> Answer:
    """Which kernels run, and how fast decode attention reads."""
    from kvsim.calibrate.twin.decodes import Geometry
    from kvsim.calibrate.twin.kernels import choose_kernel

    bench = TorchBench(device.torch_name, QUICK_PACE)
    chosen = bench.kernels(cases.SHAPE, device.dtype)
    space, shape = bench.space, cases.SHAPE
    heads = shape.heads, shape.kv_heads, shape.head_dim
    geometry = Geometry(*heads, BLOCK_SIZE, space.dtype(device.dtype), space.device)
    rates, left_out = [], []
    for case in cases.decode_cases(device):
        try:
            seconds = bench.time(case).seconds
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            left_out.append(f"batch {case.batch} x {case.context:,}: out of memory")
            bench.release()
            continue
        rate = case.moved_bytes / seconds
        rates.append({"batch": case.batch, "context": case.context, "bytes_per_s": rate})
    gathers = choose_kernel(geometry).kernel.gathers
    said = {"gathers": gathers, "rates": rates, "left_out": [*left_out, *bench.notes]}
    return {**chosen._asdict(), **said}


def overlap(device: DeviceFacts) -> Answer:
    """Seconds of a few layers, of their attention, and of both in turn."""
    bench = TorchBench(device.torch_name, QUICK_PACE)
    found = {}
    for name, case in cases.overlap_cases(device).items():
        calls = getattr(case, "sets", 1)  # attention is timed by layer
        found[name] = calls * bench.time(case).seconds
    return {"seconds": found, "notes": list(bench.notes)}


# ---- clocks, and a card that is full -------------------------------------------------------------


def clocks(device: DeviceFacts) -> Answer:
    """What the driver says of clocks while products run one after the other."""
    torch = load_torch()
    torch.cuda.set_device(device.torch_name)
    dtype = getattr(torch, TORCH_DTYPES[device.dtype])
    factor = torch.empty(SIDE, SIDE, dtype=dtype, device=device.torch_name).normal_()
    product = torch.empty_like(factor)

    def seconds_of(count: int, meanwhile: Callable[[], None] = lambda: None) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            torch.mm(factor, factor, out=product)
        meanwhile()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    answers: dict[str, str] = {}
    reasons: list[str] = []

    def ask() -> None:
        time.sleep(LOAD_SECONDS / 3)  # clocks rise, and heat comes, with the load
        answers.update(driver_answers(CLOCKS, device.uuid))
        reasons.extend(_reasons(device.uuid))

    seconds_of(1)
    count = ceil_div(int(LOAD_SECONDS * 1e9), max(1, int(seconds_of(1) * 1e9)))
    rate = 2 * SIDE**3 * count / seconds_of(count, ask)
    return {"flops_per_s": rate, "answers": answers, "reasons": "".join(reasons[:1])}


def _reasons(uuid: str) -> list[str]:
    return [value for name in REASONS for value in driver_answers([name], uuid).values()]


def hold(device: DeviceFacts) -> Answer:
    """Hold nearly all memory that is free, say so, and wait until nobody listens any more."""
    torch = load_torch()
    torch.cuda.set_device(device.torch_name)
    free, _ = torch.cuda.mem_get_info(device.torch_name)
    held = []
    for _ in range(max(0, (free - LEFT_FREE) // _CHUNK)):
        try:
            held.append(torch.empty(_CHUNK, dtype=torch.uint8, device=device.torch_name))
        except torch.cuda.OutOfMemoryError:
            break
    print(json.dumps({"held_bytes": len(held) * _CHUNK}), flush=True)
    sys.stdin.read()
    return {}


PROBES: dict[str, Callable[[DeviceFacts], Answer]] = {
    "facts": facts,
    "capture": capture,
    "kernels": kernels,
    "overlap": overlap,
    "clocks": clocks,
    "hold": hold,
}


def main(words: Sequence[str]) -> int:
    """Run a probe on a device; what torch or kvsim refuse is one line."""
    name, device = words
    try:
        answer = PROBES[name](find_device(device))
    except (KVSimError, RuntimeError, MemoryError) as error:
        print(first_line(error), file=sys.stderr)
        return 2
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
