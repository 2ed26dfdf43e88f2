"""Latencies that no request can beat, not even on an empty server: closed form, no simulation.

::

    TTFT >= transits + intake + step      TPOT >= step - what text may gain       E2E: both
    step >= host + layers + sequence + weights read once + collectives of one token
    first step >= the same, with the prompt's dense FLOPs in place of weights, if they take longer

Every term is left out or taken at its least over all loads, so whoever misses an objective by
these misses it at every load: chunks of a prompt, other sequences, KV reads and launches only add
to a step. Of a prompt that may be cached one token is computed. The requests are a sample of those
that the runs meet; a share of them counts where chance does not explain it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log, sqrt
from typing import NamedTuple

import numpy as np

from kvsim.results.words import SHORT
from kvsim.search.load import WARMUP
from kvsim.search.objectives import Objective
from kvsim.simulator.prepare import Setup
from kvsim.simulator.scenario import Scenario
from kvsim.steptime.model import ConstantStepTime, StepLoad, StepTimeModel
from kvsim.steptime.terms import collective_seconds, nearest_link
from kvsim.workload.arrivals import Poisson
from kvsim.workload.base import ClosedLoop, Floats, Ints, Workload
from kvsim.workload.prefix import Conversations, PrefixGroups
from kvsim.workload.spec import build_workload
from kvsim.workload.streams import Streams

__all__ = ["Lengths", "beyond_reach", "least_latencies", "sampled_lengths"]

_SAMPLE = 4_000
_ALL = 2**31
_RISK = 1e-6  # that a sample misleads (Hoeffding, J. Amer. Statist. Assoc. 58, 1963)


class Lengths(NamedTuple):
    """Prompt and output tokens of some requests, and the share by which their shares may err."""

    prompt_tokens: Ints
    output_tokens: Ints
    margin: float


def sampled_lengths(scenario: Scenario, requests: int) -> Lengths | None:
    """Lengths of the requests that runs of so many meet; None where they grow from turn to turn.

    Parameters
    ----------
    scenario : Scenario
        The question.
    requests : int
        Fewest requests of a run.
    """
    workload = scenario.workload
    if workload.trace is not None:
        return _recorded_lengths(scenario)
    if isinstance(workload.prefix, Conversations):
        return None
    limits = {"requests": _SAMPLE, "duration_seconds": None}
    evenly = {"arrivals": Poisson(kind="poisson", rate=1.0), **limits}
    drawn = build_workload(workload.model_copy(update=evenly), scenario.folder)
    prompts, outputs = _columns(drawn, scenario)
    judged = (1 - max(WARMUP, scenario.run.warmup_fraction)) * requests
    margin = sum(sqrt(log(1 / _RISK) / (2 * count)) for count in (_SAMPLE, max(1.0, judged)))
    return Lengths(prompts, outputs, margin)


def _recorded_lengths(scenario: Scenario) -> Lengths | None:
    """Those of a trace's requests that are judged."""
    replay = build_workload(scenario.workload, scenario.folder)
    if isinstance(replay, ClosedLoop):
        return None
    prompts, outputs = _columns(replay, scenario)
    skipped = int(len(prompts) * max(WARMUP, scenario.run.warmup_fraction))
    return Lengths(prompts[skipped:], outputs[skipped:], 0.0)


def _columns(workload: Workload | ClosedLoop, scenario: Scenario) -> tuple[Ints, Ints]:
    """Prompt and output tokens of an open loop's requests."""
    assert not isinstance(workload, ClosedLoop)
    tables = list(workload.tables(Streams(scenario.run.seed)))
    return (
        np.concatenate([table.prompt_tokens for table in tables]),
        np.concatenate([table.output_tokens for table in tables]),
    )


def least_latencies(setup: Setup, prompts: Ints, outputs: Ints) -> dict[str, Floats]:
    """Lower bounds of each request's latencies on a replica.

    Parameters
    ----------
    setup : Setup
        The replica.
    prompts, outputs : int array (n,)
        Tokens.

    Returns
    -------
    dict of str to float array (n,)
        "ttft", "tpot" (NaN: no second token) and "e2el", seconds.
    """
    step, front = _least_step(setup.step_time), setup.step_time.front_end
    computed = np.maximum(1, prompts - _cached(setup)) if setup.caches_prefixes else prompts
    first = np.maximum(step, step - _weights(setup.step_time) + _flops(setup.step_time, computed))
    intake = front.request_seconds + front.token_seconds * prompts
    ttft = 2 * front.transit_seconds + intake + first
    later = np.maximum(outputs - 1, 0)
    each = front.output_token_seconds
    queued = each * (1 + setup.deployment.options.max_num_seqs)
    gained = queued if queued <= step else np.inf  # text that cannot keep up may gain any time
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot = np.where(later > 0, np.maximum(0.0, step - gained / later), np.nan)
    return {"ttft": ttft, "tpot": tpot, "e2el": ttft + later * step}


def beyond_reach(setup: Setup, lengths: Lengths, objectives: Sequence[Objective]) -> str:
    """Say which objective an empty server misses; "" where none is known to be missed.

    Parameters
    ----------
    setup : Setup
        The replica.
    lengths : Lengths
        Of the requests.
    objectives : sequence of Objective
        What must be met.
    """
    least = least_latencies(setup, lengths.prompt_tokens, lengths.output_tokens)
    for each in objectives:
        missed = float((1e3 * least[each.latency] > each.limit_ms).mean()) - lengths.margin
        if not each.is_met(missed):
            return _words(each, least)
    return ""


def _cached(setup: Setup) -> int:
    """Tokens of a prompt that another may have left in the cache, at most."""
    workload = setup.scenario.workload
    if workload.trace is not None or isinstance(workload.prefix, Conversations):
        return _ALL
    return workload.prefix.tokens if isinstance(workload.prefix, PrefixGroups) else 0


def _words(objective: Objective, least: Mapping[str, Floats]) -> str:
    seconds = float(np.nanquantile(least[objective.latency], objective.share))
    return (
        f"an empty server misses {objective.words}: {SHORT[objective.latency]} is"
        f" {1e3 * seconds:,.4g} ms or more (closed form)"
    )


def _least_step(model: StepTimeModel | ConstantStepTime) -> float:
    """What no step takes less than, seconds."""
    cost = model.cost(StepLoad(tokens=1, sequences=1))
    fixed = cost.host_seconds + cost.layer_seconds + cost.sequence_seconds
    return fixed + cost.weight_seconds + _least_collectives(model)


def _least_collectives(model: StepTimeModel | ConstantStepTime) -> float:
    """All-reduces of the smallest message, in whichever regime is quicker; hops are left out."""
    if isinstance(model, ConstantStepTime) or model.tp == 1:
        return 0.0
    link = nearest_link(model.links, model.tp)
    if link is None:
        return 0.0
    sizes = (0, link.large_from_bytes or 0)
    return min(collective_seconds(2 * model.work.layers, size, link) for size in sizes)


def _weights(model: StepTimeModel | ConstantStepTime) -> float:
    """The part of `_least_step` that arithmetic overlaps, seconds."""
    return model.cost(StepLoad(tokens=1, sequences=1)).weight_seconds


def _flops(model: StepTimeModel | ConstantStepTime, tokens: Ints) -> Floats:
    """Dense arithmetic of so many tokens, however many steps and stages share it, seconds."""
    if isinstance(model, ConstantStepTime):
        return np.zeros(len(tokens))
    factor = min(model.gemms.token_factors.values(), default=1.0)
    each = factor * model.work.body_flops / model.gemms.flops_per_s / model.pp
    return np.asarray(each * tokens, dtype=np.float64)
