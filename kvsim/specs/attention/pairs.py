"""Query-key pairs of a prefill chunk: `count` queries after `start` tokens that are cached."""

from __future__ import annotations

__all__ = ["causal_pairs", "chunked_pairs", "windowed_pairs"]


def causal_pairs(start: int, count: int) -> float:
    """Pairs when each query sees itself and all before it.

    Examples
    --------
    The queries of a 4-token prompt see 1, 2, 3 and 4 tokens; two more see 5 and 6.

    >>> causal_pairs(0, 4), causal_pairs(4, 2)
    (10.0, 11.0)
    """
    return count * start + count * (count + 1) / 2


def windowed_pairs(window: int, start: int, count: int) -> float:
    """Pairs when a query sees at most the last `window` tokens, itself included.

    Examples
    --------
    >>> windowed_pairs(2, 0, 4)  # 1 + 2 + 2 + 2
    7.0
    """
    growing = min(count, max(0, window - start))
    return causal_pairs(start, growing) + (count - growing) * window


def chunked_pairs(chunk: int, start: int, count: int) -> float:
    """Pairs when a query sees its own chunk only.

    Examples
    --------
    >>> chunked_pairs(2, 0, 4)  # 1 + 2 + 1 + 2
    6.0
    """

    def up_to(tokens: int) -> float:
        whole, rest = divmod(tokens, chunk)
        return whole * causal_pairs(0, chunk) + causal_pairs(0, rest)

    return up_to(start + count) - up_to(start)
