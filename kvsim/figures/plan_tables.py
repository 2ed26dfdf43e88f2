"""Plans as tables: side by side, by kind of layer, and what would change them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvsim.figures.chart import Table
from kvsim.figures.plan import plan_labels
from kvsim.units import GIB, KIB, MIB

if TYPE_CHECKING:
    from kvsim.planning.planner import Plan

__all__ = [
    "comparison_table",
    "kinds_table",
    "pools_table",
    "provenance_table",
    "retention_table",
    "suggestions_table",
]


def comparison_table(plans: Sequence[Plan]) -> Table:
    """Set plans side by side, one row each."""
    rows = [
        {
            "plan": text,
            "fits": "yes" if plan.fits else "no",
            "weights GiB": round(plan.memory.weights_bytes / GIB, 2),
            "other GiB": round(plan.memory.overhead_bytes / GIB, 2),
            "KV cache GiB": round(max(0, plan.memory.kv_cache_bytes) / GIB, 2),
            "KV dtype": plan.kv_cache.dtype,
            "bytes/token": plan.kv_cache.bytes_per_token,
            "blocks": plan.kv_cache.num_blocks,
            "block tokens": plan.kv_cache.block_size,
            "longest request tokens": plan.kv_cache.max_model_len,
            "requests at once": round(plan.kv_cache.max_concurrency, 2),
            "tokens/s": round(plan.decode.batches[-1].tokens_per_s) if plan.fits else None,
        }
        for text, plan in zip(plan_labels(plans), plans, strict=True)
    ]
    return Table("comparison", "Side by side", rows)


def kinds_table(plan: Plan) -> Table:
    """What the layers of each kind keep, with the sum that gives it."""
    rows = [
        {
            "layers": kind.group,
            "kind": kind.kind,
            "count": kind.layers,
            "bytes/token": kind.bytes_per_token,
            f"MiB at {plan.fragmentation.context_len:,} tokens": round(kind.context_bytes / MIB, 3),
            "formula": kind.formula,
        }
        for kind in plan.kv_kinds
    ]
    return Table("kinds", f"What a sequence keeps ({plan.kv_cache.dtype}, one rank)", rows)


def pools_table(plan: Plan) -> Table:
    """The pools that the engine keeps, each with what draws from it."""
    rows = [
        {
            "pool": pool.name,
            "blocks": pool.num_blocks,
            "withheld": pool.withheld_blocks,
            "tokens each": pool.block_size,
            "KiB each": round(pool.block_bytes / KIB, 2),
            "groups": sum(group.pool == pool.name for group in plan.groups),
        }
        for pool in plan.pools
    ]
    return Table("pools", "Blocks, pool by pool (one rank)", rows)


def suggestions_table(plan: Plan) -> Table:
    """What would make it fit, each re-planned."""
    rows = [
        {
            "change": each.change,
            "flag": each.flag,
            "requests at once": round(each.max_concurrency, 2),
            "of tokens": each.max_model_len,
            "KV cache GiB": round(each.kv_cache_bytes / GIB, 2),
        }
        for each in plan.suggestions
    ]
    return Table("suggestions", "What would make it fit (each re-planned)", rows)


def retention_table(plan: Plan) -> Table:
    """What keeping less of every sequence would give, and its price."""
    rows = [
        {
            "policy": each.policy,
            "kept tokens": each.kept_tokens,
            "MiB per sequence": round(each.sequence_bytes / MIB, 2),
            "share of full": round(each.share, 4),
            "requests": each.requests,
            "price": each.price,
        }
        for each in plan.retention
    ]
    longest = plan.kv_cache.max_model_len
    return Table("retention", f"Keeping less of {longest:,} tokens", rows)


def provenance_table(plan: Plan) -> Table:
    """Where each number comes from."""
    rows = [{"number": name, "source": source} for name, source in plan.provenance.items()]
    return Table("provenance", "Where the numbers come from", rows)
