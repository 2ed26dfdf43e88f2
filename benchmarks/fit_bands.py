"""How far predicted KV sizes of vLLM lie from printed ones, by what the start-ups have.

Reads ``reference/kv_capacity_observed.csv`` and ``reference/capacity_2026`` below
``$KVSIM_DATA``; writes ``kvsim/engines/data/vllm_residuals.yaml``, whose meaning is
`kvsim.engines.vllm.residuals`. A row that the overheads were fitted on enters with its error
when they are fitted without it; of start-ups that print the same, one enters.

``--check`` compares instead of writing and leaves 1 when the file would change;
``--leave-one-out`` prints each start-up with the band that the others give it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from capacity_accuracy import compare
from capacity_cases import Case, cases
from fit_overheads import Sample, read_samples, render
from observed_rows import Observation, observations
from reference_data import parsed, parser, written
from scipy.optimize import nnls

from kvsim.engines.base import Engine, ResolvedDeployment
from kvsim.engines.vllm import overheads
from kvsim.engines.vllm.engine import VLLM
from kvsim.engines.vllm.residuals import TRAITS, traits_of, variance
from kvsim.engines.vllm.rules import Rules, kernel_class
from kvsim.units import GIB

TARGET = Path(__file__).parent.parent / "kvsim/engines/data/vllm_residuals.yaml"
SHARE = 0.9
_ROUNDS = 20
# Per cent of a card, squared: no start-up is surer than an eighth of a per cent.
_LEAST_VARIANCE = 0.125**2


@dataclass(frozen=True, slots=True)
class StartUp:
    """One start-up, and how far its predicted KV size was from the printed one.

    Parameters
    ----------
    name : str
        The row.
    rules, deployment : Rules, ResolvedDeployment
        Release, and what was started.
    error_gib, printed_gib : float
        Predicted less printed, and printed.
    is_fitted : bool
        Whether the overheads are fitted on it (the error is of a fit without it).
    """

    name: str
    rules: Rules
    deployment: ResolvedDeployment
    error_gib: float
    printed_gib: float
    is_fitted: bool

    @property
    def is_nvidia(self) -> bool:
        """Whether it ran on an NVIDIA card."""
        return self.deployment.accelerator.vendor == "NVIDIA"

    @property
    def card_gib(self) -> float:
        """The card's memory."""
        return self.deployment.accelerator.memory_bytes / GIB

    @property
    def percent(self) -> float:
        """Error, per cent of the card's memory."""
        return 100 * self.error_gib / self.card_gib


@contextmanager
def coefficients(text: str) -> Iterator[None]:
    """Predict with the overheads that a text gives in place of the data file's."""
    read, found = overheads.read_data, yaml.safe_load(text)
    overheads.read_data = lambda name: found if name == "vllm_overheads" else read(name)
    try:
        yield
    finally:
        overheads.read_data = read


def start_ups(data: Path) -> list[StartUp]:
    """All start-ups of vLLM on NVIDIA's cards whose KV size was printed and can be predicted.

    AMD's two rows are one start-up twice, and what that holds outside torch is taken from it.
    """
    samples = read_samples(data)
    seen = (_seen(row, samples) for row in observations(data) if row.engine_name == "vllm")
    unseen = (_unseen(case) for case in cases(data) if isinstance(case.engine, VLLM))
    found = [each for each in (*seen, *unseen) if each is not None and each.is_nvidia]
    return list({_likeness(each): each for each in found}.values())


def _likeness(start: StartUp) -> tuple[object, ...]:
    deployment = start.deployment
    what = deployment.model.name, deployment.accelerator.name, start.rules.release
    return (*what, round(start.error_gib, 2))


def _seen(row: Observation, samples: list[Sample]) -> StartUp | None:
    if compare(row).error_percent is None:
        return None
    with coefficients(render([sample for sample in samples if sample.name != row.name])):
        predicted = compare(row).predicted_gib
    return _start_up(row.name, row.engine, row.deployment(), predicted, row.printed_gib, True)


def _unseen(case: Case) -> StartUp | None:
    if case.printed_gib is None:
        return None
    predicted, printed = case.predicted_gib, case.printed_gib
    return _start_up(case.name, case.engine, case.deployment, predicted, printed, False)


def _start_up(
    name: str,
    engine: Engine,
    deployment: ResolvedDeployment,
    predicted_gib: float | None,
    printed_gib: float | None,
    is_fitted: bool,
) -> StartUp:
    assert isinstance(engine, VLLM)
    assert predicted_gib is not None
    assert printed_gib is not None
    error = predicted_gib - printed_gib
    return StartUp(name, engine.rules, deployment, error, printed_gib, is_fitted)


def describe(found: list[StartUp]) -> dict[str, Any]:
    """Find what the start-ups cover: the last release that was fitted, and kinds of cards."""
    return {
        "fitted_to": list(max(each.rules.release[:2] for each in found if each.is_fitted)),
        "cards": sorted({kernel_class(each.deployment.accelerator) for each in found}),
    }


