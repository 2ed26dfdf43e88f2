"""Weight bytes: of the whole model, of one rank, and of those that one decode step reads.

Each is a sum over the tensor families of `kvsim.memory.tensors`::

    bytes = sum over families of  parameters * share of the rank * bits / 8

Where a family lies in a pipeline::

    stage 0            stage 1   ...   last stage
    embedding          layers          layers
    positions                          final norm
    layers                             output head (the embedding again, where tied)
      each split over tp ranks as its family's `sharding` says
"""

from __future__ import annotations

import math
from typing import NamedTuple

from kvsim.memory.rank import Rank
from kvsim.memory.tensors import TensorFamily, draft_families, stage_share, tensor_families
from kvsim.specs.attention import heads_per_rank
from kvsim.specs.model import FamilyFormat, ModelSpec
from kvsim.specs.precision import WeightFormat, weight_format
from kvsim.units import ceil_div

__all__ = [
    "WeightReads",
    "WeightStorage",
    "decode_read_bytes",
    "rank_weight_bytes",
    "weight_bytes",
    "weight_reads",
    "weight_storage",
]

# Engines round the vocabulary up so that it splits evenly (vLLM's DEFAULT_VOCAB_PADDING_SIZE).
_VOCAB_MULTIPLE = 64
# Split over the ranks of attention, which are fewer than all under data-parallel attention.
_TOKEN_MIXERS = ("attention", "attention_output", "recurrent")


class WeightStorage(NamedTuple):
    """How a model's weights are stored.

    Parameters
    ----------
    plain, packed : WeightFormat
        Format of the unquantised tensors, and of the quantised ones.
    families : tuple of FamilyFormat
        Where a family is stored in another format; the first that fits holds.
    scale : float
        Real size over computed size, where a checkpoint's real size is known; with its draft
        layers, which the file holds too.
    """

    plain: WeightFormat
    packed: WeightFormat
    families: tuple[FamilyFormat, ...] = ()
    scale: float = 1.0

    def format_of(self, family: TensorFamily) -> WeightFormat:
        """Return the format of a family's tensors."""
        for each in self.families:
            if each.family == family.name and _holds(each.layers, family.layers):
                return weight_format(each.format) if each.format else self.plain
        is_table = family.name in ("embedding", "output_head")
        packed = self.packed.quantises_head if is_table else family.quantised
        return self.packed if packed else self.plain

    def bytes_of(self, family: TensorFamily, parameters: float) -> float:
        """Bytes of so many of a family's parameters."""
        return parameters * self.format_of(family).bits_per_weight / 8 * self.scale


def _holds(where: tuple[int, ...] | None, layers: tuple[int, ...] | None) -> bool:
    return where is None or (layers is not None and set(layers) <= set(where))


def weight_storage(
    model: ModelSpec, dtype: str | None = None, quantization: str | None = None
) -> WeightStorage:
    """Resolve a model's formats, its own where an argument is None.

    Families that a checkpoint stores otherwise belong to its own format: another format,
    applied at load, takes all linear layers.

    Raises
    ------
    UnknownNameError
        For a dtype or format that no table holds.
    """
    plain = weight_format(dtype or model.dtype)
    own = quantization is None or quantization == model.quantization
    name = model.quantization if own else quantization
    families = model.family_formats if own else ()
    storage = WeightStorage(plain, weight_format(name) if name else plain, families)
    if model.weight_bytes_on_disk is None or dtype is not None or quantization is not None:
        return storage
    stored = (*tensor_families(model), *draft_families(model))
    computed_bytes = sum(storage.bytes_of(family, family.parameters) for family in stored)
    return storage._replace(scale=model.weight_bytes_on_disk / computed_bytes)


def weight_bytes(
    model: ModelSpec, *, dtype: str | None = None, quantization: str | None = None
) -> int:
    """Bytes of the whole model's weights; layers that only draft are not loaded with them.

    Parameters
    ----------
    model : ModelSpec
        The model.
    dtype : str, optional
        Dtype of the unquantised tensors; None is the model's own.
    quantization : str, optional
        Weight format of the quantisable matrices; None is the model's own.

    Returns
    -------
    int
        The checkpoint's exact size, less its draft layers', where it is known and nothing is
        overridden; else the sum over tensor families.

    Raises
    ------
    UnknownNameError
        For a dtype or format that no table holds.
    """
    storage = weight_storage(model, dtype, quantization)
    families = tensor_families(model)
    held_bytes = sum(storage.bytes_of(family, family.parameters) for family in families)
    return round(held_bytes + _spared_bytes(model, storage))


