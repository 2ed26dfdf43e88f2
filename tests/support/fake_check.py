"""``make gpu-check`` beside the emulated card of `tests.support.fake_cuda`.

    python -m tests.support.fake_check '{"free": 2147483648}' MARK check --device cuda --out FOLDER

The check starts kvsim and a holder of memory, and those start here, too: as ``kvsim`` and ``hold``
in place of ``check``. The file MARK is there while a holder holds the memory, and while it is, the
card has none for kvsim.
"""

import json
import sys
from functools import partial
from pathlib import Path

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
    """The checks: kvsim starts here anew; what a probe asks torch is asked in this process."""
    import gpu_check
    import gpu_check_checks
    from gpu_check_runner import Runner
    from gpu_check_verdicts import Done

    probes = the_probes(card)

    class AtHome(Runner):
        def probe(self, name, device):
            answer = probes.PROBES[name](find_device(device))
            return Done(0, json.dumps(answer), "", 0.0, 0.0)

    gpu_check_checks.MODELS["cuda"] = ("twin-tiny",)
    commands = {"kvsim": (*here, "kvsim"), "probe": (*here, "hold")}
    return gpu_check.main(words, partial(AtHome, **commands))


def install(card):
    """Let torch see the card, in sizes that a CPU gets through."""
    import torch

    from kvsim.calibrate.twin import questions
    from tests.support import fake_cuda

    torch.set_num_threads(1)
    fake_cuda.install(fake_cuda.Card(**card))
    fake_cuda.shrink_grid()
    questions._FEWEST_REQUESTS, questions._GPU_TOKENS = 6, 64


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
    from kvsim.cli import main

    main(words)


if __name__ == "__main__":
    text, path, role, *rest = sys.argv[1:]
    card, mark = json.loads(text), Path(path)
    if role == "check":
        sys.exit(check(card, (sys.executable, "-m", "tests.support.fake_check", text, path), rest))
    sys.exit({"hold": hold, "kvsim": kvsim}[role](card, mark, rest))
