"""What a prefix cache of a given size would hit, and what a tier below the GPU's would add.

::

    blocks of the cache   |<--- GPU --->|<-------- CPU -------->|<--------- SSD --------->|
    hits                   ratio(gpu)     ratio(gpu+cpu) - ratio(gpu)     ...

Tiers are exclusive: what one evicts moves to the next, so together they are one cache of the
sum of their sizes. Under LRU that is exact; under other policies it supposes that the order
of eviction goes on below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kvsim.errors import InputError
from kvsim.studies.cache.policies import POLICIES, hit_ratio
from kvsim.studies.cache.trace import PrefixTrace

__all__ = [
    "CacheTier",
    "TierGain",
    "cache_policy_names",
    "cache_sizes",
    "hit_ratio_curve",
    "tier_gains",
]


def cache_policy_names() -> tuple[str, ...]:
    """Names of the replacement policies that `hit_ratio_curve` knows."""
    return POLICIES


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
        See `kvsim.studies.cache.policies.hit_ratio`.
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
    One token per block and a byte per token: two blocks on the GPU, one more below it.

    >>> trace = PrefixTrace("t", 1, ((1, 2), (3,), (1, 2)))
    >>> [round(each.gained, 2) for each in
    ...  tier_gains(trace, [CacheTier("GPU", 2), CacheTier("CPU", 1)], token_bytes=1)]
    [0.0, 0.4]
    """
    if token_bytes <= 0:
        raise InputError(f"a token of {token_bytes:g} bytes: this model keeps nothing per token")
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