def fit(found: list[StartUp], covered: dict[str, Any]) -> dict[str, Any]:
    """Fit the variances to all, and the quantile to errors over sigmas of a fit without the row."""
    has = np.array(
        [
            [True, *(name in traits_of(each.deployment, each.rules, covered) for name in TRAITS)]
            for each in found
        ]
    )
    squares = np.array([each.percent**2 for each in found])
    scores = []
    for left_out in range(len(found)):
        others = np.arange(len(found)) != left_out
        sigma_squared = has[left_out] @ _shares(has[others], squares[others])
        scores.append(math.sqrt(squares[left_out] / sigma_squared))
    rank = min(len(found), math.ceil(SHARE * (len(found) + 1)))
    named = zip(("plain", *TRAITS), _shares(has, squares).tolist(), strict=True)
    return {
        **covered,
        "percent_squared": {name: round(share, 4) for name, share in named},
        "quantile": round(sorted(scores)[rank - 1], 3),
    }


def _shares(has: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Squared per cents of a plain start-up, and what each trait adds.

    Least squares of the squared errors on the traits, none below zero, in rounds: an error's
    square is as uncertain as it is large. Few start-ups may be near by chance: each trait counts
    as if one more had it, as far off as all are on average. A trait that none has takes the
    largest share.
    """
    is_seen = has.any(axis=0)
    alone = np.eye(has.shape[1], dtype=bool)[1:] | (np.arange(has.shape[1]) == 0)
    squares = np.concatenate([squares, np.full(len(alone), squares.mean())])
    has = np.concatenate([has, alone])
    variances = np.full(len(squares), squares.mean())
    shares = np.zeros(has.shape[1])
    for _ in range(_ROUNDS):
        shares = nnls(has / variances[:, None], squares / variances)[0]
        shares[0] = max(shares[0], _LEAST_VARIANCE)
        variances = has @ shares
    shares[~is_seen] = shares.max()
    return shares


def half_width_gib(start: StartUp, fitted: dict[str, Any]) -> float:
    """Half the width of a start-up's band."""
    own = traits_of(start.deployment, start.rules, fitted)
    percent = fitted["quantile"] * math.sqrt(variance(own, fitted["percent_squared"]))
    return percent / 100 * start.card_gib


def render_bands(found: list[StartUp]) -> str:
    """Write the data file."""
    covered = describe(found)
    fitted = fit(found, covered)
    lines = [
        "# Written by benchmarks/fit_bands.py; do not edit: edit the traits or the fit.",
        "# Errors of predicted KV sizes, per cent of the card's memory. A row that the overheads",
        "# are fitted on has the error of a fit without it.",
        f"share: {SHARE}",
        f"fitted_to: {fitted['fitted_to']}",
        f"cards: [{', '.join(fitted['cards'])}]",
        f"quantile: {fitted['quantile']}",
        "percent_squared:",
        *(f"  {name}: {share}" for name, share in fitted["percent_squared"].items()),
        "start_ups:",
    ]
    for each in found:
        own = ", ".join(traits_of(each.deployment, each.rules, covered))
        lines.append(f"  - {{row: {each.name}, percent: {each.percent:+.2f}, traits: [{own}]}}")
    return "\n".join(lines) + "\n"


def leave_one_out(found: list[StartUp]) -> list[tuple[StartUp, float]]:
    """Each start-up with half the width of the band that the others give it, GiB."""
    covered = describe(found)
    return [
        (each, half_width_gib(each, fit([other for other in found if other is not each], covered)))
        for each in found
    ]


def print_left_out(found: list[StartUp]) -> None:
    """One start-up a line; then how many lie within their bands, and how wide those are."""
    left_out = leave_one_out(found)
    covered = describe(found)
    print(f"{'row':5} {'error':>11} {'band':>10} {'of KV':>7}  traits")
    for each, half in left_out:
        outside = "" if abs(each.error_gib) <= half else "OUTSIDE "
        own = ", ".join(traits_of(each.deployment, each.rules, covered)) or "plain"
        share = 100 * half / abs(each.printed_gib)
        print(
            f"{each.name:5} {each.error_gib:+7.2f} GiB {half:6.2f} GiB {share:5.1f} %"
            f"  {outside}{own}"
        )
    for name, inside, count, width, error in summary(left_out):
        print(
            f"{name}: {inside} of {count} within their bands; median half width {width:.1f} %"
            f" of KV, median error {error:.1f} %"
        )


def summary(left_out: list[tuple[StartUp, float]]) -> Iterator[tuple[str, int, int, float, float]]:
    """How many of all, of the fitted and of the others lie within; median width and error, %."""
    fitted = [pair for pair in left_out if pair[0].is_fitted]
    others = [pair for pair in left_out if not pair[0].is_fitted]
    for name, mine in (("all", left_out), ("fitted on", fitted), ("not fitted on", others)):
        inside = sum(abs(each.error_gib) <= half for each, half in mine)
        width = median(100 * half / abs(each.printed_gib) for each, half in mine)
        error = median(100 * abs(each.error_gib / each.printed_gib) for each, _ in mine)
        yield name, inside, len(mine), width, error


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--check", action="store_true", help="compare, do not write")
    options.add_argument("--leave-one-out", action="store_true", help="print each start-up's band")
    chosen = parsed(options)
    found = start_ups(chosen.data)
    if chosen.leave_one_out:
        print_left_out(found)
        return 0
    return written(render_bands(found), TARGET, check=chosen.check)


if __name__ == "__main__":
    sys.exit(main())
