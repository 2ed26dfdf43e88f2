"""A server's terms, learned from its own requests: fitted on a part, judged on the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.calibrate.fit import round_significant
from kvsim.calibrate.profile import lines_of, write_coefficients
from kvsim.calibrate.served.parts import Error, Parts, errors_of, split
from kvsim.calibrate.served.replay import METRICS, Latencies, Replay, measured, replaying
from kvsim.calibrate.served.requests import ServedRequests, read_served_requests
from kvsim.calibrate.served.search import Found, badness, search
from kvsim.calibrate.served.terms import TERMS, Server, Term
from kvsim.errors import InputError
from kvsim.results.words import SHORT
from kvsim.simulator.scenario import Scenario
from kvsim.specs.hardware import AcceleratorProfile, StepCoefficients
from kvsim.specs.yaml_files import read_yaml

__all__ = [
    "LearnedServer",
    "LearnedTerm",
    "Progress",
    "learn_served",
    "refuse_output",
    "write_learned",
]

Floats = NDArray[np.float64]
Progress = Callable[[int], None]
"""Told how many simulations have been run."""

Errors = dict[str, dict[str, Error | None]]

_FITTED = ("ttft", "tpot")
_FEW_LENGTHS = 1.5  # p90 over p10 of prompts below which a token's share cannot be told
_MUCH_LEFT_PERCENT = 5.0
_MEANINGLESS_PERCENT = 300.0  # of single requests, whose first tokens scatter
_MANY_FAILED = 0.01


@dataclass(frozen=True, slots=True)
class LearnedTerm:
    """One term before and after.

    Parameters
    ----------
    name, unit : str
        See `kvsim.calibrate.served.terms.Term`.
    before, after : float
        Alike where it is not identified, unless the search was cut.
    deviation : float or None
        How well the requests tell it, one standard deviation; None where they do not.
    reason : str
        Why they do not.
    """

    name: str
    unit: str
    before: float
    after: float
    deviation: float | None
    reason: str = ""

    @property
    def identified(self) -> bool:
        """Whether the requests told it."""
        return self.deviation is not None


@dataclass(frozen=True, slots=True)
class LearnedServer:
    """What a server's requests said of it.

    Parameters
    ----------
    requests : ServedRequests
        The file.
    scenario : Scenario
        What served them.
    server : Server
        What was known before.
    profile : AcceleratorProfile
        The same card with what was learned, for ``--gpu``.
    terms : tuple of LearnedTerm
        In the order of `TERMS`.
    parts : Parts
        Which requests were fitted.
    before, after : dict of str to dict of str to Error or None
        By part ("fitted", "not_fitted") and metric ("ttft", "tpot", "e2el").
    simulations : int
        How many were run.
    interrupted : bool
        Whether the search was cut: then the terms are the nearest that it had met.
    warnings : tuple of str
        What to know of it.
    """

    requests: ServedRequests
    scenario: Scenario
    server: Server
    profile: AcceleratorProfile
    terms: tuple[LearnedTerm, ...]
    parts: Parts
    before: Errors
    after: Errors
    simulations: int
    interrupted: bool
    warnings: tuple[str, ...]

    @property
    def coefficients(self) -> StepCoefficients:
        """Those of the profile."""
        assert self.profile.coefficients is not None
        return self.profile.coefficients

    def record(self) -> dict[str, Any]:
        """The answer as JSON."""
        return {
            "kind": "kvsim-served-learning",
            "file": self.requests.path.name,
            "format": self.requests.format,
            "scenario": self.scenario.name,
            "accelerator": self.profile.name,
            "engine": self.server.engine,
            "requests": {
                "answered": len(self.requests),
                "failed": self.requests.failed,
                "fitted": int(self.parts.fitted.sum()),
                "not_fitted": int(self.parts.judged.sum()),
                "blocks": self.parts.blocks,
                "most_in_flight": int(self.requests.in_flight.max()),
            },
            "simulations": self.simulations,
            "interrupted": self.interrupted,
            "warnings": list(self.warnings),
            "terms": [asdict(term) | {"identified": term.identified} for term in self.terms],
            "error_percent": {
                "before": _plain(self.before),
                "after": _plain(self.after),
            },
            "coefficients": self.coefficients.model_dump(mode="json", exclude_defaults=True),
        }


def learn_served(
    path: Path,
    scenario: Scenario,
    *,
    accelerator: AcceleratorProfile | None = None,
    progress: Progress | None = None,
) -> LearnedServer:
    """Learn the terms of a server from what a client measured of it (how: `search`, `parts`).

    Parameters
    ----------
    path : Path
        See `kvsim.calibrate.served.requests`.
    scenario : Scenario
        What served; its workload is not used.
    accelerator : AcceleratorProfile, optional
        In place of the one that the scenario names.
    progress : callable, optional
        See `Progress`. A ``KeyboardInterrupt`` ends the search and keeps what was found.

    Raises
    ------
    InputError
        As `read_served_requests`, `replaying` and `split`; for requests that nothing explains.
    MissingExtraError
        Without scipy.
    """
    requests = read_served_requests(path)
    parts = split(requests)
    with replaying(requests, scenario, accelerator) as replay:
        run = _Run(replay, measured(requests), parts, progress or (lambda count: None))
        terms, hopeless = _tellable(requests)
        known = [replay.server.value(term) for term in terms]
        interrupted = False
        try:
            found = search(partial(run.log_ratios, terms), terms, known, requests.mean_in_flight)
        except KeyboardInterrupt:
            interrupted = True
            found = Found(dict(run.nearest), {}, {})
        return _learned(requests, scenario, run, found, hopeless, interrupted)


def write_learned(path: Path, learned: LearnedServer) -> None:
    """Write what was learned as a profile: the scenario's accelerator, all else as it was.

    Raises
    ------
    InputError
        As `refuse_output`, or when `path` cannot be written.
    """
    refuse_output(path, learned.profile)
    like = lines_of(learned.scenario.accelerator, learned.profile)
    write_coefficients(path, learned.coefficients, like=like)


def refuse_output(path: Path, profile: AcceleratorProfile) -> None:
    """Refuse a place for a profile, before the search and not after it.

    Raises
    ------
    InputError
        When there is no such folder, or the profile of another card.
    """
    if not path.absolute().parent.is_dir():
        raise InputError("no such folder", where=str(path.absolute().parent))
    if path.exists() and (name := read_yaml(path).get("name")) != profile.name:
        raise InputError(
            f"is a profile of {name}, and {profile.name} would be learned",
            where=str(path),
            fix="give another --output",
        )


# ---- the run --------------------------------------------------------------------------------


@dataclass
class _Run:
    """Simulations of one server, counted, and the nearest of them."""

    replay: Replay
    measured: Latencies
    parts: Parts
    progress: Progress
    count: int = 0
    nearest: dict[str, float] = field(default_factory=dict)
    least: float = np.inf

    def __post_init__(self) -> None:
        self.before = self.simulated(self.replay.server.accelerator)

    def simulated(self, accelerator: AcceleratorProfile) -> Latencies:
        """Simulate the requests."""
        found = self.replay.latencies(accelerator)
        self.count += 1
        self.progress(self.count)
        return found

    def log_ratios(self, terms: Sequence[Term], values: Sequence[float]) -> Floats:
        """Log ratios of simulated to measured TTFT and TPOT, of the fitted requests."""
        simulated = self.simulated(self.replay.server.changed(terms, values))
        logs = np.concatenate([self._log_ratio(simulated, name) for name in _FITTED])
        if (off := badness(logs)) < self.least:
            self.least = off
            self.nearest = {t.name: float(v) for t, v in zip(terms, values, strict=True)}
        return logs

    def _log_ratio(self, simulated: Latencies, name: str) -> Floats:
        ours, theirs = simulated[name][self.parts.fitted], self.measured[name][self.parts.fitted]
        known = ~np.isnan(theirs)
        return np.asarray(np.log(ours[known] / theirs[known]))


def _tellable(requests: ServedRequests) -> tuple[list[Term], dict[str, str]]:
    """Leave out what these requests cannot tell, whatever they measured."""
    low, high = np.percentile(requests.prompt_tokens, [10, 90])
    alike = high < _FEW_LENGTHS * low
    reasons = {"token_seconds": f"prompts are alike: {low:,.0f} to {high:,.0f} tokens"}
    left = [term for term in TERMS if not (alike and term.name in reasons)]
    return left, reasons if alike else {}


def _learned(
    requests: ServedRequests,
    scenario: Scenario,
    run: _Run,
    found: Found,
    hopeless: dict[str, str],
    interrupted: bool,
) -> LearnedServer:
    """Round what was found, and judge it."""
    server = run.replay.server
    kept = [term for term in TERMS if term.name in found.values]
    values = [round_significant(found.values[term.name]) for term in kept]
    theirs = {"fitted": run.parts.fitted, "not_fitted": run.parts.judged}
    after = run.simulated(server.changed(kept, values)) if kept else run.before
    errors = [
        {name: errors_of(simulated, run.measured, part) for name, part in theirs.items()}
        for simulated in (run.before, after)
    ]
    facts: dict[str, Any] = {
        "learned": _source(requests, scenario, server, errors[1]),
        "date": date.today().isoformat(),
        "fitted_on": f"{int(run.parts.fitted.sum())} of {len(requests)} requests",
        "error_percent": _mean_error(errors[1]["fitted"]),
    }
    if facts["error_percent"] > _MEANINGLESS_PERCENT and not interrupted:
        raise InputError(
            f"nothing explains these requests: they are {facts['error_percent']:.3g} % off",
            where=str(requests.path),
            fix="check that times are in seconds, and that the scenario is what served them",
        )
    reasons = hopeless | found.reasons
    return LearnedServer(
        requests=requests,
        scenario=scenario,
        server=server,
        profile=server.changed(kept, values, **facts),
        terms=tuple(_term(term, server, found, reasons) for term in TERMS),
        parts=run.parts,
        before=errors[0],
        after=errors[1],
        simulations=run.count,
        interrupted=interrupted,
        warnings=tuple(_warnings(requests, kept, *errors)),
    )


def _term(term: Term, server: Server, found: Found, reasons: dict[str, str]) -> LearnedTerm:
    before, after = server.value(term), found.values.get(term.name)
    deviation = found.deviations.get(term.name)
    return LearnedTerm(
        name=term.name,
        unit=term.unit,
        before=before,
        after=before if after is None else round_significant(after),
        deviation=None if deviation is None else round_significant(deviation, 2),
        reason="" if deviation is not None else reasons.get(term.name, "the search was cut"),
    )


def _mean_error(errors: dict[str, Error | None]) -> float:
    """Mean absolute error of single requests over the metrics that were fitted, percent."""
    known = [error.mean_absolute_percent for name in _FITTED if (error := errors[name])]
    return round(float(np.mean(known)), 2)


def _source(requests: ServedRequests, scenario: Scenario, server: Server, after: Errors) -> str:
    """What the profile says of itself: whose requests, and how far it is off on the others."""
    off = ", ".join(
        f"{SHORT[name]} {error.mean_percent:+.1f} %"
        for name in METRICS
        if (error := after["not_fitted"][name])
    )
    engine = f"{server.engine} {scenario.engine.version}".strip()
    return (
        f"{len(requests)} requests of {requests.path.name},"
        f" {scenario.model} on {engine}: means of those not fitted off by {off}"
    )


def _warnings(
    requests: ServedRequests, kept: Sequence[Term], before: Errors, after: Errors
) -> list[str]:
    """What to know of the answer."""
    said = []
    sent = len(requests) + requests.failed
    if requests.failed > _MANY_FAILED * sent:
        said.append(
            f"{requests.failed:,} of {sent:,} requests failed and are not replayed: what they"
            " loaded the server with is missing"
        )
    if not kept:
        said.append("no term was identified: the profile is the scenario's own")
    said += [
        f"{SHORT[name]} of the requests that were not fitted is off by more than before: do not"
        " use the profile for it"
        for name in METRICS
        if (was := before["not_fitted"][name])
        and (now := after["not_fitted"][name])
        and now.mean_absolute_percent > was.mean_absolute_percent
    ]
    left = [
        f"{SHORT[name]} {error.mean_percent:+.1f} %"
        for name in METRICS
        if (error := after["fitted"][name]) and abs(error.mean_percent) > _MUCH_LEFT_PERCENT
    ]
    if left:
        said.append(
            f"the requests that were fitted are still off by {', '.join(left)}: these terms do not"
            " explain the server; look at the scenario's model, formats, card and flags"
        )
    return said


def _plain(errors: Errors) -> dict[str, Any]:
    return {
        part: {name: error and {k: round(v, 3) for k, v in asdict(error).items()}
               for name, error in by_metric.items()}
        for part, by_metric in errors.items()
    }  # fmt: skip
