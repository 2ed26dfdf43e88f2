"""What a hit costs: its bytes over a link, beside its tokens computed again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.errors import InputError
from kvsim.memory.footprint import sequence_bytes
from kvsim.memory.rank import Rank
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec
from kvsim.steptime.kv_reads import prefill_pairs
from kvsim.steptime.model import StepLoad, StepTimeModel

__all__ = ["HitCost", "hit_costs"]


class HitCost(NamedTuple):
    """A prefix of so many tokens: fetched from a tier, or computed again.

    Parameters
    ----------
    tokens : int
        Length of the prefix.
    kv_bytes : int
        What it keeps, all ranks together.
    fetch_seconds : mapping of str to float
        By link: every rank fetches its own part over its own link.
    recompute_seconds : float
        What prefilling it adds to a step in which another sequence decodes.
    """

    tokens: int
    kv_bytes: int
    fetch_seconds: Mapping[str, float]
    recompute_seconds: float


def hit_costs(
    model: ModelSpec | str,
    accelerator: AcceleratorProfile | str,
    lengths: Iterable[int],
    links: Mapping[str, float],
    **flags: Any,
) -> tuple[HitCost, ...]:
    """Set fetching a hit beside computing it again, for prefixes of several lengths.

    ::

        fetch = bytes of one rank / link        recompute = prefill in a step - that step

    Parameters
    ----------
    model, accelerator : object or str
        What serves; names are looked up.
    lengths : iterable of int
        Prefix lengths, tokens.
    links : mapping of str to float
        Bytes/s, one direction, of each device's own link to a tier, by the tier's name.
    **flags
        See `kvsim.EngineOptions`: ``tensor_parallel_size``, ``kv_cache_dtype``.

    Raises
    ------
    InputError, UnsupportedError
        For names or flags that no engine takes, or a link of no speed.
    """
    slow = [name for name, rate in links.items() if not rate > 0]
    if slow:
        raise InputError(f"the link to {slow[0]} has no speed", fix="give bytes/s above 0")
    spec = model if isinstance(model, ModelSpec) else find_model(model)
    card = (
        accelerator
        if isinstance(accelerator, AcceleratorProfile)
        else find_accelerator(accelerator)
    )
    engine = get_engine("vllm")
    deployment = engine.resolve(Deployment(spec, card, EngineOptions(**flags)))
    step_time = StepTimeModel.from_deployment(deployment, engine=engine)
    return tuple(_hit_cost(deployment, step_time, tokens, links) for tokens in lengths)


def _hit_cost(
    deployment: Deployment, step_time: StepTimeModel, tokens: int, links: Mapping[str, float]
) -> HitCost:
    model, tp = deployment.model, deployment.options.tensor_parallel_size
    rank_bytes = sequence_bytes(model, deployment.kv_format, tokens, Rank(tp=tp))
    pairs = prefill_pairs(model, 0, tokens)
    alone = step_time.seconds(StepLoad(tokens=1, sequences=1))
    both = step_time.seconds(StepLoad(tokens + 1, 2, prefill_pairs=pairs))
    fetched = {name: rank_bytes / rate for name, rate in links.items()}
    return HitCost(tokens, tp * rank_bytes, fetched, both - alone)
