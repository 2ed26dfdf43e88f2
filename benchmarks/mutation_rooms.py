"""Which modules `mutation` plants faults in, room by room, and which tests should notice them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["LEFT_OUT", "ROOMS", "ROOT", "Room", "modules", "stages"]

ROOT = Path(__file__).resolve().parents[1]


class Room(NamedTuple):
    """Modules whose faults are drawn together, and the tests that should notice them.

    Parameters
    ----------
    modules : tuple of str
        Files, or folders with all that is below.
    tests : tuple of str
        Files or folders, the likeliest and quickest first; the tests named after a module are
        run before these.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]


_MEMORY = tuple(
    f"kvsim/memory/{name}.py"
    for name in ("footprint", "growth", "pools", "rank", "tensors", "weights")
)
_SIMULATOR = tuple(
    f"kvsim/simulator/{name}.py"
    for name in ("arrival_queue", "batch", "clock", "phases", "plain_batch", "replica", "request")
)
_SIMULATOR_TESTS = (
    "tests/engine_oracle/test_vllm.py",
    "tests/engine_oracle/test_sglang.py",
    *(
        f"tests/simulator/test_{name}.py"
        for name in (
            "allocators",
            "apart",
            "addresses",
            "schedulers",
            "queues",
            "swap",
            "recomputed_tokens",
            "recorder",
            "camera",
            "prefix",
            "batch",
            "exact",
            "queueing",
            "radix",
            "sglang",
        )
    ),
)
_RESULTS = tuple(
    f"kvsim/results/{name}.py"
    for name in ("pool_cells", "pool_parts", "result", "statistics", "step_totals", "time_bins")
)
ROOMS = {
    "pools": Room(
        ("kvsim/engines/vllm", "kvsim/engines/common.py", *_MEMORY),
        (
            "tests/engines",
            "tests/memory",
            "tests/readers/huggingface",
            "tests/planning",
            "tests/catalog",
        ),
    ),
    "allocators": Room(("kvsim/simulator/allocators",), _SIMULATOR_TESTS),
    "schedulers": Room(
        ("kvsim/simulator/schedulers", *_SIMULATOR),
        _SIMULATOR_TESTS,
    ),
    "steptime": Room(("kvsim/steptime",), ("tests/steptime",)),
    "retention": Room(("kvsim/memory/retention.py",), ("tests/memory/test_footprint.py",)),
    "statistics": Room(_RESULTS, ("tests/results", "tests/simulator/test_camera.py")),
    "arrivals": Room(
        ("kvsim/workload/arrivals.py",),
        ("tests/workload/test_spec.py", "tests/workload/test_generated.py"),
    ),
}
# It starts Python anew for every test, and finds what the others find.
LEFT_OUT = ("tests/results/test_outputs.py",)


def stages(room: Room, module: str, root: Path = ROOT) -> list[tuple[str, ...]]:
    """Tests of a module in the order in which they are run: those of its name, then its room's."""
    folder = Path("tests", *Path(module).parts[1:-1])
    name = Path(module).stem
    named = [
        folder / f"test_{name}.py",
        folder.parent / f"test_{name}.py",
        folder.with_name(f"test_{folder.name}.py"),
    ]
    own = tuple(str(path) for path in named if (root / path).exists())
    return [own, room.tests] if own else [room.tests]


def modules(room: Room) -> list[str]:
    """Paths of a room's modules, from the root of the tree."""
    found = (path for name in room.modules for path in (ROOT / name, *(ROOT / name).rglob("*.py")))
    return sorted(str(path.relative_to(ROOT)) for path in found if path.is_file())
