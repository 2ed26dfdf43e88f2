"""Prefix caches by size, and the tiers of memory below the GPU's."""

from kvsim.studies.cache.costs import HitCost, hit_costs
from kvsim.studies.cache.curve import CacheCurve, cache_curve, served
from kvsim.studies.cache.gains import (
    CacheTier,
    TierGain,
    cache_policy_names,
    cache_sizes,
    hit_ratio_curve,
    tier_gains,
)
from kvsim.studies.cache.trace import (
    PrefixTrace,
    example_prefix_names,
    example_prefixes,
    read_prefixes,
)

__all__ = [
    "CacheCurve",
    "CacheTier",
    "HitCost",
    "PrefixTrace",
    "TierGain",
    "cache_curve",
    "cache_policy_names",
    "cache_sizes",
    "example_prefix_names",
    "example_prefixes",
    "hit_costs",
    "hit_ratio_curve",
    "read_prefixes",
    "served",
    "tier_gains",
]