def rank_weight_bytes(
    model: ModelSpec,
    rank: Rank = Rank(),
    *,
    dtype: str | None = None,
    quantization: str | None = None,
) -> int:
    """Bytes of the weights that one rank holds.

    The vocabulary is rounded up to a multiple of 64, so that one rank of one may hold a
    little more than `weight_bytes`.

    Parameters
    ----------
    model : ModelSpec
        The model.
    rank : Rank
        Whose weights they are.
    dtype, quantization : str, optional
        As in `weight_bytes`.

    Returns
    -------
    int
        Bytes on that rank.

    Raises
    ------
    InputError
        When KV heads cannot be split over ``rank.tp``, or layers over ``rank.pp``.
    """
    storage = weight_storage(model, dtype, quantization)
    held_bytes = sum(
        storage.bytes_of(family, _rank_parameters(model, family, rank))
        for family in tensor_families(model)
    )
    return math.ceil(held_bytes + _spared_bytes(model, storage) / (rank.tp * rank.pp))


def _spared_bytes(model: ModelSpec, storage: WeightStorage) -> float:
    """What matrices that the checkpoint leaves unquantised take more than packed ones."""
    if storage.packed.name != model.quantization:
        return 0.0
    more_bits = storage.plain.bits_per_weight - storage.packed.bits_per_weight
    return model.spared_parameters * more_bits / 8 * storage.scale


def decode_read_bytes(
    model: ModelSpec,
    tokens: int,
    rank: Rank = Rank(),
    *,
    dtype: str | None = None,
    quantization: str | None = None,
) -> float:
    """Bytes of weights that one step of `tokens` tokens reads on one rank.

    All but the embedding and position tables (a few rows) and what lies outside the
    decoder. Of E experts with k per token, the expected number touched by n tokens is
    ``E * (1 - (1 - k / E) ** n)``, as if tokens chose independently and evenly.

    Parameters
    ----------
    model : ModelSpec
        The model.
    tokens : int
        Tokens in the step: its batch in decode, the chunk in prefill.
    rank : Rank
        Who reads; the output head is the last stage's.
    dtype, quantization : str, optional
        As in `weight_bytes`.

    Returns
    -------
    float
        Bytes, an expectation where there are experts.
    """
    return weight_reads(model, rank, dtype=dtype, quantization=quantization).bytes_of(tokens)


class WeightReads(NamedTuple):
    """The weights that steps read on one rank: each family with its bytes there."""

    families: tuple[tuple[float, TensorFamily], ...]

    def bytes_of(self, tokens: int) -> float:
        """Bytes that a step of so many tokens reads; see `decode_read_bytes`."""
        return sum(held * touched_share(family, tokens) for held, family in self.families)

    def expert_bytes_of(self, tokens: int) -> float:
        """Those among them of routed experts."""
        routed = ((held, family) for held, family in self.families if family.is_routed)
        return sum(held * touched_share(family, tokens) for held, family in routed)


def weight_reads(
    model: ModelSpec,
    rank: Rank = Rank(),
    *,
    dtype: str | None = None,
    quantization: str | None = None,
) -> WeightReads:
    """What `decode_read_bytes` is made of, for steps of several sizes."""
    storage = weight_storage(model, dtype, quantization)
    outside = {"embedding", "position", "other"}
    if model.tie_embeddings and rank.is_last:
        outside.remove("embedding")
    return WeightReads(
        tuple(
            (storage.bytes_of(family, _rank_parameters(model, family, rank)), family)
            for family in tensor_families(model)
            if family.name not in outside
        )
    )


def touched_share(family: TensorFamily, tokens: int) -> float:
    """Expected share of a family that `tokens` tokens touch: 1 unless it is routed."""
    if not family.is_routed:
        return 1.0
    missed = 1 - family.used_units / family.units
    return float(1 - missed**tokens)


def _rank_parameters(model: ModelSpec, family: TensorFamily, rank: Rank) -> float:
    """Parameters of a family on one rank."""
    share = stage_share(model, family, rank)
    if not share:
        return 0.0
    parameters = family.parameters * share
    if family.name in ("embedding", "output_head"):
        parameters *= _padded(model.vocab_size) / model.vocab_size
    return parameters * _rank_share(family, rank)


def _rank_share(family: TensorFamily, rank: Rank) -> float:
    """Share of a stage's tensors that lies on one of its ranks."""
    tp = rank.attention_ranks if family.name in _TOKEN_MIXERS else rank.tp
    match family.sharding:
        case "replicated":
            return 1.0
        case "kv":
            return heads_per_rank(family.units, tp) / family.units
        case "experts" if rank.ep > 1:
            return ceil_div(family.units, rank.ep) / family.units
        case _:
            return 1 / tp


def _padded(vocab_size: int) -> int:
    return ceil_div(vocab_size, _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE
