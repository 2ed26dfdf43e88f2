"""What stays true when a token is appended: the condition for having a cache at all.

::

    causal decoder              encoder (both directions)
    layer 2   = = = = +         layer 2   x x x x +       = still true   + new
    layer 1   = = = = +         layer 1   x x x x +       x was right, is wrong now
    layer 0   = = = = +         layer 0   = = = = +
    token     0 1 2 3 4         token     0 1 2 3 4
"""

from __future__ import annotations

from kvsim.errors import UnknownNameError

__all__ = ["KINDS", "kept_states"]

KINDS = ("causal decoder", "sliding window", "encoder", "diffusion")

_WINDOW = 3


def kept_states(kind: str, layers: int, tokens: int) -> tuple[tuple[str, ...], ...]:
    """What becomes of every layer's K and V when one more token arrives.

    Parameters
    ----------
    kind : str
        "causal decoder", "sliding window" (of 3 tokens), "encoder" (attends both ways) or
        "diffusion" (revises the tokens themselves).
    layers, tokens : int
        Size of the picture; the last token is the new one.

    Returns
    -------
    tuple of tuple of str
        Row per layer from the first, column per token: "kept", "new", "wrong" or "dropped"
        (true, and no later token looks at it).

    Raises
    ------
    UnknownNameError
        For another kind.
    """
    if kind not in KINDS:
        raise UnknownNameError("kind", kind, KINDS)
    return tuple(
        tuple(_state(kind, layer, tokens - 1 - token) for token in range(tokens))
        for layer in range(layers)
    )


def _state(kind: str, layer: int, age: int) -> str:
    """What becomes of the K and V of a token that came `age` tokens ago."""
    if age == 0:
        return "new"
    if kind == "causal decoder":
        return "kept"
    if kind == "sliding window":
        return "kept" if age < _WINDOW else "dropped"
    # The first layer's K and V depend on the token alone, unless that is revised too.
    return "kept" if kind == "encoder" and layer == 0 else "wrong"
