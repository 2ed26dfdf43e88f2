"""How many small faults, planted in the core modules, the tests notice.

Draws faults by seed over the rooms (see `mutants` for the kinds), plants each in a copy of the
tree, and runs the tests of its room: first those of its own module, then the rest, each up to its
first failure. A fault is *killed* when a test fails, or when the tests take several times as long
as without it (measured in the same run). Prints the survivors and the score.

    python benchmarks/mutation.py --mutants 400 --seed 1
    python benchmarks/mutation.py --rooms steptime arrivals --mutants 60 --jobs 2
    python benchmarks/mutation.py --mutants 30 --seed 1 --at-least 80

The tests run in children of this process, which has imported what they need but kvsim. Ctrl-C
ends the run and prints what is known so far. Needs ``fork``: Linux or macOS.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mutants import Mutant, changes_code, mutants
from mutation_rooms import LEFT_OUT, ROOMS, ROOT, modules, stages

NOT_COPIED = (".git", "out", "__pycache__", ".hypothesis", ".mypy_cache", ".ruff_cache", "images")
# What the tests import and what no fault is planted in; loaded once, before the children fork.
PRELOADED = ("pytest", "hypothesis", "numpy", "pandas", "pydantic", "simpy", "yaml", "click")
# Without a fault the tests passed in this many times less, or in seconds that hardly count.
SLOWER, GRACE_SECONDS = 4.0, 5.0
MEMORY_BYTES = 6 << 30
POLL_SECONDS = 0.01


class Outcome(NamedTuple):
    """What became of one mutant: "killed", "timed out" or "survived"."""

    room: str
    mutant: Mutant
    before: str
    after: str
    verdict: str

    @property
    def place(self) -> str:
        """Where the fault was, and of which kind."""
        return f"{self.mutant.path}:{self.mutant.line}: {self.mutant.operator}"


@dataclass
class Trial:
    """One mutant on its way through the stages of its room's tests."""

    room: str
    mutant: Mutant
    stages: list[tuple[str, ...]]
    tree: Path = ROOT
    source: str = ""
    deadline: float = 0.0
    done: int = 0


@dataclass
class Runner:
    """Copies of one tree, and the children that test in them.

    Parameters
    ----------
    root : Path
        The tree that is copied; it is never written to.
    scratch : Path
        Where the copies go.
    jobs : int
        Children at a time, each in its own copy.
    """

    root: Path
    scratch: Path
    jobs: int = 1
    _limits: dict[tuple[str, ...], float] = field(default_factory=dict)

    def outcomes(self, trials: list[Trial]) -> Iterator[Outcome]:
        """Yield what became of each mutant, as soon as it is known.

        Raises
        ------
        SystemExit
            When the tests fail without any fault.
        """
        free = self._copies({stage: None for trial in trials for stage in trial.stages})
        waiting, running = trials[::-1], dict[int, Trial]()
        try:
            while waiting or running:
                while waiting and free:
                    trial = waiting.pop()
                    trial.tree = free.pop()
                    self._plant(trial)
                    running[self._start(trial)] = trial
                for pid, verdict in self._ended(running):
                    trial = running.pop(pid)
                    if verdict == "survived" and trial.done < len(trial.stages):
                        running[self._start(trial)] = trial
                        continue
                    (trial.tree / trial.mutant.path).write_text(trial.source)
                    free.append(trial.tree)
                    before, after = trial.mutant.difference(trial.source)
                    yield Outcome(trial.room, trial.mutant, before, after, verdict)
                time.sleep(POLL_SECONDS)
        finally:
            for pid in running:
                _end(pid)

    def _copies(self, stages: Iterable[tuple[str, ...]]) -> list[Path]:
        """Copy the tree, test the copy, and copy it again with the bytecode that this left."""
        first, *others = (self.scratch / str(number) for number in range(self.jobs))
        shutil.copytree(self.root, first, ignore=shutil.ignore_patterns(*NOT_COPIED))
        for stage in stages:
            self._measure(first, stage)
        for tree in others:
            shutil.copytree(first, tree)
        return [first, *others]

    def _measure(self, tree: Path, stage: tuple[str, ...]) -> None:
        """Run tests without a fault, for the time that they may take with one."""
        log, start = self.scratch / "log", time.monotonic()
        pid = _fork_tests(tree, stage, log)
        try:
            status = os.waitpid(pid, 0)[1]
        except BaseException:
            _end(pid)
            raise
        if status:
            sys.exit(f"{log.read_text()}\nwithout any fault, this fails: pytest {' '.join(stage)}")
        seconds = time.monotonic() - start
        # Children slow each other down, and this one ran alone.
        self._limits[stage] = SLOWER * seconds * min(self.jobs, 2) + GRACE_SECONDS
        print(f"{seconds:6.1f} s without a fault: {' '.join(stage)}", file=sys.stderr, flush=True)

    def _plant(self, trial: Trial) -> None:
        path = trial.tree / trial.mutant.path
        trial.source = path.read_text()
        # A mutant of the same size and second would pass for what was compiled before.
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()
        path.write_text(trial.mutant.applied(trial.source))

    def _start(self, trial: Trial) -> int:
        stage = trial.stages[trial.done]
        trial.done += 1
        trial.deadline = time.monotonic() + self._limits[stage]
        return _fork_tests(trial.tree, stage)

    def _ended(self, running: dict[int, Trial]) -> Iterator[tuple[int, str]]:
        for pid, trial in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                yield pid, "killed" if status else "survived"
            elif time.monotonic() > trial.deadline:
                _end(pid)
                yield pid, "timed out"


