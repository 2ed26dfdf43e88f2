"""Encoder-decoder models: a decoder layer caches its own K and V and the encoder's, once.

The encoder keeps nothing between steps; its weights count as parameters outside the decoder.
"""

from __future__ import annotations

from kvsim.readers.huggingface.family import Family
from kvsim.readers.huggingface.fields import Fields
from kvsim.specs.attention import CrossAttention, FullAttention
from kvsim.specs.model import DenseMlp, LayerGroup

__all__ = ["encoder_decoder"]


def encoder_decoder(fields: Fields, family: Family) -> tuple[LayerGroup, int]:
    """Read the decoder's one layer group, and the encoder's parameters.

    Returns
    -------
    tuple of LayerGroup and int
        Group "decoder", whose layers keep self and cross attention; parameters.
    """
    return _t5(fields) if family.layout == "t5" else _seq2seq(fields)


def _group(layers: int, own: FullAttention, encoder_tokens: int, mlp: DenseMlp) -> LayerGroup:
    shape = own.model_dump(exclude={"kind"})
    cross = CrossAttention(**shape, encoder_tokens=encoder_tokens)
    return LayerGroup(name="decoder", layers=tuple(range(layers)), caches=(own, cross), mlp=mlp)


def _encoder_parameters(layers: int, hidden: int, own: FullAttention, mlp: DenseMlp) -> int:
    """Matrices of an encoder: q, k, v, o and the MLP's two or three."""
    attention = 2 * hidden * own.heads * (own.key_dim + own.value_dim)
    return layers * (attention + hidden * mlp.intermediate_size * (3 if mlp.gated else 2))


def _t5(fields: Fields) -> tuple[LayerGroup, int]:
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    dim = fields.integer("head_dim")
    own = FullAttention(heads=heads, kv_heads=heads, key_dim=dim, value_dim=dim)
    gated = fields.text("feed_forward_proj", "relu").startswith("gated")
    mlp = DenseMlp(intermediate_size=fields.integer("intermediate_size"), gated=gated)
    encoders = fields.integer("num_hidden_layers")
    decoders = fields.integer("num_decoder_layers", encoders)
    tokens = fields.integer("max_position_embeddings")
    group = _group(decoders, own, tokens, mlp)
    return group, _encoder_parameters(encoders, hidden, own, mlp)


def _seq2seq(fields: Fields) -> tuple[LayerGroup, int]:
    hidden, heads = fields.integer("hidden_size"), fields.integer("decoder_attention_heads")
    if hidden % heads:
        raise fields.error(f"d_model {hidden} is not a multiple of {heads} heads")
    dim = hidden // heads
    own = FullAttention(
        heads=heads, kv_heads=heads, key_dim=dim, value_dim=dim, bias=True, output_bias=True
    )
    mlp = _ffn(fields, "decoder_ffn_dim")
    # Whisper's encoder sees 1,500 frames; a text encoder sees as much as its decoder.
    tokens = fields.first_integer("max_source_positions", "max_position_embeddings", default=0)
    if not tokens:
        raise fields.error("the config has no max_source_positions")
    group = _group(fields.integer("decoder_layers"), own, tokens, mlp)
    encoders = fields.integer("encoder_layers")
    return group, _encoder_parameters(encoders, hidden, own, _ffn(fields, "encoder_ffn_dim"))


def _ffn(fields: Fields, key: str) -> DenseMlp:
    return DenseMlp(intermediate_size=fields.integer(key), gated=False, bias=True)
