"""A trace's hit ratios by cache size and policy, in one table, with what a card's pool reaches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from kvsim.catalog.models import find_model
from kvsim.errors import InputError, UnknownNameError, UnsupportedError
from kvsim.memory.footprint import bytes_per_token
from kvsim.memory.rank import Rank
from kvsim.planning.planner import plan
from kvsim.specs.precision import kv_format
from kvsim.studies.cache.gains import cache_sizes
from kvsim.studies.cache.policies import POLICIES, hit_ratio
from kvsim.studies.cache.trace import PrefixTrace
from kvsim.units import format_bytes, parse_bytes

__all__ = ["CacheCurve", "CurvePoint", "Served", "cache_curve", "read_sizes", "served"]

POLICIES_SHOWN = ("lru", "fifo", "lfu", "belady")

_BLOCKS = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True)
class Served:
    """What keeps the blocks: what a token takes, and the pool of a card.

    Parameters
    ----------
    model : str
        Its name.
    kv_cache_dtype : str
        Format of K and V.
    tensor_parallel_size : int
        Ranks that keep a part of each token.
    token_bytes : int
        KV bytes of one token, all ranks together.
    accelerator : str or None
        The card, where one was named.
    pool_tokens : int or None
        Tokens that the engine's pool holds on it, by the plan.
    """

    model: str
    kv_cache_dtype: str
    tensor_parallel_size: int
    token_bytes: int
    accelerator: str | None = None
    pool_tokens: int | None = None

    def pool_blocks(self, block_tokens: int) -> int | None:
        """Blocks of the trace that the pool holds, None without a pool."""
        return None if self.pool_tokens is None else self.pool_tokens // block_tokens


class CurvePoint(NamedTuple):
    """One size of the cache, and what it answers.

    Parameters
    ----------
    blocks : int
        Size, in the trace's blocks.
    is_pool : bool
        Whether this is the card's pool.
    hit_ratios : dict of str to float
        By policy: share of block references that are found.
    """

    blocks: int
    is_pool: bool
    hit_ratios: dict[str, float]


@dataclass(frozen=True)
class CacheCurve:
    """Hit ratios of a trace.

    Parameters
    ----------
    trace : PrefixTrace
        The requests.
    infinite_hit_ratio : float
        Of a cache that never evicts.
    points : sequence of CurvePoint
        By size; those that were finished before an interrupt.
    served : Served or None
        What says how many bytes a block takes.
    interrupted : bool
        Whether sizes are missing.
    """

    trace: PrefixTrace
    infinite_hit_ratio: float
    points: Sequence[CurvePoint]
    served: Served | None = None
    interrupted: bool = False

    @property
    def block_bytes(self) -> int | None:
        """KV bytes of a block, all ranks together, where it is known what serves it."""
        return None if self.served is None else self.served.token_bytes * self.trace.block_tokens

    def rows(self) -> list[dict[str, Any]]:
        """One row a size: blocks, tokens, bytes, whether it is the card's pool, and the ratios."""
        return [
            {
                "blocks": point.blocks,
                "tokens": point.blocks * self.trace.block_tokens,
                "bytes": None if self.block_bytes is None else point.blocks * self.block_bytes,
                "is_gpu_pool": point.is_pool,
                **point.hit_ratios,
            }
            for point in self.points
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the trace, what serves it, the bound, and a row a size."""
        trace, known = self.trace, self.served
        return {
            "trace": trace.name,
            "block_tokens": trace.block_tokens,
            "requests": len(trace.requests),
            "references": trace.references,
            "distinct_blocks": trace.distinct_blocks,
            "is_cut": trace.is_cut,
            "notes": list(trace.notes),
            "model": known and known.model,
            "kv_cache_dtype": known and known.kv_cache_dtype,
            "tensor_parallel_size": known and known.tensor_parallel_size,
            "token_bytes": known and known.token_bytes,
            "accelerator": known and known.accelerator,
            "infinite_hit_ratio": self.infinite_hit_ratio,
            "curve": self.rows(),
            "interrupted": self.interrupted,
        }


def served(
    model: str, *, kv_cache_dtype: str = "auto", tensor_parallel_size: int = 1, gpu: str = ""
) -> Served:
    """Say what a token of a model takes, and how many of them a card's pool holds.

    Parameters
    ----------
    model : str
        Name or path.
    kv_cache_dtype : str
        Format of K and V; "auto" is the model's own.
    tensor_parallel_size : int
        Ranks.
    gpu : str, optional
        A card, whose pool vLLM's newest release would have.

    Raises
    ------
    InputError, UnsupportedError
        For names that no catalogue knows, a model that keeps nothing per token, and one that
        does not fit on the card.
    """
    spec = find_model(model)
    fmt = kv_format(spec.dtype if kv_cache_dtype == "auto" else kv_cache_dtype)
    rank = Rank(tp=tensor_parallel_size)
    token_bytes = bytes_per_token(spec, fmt, rank) * tensor_parallel_size
    if token_bytes <= 0:
        raise UnsupportedError(f"{spec.name} keeps nothing per token, so blocks have no size")
    said = Served(spec.name, fmt.name, tensor_parallel_size, token_bytes)
    return _on_card(said, model, gpu, kv_cache_dtype) if gpu else said


def _on_card(said: Served, model: str, gpu: str, kv_cache_dtype: str) -> Served:
    """Add the pool that the plan leaves on a card."""
    planned = plan(
        model,
        gpu,
        kv_cache_dtype=kv_cache_dtype,
        tensor_parallel_size=said.tensor_parallel_size,
    )
    pool = planned.kv_cache.capacity_tokens
    if pool < 1:
        raise InputError(
            f"{said.model} leaves no room for KV on {planned.accelerator.name}",
            fix="raise --tp, or name a larger card",
        )
    return replace(said, accelerator=planned.accelerator.name, pool_tokens=pool)


def read_sizes(sizes: Iterable[str], trace: PrefixTrace, known: Served | None) -> tuple[int, ...]:
    """Return cache sizes in blocks of a trace: "5000" is blocks, "20GiB" bytes.

    Raises
    ------
    InputError
        For what is neither, bytes of which nobody said how many a token takes, and a size that
        holds no block.
    """
    return tuple(sorted({_blocks(text.strip(), trace, known) for text in sizes}))


def _blocks(text: str, trace: PrefixTrace, known: Served | None) -> int:
    if _BLOCKS.fullmatch(text):
        blocks = int(text)
    else:
        try:
            size = parse_bytes(text)
        except InputError as error:
            fix = "write blocks, as 5000, or bytes, as 20GiB"
            raise InputError(error.what, where=f"--sizes {text}", fix=fix) from None
        if known is None:
            raise InputError(
                f"{format_bytes(size)}, and nobody said how many bytes a token takes",
                where=f"--sizes {text}",
                fix="give --model, or sizes in blocks of the trace, a number without a unit",
            )
        blocks = size // (known.token_bytes * trace.block_tokens)
    if blocks < 1:
        raise InputError(
            f"holds no block of {trace.block_tokens:,} tokens",
            where=f"--sizes {text}",
            fix="give a larger size; blocks are a number without a unit",
        )
    return blocks


def cache_curve(
    trace: PrefixTrace,
    *,
    policies: Sequence[str] = POLICIES_SHOWN,
    sizes: Sequence[int] = (),
    known: Served | None = None,
    watch: Callable[[int, int], None] = lambda done, whole: None,
) -> CacheCurve:
    """Replay a trace through caches of several sizes and policies.

    Parameters
    ----------
    trace : PrefixTrace
        The requests.
    policies : sequence of str
        See `kvsim.cache_policy_names`.
    sizes : sequence of int
        In blocks; empty for `kvsim.cache_sizes`. The card's pool is one more.
    known : Served, optional
        What a token takes, and the card's pool.
    watch : callable, optional
        Called with the replays done and those there are.

    Returns
    -------
    CacheCurve
        After a ``KeyboardInterrupt`` with the sizes that were finished.

    Raises
    ------
    UnknownNameError
        For another policy.
    """
    for policy in policies:
        if policy not in POLICIES:
            raise UnknownNameError("cache policy", policy, POLICIES)
    asked = _asked_sizes(trace, sizes, known)
    whole, points = len(asked) * len(policies), list[CurvePoint]()
    infinite = hit_ratio(trace.requests, None)
    with suppress(KeyboardInterrupt):
        for blocks, is_pool in asked.items():
            ratios: dict[str, float] = {}
            for policy in policies:
                watch(len(points) * len(policies) + len(ratios), whole)
                ratios[policy] = hit_ratio(trace.requests, blocks, policy)
            points.append(CurvePoint(blocks, is_pool, ratios))
    return CacheCurve(trace, infinite, tuple(points), known, len(points) < len(asked))


def _asked_sizes(trace: PrefixTrace, sizes: Sequence[int], known: Served | None) -> dict[int, bool]:
    """Every size in blocks, rising, and whether it is the card's pool."""
    pool = known and known.pool_blocks(trace.block_tokens)
    if known and pool == 0:
        raise InputError(
            f"the pool of {known.accelerator} holds {known.pool_tokens:,} tokens, less than one"
            f" block of {trace.block_tokens:,}"
        )
    asked = {*(sizes or cache_sizes(trace)), *([pool] if pool else [])}
    return {blocks: blocks == pool for blocks in sorted(asked)}
