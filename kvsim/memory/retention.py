"""Retention policies: what a sequence keeps of its KV cache, and the bytes of it.

::

    token            0 1 2 3 4 5 6 7 8 9     context 10
    full             # # # # # # # # # #     every token
    window:4         . . . . . . # # # #     the last 4
    sinks:2+4        # # . . . . # # # #     the first 2 and the last 4
    budget:4         # . . # . . . # . #     4 per head, chosen by attention scores
    heads:0.5        # # # # # # # # # #     half of the KV heads; the rest is recomputed
    layers:0.25      # # # # # # # # # #     a quarter of the layers; the rest is recomputed

A policy acts on what a layer would keep anyway: a layer with a window of its own keeps the
smaller of the two, and recurrent states and cross attention are left as they are.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
from kvsim.memory.rank import Rank
from kvsim.specs.attention import Attention
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat

__all__ = [
    "COMMON_POLICIES",
    "Budget",
    "Full",
    "Retention",
    "RetentionRow",
    "SelectiveHeads",
    "SelectiveLayers",
    "SinkWindow",
    "Window",
    "parse_retention",
    "retention_bytes",
    "retention_table",
]


def _require_tokens(tokens: int, what: str) -> None:
    if tokens < 1:
        raise InputError(f"{what} of {tokens} tokens", fix="keep at least one token")


def _require_fraction(fraction: float, what: str) -> None:
    if not 0 < fraction <= 1:
        raise InputError(f"a fraction of {fraction:g} of the {what}", fix="choose from 0 to 1")


def _share(count: int, fraction: float) -> int:
    """``ceil(count * fraction)`` as in decimal arithmetic: 0.55 of 20 is 11, not 12."""
    return math.ceil(round(count * fraction, 9))


@dataclass(frozen=True, slots=True)
class Retention:
    """Base of all policies: every token of every head of every layer stays."""

    @property
    def name(self) -> str:
        """The policy as `parse_retention` reads it."""
        return "full"

    @property
    def price(self) -> str:
        """What the saving costs, in words."""
        return "nothing"

    def kept_tokens(self, context: int) -> int:
        """Tokens, of `context`, that a cached head of a full-attention layer keeps."""
        return context

    def kept_layers(self, layers: int) -> int:
        """Layers, of `layers` alike, that cache at all."""
        return layers

    def kept_state_bytes(self, cache: Attention, fmt: KVFormat, tp: int = 1) -> int:
        """Bytes of one kept token in one caching layer of one rank."""
        return cache.state_bytes(fmt, tp)

    def kept_bytes(
        self, cache: Attention, fmt: KVFormat, context: int, *, layers: int = 1, tp: int = 1
    ) -> int:
        """Bytes that `layers` layers with this cache keep of one sequence, on one rank."""
        if not cache.grows:
            return layers * cache.held_bytes(fmt, context, tp)
        fixed = layers * cache.fixed_bytes(tp)
        states = cache.states(self.kept_tokens(context))
        return fixed + self.kept_layers(layers) * states * self.kept_state_bytes(cache, fmt, tp)


@dataclass(frozen=True, slots=True)
class Full(Retention):
    """Keep everything: exact attention."""


@dataclass(frozen=True, slots=True)
class Window(Retention):
    """Keep the last `window` tokens.

    References
    ----------
    Beltagy, Peters, Cohan: "Longformer: The Long-Document Transformer", arXiv 2004.05150.
    """

    window: int

    def __post_init__(self) -> None:
        _require_tokens(self.window, "window")

    @property
    def name(self) -> str:
        """``window:TOKENS``."""
        return f"window:{self.window}"

    @property
    def price(self) -> str:
        """Older tokens are gone, the first ones included."""
        return "older tokens are lost; quality breaks once the first ones leave"

    def kept_tokens(self, context: int) -> int:
        """At most the window."""
        return min(context, self.window)


@dataclass(frozen=True, slots=True)
class SinkWindow(Retention):
    """Keep the first `sinks` tokens, which draw attention whatever they say, and a window.

    References
    ----------
    Xiao, Tian, Chen, Han, Lewis: "Efficient Streaming Language Models with Attention Sinks"
    (StreamingLLM), ICLR 2024, arXiv 2309.17453.
    """

    sinks: int
    window: int

    def __post_init__(self) -> None:
        _require_tokens(self.sinks, "sinks")
        _require_tokens(self.window, "window")

    @property
    def name(self) -> str:
        """``sinks:FIRST+LAST``."""
        return f"sinks:{self.sinks}+{self.window}"

    @property
    def price(self) -> str:
        """The middle is gone."""
        return "tokens between the sinks and the window are lost"

    def kept_tokens(self, context: int) -> int:
        """At most the sinks and the window together."""
        return min(context, self.sinks + self.window)


@dataclass(frozen=True, slots=True)
class Budget(Retention):
    """Keep a fixed number of tokens per head, those that attention scores favour.

    References
    ----------
    Zhang et al.: "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large
    Language Models", NeurIPS 2023, arXiv 2306.14048.
    Li et al.: "SnapKV: LLM Knows What You are Looking for Before Generation", NeurIPS 2024,
    arXiv 2404.14469.
    """

    tokens: int

    def __post_init__(self) -> None:
        _require_tokens(self.tokens, "budget")

    @property
    def name(self) -> str:
        """``budget:TOKENS``."""
        return f"budget:{self.tokens}"

    @property
    def price(self) -> str:
        """Approximation, and the memory of one block table per head."""
        return "tokens with low scores are lost, other ones in each head"

    def kept_tokens(self, context: int) -> int:
        """At most the budget."""
        return min(context, self.tokens)


@dataclass(frozen=True, slots=True)
class SelectiveHeads(Retention):
    """Cache a fraction of the KV heads of each layer, rounded up, and recompute the rest.

    A latent (MLA) and an index key are shared by all heads, so none of them can go.
    """

    fraction: float

    def __post_init__(self) -> None:
        _require_fraction(self.fraction, "heads")

    @property
    def name(self) -> str:
        """``heads:FRACTION``."""
        return f"heads:{self.fraction}"

    @property
    def price(self) -> str:
        """Arithmetic."""
        return "K and V of the other heads are recomputed at every step"

    def kept_state_bytes(self, cache: Attention, fmt: KVFormat, tp: int = 1) -> int:
        """The cached heads' share of K and V, and what all heads share."""
        heads = cache.vectors.rank_heads(tp)
        pairs = [entry for entry in cache.entries(fmt, tp) if entry.what == "kv"]
        pair_bytes = sum(entry.entry_bytes for entry in pairs)
        kept_bytes = _share(heads, self.fraction) * (pair_bytes // heads) if heads else 0
        return cache.state_bytes(fmt, tp) - pair_bytes + kept_bytes


@dataclass(frozen=True, slots=True)
class SelectiveLayers(Retention):
    """Cache a fraction of the layers of each kind, rounded up, and recompute the rest."""

    fraction: float

    def __post_init__(self) -> None:
        _require_fraction(self.fraction, "layers")

    @property
    def name(self) -> str:
        """``layers:FRACTION``."""
        return f"layers:{self.fraction}"

    @property
    def price(self) -> str:
        """Arithmetic."""
        return "K and V of the other layers are recomputed at every step"

    def kept_layers(self, layers: int) -> int:
        """The caching layers."""
        return _share(layers, self.fraction)


COMMON_POLICIES: tuple[Retention, ...] = (
    Full(),
    Window(4096),
    SinkWindow(4, 2044),
    Budget(1024),
    SelectiveHeads(0.5),
    SelectiveLayers(0.5),
)


class RetentionRow(NamedTuple):
    """One policy's line in a plan; `fraction` is of the bytes that ``full`` keeps."""

    policy: str
    kept_tokens: int
    kept_bytes: int
    fraction: float
    price: str


def parse_retention(text: str) -> Retention:
    """Read a policy as a person writes it.

    Raises
    ------
    InputError
        For an unknown policy, or an amount that it cannot have.

    Examples
    --------
    >>> parse_retention("sinks:4+2044").kept_tokens(100_000)
    2048
    >>> parse_retention("window:4096").kept_tokens(1000)
    1000
    """
    kind, _, amount = text.strip().partition(":")
    if kind == "full" and not amount:
        return Full()
    if match := re.fullmatch(r"(\d{1,12})\+(\d{1,12})", amount):
        if kind == "sinks":
            return SinkWindow(int(match[1]), int(match[2]))
    elif re.fullmatch(r"\d{1,12}", amount) and kind in ("window", "budget"):
        return {"window": Window, "budget": Budget}[kind](int(amount))
    elif re.fullmatch(r"\d?\.?\d{1,4}", amount) and kind in ("heads", "layers"):
        return {"heads": SelectiveHeads, "layers": SelectiveLayers}[kind](float(amount))
    raise InputError(
        f"{text!r} is not a retention policy",
        fix="write full, window:4096, sinks:4+2044, budget:1024, heads:0.5 or layers:0.25",
    )


def retention_bytes(
    model: ModelSpec, fmt: KVFormat, context: int, policy: Retention, rank: Rank = Rank()
) -> int:
    """Bytes that one sequence of `context` tokens keeps on one rank under `policy`.

    Under `Full` this is `kvsim.memory.footprint.sequence_bytes`.
    """
    return sum(
        policy.kept_bytes(cache, fmt, context, layers=layers, tp=rank.tp)
        for layers, cache in layer_caches(model, rank)
    )


def retention_table(
    model: ModelSpec,
    fmt: KVFormat,
    context: int,
    policies: tuple[Retention, ...] = COMMON_POLICIES,
    rank: Rank = Rank(),
) -> list[RetentionRow]:
    """One row per policy: tokens and bytes that a sequence of `context` tokens keeps on a rank."""
    full_bytes = retention_bytes(model, fmt, context, Full(), rank)
    rows = []
    for policy in policies:
        kept_bytes = retention_bytes(model, fmt, context, policy, rank)
        fraction = kept_bytes / full_bytes if full_bytes else 1.0
        kept_tokens = policy.kept_tokens(context)
        rows.append(RetentionRow(policy.name, kept_tokens, kept_bytes, fraction, policy.price))
    return rows
