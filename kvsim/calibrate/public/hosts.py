"""Host time from served runs: what an engine adds to a step beyond its kernels.

A run at fixed concurrency c, with prompts of P and answers of O tokens, has a mean time per
output token of::

    TPOT = decode step of c sequences at the mean context
         + host + c * sequence
         + share * (c - 1) / O * (what one more prompt adds to a step)

While a request makes its O tokens, up to ``c - 1`` others are prefilled; `share` is 1 when
requests are spread evenly and 0.5 when all begin together. It belongs to the load generator
of a campaign (the runs of one model on one card under one release), not to the engine: each
campaign has its own, which is fitted and then forgotten. `host` and `sequence` are kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from kvsim.calibrate.fit import Free, least_squares, round_significant
from kvsim.calibrate.public.serving import Kernels, ServedRun, Terms
from kvsim.calibrate.rows import Floats
from kvsim.errors import InputError
from kvsim.specs.hardware import HostCost, StepCoefficients

__all__ = [
    "ALL_VERSIONS",
    "Campaign",
    "HostFit",
    "HostRules",
    "fit_expert_layer",
    "fit_hosts",
    "host_cost",
]

ALL_VERSIONS = "(all versions)"
_GOOD_PERCENT = 10.0
_HOST = Free("host", 2.0, 0.0, 60.0)  # ms
_SEQUENCE = Free("sequence", 30.0, 0.0, 500.0)  # us
_EXPERT_LAYER = Free("expert_layer", 20.0, 0.0, 500.0)  # us


@dataclass(frozen=True, slots=True, order=True)
class Campaign:
    """Runs that one load generator made: a model on a card under a release of an engine."""

    engine: str
    model: str
    card: str
    version: str


@dataclass(frozen=True, slots=True)
class HostFit:
    """Host costs of one engine and how well they describe its runs.

    Parameters
    ----------
    engine, version : str
        The engine; its release, or `ALL_VERSIONS`.
    cost : HostCost
        The answer.
    shares : mapping of Campaign to float
        Part of the other requests' prefills that a request waited for.
    groups : mapping of Campaign to (int, float)
        Runs of each campaign and their mean absolute error, percent.
    """

    engine: str
    version: str
    cost: HostCost
    shares: Mapping[Campaign, float]
    groups: Mapping[Campaign, tuple[int, float]]


@dataclass(frozen=True, slots=True)
class HostRules:
    """What a host fit takes for one engine, and which runs it leaves out.

    Parameters
    ----------
    by_version : bool
        Whether each version of an engine has costs of its own.
    share_by_campaign : bool
        Whether each campaign has a `share` of its own, or all of a fit have one.
    least_share, most_share : float
        Bounds of the fitted `share`.
    fewest_runs : int
        Campaigns with fewer runs are left out.
    keep_waiting : bool
        Whether runs that waited for memory or slots count too.
    """

    by_version: bool = True
    share_by_campaign: bool = True
    least_share: float = 0.5
    most_share: float = 1.0
    fewest_runs: int = 8
    keep_waiting: bool = False


@dataclass(frozen=True)
class _Served:
    """Runs of one fit, and what the kernels take in each."""

    runs: Sequence[ServedRun]
    terms: Sequence[Terms]

    @cached_property
    def campaigns(self) -> list[Campaign]:
        return [Campaign(run.engine, run.model, run.card, run.version) for run in self.runs]

    @cached_property
    def waits(self) -> Floats:
        """Seconds per token if a request waited for the prefills of all others (runs,)."""
        pairs = zip(self.runs, self.terms, strict=True)
        return np.array([(r.concurrency - 1) * t.prompt / r.output_tokens for r, t in pairs])

    def where(self, keeps: Sequence[bool]) -> _Served:
        """The runs that are kept."""
        runs = [run for run, keep in zip(self.runs, keeps, strict=True) if keep]
        return _Served(runs, [each for each, keep in zip(self.terms, keeps, strict=True) if keep])

    def errors_of(self, columns: Sequence[_Column]) -> Callable[[Floats], Floats]:
        """Relative errors (runs,) of a prediction that is linear in its parameters."""
        decode = np.array([terms.decode for terms in self.terms])
        measured = np.array([run.tpot_seconds for run in self.runs])
        design = np.stack([column.seconds for column in columns], axis=1)
        return lambda values: np.asarray((decode + design @ values) / measured - 1)


class _Column(NamedTuple):
    """A parameter, and the seconds per token that one unit of it adds to each run (runs,)."""

    free: Free
    seconds: Floats


def fit_hosts(
    runs: Sequence[ServedRun],
    coefficients: Mapping[str, StepCoefficients],
    rules: HostRules | None = None,
) -> list[HostFit]:
    """Fit each engine's host costs on all its runs at once.

    Parameters
    ----------
    runs : sequence of ServedRun
        Runs.
    coefficients : mapping of str to StepCoefficients
        Kernel rates by the table's word for the card.
    rules : HostRules, optional
        What counts as one engine, and which runs count.

    Returns
    -------
    list of HostFit
        By engine and version.
    """
    rules = rules or HostRules()
    served = _served(runs, Kernels(coefficients), rules)
    names = [(r.engine, r.version if rules.by_version else ALL_VERSIONS) for r in served.runs]
    return [
        _fit_engine(name, served.where([other == name for other in names]), rules)
        for name in sorted(set(names))
    ]


def _served(runs: Sequence[ServedRun], kernels: Kernels, rules: HostRules) -> _Served:
    """The runs that count, with their kernels' time."""
    known = [run for run in runs if kernels.covers(run)]
    served = _Served(known, [kernels.terms(run) for run in known])
    if not rules.keep_waiting:
        pairs = zip(served.runs, served.terms, strict=True)
        served = served.where([not terms.waited(run) for run, terms in pairs])
    sizes = Counter(served.campaigns)
    return served.where([sizes[each] >= rules.fewest_runs for each in served.campaigns])


