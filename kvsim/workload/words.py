"""A workload in a few words: how fast requests come, and how long they are."""

from __future__ import annotations

import math
from pathlib import Path

from kvsim.workload.arrivals import AtOnce, ClosedLoopArrivals, Piecewise
from kvsim.workload.distributions import (
    Distribution,
    Exponential,
    Fixed,
    Gamma,
    Lognormal,
    Uniform,
    Weibull,
)
from kvsim.workload.lengths import IndependentLengths
from kvsim.workload.prefix import NoPrefix
from kvsim.workload.spec import WorkloadSpec

__all__ = ["in_words"]


def in_words(workload: WorkloadSpec) -> str:
    """Say what a workload is, in one short line.

    Examples
    --------
    >>> from kvsim.workload.traffic import Traffic, describe_workload
    >>> from kvsim.workload.spec import parse_workload
    >>> traffic = Traffic(rate=4, prompt_tokens=1000, output_tokens=200)
    >>> in_words(parse_workload(describe_workload(traffic)))
    'poisson 4/s, 1,000 in, 200 out, 1,000 requests'
    """
    said = [_arrivals(workload), *_lengths(workload), *_sharing(workload)]
    if workload.requests is not None:
        said.append(f"{workload.requests:,} request{'s' if workload.requests > 1 else ''}")
    if workload.duration_seconds is not None:
        said.append(f"{workload.duration_seconds:,g} s")
    return ", ".join(said)


def _arrivals(workload: WorkloadSpec) -> str:
    arrivals = workload.arrivals
    if arrivals is None:
        return f"trace {Path(workload.trace.file).name}" if workload.trace else "no arrivals"
    if isinstance(arrivals, ClosedLoopArrivals):
        return f"{arrivals.clients:,} users"
    if isinstance(arrivals, AtOnce):
        return "all at once"
    if isinstance(arrivals, Piecewise):
        rates = [phase.rate for phase in arrivals.phases]
        return f"piecewise {min(rates):g} to {max(rates):g}/s"
    return f"{arrivals.kind.replace('_', '-')} {arrivals.rate:.3g}/s"


def _lengths(workload: WorkloadSpec) -> list[str]:
    lengths = workload.lengths
    if lengths is None:
        return []
    if not isinstance(lengths, IndependentLengths):
        return [f"lengths of {Path(lengths.file).name if lengths.file else 'pairs'}"]
    return [f"{_mean(lengths.prompt)} in", f"{_mean(lengths.output)} out"]


def _mean(length: Distribution) -> str:
    """The mean that the distribution has before it is cut, or its kind."""
    mean = _mean_tokens(length)
    return str(getattr(length, "kind", "some")) if mean is None else f"{mean:,.0f}"


def _mean_tokens(length: Distribution) -> float | None:
    if isinstance(length, Fixed):
        return length.mean_value
    if isinstance(length, Uniform):
        return (length.low + length.high) / 2
    if isinstance(length, Exponential):
        return length.mean
    if isinstance(length, Lognormal):
        mu, sigma = length.parameters
        return math.exp(mu + sigma**2 / 2)
    if isinstance(length, Gamma):
        shape, scale = length.parameters
        return shape * scale
    if isinstance(length, Weibull):
        shape, scale = length.parameters
        return scale * math.gamma(1 + 1 / shape)
    return None


def _sharing(workload: WorkloadSpec) -> list[str]:
    prefix = workload.prefix
    if isinstance(prefix, NoPrefix):
        return []
    if prefix.kind == "conversations":
        return ["conversations"]
    prompts = "system prompt" if prefix.groups == 1 else "system prompts"
    return [f"{prefix.groups:,} {prompts}"]
