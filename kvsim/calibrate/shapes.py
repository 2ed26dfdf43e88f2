"""Shapes of public dense decoders whose steps the kernel tables can make up."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LLAMA_3_8B", "PUBLIC_SHAPES", "DecoderShape"]


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """A dense decoder of identical layers with gated MLPs.

    Parameters
    ----------
    name : str
        The model.
    hidden_size, intermediate_size, layers : int
        Widths and depth.
    heads, kv_heads, head_dim : int
        Attention.
    vocab_size : int
        Rows of the output head; 0 leaves the head out, as the kernel tables do.
    """

    name: str
    hidden_size: int
    heads: int
    kv_heads: int
    intermediate_size: int
    layers: int
    head_dim: int = 128
    vocab_size: int = 0

    def gemms(self, tp: int) -> tuple[tuple[int, int], ...]:
        """The four matrices of a layer on one of `tp` ranks, (n, k): qkv, o, gate+up, down."""
        heads, kv_heads = self.heads // tp, self.kv_heads // tp
        inner = self.intermediate_size // tp
        return (
            ((heads + 2 * kv_heads) * self.head_dim, self.hidden_size),
            (self.hidden_size, heads * self.head_dim),
            (2 * inner, self.hidden_size),
            (self.hidden_size, inner),
        )

    def layer_parameters(self, tp: int) -> int:
        """Weights of one layer on one rank."""
        return sum(n * k for n, k in self.gemms(tp))

    def shards(self) -> list[int]:
        """Tensor-parallel degrees up to 8 that split every head."""
        return [tp for tp in (1, 2, 4, 8) if not self.heads % tp and not self.kv_heads % tp]


# Source: each model's config.json on the Hugging Face hub.
PUBLIC_SHAPES = (
    DecoderShape("Llama-2-7B", 4096, 32, 32, 11008, 32),
    DecoderShape("Llama-2-13B", 5120, 40, 40, 13824, 40),
    DecoderShape("Llama-3-8B", 4096, 32, 8, 14336, 32),
    DecoderShape("Llama-3-70B", 8192, 64, 8, 28672, 80),
    DecoderShape("CodeLlama-34B", 8192, 64, 8, 22016, 48),
    DecoderShape("Qwen2.5-14B", 5120, 40, 8, 13824, 48),
    DecoderShape("Qwen3-32B", 5120, 64, 8, 25600, 64),
    DecoderShape("Mistral-Small-24B", 5120, 32, 8, 32768, 40),
)

LLAMA_3_8B = DecoderShape("Llama-3.1-8B", 4096, 32, 8, 14336, 32, vocab_size=128256)
