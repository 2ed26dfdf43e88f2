"""What an engine holds after "model loading": the weights, and what loading adds to them.

vLLM's line ``Model loading took X GiB`` counts, on one rank::

    rank_weight_bytes                    the tensors themselves
    + cosine and sine tables             one row per position, in the model's dtype
    + padding of microscaled experts     kernels want 128 columns and 256 rows
    + latents' up-projection in 16 bits  beside a quantised one: its products are in 16 bits
    + what the allocator cannot give out a large block is cut from whole 2 MiB pages, and
                                         a rest of 1 MiB or less stays with its tensor

The last term decides the second decimal: Qwen2.5-7B weighs 14.19 GiB and loads as 14.25,
because each of its 28 layers leaves 2 MiB so.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvsim.memory.rank import Rank
from kvsim.memory.tensors import TensorFamily
from kvsim.memory.weights import WeightStorage, rank_weight_bytes, weight_storage
from kvsim.specs.model import FamilyName, LayerGroup, ModelSpec, MoeMlp
from kvsim.specs.precision import WeightFormat
from kvsim.units import MIB, ceil_div

__all__ = ["loaded_weight_bytes", "rotary_table_bytes"]

# PyTorch's caching allocator (c10/cuda): kMinLargeAlloc, kRoundLarge and kSmallSize.
_LARGE_BLOCK_BYTES = 10 * MIB
_PAGE_BYTES = 2 * MIB
_LEAST_SPLIT_BYTES = MIB
# vLLM's Marlin kernels for mxfp4 experts.
_EXPERT_COLUMNS = 128
_EXPERT_ROWS = 256
_ATTENTION_PARTS: tuple[FamilyName, ...] = ("attention", "attention_output")


def loaded_weight_bytes(
    model: ModelSpec,
    rank: Rank = Rank(),
    *,
    dtype: str | None = None,
    quantization: str | None = None,
) -> int:
    """Bytes that one rank holds once the model is loaded, as vLLM prints them.

    Parameters
    ----------
    model : ModelSpec
        The model.
    rank : Rank
        Whose weights they are.
    dtype, quantization : str, optional
        As in `kvsim.memory.weights.weight_bytes`.

    Returns
    -------
    int
        Bytes. LoRA buffers are not among them.

    Raises
    ------
    InputError
        When KV heads cannot be split over ``rank.tp``, or layers over ``rank.pp``.
    """
    storage = weight_storage(model, dtype, quantization)
    extra_bytes = 0
    for group in model.layer_groups:
        layers = rank.count_of(model, group.layers)
        tensors = list(_tensor_bytes(group, model.hidden_size, rank, storage))
        added_bytes = _padding_bytes(group, model.hidden_size, rank, storage)
        added_bytes += _expansion_bytes(group, rank, storage)
        extra_bytes += layers * (added_bytes + sum(map(_rest_bytes, tensors)))
    held_bytes = rank_weight_bytes(model, rank, dtype=dtype, quantization=quantization)
    return held_bytes + rotary_table_bytes(model, storage.plain) + extra_bytes


def rotary_table_bytes(model: ModelSpec, fmt: WeightFormat) -> int:
    """Bytes of the cosine and sine tables: positions * rotary elements, on every rank.

    Examples
    --------
    Llama-3.1: 131,072 positions * 128 elements * 2 bytes = 32 MiB.
    """
    elements = model.rotary_table_elements
    if elements is None:
        widest = max((c.rotary_dim for g in model.layer_groups for c in g.caches), default=0)
        elements = 0 if model.position_embeddings else model.max_position_embeddings * widest
    return elements * int(fmt.bits_per_weight) // 8


def _rest_bytes(tensor_bytes: int) -> int:
    """Bytes behind a tensor in its last page that the allocator cannot give out.

    Examples
    --------
    >>> _rest_bytes(31 * MIB + MIB // 2) == MIB // 2  # 32 - 31.5 MiB: too small to split
    True
    >>> _rest_bytes(24 * MIB + MIB // 2)  # 26 - 24.5 MiB: split off and used
    0
    """
    if tensor_bytes < _LARGE_BLOCK_BYTES:
        return 0
    rest_bytes = -tensor_bytes % _PAGE_BYTES
    return rest_bytes if rest_bytes <= _LEAST_SPLIT_BYTES else 0


def _tensor_bytes(
    group: LayerGroup, hidden: int, rank: Rank, storage: WeightStorage
) -> Iterator[int]:
    """Yield the size of each large tensor of one layer on one rank, fused as vLLM does."""
    for cache in group.caches:
        fused = cache.fused_tensors(hidden, rank.tp)
        for part, elements in zip(_ATTENTION_PARTS, fused, strict=False):
            yield _content_bytes(TensorFamily(part, group.layers, elements), storage)
    if group.mlp is None:
        return
    name: FamilyName = "experts" if isinstance(group.mlp, MoeMlp) else "mlp"
    experts, width = _rank_experts(group, rank)
    ups, inputs = 2 if group.mlp.gated else 1, _mlp_inputs(group, hidden)
    for elements in (experts * ups * width * inputs, experts * width * inputs):
        yield _content_bytes(TensorFamily(name, group.layers, elements), storage)


def _content_bytes(tensor: TensorFamily, storage: WeightStorage) -> int:
    """Bytes of a tensor's elements; scales lie in tensors of their own."""
    return tensor.parameters * int(storage.format_of(tensor).bits_per_weight) // 8


def _mlp_inputs(group: LayerGroup, hidden: int) -> int:
    """Width that the MLP, or each expert of a mixture, works in."""
    return (group.mlp.latent_size or hidden) if isinstance(group.mlp, MoeMlp) else hidden


def _rank_experts(group: LayerGroup, rank: Rank) -> tuple[int, int]:
    """Experts on one rank and the width of each: whole under EP, else cut over TP."""
    if not isinstance(group.mlp, MoeMlp):
        return 1, (group.mlp.intermediate_size // rank.tp if group.mlp else 0)
    if rank.ep > 1:
        return ceil_div(group.mlp.experts, rank.ep), group.mlp.intermediate_size
    return group.mlp.experts, group.mlp.intermediate_size // rank.tp


def _padding_bytes(group: LayerGroup, hidden: int, rank: Rank, storage: WeightStorage) -> int:
    """Bytes that one layer's mxfp4 experts grow by when rounded up to whole tiles."""
    if not isinstance(group.mlp, MoeMlp):
        return 0
    fmt = storage.format_of(TensorFamily("experts", group.layers, 0))
    if fmt.name != "mxfp4":
        return 0
    (experts, width), inputs = _rank_experts(group, rank), _mlp_inputs(group, hidden)
    tiled = _round_up(width, _EXPERT_COLUMNS) * _round_up(inputs, _EXPERT_ROWS)
    matrices = 3 if group.mlp.gated else 2
    return int(experts * matrices * (tiled - width * inputs) * fmt.bits_per_weight / 8)


def _expansion_bytes(group: LayerGroup, rank: Rank, storage: WeightStorage) -> int:
    """Bytes of the copy that latent attention multiplies by where its weights are quantised.

    Source: ``MLAAttention.process_weights_after_loading`` (mla_attention.py of 0.19.1): W_UK and
    W_UV are 16-bit copies; of a 16-bit weight they are views.
    """
    fmt = storage.format_of(TensorFamily("attention", group.layers, 0))
    if fmt.bits_per_weight >= storage.plain.bits_per_weight:
        return 0
    elements = sum(cache.expansion for cache in group.caches) // rank.tp
    return elements * int(storage.plain.bits_per_weight) // 8


def _round_up(value: int, multiple: int) -> int:
    return ceil_div(value, multiple) * multiple
