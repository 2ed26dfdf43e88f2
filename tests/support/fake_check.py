"""``make gpu-check`` beside the emulated card of `tests.support.fake_cuda`.

    python -m tests.support.fake_check '{"free": 2147483648}' MARK check --device cuda --out FOLDER

Where processes are what is checked, kvsim and a holder of memory start here, too: as ``kvsim`` and
``hold`` in place of ``check``. The file MARK is there while a holder holds the memory, and while it
is, the card has none for kvsim.
"""

import io
import json
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from time import perf_counter

from kvsim.calibrate.measure.device import find_device

FULL_FROM = 20  # allocations: a few rows are timed before
DRIVER = {
    "clocks.sm": "1755 MHz", "clocks.max.sm": "1980 MHz", "power.draw": "698.2 W",
    "power.limit": "700.0 W", "temperature.gpu": "71", "clocks_event_reasons.active": "0x4",
}  # fmt: skip


def shrink():
    """Sizes that a CPU gets through in seconds; most of a process is its imports as it is."""
    import gpu_check_cases

    from kvsim.calibrate.measure import grid

    gpu_check_cases.SIZES["cuda"] = gpu_check_cases.Sizes((1, 4), (64, 256), 2**24, 2**16)
    gpu_check_cases.SHAPE = grid._MINI
    gpu_check_cases.STACK = gpu_check_cases.Stack(layers=2, batch=4, context=64)


def check(card, here, words):
    """The checks; what is not about processes runs in this one, which has torch already."""
    import gpu_check
    import gpu_check_checks
    from gpu_check_runner import Runner
    from gpu_check_verdicts import Done

    probes = the_probes(card)

    class AtHome(Runner):
        def probe(self, name, device):
            answer = probes.PROBES[name](find_device(device))
            return Done(0, json.dumps(answer), "", 0.0, 0.0)

        def kvsim(self, *words, most_seconds=None):
            if most_seconds is not None or "--resume" in words:
                return super().kvsim(*words, most_seconds=most_seconds)
            out, start = io.StringIO(), perf_counter()
            with redirect_stdout(out):
                code = left_with(words)
            return Done(code, out.getvalue(), "", perf_counter() - start, 0.0)

    gpu_check_checks.MODELS["cuda"] = ("twin-tiny",)
    commands = {"kvsim": (*here, "kvsim"), "probe": (*here, "hold")}
    return gpu_check.main(words, partial(AtHome, **commands))


def left_with(words):
    """Run kvsim in this process: its exit code."""
    from kvsim.cli import main

    try:
        main(words)
    except SystemExit as left:
        return left.code


def install(card):
    """Let torch see the card, in sizes that a CPU gets through."""
    import torch

    from kvsim.calibrate.twin import questions
    from tests.support import fake_cuda

    torch.set_num_threads(1)
    fake_cuda.install(fake_cuda.Card(**card))
    fake_cuda.shrink_grid()
    questions._GPU_TOKENS = 64
    questions.Question._count = lambda question, rate: 6  # and not those of twelve seconds


def the_probes(card):
    """The probes beside the card, whose driver answers."""
    import gpu_check_probes

    install(card)
    shrink()
    gpu_check_probes.SIDE, gpu_check_probes.LOAD_SECONDS = 256, 0.05
    gpu_check_probes.driver_answers = lambda fields, uuid: {
        field: DRIVER[field] for field in fields if field in DRIVER
    }
    return gpu_check_probes


def hold(card, mark, words):
    """The holder of the memory: the mark is there as long as it is."""
    mark.touch()
    try:
        return the_probes(card).main(words)
    finally:
        mark.unlink()


def kvsim(card, mark, words):
    """Any command of kvsim."""
    install({**card, "full_from": FULL_FROM} if mark.exists() else card)
    return left_with(words)


if __name__ == "__main__":
    text, path, role, *rest = sys.argv[1:]
    card, mark = json.loads(text), Path(path)
    if role == "check":
        sys.exit(check(card, (sys.executable, "-m", "tests.support.fake_check", text, path), rest))
    sys.exit({"hold": hold, "kvsim": kvsim}[role](card, mark, rest))
