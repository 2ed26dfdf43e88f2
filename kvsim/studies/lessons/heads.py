"""One model with its heads arranged in four ways, and what each keeps of a token."""

from __future__ import annotations

from typing import NamedTuple

from kvsim.errors import InputError
from kvsim.specs.attention import FullAttention, LatentAttention
from kvsim.specs.precision import kv_format

__all__ = ["HeadShape", "Keeping", "keepings"]


class HeadShape(NamedTuple):
    """Shape of a decoder's attention.

    `kv_heads` is what GQA keeps; `latent` and `rope` are the elements of MLA's vector.
    """

    layers: int = 32
    heads: int = 32
    head_dim: int = 128
    kv_heads: int = 8
    latent: int = 512
    rope: int = 64


class Keeping(NamedTuple):
    """What one arrangement keeps: bytes per token and bytes of a sequence, all layers."""

    kind: str
    formula: str
    bytes_per_token: int
    sequence_bytes: int
    share: float


def keepings(shape: HeadShape, dtype: str, context: int) -> tuple[Keeping, ...]:
    """Compare MHA, GQA, MQA and MLA of one shape.

    Parameters
    ----------
    shape : HeadShape
        Layers and heads.
    dtype : str
        A KV format, such as "fp16".
    context : int
        Tokens of the sequence.

    Returns
    -------
    tuple of Keeping
        In that order; shares are of MHA's bytes.

    Raises
    ------
    InputError
        When the query heads cannot share the KV heads evenly, or the dtype is unknown.
    """
    if shape.heads % shape.kv_heads:
        raise InputError(
            f"{shape.heads} query heads cannot share {shape.kv_heads} KV heads evenly",
            fix="choose a divisor",
        )
    fmt = kv_format(dtype)
    states = {
        "MHA": _full(shape, shape.heads).state_bytes(fmt),
        "GQA": _full(shape, shape.kv_heads).state_bytes(fmt),
        "MQA": _full(shape, 1).state_bytes(fmt),
        "MLA": _latent(shape).state_bytes(fmt),
    }
    return tuple(
        Keeping(
            kind=kind,
            formula=f"{shape.layers} layers x {_words(kind, shape)} x {fmt.bits / 8:g} bytes"
            f"{' with scales' if fmt.scale_group is not None else ''}",
            bytes_per_token=shape.layers * state_bytes,
            sequence_bytes=shape.layers * state_bytes * context,
            share=state_bytes / states["MHA"],
        )
        for kind, state_bytes in states.items()
    )


def _full(shape: HeadShape, kv_heads: int) -> FullAttention:
    return FullAttention(
        heads=shape.heads, kv_heads=kv_heads, key_dim=shape.head_dim, value_dim=shape.head_dim
    )


def _latent(shape: HeadShape) -> LatentAttention:
    return LatentAttention(
        heads=shape.heads,
        kv_lora_rank=shape.latent,
        rope_dim=shape.rope,
        nope_dim=shape.head_dim,
        value_dim=shape.head_dim,
    )


def _words(kind: str, shape: HeadShape) -> str:
    if kind == "MLA":
        return f"({shape.latent} + {shape.rope}) elements for all heads"
    heads = {"MHA": shape.heads, "GQA": shape.kv_heads, "MQA": 1}[kind]
    whose = f"{heads} KV head{'s' if heads > 1 else ''}"
    return f"{whose} x ({shape.head_dim} + {shape.head_dim}) elements"
