"""A sweep from its space to its answer: what has no row yet is run, each row kept at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kvsim.errors import InputError
from kvsim.interrupts import held, released
from kvsim.runs.copies import at_once
from kvsim.search.space import Space
from kvsim.search.sweep.answer import Best, PointAnswer, Sweep, Tally
from kvsim.search.sweep.inputs import Inputs
from kvsim.search.sweep.ledger import Ledger
from kvsim.search.sweep.pool import Pool
from kvsim.search.sweep.results import ResultRun, forget_results, write_results
from kvsim.search.sweep.task import Outcome, StoppedError, Task

__all__ = ["Progress", "sweep"]


@dataclass(frozen=True)
class Progress:
    """Where a sweep is.

    Parameters
    ----------
    done, runs : int
        Runs that have a row, and all of them.
    failed : int
        Of those done.
    repeated : int
        Of those done, the ones that had their row when the sweep began.
    best : (PointAnswer, float) or None
        The best point so far and its number, where one was asked for.
    """

    done: int
    runs: int
    failed: int
    repeated: int
    best: tuple[PointAnswer, float] | None


class Workers(Protocol):
    """Who does runs."""

    def outcomes(self, tasks: Iterator[Task]) -> Iterator[list[Outcome]]:
        """Yield what came of tasks, in any order; an empty list now and then."""


Watch = Callable[[Progress], None]


def sweep(
    space: Space | Path | str,
    folder: Path | str,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    best: str = "",
    retry_failed: bool = False,
    watch: Watch | None = None,
) -> Sweep:
    """Run every point of a space with every seed, and keep each run as it finishes.

    A run is known by the hash of all that it is made from: the scenario with all defaults, the
    model, the accelerator, the traces it reads, its seed and kvsim's version. The same call on the
    same folder goes on where an earlier one was ended, and runs only what has no row. Rows of
    points that have left the space stay in the ledger and out of the answer.

    Parameters
    ----------
    space : Space, Path or str
        What to run, or the YAML file that says so.
    folder : Path or str
        Where rows and results are kept: new, empty, or used by a sweep before.
    jobs : int, optional
        Processes of this machine; one a core by default.
    scheduler : str, optional
        Address of a Dask scheduler whose workers are to do it instead; answers are the same to
        the byte.
    best : str, optional
        ``min:KEY`` or ``max:KEY`` of the summary, by its dotted key: which point is best.
    retry_failed : bool
        Run again what failed before.
    watch : callable, optional
        Called with a `Progress` now and then.

    Returns
    -------
    Sweep
        With `interrupted` after a Ctrl-C: what was finished is kept, results are not written.

    Raises
    ------
    InputError
        For what is wrong with the space, before anything is run; a folder that holds other
        things, cannot be written, or in which a sweep is at work; a cluster that does not answer
        or has other versions.
    MissingExtraError
        For a scheduler without the package distributed.
    StoppedError
        When workers or disk fail the sweep; what was finished is kept.
    """
    chosen = Best.parse(best) if best else None
    if chosen is not None:
        chosen.refuse_unknown()
    with released():  # nothing is finished yet that could be lost
        plan = _Plan.of(space if isinstance(space, Space) else Space.read(space))
    with Ledger(Path(folder)) as ledger:
        work = _Work(plan, ledger, Tally(plan.space.seeds, chosen), watch)
        with released():
            known = work.recall(but_failed=retry_failed)
            workers = _workers(jobs, scheduler)
        return work.done_by(workers, known)


def _workers(jobs: int | None, scheduler: str | None) -> Workers:
    if scheduler is None:
        return Pool(at_once(jobs, None))
    if jobs is not None:
        what = "a cluster has the workers that were started for it"
        raise InputError(what, where=f"jobs {jobs}", fix="leave jobs or scheduler out")
    from kvsim.search.sweep.cluster import Cluster

    return Cluster(scheduler)


@dataclass(frozen=True)
class _Plan:
    """The runs of a space by number, all seeds of a point side by side, and their keys."""

    inputs: Inputs
    keys: Sequence[str]

    @classmethod
    def of(cls, space: Space) -> _Plan:
        """Find every key: what is wrong with any point is said before anything is run."""
        inputs = Inputs(space)
        return cls(inputs, [key for point in space.points() for key in inputs.keys(point)])

    @property
    def space(self) -> Space:
        return self.inputs.space

    def tasks(self, known: set[str]) -> Iterator[Task]:
        """Make the runs that are not known, each when it is asked for, and once."""
        begun = set(known)
        for number, point in enumerate(self.space.points()):
            first = number * self.space.seeds
            if all(key in begun for key in self.keys[first : first + self.space.seeds]):
                continue
            for task in self.inputs.tasks(point):
                if task.key not in begun:
                    begun.add(task.key)
                    yield task


@dataclass
class _Work:
    """A sweep that goes on."""

    plan: _Plan
    ledger: Ledger
    tally: Tally
    watch: Watch | None
    repeated: int = 0
    places: dict[str, list[int]] = field(default_factory=dict)

    def done_by(self, workers: Workers, known: set[str]) -> Sweep:
        """Do what is not known, and answer."""
        results = None
        try:
            with held():  # but for the waiting: rows and results are written
                forget_results(self.ledger.folder)
                with suppress(KeyboardInterrupt):
                    for outcomes in workers.outcomes(self.plan.tasks(known)):
                        self._keep(outcomes)
                if self.tally.done == len(self.plan.keys):
                    results = write_results(self.ledger.folder, self._in_order)
        except StoppedError as error:
            raise StoppedError(f"{error}; {self._kept()}") from None
        return self._answer(results)

    def recall(self, *, but_failed: bool) -> set[str]:
        """Take what the ledger knows of this space; its other rows are another space's.

        Parameters
        ----------
        but_failed : bool
            Whether runs that failed are not known: a row that is written anew replaces theirs.
        """
        for number, key in enumerate(self.plan.keys):
            self.places.setdefault(key, []).append(number)
        known = self.ledger.keys(but_failed=but_failed) & self.places.keys()
        for key in known:
            self._count(self.ledger.outcome(key))
        self.repeated = self.tally.done
        self._tell()
        return known

    def _keep(self, outcomes: Sequence[Outcome]) -> None:
        """Commit what came of runs, then count it."""
        if outcomes:
            self.ledger.commit((self._seed(found.key), found) for found in outcomes)
        for found in outcomes:
            self._count(found)
        self._tell()

    def _seed(self, key: str) -> int:
        return self.plan.inputs.seeds[self.places[key][0] % self.plan.space.seeds]

    def _count(self, outcome: Outcome) -> None:
        for number in self.places[outcome.key]:
            values = self.plan.space.values(number // self.plan.space.seeds)
            self.tally.add(number, values, outcome)

    def _tell(self) -> None:
        if self.watch is not None:
            tally = self.tally
            runs = len(self.plan.keys)
            self.watch(Progress(tally.done, runs, tally.failed, self.repeated, tally.leader))

    def _kept(self) -> str:
        done, runs = self.tally.done, len(self.plan.keys)
        kept = f"{done:,} of {runs:,} runs are kept in {self.ledger.folder}"
        return f"{kept}: the same line again goes on"

    def _in_order(self) -> Iterator[ResultRun]:
        for number, key in enumerate(self.plan.keys):
            point, seed = divmod(number, self.plan.space.seeds)
            values, outcome = self.plan.space.values(point), self.ledger.outcome(key)
            yield ResultRun(values, self.plan.inputs.seeds[seed], outcome)

    def _answer(self, results: Path | None) -> Sweep:
        space, tally = self.plan.space, self.tally
        points = (tally.point(number, space.values(number)) for number in range(len(space)))
        return Sweep(
            space.scenario.name,
            self.ledger.folder,
            tuple(points),
            tally.failures,
            runs=len(self.plan.keys),
            repeated=self.repeated,
            unfinished=len(self.plan.keys) - tally.done,
            best_by=tally.best,
            results=results,
        )
