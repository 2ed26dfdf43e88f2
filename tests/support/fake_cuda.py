"""An NVIDIA card on a CPU, so that the lines which ask CUDA run where there is none.

    python -m tests.support.fake_cuda '{"oom_once": true}' calibrate --device cuda -o card.yaml

Without words it answers a run a line: ``{"card": {...}, "folder": "...", "words": [...]}``.

Every tensor asked of "cuda" is made on the CPU, and `torch.cuda` answers as a card would: its
properties, memory, streams, events and graphs, which are recorded call by call and run again. What
it is told to do wrong, it does. Real captures, streams, kernels, fp8 and NCCL are not here, and its
times are the CPU's.
"""

import contextlib
import functools
import json
import logging
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

from tests.support import needs

needs.need("torch")
import torch
from torch.overrides import TorchFunctionMode

from kvsim.calibrate.shapes import DecoderShape

GIB = 2**30
MAKERS = {"empty", "zeros", "ones", "tensor", "arange", "randint", "randperm", "full"}
WAITS = {"item", "tolist", "cpu", "nonzero"}  # which no capture allows
LOST = "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later"


@dataclass
class Card:
    """What it is, and what goes wrong: allocations are counted from 1.

    With `oom_once` the first one fails after memory was given back, and so every case's, but for
    its second attempt. With `asserts` a capture that the caller spoils breaks `empty_cache`, too.
    """

    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str = "0c0ffee0"
    memory: int = 85_029_158_912
    free: int = 84_400_000_000
    l2: int = 2**14
    capability: tuple[int, int] = (9, 0)
    count: int = 1
    oom_once: bool = False
    full_from: int | None = None
    lost_at: int | None = None
    capture_fails: bool = False
    asserts: bool = False
    interrupt_at: int | None = None
    is_armed: bool = True
    has_failed: bool = False
    made: int = 0
    is_lost: bool = False
    failed_captures: int = 0
    graph: object = None
    log: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.capability = tuple(self.capability)

    def answer(self):
        """Fail like a device that is gone."""
        if self.is_lost:
            raise RuntimeError(LOST)

    def make(self):
        """Allocate, or say why not."""
        self.made += 1
        self.answer()
        if self.made == self.interrupt_at:
            raise KeyboardInterrupt
        if self.lost_at is not None and self.made >= self.lost_at:
            self.is_lost = True
            self.answer()
        self.has_failed = self.oom_once and self.is_armed
        self.is_armed = False
        if self.has_failed or (self.full_from and self.made >= self.full_from):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def give_back(self):
        """Forget what nobody holds; of torch before 2.13 a failed capture breaks that."""
        self.answer()
        self.is_armed = not self.has_failed
        if self.failed_captures:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")


class OnTheCpu(TorchFunctionMode):
    """Makes on the CPU what is asked of CUDA, and records what a graph captures."""

    def __init__(self, card):
        super().__init__()
        self.card = card

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if func is torch.device or name in ("__get__", "device"):
            return func(*args, **kwargs)
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
            if name in MAKERS:
                self.card.make()
        args = tuple(torch.device("cpu") if _is_cuda(each) else each for each in args)
        self.card.answer()
        if self.card.graph is not None:
            if name in WAITS:
                raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
            self.card.graph.calls.append(functools.partial(func, *args, **kwargs))
        return func(*args, **kwargs)


def _is_cuda(value):
    kind = value.type if isinstance(value, torch.device) else value
    return isinstance(kind, str) and kind.startswith("cuda")


class Event:
    """A moment of the host's clock."""

    def __init__(self, enable_timing=False):
        self.at = None

    def record(self, stream=None):
        self.at = perf_counter()

    def synchronize(self):
        """Everything is done already."""

    def elapsed_time(self, other):
        return 1e3 * (other.at - self.at)


class Graph:
    """Calls to run again."""

    def __init__(self):
        self.calls = []

    def replay(self):
        for call in self.calls:
            call()


