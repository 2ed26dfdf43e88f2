"""Linear-attention and state-space layers: the size of their state and of their weights.

Each keeps a rolling convolution input, ``channels * (taps - 1)`` elements, and a recurrent
matrix that does not grow with the context.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvsim.readers.huggingface.family import Family
from kvsim.readers.huggingface.fields import Fields
from kvsim.specs.attention import RecurrentState

__all__ = ["linear_state", "mamba2_state", "mamba_state"]

# The heads whose states FlashKDA (where the gate is bounded) and FlashInfer save in a prefill.
_EXPORTED_DIM = 128
# Mamba has no chunks of its own: what vLLM takes for one (config/model.py, get_mamba_chunk_size).
_MAMBA_CHUNK = 2048
_STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": None}


def linear_state(fields: Fields, family: Family) -> RecurrentState:
    """Read a "linear_attention" layer in the sense of its family."""
    readers: dict[str | None, Callable[[Fields], RecurrentState]] = {
        "gated_delta_net": _gated_delta_net,
        "kimi_delta": _kimi_delta,
        "lightning": _lightning,
    }
    return readers[family.linear](fields)


def _gated_delta_net(fields: Fields) -> RecurrentState:
    key_heads = fields.integer("linear_num_key_heads")
    value_heads = fields.integer("linear_num_value_heads")
    key_dim, value_dim = (
        fields.integer("linear_key_head_dim"),
        fields.integer("linear_value_head_dim"),
    )
    taps, hidden = fields.integer("linear_conv_kernel_dim"), fields.integer("hidden_size")
    keys, values = key_heads * key_dim, value_heads * value_dim
    channels = 2 * keys + values  # queries, keys and values pass the convolution
    projections = hidden * (channels + values + 2 * value_heads) + values * hidden
    return RecurrentState(
        flavour="gated_delta_net",
        conv_elements=channels * (taps - 1),
        groups=key_heads,
        group_elements=2 * key_dim * (taps - 1),
        recurrent_elements=value_heads * key_dim * value_dim,
        recurrent_element_bytes=_state_bytes(fields),
        exporter="flashinfer" if key_dim == _EXPORTED_DIM else None,
        parameters=projections + channels * taps + 2 * value_heads + value_dim,
    )


def _kimi_delta(fields: Fields) -> RecurrentState:
    linear = fields.inner("linear_attn_config")
    heads, dim = linear.integer("num_heads"), linear.integer("head_dim")
    taps, hidden = linear.integer("short_conv_kernel_size", 4), fields.integer("hidden_size")
    inner = heads * dim
    low_rank = hidden * dim + dim * inner  # the decay, and as a rule the gate, of rank head_dim
    gate = hidden * inner if linear.flag("use_full_rank_gate") else low_rank
    return RecurrentState(
        flavour="gated_delta_net",
        conv_elements=3 * inner * (taps - 1),
        recurrent_elements=heads * dim * dim,
        recurrent_element_bytes=4,  # whatever the model's dtype (vLLM's kda_state_dtype)
        exporter="flash_kda" if dim == _EXPORTED_DIM and "gate_lower_bound" in linear else None,
        parameters=4 * hidden * inner
        + low_rank
        + gate
        + hidden * heads
        + 3 * inner * taps
        + heads
        + inner
        + dim,
    )


def _lightning(fields: Fields) -> RecurrentState:
    heads, hidden = fields.integer("num_attention_heads"), fields.integer("hidden_size")
    dim = fields.integer("head_dim")
    inner = heads * dim
    return RecurrentState(
        flavour="lightning",
        conv_elements=0,
        recurrent_elements=heads * dim * dim,
        parameters=5 * hidden * inner + inner,  # q, k, v, gate, output and a norm
    )


@dataclass(frozen=True, slots=True)
class _Mamba2Shape:
    heads: int
    head_dim: int
    groups: int
    state: int
    taps: int
    chunk_key: str


def mamba2_state(fields: Fields) -> RecurrentState:
    """Read a Mamba-2 layer in Nemotron-H's or in Bamba's spelling."""
    shape = _nemotron_shape(fields) if "mamba_num_heads" in fields else _bamba_shape(fields)
    hidden, inner = fields.integer("hidden_size"), shape.heads * shape.head_dim
    channels = inner + 2 * shape.groups * shape.state
    projections = hidden * (inner + channels + shape.heads) + inner * hidden
    return RecurrentState(
        flavour="mamba2",
        conv_elements=channels * (shape.taps - 1),
        groups=shape.groups,
        group_elements=2 * shape.state * (shape.taps - 1),
        recurrent_elements=inner * shape.state,
        recurrent_element_bytes=_state_bytes(fields),
        exporter="mamba2",
        chunk=fields.integer(shape.chunk_key),
        parameters=projections + channels * (shape.taps + 1) + 3 * shape.heads + inner,
    )


def _nemotron_shape(fields: Fields) -> _Mamba2Shape:
    return _Mamba2Shape(
        heads=fields.integer("mamba_num_heads"),
        head_dim=fields.integer("mamba_head_dim"),
        groups=fields.integer("n_groups"),
        state=fields.integer("ssm_state_size"),
        taps=fields.integer("conv_kernel"),
        chunk_key="chunk_size",
    )


def _bamba_shape(fields: Fields) -> _Mamba2Shape:
    heads = fields.integer("mamba_n_heads")
    width = fields.optional_integer("mamba_d_ssm")
    if width is None:
        width = fields.integer("mamba_expand", 2) * fields.integer("hidden_size")
    head_dim = width // heads
    if isinstance(fields.get("mamba_d_head"), int):  # Granite writes "auto" here
        head_dim = fields.integer("mamba_d_head")
    if head_dim == 0:
        raise fields.error(f"mamba_n_heads {heads} exceeds the mixer's width {width}")
    return _Mamba2Shape(
        heads=heads,
        head_dim=head_dim,
        groups=fields.integer("mamba_n_groups"),
        state=fields.integer("mamba_d_state"),
        taps=fields.integer("mamba_d_conv"),
        chunk_key="mamba_chunk_size",
    )


def mamba_state(fields: Fields) -> RecurrentState:
    """Read a Mamba-1 layer (Jamba)."""
    hidden = fields.integer("hidden_size")
    inner = fields.integer("mamba_expand") * hidden
    state, taps = fields.integer("mamba_d_state"), fields.integer("mamba_d_conv")
    rank = -(-hidden // 16)  # "auto" in the configuration class
    if isinstance(fields.get("mamba_dt_rank"), int):
        rank = fields.integer("mamba_dt_rank")
    mixer = inner * (3 * hidden + taps + 1 + rank + 2 * state) + (rank + 1) * inner
    return RecurrentState(
        flavour="mamba",
        chunk=_MAMBA_CHUNK,
        conv_elements=inner * (taps - 1),
        recurrent_elements=inner * state,
        recurrent_element_bytes=_state_bytes(fields),
        parameters=mixer + inner * (state + 1),
    )


def _state_bytes(fields: Fields) -> int | None:
    """Bytes of an element of the recurrent state where the config asks for a dtype."""
    key = "mamba_ssm_dtype" if "mamba_ssm_dtype" in fields else "mamba_ssm_cache_dtype"
    word = fields.text(key, "auto")
    if word not in _STATE_BYTES:
        raise fields.error(f"{key} is {word!r}", f"known are {', '.join(_STATE_BYTES)}")
    return _STATE_BYTES[word]
