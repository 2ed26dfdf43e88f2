"""Why K and V are kept and Q is not: what one more token needs, and what it costs without.

::

          keys    0 1 2 3 4
    query 0       # . . . .        to produce token 5 only the last row is needed:
          1       # # . . .        the query of token 4, and every key and value so far.
          2       # # # . .        The queries above it were used once and never again;
          3       # # # # .        the keys and values are read in every later step.
          4       # # # # #  <--
"""

from __future__ import annotations

from typing import NamedTuple

from kvsim.errors import InputError
from kvsim.memory.tensors import matmul_flops_per_token
from kvsim.specs.model import ModelSpec
from kvsim.steptime.kv_reads import attended_layers

__all__ = ["Work", "attention_pairs", "decode_work"]

FUTURE, DONE, KEPT, COMPUTED = "future", "done before", "read from the cache", "computed now"


def attention_pairs(tokens: int, *, cached: bool) -> tuple[tuple[str, ...], ...]:
    """What becomes of every query-key pair while the next token is produced.

    Parameters
    ----------
    tokens : int
        Tokens so far.
    cached : bool
        Whether K and V are kept.

    Returns
    -------
    tuple of tuple of str
        Row q, column k: "future" (a query looks at no later key), "computed now", "read from
        the cache" (an old key, met by the newest query), "done before" (not needed again).
    """
    last = tokens - 1
    return tuple(
        tuple(_pair(query, key, last, cached=cached) for key in range(tokens))
        for query in range(tokens)
    )


def _pair(query: int, key: int, last: int, *, cached: bool) -> str:
    if key > query:
        return FUTURE
    if not cached:
        return COMPUTED
    if query < last:
        return DONE
    return COMPUTED if key == last else KEPT


class Work(NamedTuple):
    """FLOPs of the step that produces one token, with and without a KV cache.

    `cached_rows` and `recomputed_rows` count the tokens whose K and V are computed in it.
    """

    step: int
    context_tokens: int
    cached_flops: float
    recomputed_flops: float
    cached_rows: int
    recomputed_rows: int


def decode_work(model: ModelSpec, prompt_tokens: int, output_tokens: int) -> tuple[Work, ...]:
    """Count the arithmetic of every step of a request.

    With a cache the first step computes the whole prompt, and every later one a single
    token, whose query meets all keys so far. Without, every step computes every token so
    far, as a prompt.

    Parameters
    ----------
    model : ModelSpec
        The model.
    prompt_tokens, output_tokens : int
        Lengths, at least 1.

    Raises
    ------
    InputError
        For a length below one.
    """
    if prompt_tokens < 1 or output_tokens < 1:
        raise InputError("a request has at least one token of prompt and one of output")
    gemm_flops = matmul_flops_per_token(model)
    rows: list[Work] = []
    whole = 0.0  # all of the context, as a prompt
    for context in range(1, prompt_tokens + output_tokens):
        attention = sum(
            count * cache.decode_flops(context) for count, cache in attended_layers(model)
        )
        whole += gemm_flops + attention
        step = context - prompt_tokens
        if step >= 0:
            one = whole if step == 0 else gemm_flops + attention
            fresh = context if step == 0 else 1
            rows.append(Work(step + 1, context, one, whole, fresh, context))
    return tuple(rows)
