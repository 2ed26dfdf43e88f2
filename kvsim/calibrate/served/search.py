"""Which values of some terms bring a simulation nearest to what was measured.

What is minimised, over the fitted requests and both metrics, is ::

    sum soft_l1(log(simulated / measured) / noise)  +  in flight * sum ((value - known) / spread)^2

The logarithm, because a TTFT twice too long is as wrong as one twice too short; soft, because a
request that lands in another step than the real one is off by a whole step; the last sum, because
requests that are in flight together share their steps, so that as many as there are count as one,
and because two terms that these requests cannot tell apart must not run away together.

A request lands in one step or in the next, so the sum is rough, and whoever follows slopes is
caught in the next dip. So each round moves all terms at once, many times at random within a box,
and fits a plane to what each request does ::

    log ratio of a request  =  level + slopes . (values - centre)

over which the minimum is found without simulating; the box moves there, and narrows (`WIDTHS`).

A term is *identified* where the requests narrow it to half of its `spread` or better: that is,
where the posterior deviation over the plane says so, beside all other terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvsim.calibrate.minimise import Free, least_squares
from kvsim.calibrate.served.terms import Term

__all__ = ["Found", "LogRatios", "badness", "search"]

Floats = NDArray[np.float64]
LogRatios = Callable[[Sequence[float]], Floats]
"""Log ratios (n,) of simulated to measured with a value for each term, in their order."""

WIDTHS = (1.0, 1.0, 0.5, 0.25, 0.12)  # of the box to each side, in spreads
_SCOUTING = 2  # of these rounds from every start, the others from the better one's end
_REPEATS = 2  # most rounds of one width
_POINTS_PER_TERM = 5
_IDENTIFIED = 0.5
_ALIKE = 1e-6
_LEAST_NOISE = 0.02  # of a log ratio: what moving a request into the next step does
_NO_BETTER = "no value is nearer than the one known"
_BOUND = "it ran to its bound"
_FEW = "these requests say too little of it"


@dataclass(frozen=True, slots=True)
class Found:
    """What a search ends with.

    Parameters
    ----------
    values : dict of str to float
        By name, of the terms that are identified.
    deviations : dict of str to float
        Posterior deviation of each, in its unit.
    reasons : dict of str to str
        Why each other term is not.
    """

    values: dict[str, float]
    deviations: dict[str, float]
    reasons: dict[str, str]


def search(
    log_ratios: LogRatios, terms: Sequence[Term], known: Sequence[float], in_flight: float
) -> Found:
    """Find the values of those terms that the requests can tell.

    Parameters
    ----------
    log_ratios : callable
        See `LogRatios`.
    terms, known : sequence of Term, sequence of float
        What may change, and what is known of it.
    in_flight : float
        How many requests count as one.
    """
    problem = _Problem(log_ratios, tuple(terms), np.array(known, np.float64), in_flight)
    names = [term.name for term in terms]
    ends = [problem.end(Found({}, {}, dict.fromkeys(names, _NO_BETTER)))]
    for start in problem.starts():
        centre = start
        for width in WIDTHS[:_SCOUTING]:
            ends.append(problem.end(problem.round(centre, width)))
            centre = problem.centre(ends[-1][1])
    found, scouted = min(ends, key=lambda end: end[0])[1], len(ends)
    for width in WIDTHS[_SCOUTING:]:
        for _ in range(_REPEATS):
            before = found.values.keys()
            out = {name: why for name, why in found.reasons.items() if why.startswith(_BOUND)}
            ends.append(problem.end(problem.round(problem.centre(found), width, out)))
            found = ends[-1][1]
            if found.values.keys() == before:  # else who came or went leaves the others a way to go
                break
    return min([ends[0], *ends[scouted:]], key=lambda end: end[0])[1]


def badness(logs: Floats) -> float:
    """How far requests are off altogether, by one measure whatever the noise."""
    return float(np.sum(np.sqrt(1 + (logs / 0.1) ** 2) - 1))


@dataclass(frozen=True, slots=True)
class _Plane:
    """What each request does around a centre.

    Parameters
    ----------
    level, slopes : float array (n,), (n, terms)
        In noise, and noise by spread.
    rough : float array (terms, terms)
        What ``slopes.T @ slopes`` would be of terms that do nothing, for the roughness alone.
    """

    level: Floats
    slopes: Floats
    rough: Floats


@dataclass(frozen=True, slots=True)
class _Problem:
    """Terms, with what is known of each as a spring."""

    log_ratios: LogRatios
    terms: tuple[Term, ...]
    known: Floats
    in_flight: float

    @property
    def spreads(self) -> Floats:
        """Of every term."""
        return np.array([term.spread for term in self.terms])

    def starts(self) -> list[Floats]:
        """What is known; and the nearest of what a term tries first, where that is another."""
        starts = [self.known]
        for place, term in enumerate(self.terms):
            tried = [self.known.copy() for _ in (0, *term.scan)]
            for each, value in zip(tried[1:], term.scan, strict=True):
                each[place] = max(value, self.known[place])
            best = min(tried, key=lambda each: badness(self.log_ratios(list(each))), default=None)
            if best is not None and best[place] != self.known[place]:
                starts.append(best)
        return starts

    def end(self, found: Found) -> tuple[float, Found]:
        """What was found, and how far off it leaves the requests."""
        return badness(self.log_ratios(self.centre(found).tolist())), found

    def centre(self, found: Found) -> Floats:
        """Every term's value: what was found, else what is known."""
        pairs = zip(self.terms, self.known, strict=True)
        return np.array([found.values.get(term.name, value) for term, value in pairs])

    def round(self, centre: Floats, width: float, out: Mapping[str, str] | None = None) -> Found:
        """Fit a plane around a centre, and go to its minimum within the box.

        `out` names terms that stay as known, and says why.
        """
        reasons = dict(out or {})
        moved = [at for at, term in enumerate(self.terms) if term.name not in reasons]
        plane = self.plane(centre, width, moved)
        free, deviations = self.identified(plane, reasons)
        while True:
            values = self.minimum(plane, free, centre, width)
            bounded = [at for at in free if self._at_bound(at, values[at], reasons)]
            if not bounded:
                break
            free = [at for at in free if at not in bounded]
        return Found(
            {self.terms[at].name: float(values[at]) for at in free},
            {self.terms[at].name: deviations[at] for at in free},
            reasons,
        )

    def plane(self, centre: Floats, width: float, moved: list[int]) -> _Plane:
        """Move terms at random around a centre, and see what each request does."""
        count = _POINTS_PER_TERM * (len(moved) + 1)
        low = np.array([term.low for term in self.terms])
        high = np.array([term.high for term in self.terms])
        moves = np.zeros((count, len(self.terms)))
        moves[:, moved] = np.random.default_rng(0).uniform(-width, width, (count, len(moved)))
        points = np.clip(centre + moves * self.spreads, low, high)
        logs = np.stack([self.log_ratios([float(v) for v in point]) for point in points])
        beside = np.column_stack([np.ones(count), (points - centre) / self.spreads])
        fitted = np.linalg.lstsq(beside, logs, rcond=None)[0]
        level, slopes = np.asarray(fitted[0], np.float64), np.asarray(fitted[1:].T, np.float64)
        noise = max(_LEAST_NOISE, 1.4826 * float(np.median(np.abs(level - np.median(level)))))
        left = float(np.sum((logs - beside @ fitted) ** 2)) / (count - len(moved) - 1)
        rough = left * np.linalg.pinv(beside.T @ beside)[1:, 1:]
        return _Plane(level / noise, slopes / noise, rough / noise**2)

    def identified(
        self, plane: _Plane, reasons: dict[str, str]
    ) -> tuple[list[int], dict[int, float]]:
        """Which terms the plane tells, and how well; the worst is left out until all are.

        Of terms that do the same it is the last, in every round: to let rounding choose would send
        the search from one to the other, each time back to what is known.
        """
        free = [at for at, term in enumerate(self.terms) if term.name not in reasons]
        while free:
            slopes, rough = plane.slopes[:, free], plane.rough[np.ix_(free, free)]
            told = _positive(slopes.T @ slopes - rough) / self.in_flight
            shares = np.sqrt(np.diag(np.linalg.inv(told + np.eye(len(free)))))
            worst = int(np.flatnonzero(shares >= (1 - _ALIKE) * shares.max())[-1])
            if shares[worst] <= _IDENTIFIED:
                pairs = zip(free, shares, strict=True)
                return free, {at: float(share * self.terms[at].spread) for at, share in pairs}
            reasons[self.terms[free.pop(worst)].name] = _FEW
        return [], {}

    def minimum(self, plane: _Plane, free: list[int], centre: Floats, width: float) -> Floats:
        """Every term's value where the plane is nearest, within the box; others as known."""
        values = self.known.copy()
        if not free:
            return values
        fixed = (values - centre) / self.spreads
        fixed[free] = 0.0
        level, slopes = plane.level + plane.slopes @ fixed, plane.slopes[:, free]
        pull, away = np.sqrt(self.in_flight), (centre - self.known)[free] / self.spreads[free]

        def off(at: Floats) -> Floats:
            return np.concatenate([level + slopes @ at, pull * (away + at)])

        ends = [self._room(at, centre[at], width) for at in free]
        box = tuple(
            Free(self.terms[at].name, (low + high) / 2, low, high)
            for at, (low, high) in zip(free, ends, strict=True)
        )
        jacobian = np.concatenate([slopes, pull * np.eye(len(free))])
        moved = least_squares(off, box, slopes=lambda at: jacobian, soft=1.0)
        values[free] = centre[free] + moved * self.spreads[free]
        return values

    def _room(self, at: int, centre: float, width: float) -> tuple[float, float]:
        """How far a term may go within box and bounds, in spreads from the centre."""
        term = self.terms[at]
        low = max(-width, (term.low - centre) / term.spread)
        high = min(width, (term.high - centre) / term.spread)
        return low, high

    def _at_bound(self, at: int, value: float, reasons: dict[str, str]) -> bool:
        """Whether a term ended at a bound; then says so."""
        term = self.terms[at]
        bound = min((term.low, term.high), key=lambda end: abs(value - end))
        if abs(value - bound) > 1e-3 * term.spread:
            return False
        reasons[term.name] = f"{_BOUND}, {bound:g} {term.unit}"
        return True


def _positive(matrix: Floats) -> Floats:
    """The nearest matrix that tells nothing negative of any direction."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)
