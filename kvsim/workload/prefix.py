"""What requests share: nothing, a group's system prompt, or a conversation that grows.

::

    groups          [ system prompt of group g | own prompt ]
    conversations   turn 1  [ system | user 1 ]               -> answer 1
                    turn 2  [ system | user 1 | answer 1 | user 2 ]  -> answer 2
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from kvsim.workload.base import Ints
from kvsim.workload.described import Count, Described, NonNegative, Tokens, Whole
from kvsim.workload.distributions import (
    Fixed,
    Pause,
    RealDistribution,
    cumulated_shares,
    drawn_places,
)
from kvsim.workload.streams import Streams

__all__ = ["Conversations", "NoPrefix", "Prefix", "PrefixGroups", "draw_groups"]


class NoPrefix(Described):
    """Nothing is shared, and no identities are made."""

    kind: Literal["none"] = "none"


class PrefixGroups(Described):
    """Each request opens with the system prompt of its group.

    Parameters
    ----------
    groups : int
        How many system prompts there are.
    tokens : int
        Length of each; it comes on top of the prompt length drawn.
    exponent : float
        Popularity of group k is proportional to ``k**-exponent``; 0 is equal shares.
    """

    kind: Literal["groups"]
    groups: Annotated[Whole, Field(ge=1, le=10**7)] = 1
    tokens: Tokens
    exponent: NonNegative = 0.0


class Conversations(Described):
    """Each arrival opens a conversation whose prompt grows by its own history.

    Parameters
    ----------
    turns : RealDistribution
        Turns a conversation, at least 1: ``{kind: fixed, tokens: 4}`` counts 4 turns.
    think : Pause
        Seconds between turns: after the previous arrival in open loop, after the previous
        answer in a closed loop.
    groups, tokens, exponent
        System prompts shared between conversations, as in `PrefixGroups`; 0 tokens is none.
    max_context_tokens : int, optional
        A conversation ends before a turn whose prompt and output would exceed this.
    """

    kind: Literal["conversations"]
    turns: RealDistribution
    think: Pause = Fixed(kind="fixed", seconds=0.0)
    groups: Annotated[Whole, Field(ge=1, le=10**7)] = 1
    tokens: Annotated[Whole, Field(ge=0, le=2**31)] = 0
    exponent: NonNegative = 0.0
    max_context_tokens: Count | None = None

    @model_validator(mode="after")
    def _fits(self) -> Conversations:
        if self.max_context_tokens is not None and self.max_context_tokens <= self.tokens + 1:
            raise ValueError(
                f"max_context_tokens {self.max_context_tokens} leaves no room beyond the "
                f"system prompt of {self.tokens} tokens"
            )
        return self


def draw_groups(prefix: PrefixGroups | Conversations, streams: Streams, count: int) -> Ints:
    """Return the group of each of `count` requests or conversations, from stream "prefixes"."""
    rng = streams.stream("prefixes")
    if prefix.exponent == 0:
        return np.minimum(rng.random(count) * prefix.groups, prefix.groups - 1).astype(np.int64)
    shares = cumulated_shares(np.arange(1, prefix.groups + 1, dtype=float) ** -prefix.exponent)
    return drawn_places(shares, rng, count)


Prefix = Annotated[NoPrefix | PrefixGroups | Conversations, Field(discriminator="kind")]
