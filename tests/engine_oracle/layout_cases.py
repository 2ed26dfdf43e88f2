"""What is planned, and a plan's numbers as both sides give them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["RELEASE", "Case", "Groups", "Planned", "cases_of"]

GIB = 1 << 30
RELEASE = "0.33.0"
# Layers, tokens of a block and bytes of a block of each group, sorted.
Groups = tuple[tuple[int, int, int], ...]


class Case(NamedTuple):
    """A model of the catalogue under the flags that a layout depends on.

    Parameters
    ----------
    model : str
        A name of the catalogue.
    card : str
        One of `layout_stub.CARDS`.
    tp, pp, dcp : int
        Tensor parallelism, pipeline stages, ranks that share a context.
    kv_dtype : str
        ``--kv-cache-dtype``: "auto" or "fp8".
    block_size : int or None
        ``--block-size``; None leaves it to the engine.
    max_model_len : int
        Tokens.
    caches_prefixes : bool
        ``--enable-prefix-caching``.
    kv_bytes : int
        Bytes for the cache on every rank.
    """

    model: str
    card: str = "h100"
    tp: int = 1
    pp: int = 1
    dcp: int = 1
    kv_dtype: str = "auto"
    block_size: int | None = None
    max_model_len: int = 8192
    caches_prefixes: bool = True
    kv_bytes: int = 60 * GIB
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256


class Planned(NamedTuple):
    """A layout's numbers.

    Parameters
    ----------
    num_blocks : int
        Blocks of every rank.
    tokens : int
        "GPU KV cache size".
    concurrency : float
        "Maximum concurrency".
    stage_bytes : tuple of int
        Bytes of a block on each pipeline stage.
    groups : tuple
        See `Groups`.
    """

    num_blocks: int
    tokens: int
    concurrency: float
    stage_bytes: tuple[int, ...]
    groups: Groups


def cases_of(model: str, card: str, max_model_len: int) -> list[Case]:
    """All cases of a model: dtypes x blocks x TP, then stages, shared contexts, no prefix cache."""
    base = Case(model, card, max_model_len=max_model_len)
    plain = [
        base._replace(tp=tp, kv_dtype=kv, block_size=block, kv_bytes=(20 if block else 60) * GIB)
        for tp in (1, 2, 4, 8, 16)
        for kv in ("auto", "fp8")
        for block in (None, 32)
    ]
    wide = [base._replace(block_size=block) for block in (16, 64, 128, 256)]
    staged = [base._replace(tp=tp, pp=pp) for tp in (1, 2) for pp in (2, 3, 4)]
    shared = [
        base._replace(tp=tp, dcp=dcp, kv_dtype=kv)
        for tp, dcp in ((4, 2), (4, 4), (8, 2), (8, 4), (8, 8), (16, 2), (16, 4))
        for kv in ("auto", "fp8")
    ]
    bare = [base._replace(caches_prefixes=False, tp=tp) for tp in (1, 4)]
    return [*plain, *wide, *staged, *shared, *bare]
