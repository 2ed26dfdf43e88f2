"""What a sweep says: a row a point, with means over its seeds, and what failed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from kvsim.errors import InputError, nearest
from kvsim.results.latencies import TIME_BANDS, grows_with_the_run
from kvsim.runs.replicate import numbers
from kvsim.runs.simulate import simulate
from kvsim.search.sweep.task import Outcome, band_key
from kvsim.simulator.loading import load_scenario
from kvsim.version import __version__

__all__ = ["COLUMNS", "Best", "PointAnswer", "Sweep", "Tally"]

# Of a summary, what a point is judged by first; the results hold all of it.
COLUMNS = (
    "request_throughput",
    "output_throughput",
    "mean_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "p99_tpot_ms",
    "kv_cache.usage_mean",
    "preemptions",
)
# How sure its times are, as factors; none where steps take a stated time.
BANDS = tuple(
    band_key(latency, end) for latency in ("ttft", "tpot", "e2el") for end in ("low", "high")
)

# Keys that a summary has where there is something to say.
_SOMETIMES = ("bound_by.", f"{TIME_BANDS}.", "swap_break_even")

Row = Mapping[str, Any]


class Best(NamedTuple):
    """By which number points are compared, and whether more of it is better."""

    key: str
    is_most: bool

    @classmethod
    def parse(cls, text: str) -> Best:
        """Read ``min:p99_ttft_ms`` or ``max:output_throughput``.

        Raises
        ------
        InputError
            For anything else.

        Examples
        --------
        >>> Best.parse("min:p99_ttft_ms")
        Best(key='p99_ttft_ms', is_most=False)
        """
        word, _, key = text.partition(":")
        if word not in ("min", "max") or not key:
            fix = "write min: or max: and a key of the summary, such as min:p99_ttft_ms"
            raise InputError(f"{text!r:.60} says nothing of what is best", where="best", fix=fix)
        return cls(key, word == "max")

    def __str__(self) -> str:
        return f"{'max' if self.is_most else 'min'}:{self.key}"

    def refuse_unknown(self) -> None:
        """Refuse a key that no summary has, before anything is run.

        Raises
        ------
        InputError
            With the nearest that there is.
        """
        if not self.key.startswith(_SOMETIMES):
            question = load_scenario("peer-w", {"workload.requests": 1})
            self.known_in(dict(numbers(simulate(question).summary)))

    def known_in(self, row: Row) -> None:
        """Refuse a key that a summary has not.

        Raises
        ------
        InputError
            With the nearest that it has.
        """
        if self.key not in row:
            close = ", ".join(nearest(self.key, row) or COLUMNS)
            what = f"a summary has no number {self.key!r:.60}"
            raise InputError(what, where="best", fix=f"nearest valid: {close}")

    def place(self, point: PointAnswer) -> tuple[bool, float]:
        """Order points: the best first, those without a value last."""
        value = point.means.get(self.key)
        if value is None or not point.is_whole:
            return True, 0.0
        return False, -value if self.is_most else value


@dataclass(frozen=True)
class PointAnswer:
    """What came of one point.

    Parameters
    ----------
    values : dict of str to object
        What sets it apart.
    means : dict of str to float
        Means over the runs that finished, by key of the summary; None is a number without
        observations, and a latency that grows with a run which was saturated.
    finished, failed, saturated : int
        Runs.
    asked : int
        Runs that there are to be.
    reason : str
        Why the first that failed did.
    """

    values: dict[str, Any]
    means: dict[str, float | None]
    finished: int
    failed: int
    saturated: int
    asked: int
    reason: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether all of its runs finished."""
        return self.finished == self.asked

    def has_grown(self, key: str) -> bool:
        """Whether a number has no mean because a run was saturated."""
        return self.saturated > 0 and grows_with_the_run(key)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, and a row of a table."""
        counts = {"runs": self.finished, "saturated_runs": self.saturated}
        failure = {"failed_runs": self.failed, "reason": self.reason}
        return {**self.values, **self.means, **counts, **failure}


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to; a table of all of its numbers is in its folder.

    Parameters
    ----------
    name : str
        The scenario's.
    folder : Path
        Where its rows are kept.
    points : tuple of PointAnswer
        In the order of the space.
    failures : tuple of (str, int)
        Reasons, and how many runs failed for each; the most frequent first.
    runs, repeated : int
        Runs of the space, and those of them that had a row when the sweep began.
    unfinished : int
        Runs without a row: an interrupt came before them.
    best_by : Best or None
        What was asked for.
    results : Path or None
        The table of all numbers; None where runs are missing.
    """

    name: str
    folder: Path
    points: tuple[PointAnswer, ...]
    failures: tuple[tuple[str, int], ...]
    runs: int
    repeated: int
    unfinished: int
    best_by: Best | None = None
    results: Path | None = None

    @property
    def interrupted(self) -> bool:
        """Whether runs are missing."""
        return self.unfinished > 0

    @property
    def failed(self) -> int:
        """Runs that failed."""
        return sum(count for _, count in self.failures)

    @property
    def finished(self) -> int:
        """Runs that have numbers."""
        return self.runs - self.unfinished - self.failed

    @property
    def ranked(self) -> tuple[PointAnswer, ...]:
        """The points, the best first where one was asked for; equals stay in the space's order."""
        return (
            self.points if not self.best_by else tuple(sorted(self.points, key=self.best_by.place))
        )

    @property
    def best(self) -> PointAnswer | None:
        """The best of the points whose runs all finished; None if none has the number."""
        if self.best_by is None or not self.points or self.best_by.place(self.ranked[0])[0]:
            return None
        return self.ranked[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the same whoever ran it, and however often it was ended."""
        return {
            "kvsim": __version__,
            "scenario": self.name,
            "runs": {
                "asked": self.runs,
                "finished": self.finished,
                "failed": self.failed,
                "unfinished": self.unfinished,
            },
            "points": [point.to_dict() for point in self.points],
            "best_by": str(self.best_by) if self.best_by else None,
            "best": self.best.to_dict() if self.best else None,
            "failures": [{"reason": reason, "runs": count} for reason, count in self.failures],
        }


class Tally:
    """Counts outcomes as they come, in whatever order, and keeps a few means of each point.

    Parameters
    ----------
    seeds : int
        Runs of a point.
    best : Best or None
        By what the best so far is told.
    """

    def __init__(self, seeds: int, best: Best | None) -> None:
        self.seeds, self.best = seeds, best
        self.done = self.failed = 0
        self.leader: tuple[PointAnswer, float] | None = None
        self._open: dict[int, dict[int, Outcome]] = {}
        self._closed: dict[int, PointAnswer] = {}
        self._reasons: Counter[str] = Counter()

    def add(self, place: int, values: dict[str, Any], outcome: Outcome) -> None:
        """Take what came of a run: `place` counts runs, all seeds of a point side by side."""
        point, seed = divmod(place, self.seeds)
        self.done += 1
        if outcome.reason:
            self.failed += 1
            self._reasons[outcome.reason] += 1
        found = self._open.setdefault(point, {})
        found[seed] = outcome
        if len(found) == self.seeds:
            del self._open[point]
            self._closed[point] = answer = self._judged(values, found)
            self._lead(answer)

    def point(self, number: int, values: dict[str, Any]) -> PointAnswer:
        """What is known of a point, counted from 0."""
        return self._closed.get(number) or self._judged(values, self._open.get(number, {}))

    @property
    def failures(self) -> tuple[tuple[str, int], ...]:
        """Reasons and counts, the most frequent first, equals by their words."""
        return tuple(sorted(self._reasons.items(), key=lambda each: (-each[1], each[0])))

    def _lead(self, answer: PointAnswer) -> None:
        value = answer.means.get(self.best.key) if self.best else None
        if self.best is None or value is None or not answer.is_whole:
            return
        if self.leader is None or self.best.place(answer) < self.best.place(self.leader[0]):
            self.leader = answer, value

    def _judged(self, values: dict[str, Any], found: Mapping[int, Outcome]) -> PointAnswer:
        ordered = [found[seed] for seed in sorted(found)]
        rows = [json.loads(outcome.row) for outcome in ordered if outcome.row]
        if self.best is not None and rows:
            self.best.known_in(rows[0])
        keys = dict.fromkeys((*COLUMNS, *([self.best.key] if self.best else []), *BANDS))
        saturated = sum(row["saturated"] for row in rows)
        reasons = [outcome.reason for outcome in ordered if outcome.reason]
        return PointAnswer(
            values,
            {key: _mean(rows, key, saturated) for key in keys},
            finished=len(rows),
            failed=len(reasons),
            saturated=saturated,
            asked=self.seeds,
            reason=reasons[0] if reasons else "",
        )


def _mean(rows: Sequence[Row], key: str, saturated: int) -> float | None:
    if saturated and grows_with_the_run(key):
        return None
    known = [row[key] for row in rows if _is_known(row.get(key))]
    return sum(known) / len(known) if known else None


def _is_known(value: Any) -> bool:
    return value is not None and isfinite(value)