def _end(pid: int) -> None:
    """Kill a child and the processes that its tests started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _fork_tests(tree: Path, tests: tuple[str, ...], log: Path | None = None) -> int:
    """Start a child that runs tests in a copy, and return its process id."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # here too: whoever is first
        return pid
    try:
        code = _run_tests(tree, tests, log)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run_tests(tree: Path, tests: tuple[str, ...], log: Path | None) -> int:
    """Run in the child: the exit code of pytest. Bytecode is kept without a fault alone."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(tree)
    os.environ |= {"CI": "1", "PYTHONPATH": str(tree)}
    if not log:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = not log
    sys.path[:] = [each for each in sys.path if ROOT not in (Path(each), *Path(each).parents)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "kvsim"]:
        del sys.modules[name]  # whoever calls may have imported it from elsewhere
    pytest = importlib.import_module("pytest")
    left_out = [f"--ignore={each}" for each in LEFT_OUT]
    options = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", *left_out]
    code = int(pytest.main([*options, *tests]))
    kvsim = sys.modules.get("kvsim")
    if kvsim and tree not in Path(str(kvsim.__file__)).parents:
        print(f"the tests imported {kvsim.__file__}, which is not of {tree}")
        return 1
    return code


def draw(names: Iterable[str], count: int, seed: int) -> list[Trial]:
    """Draw mutants over the rooms, each as likely as the next; none that compiles alike."""
    sources = {path: (ROOT / path).read_text() for name in names for path in modules(ROOMS[name])}
    rooms = {path: name for name in names for path in modules(ROOMS[name])}
    every = [mutant for path, source in sources.items() for mutant in mutants(path, source)]
    random.Random(seed).shuffle(every)
    changing = (
        mutant
        for mutant in every
        if changes_code(sources[mutant.path], mutant.applied(sources[mutant.path]))
    )
    return [
        Trial(rooms[mutant.path], mutant, stages(ROOMS[rooms[mutant.path]], mutant.path))
        for mutant in islice(changing, count)
    ]


def score(outcomes: list[Outcome]) -> float:
    """Percent of the mutants that did not survive."""
    return 100 * sum(each.verdict != "survived" for each in outcomes) / max(1, len(outcomes))


def by_room(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes of each room that has any, and of all of them."""
    rooms = {name: [each for each in outcomes if each.room == name] for name in ROOMS}
    return {name: held for name, held in rooms.items() if held} | {"all": outcomes}


def as_text(outcomes: list[Outcome]) -> str:
    """Survivors, then a line for each room."""
    lines = []
    for each in outcomes:
        if each.verdict == "survived":
            lines += [each.place, f"    {each.before}  ->  {each.after}"]
    lines.append(f"{'room':<12} {'mutants':>7} {'killed':>7} {'timed out':>9} {'score':>6}")
    for name, held in by_room(outcomes).items():
        killed, late = (
            sum(each.verdict == word for each in held) for word in ("killed", "timed out")
        )
        lines.append(f"{name:<12} {len(held):>7} {killed:>7} {late:>9} {score(held):>5.1f}%")
    return "\n".join(lines)


def as_json(outcomes: list[Outcome]) -> str:
    """The same for programs."""
    rows = [
        {
            "room": each.room,
            "path": each.mutant.path,
            "line": each.mutant.line,
            "operator": each.mutant.operator,
            "before": each.before,
            "after": each.after,
            "verdict": each.verdict,
        }
        for each in outcomes
    ]
    scores = {name: score(held) for name, held in by_room(outcomes).items()}
    return json.dumps({"score_percent": scores, "mutants": rows}, indent=2)


def run(trials: list[Trial], jobs: int) -> tuple[list[Outcome], bool]:
    """Try all mutants; on Ctrl-C, those so far. Returns the outcomes and whether they are all."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="kvsim-mutation-") as scratch:
        try:
            for each in Runner(ROOT, Path(scratch), jobs).outcomes(trials):
                outcomes.append(each)
                print(
                    f"{len(outcomes)}/{len(trials)} {each.verdict:<9} {each.place}",
                    file=sys.stderr,
                    flush=True,
                )
        except KeyboardInterrupt:
            return outcomes, False
    return outcomes, True


def main() -> int:
    """Print survivors and scores; the exit code says whether the score is high enough."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=400, help="how many are drawn (400)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are tried at a time (1)")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--at-least", type=float, default=0, help="percent below which to fail")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends the children, too
    for name in PRELOADED:
        importlib.import_module(name)
    outcomes, ended = run(draw(asked.rooms, asked.mutants, asked.seed), asked.jobs)
    print((as_json if asked.format == "json" else as_text)(outcomes))
    if not ended:
        return 130
    return int(score(outcomes) < asked.at_least)


if __name__ == "__main__":
    sys.exit(main())
