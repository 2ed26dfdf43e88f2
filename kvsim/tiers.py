"""What a prefix cache of a given size would hit, and what a tier below the GPU's would add.

::

    blocks of the cache   |<--- GPU --->|<-------- CPU -------->|<--------- SSD --------->|
    hits                   ratio(gpu)     ratio(gpu+cpu) - ratio(gpu)     ...

Tiers are exclusive: what one evicts moves to the next, so together they are one cache of the
sum of their sizes. Under LRU that is exact; under other policies it supposes that the order
of eviction goes on below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, EngineOptions, get_engine
from kvsim.errors import InputError, UnknownNameError
from kvsim.footprint import sequence_bytes
from kvsim.hardware import AcceleratorProfile
from kvsim.kvreads import prefill_pairs
from kvsim.model import ModelSpec
from kvsim.precision import KVFormat, kv_format
from kvsim.steptime import StepLoad, StepTimeModel
from kvsim.streams import Streams
from kvsim.workload.base import Workload
from kvsim.workload.cache_study import POLICIES, hit_ratio
from kvsim.workload.readers import open_trace
from kvsim.workload.spec import build_workload, parse_workload

__all__ = [
    "CacheTier",
    "HitCost",
    "PrefixTrace",
    "TierGain",
    "cache_policy_names",
    "cache_sizes",
    "example_prefix_names",
    "example_prefixes",
    "hit_costs",
    "hit_ratio_curve",
    "read_prefixes",
    "tier_gains",
]

MOST_REFERENCES = 1_000_000
_EXAMPLE_BLOCK_TOKENS = 256

# Small, made by the same generator as any workload; a study of real traffic needs a trace.
_EXAMPLES: dict[str, dict[str, Any]] = {
    "conversations": {
        "arrivals": {"kind": "poisson", "rate": 0.5},
        "lengths": {
            "prompt": {"kind": "lognormal", "mean": 700, "cv": 1.2, "max": 8000},
            "output": {"kind": "lognormal", "mean": 300, "cv": 0.9, "max": 2000},
        },
        "prefix": {
            "kind": "conversations",
            "turns": {"kind": "exponential", "mean": 6, "min": 1},
            "think": {"kind": "lognormal", "mean": 90, "cv": 1.5, "max": 1800},
            "groups": 4,
            "tokens": 1500,
            "max_context_tokens": 32000,
        },
        "requests": 1000,
    },
    "documents": {
        "arrivals": {"kind": "poisson", "rate": 1},
        "lengths": {
            "prompt": {"kind": "lognormal", "mean": 200, "cv": 0.8, "max": 2000},
            "output": {"kind": "lognormal", "mean": 250, "cv": 0.8, "max": 1000},
        },
        "prefix": {"kind": "groups", "groups": 300, "tokens": 6000, "exponent": 0.9},
        "requests": 800,
    },
}


@dataclass(frozen=True)
class PrefixTrace:
    """Block identities of requests, in order of arrival.

    Parameters
    ----------
    name : str
        File or example.
    block_tokens : int
        Tokens behind an identity.
    requests : tuple of sequence of int
        Identities of each request, from its head.
    is_cut : bool
        Whether requests were left out because of the limit on references.
    notes : tuple of str
        What the reader left out or changed.
    """

    name: str
    block_tokens: int
    requests: tuple[Sequence[int], ...]
    is_cut: bool = False
    notes: tuple[str, ...] = ()

    @property
    def references(self) -> int:
        """Blocks that the requests ask for, repeats included."""
        return sum(map(len, self.requests))

    @property
    def distinct_blocks(self) -> int:
        """Blocks that ever need to be kept."""
        return len({block for ids in self.requests for block in ids})


def cache_policy_names() -> tuple[str, ...]:
    """Names of the replacement policies that `hit_ratio_curve` knows."""
    return POLICIES


def example_prefix_names() -> list[str]:
    """Names of the small generated traces."""
    return list(_EXAMPLES)


def example_prefixes(
    name: str = "conversations", *, seed: int = 0, most_references: int = MOST_REFERENCES
) -> PrefixTrace:
    """Make one of the small synthetic traces.

    Parameters
    ----------
    name : str
        "conversations" (chats that grow turn by turn behind a few system prompts) or
        "documents" (questions about documents of Zipf-like popularity).
    seed : int
        Seed of every random stream.
    most_references : int
        Cut after the last whole request within so many block references.

    Raises
    ------
    UnknownNameError
        For another name.
    """
    if name not in _EXAMPLES:
        raise UnknownNameError("example", name, _EXAMPLES)
    workload = build_workload(parse_workload(_EXAMPLES[name]))
    if not isinstance(workload, Workload):
        raise InputError(f"the example {name!r} is a closed loop")
    made = _generated(workload, seed)
    requests, is_cut = _limited(made, most_references)
    return PrefixTrace(name, _EXAMPLE_BLOCK_TOKENS, requests, is_cut)


def _generated(workload: Workload, seed: int) -> Iterator[Sequence[int]]:
    size = _EXAMPLE_BLOCK_TOKENS
    for table in workload.tables(Streams(seed)):
        if table.content is not None:
            for row, tokens in enumerate(table.prompt_tokens.tolist()):
                yield table.content.block_ids(row, size, tokens)


def read_prefixes(
    path: Path | str, format_name: str | None = None, *, most_references: int = MOST_REFERENCES
) -> PrefixTrace:
    """Read the block identities of a trace, in the order of the file.

    Parameters
    ----------
    path : Path or str
        A trace whose requests name their blocks: Mooncake's, Bailian's, WEKA's or kvsim's.
    format_name : str, optional
        By default told by the content.
    most_references : int
        Cut after the last whole request within so many block references.

    Raises
    ------
    InputError
        As `kvsim.workload.readers.open_trace`; and when no request names its blocks.
    """
    trace = open_trace(path, format_name)
    if trace.format.arrivals == "rates":
        raise InputError("describes clients, not requests", where=str(path))
    reading = trace.reading()
    named = (row.block_ids for row in trace.rows(reading) if row.block_ids)
    requests, is_cut = _limited(named, most_references)
    if not requests or reading.hash_block_size is None:
        raise InputError(
            f"no request names its prefix blocks (read as {trace.format.name})",
            where=str(path),
            fix="give a trace with hash_ids or block_ids, such as Mooncake's",
        )
    notes = tuple(reading.report.lines())
    return PrefixTrace(trace.path.name, reading.hash_block_size, requests, is_cut, notes)


def _limited(
    requests: Iterable[Sequence[int]], most: int
) -> tuple[tuple[Sequence[int], ...], bool]:
    """The first requests that name no more than `most` blocks, and whether any is left out."""
    kept: list[Sequence[int]] = []
    left = most
    for ids in requests:
        left -= len(ids)
        if left < 0:
            return tuple(kept), True
        kept.append(ids)
    return tuple(kept), False


# --- how often it hits -----------------------------------------------------------------------


def cache_sizes(trace: PrefixTrace, count: int = 12) -> tuple[int, ...]:
    """Return sizes worth looking at, in blocks: equal ratios up to a cache that never evicts.

    The smallest holds the longest request or a thousandth of everything, whichever is more.
    """
    most = max(1, trace.distinct_blocks)
    longest = max(map(len, trace.requests), default=1)
    least = min(most, max(longest, most // 1000, 1))
    ratio = (most / least) ** (1 / max(1, count - 1))
    return tuple(sorted({round(least * ratio**step) for step in range(count)}))


def hit_ratio_curve(
    trace: PrefixTrace, policy: str, capacities_blocks: Iterable[int]
) -> Iterator[float]:
    """Yield the hit ratio of each capacity, as it is found.

    Parameters
    ----------
    trace : PrefixTrace
        Requests.
    policy : str
        See `kvsim.workload.cache_study.hit_ratio`.
    capacities_blocks : iterable of int
        Cache sizes.

    Raises
    ------
    UnknownNameError, InputError
        For another policy, or a capacity below 1.
    """
    for capacity in capacities_blocks:
        yield hit_ratio(trace.requests, capacity, policy)


# --- tiers -----------------------------------------------------------------------------------


class CacheTier(NamedTuple):
    """A place for KV: its name and size in bytes, all devices of a replica together."""

    name: str
    capacity_bytes: float


class TierGain(NamedTuple):
    """What one tier adds to those above it.

    Parameters
    ----------
    name : str
        The tier.
    capacity_bytes : float
        Its own size.
    total_blocks : int
        Blocks of this tier and of all above it.
    hit_ratio : float
        Share of block references found in this tier or above it.
    gained : float
        Share found in this tier.
    gained_tokens_per_request : float
        Tokens of a request that this tier holds, on average.
    """

    name: str
    capacity_bytes: float
    total_blocks: int
    hit_ratio: float
    gained: float
    gained_tokens_per_request: float


def tier_gains(
    trace: PrefixTrace, tiers: Iterable[CacheTier], token_bytes: float, policy: str = "lru"
) -> tuple[TierGain, ...]:
    """Split the hits of a hierarchy among its tiers.

    ::

        gained(tier) = hit ratio(sizes down to it) - hit ratio(sizes above it)

    Parameters
    ----------
    trace : PrefixTrace
        Requests.
    tiers : iterable of CacheTier
        From the fastest down.
    token_bytes : float
        KV bytes of one token, all devices of a replica together.
    policy : str
        Replacement policy of all tiers.

    Raises
    ------
    InputError
        When a token has no bytes.

    Examples
    --------
    One token a block and a byte a token: two blocks on the GPU, one more below it.

    >>> trace = PrefixTrace("t", 1, ((1, 2), (3,), (1, 2)))
    >>> [round(each.gained, 2) for each in
    ...  tier_gains(trace, [CacheTier("GPU", 2), CacheTier("CPU", 1)], token_bytes=1)]
    [0.0, 0.4]
    """
    if token_bytes <= 0:
        raise InputError(f"a token of {token_bytes:g} bytes: this model keeps nothing a token")
    gains: list[TierGain] = []
    total_bytes, before = 0.0, 0.0
    tokens = trace.references * trace.block_tokens / max(1, len(trace.requests))
    for tier in tiers:
        total_bytes += tier.capacity_bytes
        blocks = int(total_bytes / (token_bytes * trace.block_tokens))
        ratio = hit_ratio(trace.requests, blocks, policy) if blocks else 0.0
        gained = ratio - before
        gains.append(TierGain(*tier, blocks, ratio, gained, gained * tokens))
        before = ratio
    return tuple(gains)


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
    deployment = get_engine("vllm").resolve(Deployment(spec, card, EngineOptions(**flags)))
    step_time = StepTimeModel.from_deployment(deployment)
    return tuple(_hit_cost(deployment, step_time, tokens, links) for tokens in lengths)


def _hit_cost(
    deployment: Deployment, step_time: StepTimeModel, tokens: int, links: Mapping[str, float]
) -> HitCost:
    model, tp = deployment.model, deployment.options.tensor_parallel_size
    rank_bytes = sequence_bytes(model, _kv_format(deployment), tokens, tp=tp)
    pairs = prefill_pairs(model, 0, tokens)
    alone = step_time.seconds(StepLoad(tokens=1, sequences=1))
    both = step_time.seconds(StepLoad(tokens + 1, 2, prefill_pairs=pairs))
    fetched = {name: rank_bytes / rate for name, rate in links.items()}
    return HitCost(tokens, tp * rank_bytes, fetched, both - alone)


def _kv_format(deployment: Deployment) -> KVFormat:
    name = deployment.options.kv_cache_dtype or "auto"
    dtype = deployment.options.dtype or "auto"
    chosen = [each for each in (name, dtype) if each != "auto"]
    return kv_format(chosen[0] if chosen else deployment.model.dtype)
