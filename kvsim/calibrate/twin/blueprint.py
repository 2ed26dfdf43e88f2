"""The shape of a decoder that the twin can build: dense, with plain attention everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.errors import UnsupportedError
from kvsim.specs.attention import FullAttention
from kvsim.specs.model import DenseMlp, LayerGroup, ModelSpec

__all__ = ["Blueprint", "tiny_model"]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A decoder of identical layers: LLaMA-like when rotary, GPT-2-like with learned positions.

    Parameters
    ----------
    layers, hidden, intermediate, vocabulary : int
        Depth and widths.
    heads, kv_heads, head_dim : int
        Attention; each KV head serves ``heads / kv_heads`` query heads.
    longest : int
        Longest context, tokens.
    learned_positions : bool
        A table of positions (with LayerNorm) instead of rotary ones (with RMSNorm).
    gated : bool
        SwiGLU instead of GELU.
    attention_bias, output_bias, mlp_bias : bool
        Which matrices carry a bias.
    tied : bool
        Whether the output head is the embedding.
    """

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    longest: int
    learned_positions: bool = False
    gated: bool = True
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False

    @classmethod
    def of(cls, model: ModelSpec) -> Blueprint:
        """Read a model's shape.

        Raises
        ------
        UnsupportedError
            For a model that is not dense, or whose attention is not plain in every layer.
        """
        cache, mlp = _plain_layer(model)
        return cls(
            layers=model.num_layers,
            hidden=model.hidden_size,
            intermediate=mlp.intermediate_size,
            vocabulary=model.vocab_size,
            heads=cache.heads,
            kv_heads=cache.kv_heads,
            head_dim=cache.key_dim,
            longest=model.max_position_embeddings,
            learned_positions=model.position_embeddings > 0,
            gated=mlp.gated,
            attention_bias=cache.bias,
            output_bias=cache.output_bias,
            mlp_bias=mlp.bias,
            tied=model.tie_embeddings,
        )

    def layer_token_bytes(self, element_bytes: int) -> int:
        """Bytes of K and V of one token in one layer."""
        return 2 * self.kv_heads * self.head_dim * element_bytes


def _plain_layer(model: ModelSpec) -> tuple[FullAttention, DenseMlp]:
    """The one kind of layer that the model has."""
    group = model.layer_groups[0]
    cache = group.caches[0] if group.caches else None
    if len(model.layer_groups) > 1 or len(group.caches) != 1 or type(cache) is not FullAttention:
        raise _refusal(model, "has layers without plain full attention")
    if not isinstance(group.mlp, DenseMlp):
        raise _refusal(model, "is not dense")
    if cache.key_dim != cache.value_dim or cache.output_gate:
        raise _refusal(model, "has an unusual attention (gated, or K and V of unequal size)")
    return cache, group.mlp


def _refusal(model: ModelSpec, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"the twin cannot build {model.name}: it {why}; try llama3-8b, qwen2.5-0.5b or gpt2"
    )


def tiny_model() -> ModelSpec:
    """Return a LLaMA-like decoder of 4 million parameters that a CPU steps in a millisecond."""
    cache = FullAttention(heads=8, kv_heads=4, key_dim=32, value_dim=32)
    mlp = DenseMlp(intermediate_size=768)
    return ModelSpec(
        name="twin-tiny",
        hidden_size=256,
        vocab_size=2048,
        max_position_embeddings=1024,
        dtype="fp32",
        layer_groups=(LayerGroup(name="full", layers=(0, 1, 2, 3), caches=(cache,), mlp=mlp),),
        source="made up for the twin",
    )
