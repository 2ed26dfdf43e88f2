"""A workload in the few numbers that people state one in, as a scenario's mapping.

::

    Traffic(rate=4, prompt_tokens=1000, output_tokens=200)

    workload:
      arrivals: {kind: poisson, rate: 4}
      lengths:
        prompt: {kind: fixed, tokens: 1000}
        output: {kind: fixed, tokens: 200}
      requests: 1000

Over a workload that is already described, the same numbers are changes to it: of bursty
arrivals `rate` changes the rate alone, and what is not said stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from kvsim.errors import InputError

__all__ = [
    "CONTRADICTIONS",
    "DEFAULT_REQUESTS",
    "Change",
    "Traffic",
    "TrafficError",
    "describe_workload",
    "workload_changes",
]

DEFAULT_REQUESTS = 1000  # as `vllm bench serve --num-prompts`
LONGEST_OVER_MEAN = 8  # lengths with a spread are cut at this many times their mean

CONTRADICTIONS = (("rate", "users"), ("burstiness", "users"))  # fields of which one may be said

_WITH_RATE = ("poisson", "constant", "gamma", "weibull", "diurnal")  # their rate is one number
_WITH_CV = ("gamma", "diurnal", "piecewise", "on_off")  # of gamma gaps


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who asks what, in the numbers of a benchmark's command line; None is not said.

    Parameters
    ----------
    rate : float, optional
        Requests/s in open loop.
    burstiness : float, optional
        Shape of the gamma distribution of gaps, as in ``vllm bench serve``: 1 is Poisson,
        below 1 burstier. The gaps' CV is ``burstiness**-0.5``.
    users : int, optional
        In a closed loop: each waits for the answer, pauses, and asks again.
    think_seconds : float, optional
        Their mean pause, exponential; first requests are spread over as long. 0 by default.
    prompt_tokens, output_tokens : int, optional
        Mean lengths.
    spread : float, optional
        CV of lognormal lengths, cut at eight times their mean; 0, the default, is all alike.
    prefix_tokens, prefix_groups : int, optional
        Length of a shared system prompt, put before each prompt, and how many there are (1).
    requests : int, optional
        How many; 1,000 where neither this nor a duration is said.
    duration_seconds : float, optional
        How long requests come.

    Raises
    ------
    TrafficError
        For two that contradict each other.
    """

    rate: float | None = None
    burstiness: float | None = None
    users: int | None = None
    think_seconds: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    spread: float | None = None
    prefix_tokens: int | None = None
    prefix_groups: int | None = None
    requests: int | None = None
    duration_seconds: float | None = None

    def __post_init__(self) -> None:
        for one, other in CONTRADICTIONS:
            if None not in (getattr(self, one), getattr(self, other)):
                raise TrafficError(one, f"contradicts {other}", "leave one of the two out")

    @property
    def is_silent(self) -> bool:
        """Whether nothing is said."""
        return all(getattr(self, field.name) is None for field in fields(self))


class TrafficError(InputError):
    """A number that cannot be taken as it stands.

    Parameters
    ----------
    field : str
        Whose, among `Traffic`'s.
    what, fix : str
        What is wrong, and what to do instead.
    """

    def __init__(self, field: str, what: str, fix: str) -> None:
        super().__init__(what, where=field, fix=fix)
        self.field = field


class Change(NamedTuple):
    """A key below ``workload``, its value, and the fields of `Traffic` that say it."""

    key: str
    value: object
    fields: tuple[str, ...]


def describe_workload(traffic: Traffic) -> dict[str, Any]:
    """Return a scenario's ``workload`` that says this and nothing else.

    What is missing or out of range is told where the mapping is read, as of a file's.

    Raises
    ------
    TrafficError
        For a number that needs another.

    Examples
    --------
    >>> described = describe_workload(Traffic(rate=4, prompt_tokens=1000, output_tokens=200))
    >>> described["arrivals"], described["requests"]
    ({'kind': 'poisson', 'rate': 4}, 1000)
    """
    described: dict[str, Any] = {}
    for key, value, _ in workload_changes(traffic, {}):
        *sections, last = key.split(".")
        at = described
        for section in sections:
            at = at.setdefault(section, {})
        at[last] = value
    return described


def workload_changes(traffic: Traffic, said: Mapping[str, Any]) -> list[Change]:
    """Return what must be set in a workload so that it is as `traffic` says.

    Parameters
    ----------
    traffic : Traffic
        The numbers.
    said : mapping
        The workload so far, as its file has it, unchecked; empty for none.

    Raises
    ------
    TrafficError
        For a number that has no place in it.
    """
    return [
        *_arrivals(traffic, _section(said, "arrivals"), _section(said, "prefix")),
        *_lengths(traffic, _section(said, "lengths")),
        *_prefix(traffic, _section(said, "prefix")),
        *_ends(traffic, said),
    ]


