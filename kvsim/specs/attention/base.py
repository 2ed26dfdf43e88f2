"""The questions that every kind of attention answers, and what follows from the answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Literal, NamedTuple, Self

from kvsim.errors import InputError
from kvsim.specs.checked import Checked
from kvsim.specs.precision import KVFormat, kv_format

__all__ = [
    "Attention",
    "Entry",
    "Formula",
    "LoadedUnknown",
    "TokenCache",
    "Vectors",
    "Weights",
    "heads_per_rank",
]


def heads_per_rank(heads: int, tp: int) -> int:
    """KV heads that one tensor-parallel rank holds: split, then replicated.

    Raises
    ------
    InputError
        When neither divides the other, so that no engine can shard them.

    Examples
    --------
    >>> heads_per_rank(8, 4), heads_per_rank(8, 16)  # at 16, each head lives on two ranks
    (2, 1)
    """
    if heads % tp and tp % heads:
        raise InputError(
            f"{heads} KV heads cannot be split over tp={tp}",
            fix=f"choose tp from {[n for n in range(1, heads + 1) if heads % n == 0]}"
            f" or a multiple of {heads}",
        )
    return max(1, heads // tp)


What = Literal["kv", "latent", "shared", "record", "indexer", "block_indexer", "state", "unfolded"]

# What holds the content that queries read; an indexer's key rides along with it.
_CONTENT = ("kv", "latent", "shared", "record")
_RECENT = ("window", "chunk")


class Entry(NamedTuple):
    """One sort of thing that a layer keeps of a sequence, on one rank.

    Parameters
    ----------
    what : str
        "kv", a key and a value of each head; "latent", one vector that all heads expand;
        "shared", one vector that is key and value of all heads, or "record", one that other
        layers read too; "indexer", a key of the
        sparse indexer of latents; "block_indexer", a key by which blocks are picked; "state", a
        recurrent state; "unfolded", what a compressor has yet to fold of a token.
    entry_bytes : int
        Bytes of one.
    kept : str
        Which there are: one for "every" token, for the tokens of a "window" (the last `span`)
        or of a "chunk" (the current one, of `span` tokens), one for `span` tokens "folded"
        into it, or a number, `span`, that is "fixed".
    span : int
        See `kept`; 0 for every token.
    """

    what: What
    entry_bytes: int
    kept: Literal["every", "window", "chunk", "folded", "fixed"] = "every"
    span: int = 0

    @property
    def grows(self) -> bool:
        """Whether a token can add one."""
        return self.kept != "fixed"

    def count(self, context: int) -> int:
        """How many a sequence of `context` tokens keeps, in steady decode.

        A chunk counts at the peak of its sawtooth, which is what must fit.

        Examples
        --------
        >>> Entry("kv", 1, "window", 4).count(11), Entry("kv", 1, "folded", 4).count(11)
        (4, 2)
        """
        match self.kept:
            case "every":
                return context
            case "folded":
                return context // self.span
            case "fixed":
                return self.span
        return min(context, self.span)


class Vectors(NamedTuple):
    """Keys and values of one token in one layer, all ranks; no heads where none are kept.

    Parameters
    ----------
    heads, key_dim, value_dim : int
        KV heads, and elements of a head's key and of its value.
    value_in_key : bool
        Whether the value's elements are among the key's, so that keeping the key is enough.
    """

    heads: int
    key_dim: int
    value_dim: int
    value_in_key: bool = False

    def rank_heads(self, tp: int) -> int:
        """KV heads on one rank, replicated where there are fewer than ranks."""
        return heads_per_rank(self.heads, tp) if self.heads else 0


class Weights(NamedTuple):
    """Parameters of one layer that are sharded alike.

    Parameters
    ----------
    parameters : int
        Elements, all ranks.
    sharding : str
        "tp" is split evenly; "kv" is split by KV heads, then replicated; "replicated" is
        whole on every rank.
    units : int
        KV heads, for "kv".
    family : str
        The tensor family: "attention", "attention_output" (the output projection, which
        checkpoints quantise apart from the rest) or "recurrent".
    """

    parameters: int
    sharding: Literal["tp", "kv", "replicated"]
    units: int = 1
    family: Literal["attention", "attention_output", "recurrent"] = "attention"


class Formula(NamedTuple):
    """Bytes of one layer on one rank in words: ``factors`` make ``total_bytes`` per ``unit``."""

    factors: str
    total_bytes: int
    unit: str


class Attention(Checked, ABC):
    """Base of all kinds; see the package for the questions.

    Parameters
    ----------
    kind : str
        The word for the kind in a mapping.

    Raises
    ------
    TypeError
        As a class with a word of its own is made that leaves a question open.
    """

    kind: str

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" not in cls.__dict__:
            return
        unanswered = [name for name in dir(cls) if _is_abstract(getattr(cls, name, None))]
        if unanswered:
            raise TypeError(f"{cls.__name__} leaves unanswered: {', '.join(unanswered)}")

    # --- memory ---

    @abstractmethod
    def entries(self, fmt: KVFormat, tp: int = 1) -> tuple[Entry, ...]:
        """What one layer keeps of a sequence on one rank."""

    @property
    def unfolded(self) -> tuple[Entry, ...]:
        """What compressors keep of tokens until they fold them, apart from `entries`: nothing.

        It is working memory: no query reads it, and no other token's place depends on it.
        """
        return ()

    @abstractmethod
    def fixed_bytes(self, tp: int = 1) -> int:
        """Bytes of state that a sequence takes in one layer on one rank, whatever its length."""

    def with_state_elements(self, element_bytes: int) -> Self:
        """Keep a state in elements of so many bytes, where the config leaves that open."""
        return self

    @property
    def saves_in_prefill(self) -> str | None:
        """Kernels that can save a state from inside a prefill, not at its end alone."""
        return None

    @property
    def state_chunk(self) -> int | None:
        """Tokens of which kernels can keep a state each, or a multiple of them."""
        return None

    @property
    @abstractmethod
    def state_elements(self) -> tuple[int, int]:
        """Elements of a sequence's state, all ranks: its convolution's and its matrix's."""

    @property
    @abstractmethod
    def vectors(self) -> Vectors:
        """Keys and values as this kind keeps them."""

    @property
    def expansion(self) -> int:
        """Elements of the matrix by which latents become keys and values of all heads, or 0."""
        return 0

    @property
    def expanded_vectors(self) -> Vectors:
        """Keys and values as a framework keeps them that knows no latents."""
        return self.vectors

    @cached_property
    def _sorts(self) -> tuple[Entry, ...]:
        """The entries where their bytes play no part."""
        return self.entries(kv_format("bf16"))

    @cached_property
    def sorts(self) -> tuple[str, ...]:
        """Its sorts of entries in words: "kv window", "latent every", "state fixed"."""
        return tuple(f"{entry.what} {entry.kept}" for entry in self._sorts)

    def keeps(self, what: What) -> bool:
        """Whether there are such entries ("kv", "latent", ...)."""
        return any(entry.what == what for entry in self._sorts)

    @cached_property
    def grows(self) -> bool:
        """Whether a token adds to it: not to a state, nor to what an encoder left."""
        return any(entry.grows for entry in self._sorts)

    @cached_property
    def recent_tokens(self) -> int | None:
        """The most recent tokens, of which alone it keeps something; None where of all."""
        growing = [entry for entry in self._sorts if entry.grows]
        if any(entry.kept not in _RECENT for entry in growing):
            return None
        return max((entry.span for entry in growing), default=None)

    @cached_property
    def fold_tokens(self) -> int:
        """Tokens that are folded into one entry; 1 where none are."""
        return max((entry.span for entry in self._sorts if entry.kept == "folded"), default=1)

    @property
    def reads_earlier(self) -> bool:
        """Whether it reads what an earlier layer keeps."""
        return False

    def states(self, context: int) -> int:
        """Cached states that a sequence of `context` tokens keeps in steady decode."""
        return sum(entry.count(context) for entry in self._sorts if entry.what in _CONTENT)

    def state_bytes(self, fmt: KVFormat, tp: int = 1) -> int:
        """Bytes of one cached state in one layer on one rank: what a token adds."""
        return sum(e.entry_bytes for e in self.entries(fmt, tp) if e.what != "state")

    def held_bytes(self, fmt: KVFormat, context: int, tp: int = 1) -> int:
        """Bytes that a sequence of `context` tokens keeps in one layer on one rank."""
        return sum(entry.entry_bytes * entry.count(context) for entry in self.entries(fmt, tp))

    def all_full_bytes(self, fmt: KVFormat, context: int, tp: int = 1) -> int:
        """Bytes that a sequence would keep if it grew with every token."""
        if not self.grows:
            return self.held_bytes(fmt, context, tp)
        return context * self.state_bytes(fmt, tp) + self.fixed_bytes(tp)

    # --- time ---

    @property
    @abstractmethod
    def query_heads(self) -> int:
        """Query heads of one layer, all ranks."""

    @property
    def query_groups(self) -> int:
        """Groups of query heads that no rank cuts: each head is one unless a kind says so."""
        return self.query_heads

    @abstractmethod
    def read_bytes(self, fmt: KVFormat, context: int, tp: int = 1) -> int:
        """Bytes that one decode step of one sequence moves in one layer on one rank."""

    @property
    @abstractmethod
    def read_bend(self) -> int | None:
        """Tokens of context after which a further one adds other bytes to `read_bytes`."""

    @abstractmethod
    def pairs(self, start: int, count: int) -> float:
        """Query-key pairs of a prefill of `count` tokens after `start` that are cached."""

    @property
    @abstractmethod
    def pair_flops(self) -> int:
        """Prefill FLOPs of one query token against one visible token, all heads."""

    @abstractmethod
    def decode_flops(self, context: int) -> int:
        """Attention FLOPs of one decode step of one sequence in one layer, all ranks."""

    # --- weights ---

    @abstractmethod
    def weights(self, hidden: int) -> tuple[Weights, ...]:
        """Parameters of one layer with a residual stream of `hidden` elements."""

    @abstractmethod
    def fused_tensors(self, hidden: int, tp: int) -> tuple[int, ...]:
        """Elements of each large tensor on one rank, fused as a loader does: inputs, output.

        Empty where that is not known: a loader's rounding is then left out.
        """

    @abstractmethod
    def linear_ends(self, hidden: int) -> int:
        """Inputs plus outputs of its linear maps: elements of an adapter of rank 1.

        Zero where no adapter is known to apply.
        """

    @property
    @abstractmethod
    def rotary_dim(self) -> int:
        """Elements of one position's row in the cosine and sine tables."""

    @property
    @abstractmethod
    def activation_width(self) -> int:
        """Elements per token of what it computes: queries, keys, values and the output."""

    # --- words ---

    @property
    @abstractmethod
    def label(self) -> str:
        """The field's word: MHA, GQA, MLA, mamba2, ..."""

    @property
    def caption(self) -> str:
        """The label with what limits it: "GQA, window 1,024"."""
        return self.label

    @abstractmethod
    def formula(self, fmt: KVFormat, tp: int = 1) -> Formula:
        """Bytes of one layer on one rank, in words."""


def _is_abstract(member: object) -> bool:
    return bool(getattr(member, "__isabstractmethod__", False))


class TokenCache(Attention):
    """Base of the kinds that keep something of tokens, and no state beside."""

    def fixed_bytes(self, tp: int = 1) -> int:
        """None: all of it belongs to tokens."""
        return 0

    @property
    def state_elements(self) -> tuple[int, int]:
        """None."""
        return (0, 0)


class LoadedUnknown(Attention):
    """Base of the kinds whose large tensors and adapters, as a loader makes them, are not known."""

    def fused_tensors(self, hidden: int, tp: int) -> tuple[int, ...]:
        """Not known: a loader's rounding is left out."""
        return ()

    def linear_ends(self, hidden: int) -> int:
        """None known: no adapter applies."""
        return 0