def install(card):
    """Let torch see the card, and hear nothing of what it can't do."""

    @contextlib.contextmanager
    def capturing(graph):
        card.graph = graph
        try:
            yield
        except RuntimeError:
            card.failed_captures += card.asserts
            raise
        finally:
            card.graph = None
        if card.capture_fails:
            card.failed_captures += 1
            raise RuntimeError("CUDA error: operation failed due to a previous error in capture")

    properties = SimpleNamespace(
        name=card.name, total_memory=card.memory, L2_cache_size=card.l2, uuid=card.uuid,
        multi_processor_count=132,
    )  # fmt: skip
    answers = {
        "is_available": lambda: True,
        "init": lambda: None,
        "device_count": lambda: card.count,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: card.capability,
        "get_device_name": lambda device=None: card.name,
        "mem_get_info": lambda device=None: (card.free, card.memory),
        "memory_reserved": lambda device=None: 2 * GIB,
        "memory_allocated": lambda device=None: GIB,
        "max_memory_allocated": lambda device=None: GIB,
        "reset_peak_memory_stats": lambda device=None: None,
        "set_device": lambda device: card.log.append(f"set {device}"),
        "device": lambda device: contextlib.nullcontext(),
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": lambda device=None: SimpleNamespace(wait_stream=lambda other: None),
        "Stream": lambda: SimpleNamespace(wait_stream=lambda other: None),
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": capturing,
        "synchronize": lambda device=None: card.answer(),
        "empty_cache": card.give_back,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    torch.version.cuda = "12.8"
    torch.backends.cuda.cudnn_sdp_enabled = lambda: True
    torch.backends.cuda.enable_cudnn_sdp = lambda enabled: None
    torch.compile = no_triton
    sys.modules["torch.nn.attention.flex_attention"] = None  # seconds to import, for no triton
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # which it misses, too
    torch.Generator = CpuGenerator
    OnTheCpu(card).__enter__()


class CpuGenerator(torch.Generator):
    """Random numbers are the CPU's, whatever device they are asked for."""

    def __new__(cls, device=None):
        return super().__new__(cls)


def no_triton(function, dynamic):
    """Torch's compiler where its backend is not installed."""
    raise RuntimeError("Cannot find a working triton installation")


MICRO = DecoderShape("micro", 64, 2, 1, 192, 2, head_dim=32)


def shrink_grid():
    """A grid that a CPU gets through in seconds, by the same planner."""
    from kvsim.calibrate.measure import grid
    from kvsim.calibrate.measure.timing import Pace
    from kvsim.calibrate.twin import device, questions, warmup

    small = replace(
        grid._GRIDS["cpu", True], buffers=(2**20,), shapes=(grid._MINI,), small=MICRO,
        depths=(2, 3), tokens=(1, 8, 64), batches=(1, 4), contexts=(128, 512),
        kv_heads=(4,), head_dim=32, prompts=(32, 64, 128), sequences=(1, 4), vocabulary=512,
    )  # fmt: skip
    for quick in (False, True):
        grid._GRIDS["gpu", quick] = small
    grid._LEAST_ROTATION = 2**16
    grid.FULL_PACE = grid.QUICK_PACE = Pace(0.001, 3, 3)
    questions._FEWEST_REQUESTS, questions._GPU_TOKENS = 10, 128
    warmup._QUICK_BATCHES = warmup._QUICK_PROMPTS = 2
    device._TRIAL_SIDE["cuda"], device._TRIAL_BYTES = 256, 2**20


def serve():
    """Answer every line of the input, a run of kvsim each: its exit code, and what it printed.

    What takes seconds is imported once; each run is a process of its own, with a card of its own.
    """
    torch.set_num_threads(1)
    import_what_a_run_needs()
    shrink_grid()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def import_what_a_run_needs():
    """Everything that the three commands would import first."""
    import scipy.optimize  # noqa: F401

    import kvsim.calibrate.measure.calibrate
    import kvsim.calibrate.study.run
    import kvsim.calibrate.twin.serve
    import kvsim.cli.calibrate
    import kvsim.cli.study
    import kvsim.cli.validate
    import kvsim.runs.simulate  # noqa: F401


def answer(asked):
    """Run kvsim in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("out", "err")]
        child = os.fork()
        if not child:
            os._exit(run(asked, streams))
        _, status = os.waitpid(child, 0)
        out, err = (path.read_text("utf-8") for path in streams)
    return {"code": os.waitstatus_to_exitcode(status), "out": out, "err": err}


def run(asked, streams):
    """Install the card, and be kvsim until it leaves."""
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
    os.chdir(asked["folder"])
    install(Card(**asked["card"]))
    from kvsim.cli import main

    code = 0
    try:
        main(asked["words"])
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def be_kvsim(card, words):
    """Be kvsim beside a card."""
    torch.set_num_threads(1)
    install(Card(**json.loads(card)))
    shrink_grid()
    from kvsim.cli import main

    main(words)


if __name__ == "__main__":
    if sys.argv[1:]:
        be_kvsim(sys.argv[1], sys.argv[2:])
    serve()