def _section(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    inner = said.get(key)
    return inner if isinstance(inner, Mapping) else {}


# --- arrivals --------------------------------------------------------------------------------


def _arrivals(
    traffic: Traffic, said: Mapping[str, Any], prefix: Mapping[str, Any]
) -> Iterator[Change]:
    if traffic.users is not None or traffic.think_seconds is not None:
        return _clients(traffic, said, prefix)
    if traffic.burstiness is not None:
        return _bursts(traffic, said, traffic.burstiness**-0.5)
    return iter(()) if traffic.rate is None else _rate(traffic.rate, said)


def _rate(rate: float, said: Mapping[str, Any]) -> Iterator[Change]:
    kind = said.get("kind")
    _refuse_many_rates(kind)
    if kind in _WITH_RATE:
        yield Change("arrivals.rate", rate, ("rate",))
    else:
        yield Change("arrivals", {"kind": "poisson", "rate": rate}, ("rate",))


def _refuse_many_rates(kind: object) -> None:
    if kind in ("piecewise", "on_off"):
        raise TrafficError(
            "rate",
            f"the workload's arrivals are {kind}, which have several rates",
            "replace them whole: --set 'workload.arrivals={kind: poisson, rate: ...}'",
        )


def _bursts(traffic: Traffic, said: Mapping[str, Any], cv: float) -> Iterator[Change]:
    kind, rate = said.get("kind"), traffic.rate
    if rate is not None:
        _refuse_many_rates(kind)
    if kind in _WITH_CV:
        yield Change("arrivals.cv", cv, ("burstiness",))
        if rate is not None:
            yield Change("arrivals.rate", rate, ("rate",))
        return
    rate = said.get("rate") if rate is None else rate
    if rate is None:
        raise TrafficError("burstiness", "says how bursty a rate is", "give a rate, too")
    gaps = {"kind": "poisson"} if cv == 1 else {"kind": "gamma", "cv": cv}
    yield Change("arrivals", {**gaps, "rate": rate}, ("rate", "burstiness"))


def _clients(
    traffic: Traffic, said: Mapping[str, Any], prefix: Mapping[str, Any]
) -> Iterator[Change]:
    users, think = traffic.users, traffic.think_seconds
    if think is not None and prefix.get("kind") == "conversations":
        raise TrafficError(
            "think_seconds",
            "the workload's conversations have a pause of their own",
            "set that: --set 'workload.prefix.think={kind: exponential, mean: ...}'",
        )
    is_loop = said.get("kind") == "closed_loop"
    if users is None and not is_loop:
        raise TrafficError("think_seconds", "is a pause of users", "give users, too")
    if is_loop and users is not None:
        yield Change("arrivals.clients", users, ("users",))
    if is_loop and think is not None:
        yield Change("arrivals.think", _pause(think), ("think_seconds",))
        yield Change("arrivals.ramp_seconds", think, ("think_seconds",))
    if not is_loop:
        pause = {"think": _pause(think), "ramp_seconds": think} if think else {}
        loop = {"kind": "closed_loop", "clients": users, **pause}
        yield Change("arrivals", loop, ("users", "think_seconds"))


def _pause(seconds: float) -> dict[str, Any]:
    if seconds == 0:
        return {"kind": "fixed", "seconds": 0}
    return {"kind": "exponential", "mean": seconds}


# --- lengths, prefixes, the end ---------------------------------------------------------------


def _lengths(traffic: Traffic, said: Mapping[str, Any]) -> Iterator[Change]:
    if said.get("kind", "independent") != "independent":
        return _in_place_of_pairs(traffic)
    return _apart(traffic, said)


def _apart(traffic: Traffic, said: Mapping[str, Any]) -> Iterator[Change]:
    for name in ("prompt", "output"):
        field = f"{name}_tokens"
        mean = getattr(traffic, field)
        if mean is None and traffic.spread is not None:
            mean = _mean(_section(said, name))
            if mean is None:
                raise TrafficError("spread", f"goes around a mean {name}", f"give {name}, too")
        if mean is not None:
            lengths = _length(mean, traffic.spread or 0)
            yield Change(f"lengths.{name}", lengths, (field, "spread"))


def _in_place_of_pairs(traffic: Traffic) -> Iterator[Change]:
    """Lengths that were drawn in pairs are replaced both, or not at all."""
    means = {"prompt": traffic.prompt_tokens, "output": traffic.output_tokens}
    named = ("prompt_tokens", "output_tokens", "spread")
    stated = [field for field in named if getattr(traffic, field) is not None]
    missing = [name for name, mean in means.items() if mean is None]
    if stated and missing:
        raise TrafficError(
            stated[0],
            "the workload draws prompts and outputs in pairs",
            f"give {' and '.join(missing)}, too",
        )
    if stated:
        drawn = {name: _length(mean, traffic.spread or 0) for name, mean in means.items()}
        yield Change("lengths", drawn, named)


def _mean(length: Mapping[str, Any]) -> Any:
    """The mean that a distribution states, if it does."""
    return length.get("tokens") if length.get("kind") == "fixed" else length.get("mean")


def _length(mean: Any, spread: float) -> dict[str, Any]:
    if spread == 0:
        return {"kind": "fixed", "tokens": mean}
    longest = LONGEST_OVER_MEAN * mean
    return {"kind": "lognormal", "mean": mean, "cv": spread, "max": longest}


def _prefix(traffic: Traffic, said: Mapping[str, Any]) -> Iterator[Change]:
    stated = {"tokens": traffic.prefix_tokens, "groups": traffic.prefix_groups}
    stated = {key: value for key, value in stated.items() if value is not None}
    if said.get("kind", "none") != "none":
        for key, value in stated.items():
            yield Change(f"prefix.{key}", value, (f"prefix_{key}",))
    elif "tokens" in stated:
        groups = {"kind": "groups", **stated}
        yield Change("prefix", groups, ("prefix_tokens", "prefix_groups"))
    elif stated:
        raise TrafficError("prefix_groups", "are of shared prompts", "give prefix-tokens, too")


def _ends(traffic: Traffic, said: Mapping[str, Any]) -> Iterator[Change]:
    """Say when it ends: one limit alone takes the place of the other, or it might do nothing."""
    stated = {"requests": traffic.requests, "duration_seconds": traffic.duration_seconds}
    for key, other in (("requests", "duration_seconds"), ("duration_seconds", "requests")):
        if stated[key] is not None:
            yield Change(key, stated[key], (key,))
            if stated[other] is None and said.get(other) is not None:
                yield Change(other, None, (key,))
    if not said and set(stated.values()) == {None}:
        yield Change("requests", DEFAULT_REQUESTS, ())