def _fit_engine(name: tuple[str, str], served: _Served, rules: HostRules) -> HostFit:
    """One engine: host, cost per sequence, and the shares of its campaigns."""
    sharing: Sequence[Any] = (
        served.campaigns if rules.share_by_campaign else [name] * len(served.runs)
    )
    host = _host_columns(served, [name] * len(served.runs))
    columns = [*host, *_share_columns(served, sharing, rules)]
    errors = served.errors_of(columns)
    values = least_squares(errors, tuple(column.free for column in columns))
    shares = dict(zip(sorted(set(sharing)), values[len(host) :], strict=True))
    percent = 100 * np.abs(errors(values))
    of_campaign = dict(zip(served.campaigns, sharing, strict=True))
    return HostFit(
        engine=name[0],
        version=name[1],
        cost=_cost(values, name, len(served.runs)),
        shares={
            each: round_significant(shares[of_campaign[each]], 2) for each in sorted(of_campaign)
        },
        groups={each: _group(served, each, percent) for each in sorted(of_campaign)},
    )


def _host_columns(served: _Served, owners: Sequence[Any]) -> list[_Column]:
    """Host milliseconds per step and microseconds per sequence, of each different owner."""
    batch = np.array([run.concurrency for run in served.runs])
    masks = [_is(owners, each) for each in sorted(set(owners))]
    return [
        *[_Column(_HOST, 1e-3 * mask) for mask in masks],
        *[_Column(_SEQUENCE, 1e-6 * batch * mask) for mask in masks],
    ]


def _share_columns(served: _Served, owners: Sequence[Any], rules: HostRules) -> list[_Column]:
    """The share of the others' prefills that a request waits for, of each different owner."""
    low, high = rules.least_share, rules.most_share
    free = Free("share", (low + high) / 2, low, high)
    return [_Column(free, served.waits * _is(owners, each)) for each in sorted(set(owners))]


def _is(owners: Sequence[Any], owner: Any) -> Floats:
    """1 where the owner is this one, else 0 (runs,)."""
    return np.array([float(each == owner) for each in owners])


def _group(served: _Served, campaign: Campaign, percent: Floats) -> tuple[int, float]:
    mine = _is(served.campaigns, campaign) > 0
    return int(mine.sum()), float(percent[mine].mean())


def _cost(values: Floats, name: tuple[str, str], count: int) -> HostCost:
    return HostCost(
        host_seconds=round_significant(values[0] * 1e-3, 3),
        sequence_seconds=round_significant(values[1] * 1e-6, 3),
        source=f"{count} served runs of {name[0]} {name[1]}".strip(),
    )


def host_cost(fits: Sequence[HostFit], engine: str) -> HostCost:
    """Return the host costs of the engine's newest version that fits all its groups to 10 %.

    Newer versions overlap more of the host's work with the device's, so an older version's
    costs are no guide to them. Where none fits so well, the best fit counts.

    Raises
    ------
    InputError
        When no version of that engine was fitted.
    """
    mine = [fit for fit in fits if fit.engine == engine]
    if not mine:
        raise InputError(f"no served runs of {engine}")
    good = [fit for fit in mine if _worst_group(fit) <= _GOOD_PERCENT]
    if good:
        return max(good, key=lambda fit: _version_key(fit.version)).cost
    return min(mine, key=_worst_group).cost


def _worst_group(fit: HostFit) -> float:
    return max(error for _, error in fit.groups.values())


def _version_key(version: str) -> tuple[int, ...]:
    """Order of versions by their numbers; none at all is oldest."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


# ---- layers with experts ------------------------------------------------------------------------


def fit_expert_layer(
    runs: Sequence[ServedRun],
    coefficients: Mapping[str, StepCoefficients],
    rules: HostRules | None = None,
) -> float:
    """Fit what a layer with experts costs beside its GEMMs, one number for all engines.

    All releases are fitted at once, each with host costs of its own, so that what is common
    to the models with experts, and only to them, is left for the layer.

    Parameters
    ----------
    runs, coefficients, rules
        As `fit_hosts`; the coefficients' own `expert_layer_seconds` is not used.

    Returns
    -------
    float
        Seconds.
    """
    rules, free = rules or HostRules(), {"expert_layer_seconds": 0.0}
    kernels = Kernels({card: c.model_copy(update=free) for card, c in coefficients.items()})
    served = _served(runs, kernels, rules)
    layers = np.array([float(kernels.expert_layers(run)) for run in served.runs])
    columns = [
        *_host_columns(served, [(run.engine, run.version) for run in served.runs]),
        *_share_columns(served, served.campaigns, rules),
        _Column(_EXPERT_LAYER, 1e-6 * layers),
    ]
    values = least_squares(served.errors_of(columns), tuple(column.free for column in columns))
    return round_significant(values[-1] * 1e-6, 2)
