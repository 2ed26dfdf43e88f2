"""A decoder in plain torch with random weights: what a step computes, whoever keeps the cache.

Tokens of all sequences lie side by side in one flat batch, as in a serving engine; what
makes them sequences is the `Attend` that the caller hands in::

    tokens (n) ─ embed ─▶ [norm ─ qkv ─ attend(layer, q, k, v) ─ out ─ norm ─ mlp] * layers
               ─ norm ─ head on the chosen rows ─▶ logits (m, vocabulary)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from kvsim.calibrate.twin.blueprint import Blueprint
from kvsim.calibrate.twin.elementwise import Turns, choose_elementwise, rotary_tables

__all__ = ["Attend", "Decoder"]

_SPREAD = 0.02  # standard deviation of the weights, as GPT-2 was initialised
_EPSILON = 1e-5


class Attend(Protocol):
    """Attention over whatever is cached: it keeps `key` and `value`, and looks `query` up."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend in one layer.

        Parameters
        ----------
        layer : int
            Which layer.
        query : Tensor (tokens, heads, head_dim)
            Rotated queries.
        key, value : Tensor (tokens, kv_heads, head_dim)
            Of the same new tokens.

        Returns
        -------
        Tensor (tokens, heads, head_dim)
        """


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one layer; a bias that the model lacks is None."""

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    up: Tensor
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None

    def tensors(self) -> Iterator[Tensor]:
        """Every weight there is."""
        for name in self.__slots__:
            weight = getattr(self, name)
            if weight is not None:
                yield weight


class Decoder:
    """A decoder with random weights, the same ones for the same seed.

    Parameters
    ----------
    shape : Blueprint
        What to build.
    device : torch.device
        Where.
    dtype : torch.dtype
        Of weights and activations.
    seed : int
        Of the weights.

    Attributes
    ----------
    shape, device, dtype
        As given.
    """

    def __init__(
        self, shape: Blueprint, device: torch.device, dtype: torch.dtype, seed: int = 0
    ) -> None:
        self.shape, self.device, self.dtype = shape, device, dtype
        self._random = torch.Generator(device=device).manual_seed(seed)
        self._embedding = self._weights(shape.vocabulary, shape.hidden)
        positions = shape.longest if shape.learned_positions else 0
        self._positions = self._weights(positions, shape.hidden)
        self._layers = [self._layer() for _ in range(shape.layers)]
        self._norm = self._ones()
        head = None if shape.tied else self._weights(shape.vocabulary, shape.hidden)
        self._head = self._embedding if head is None else head
        longest = 0 if shape.learned_positions else shape.longest
        self._cosine, self._sine = rotary_tables(
            longest, shape.head_dim, device=device, dtype=dtype
        )
        self._elementwise = choose_elementwise(device, dtype).kernels

    # ---- weights ------------------------------------------------------------------------

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights and of the rotary tables; a tied head counts once."""
        held = (*self._tensors(), self._cosine, self._sine)
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    @property
    def parameter_count(self) -> int:
        """Elements of all weights."""
        return sum(weight.numel() for weight in self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        yield from (self._embedding, self._positions, self._norm)
        for layer in self._layers:
            yield from layer.tensors()
        if not self.shape.tied:
            yield self._head

    def _weights(self, rows: int, columns: int) -> Tensor:
        empty = torch.empty(rows, columns, device=self.device, dtype=self.dtype)
        return empty.normal_(std=_SPREAD, generator=self._random)

    def _ones(self) -> Tensor:
        return torch.ones(self.shape.hidden, device=self.device, dtype=self.dtype)

    def _bias(self, present: bool, width: int) -> Tensor | None:
        return self._weights(1, width)[0] if present else None

    def _layer(self) -> _Layer:
        shape = self.shape
        attended = shape.heads * shape.head_dim
        projected = attended + 2 * shape.kv_heads * shape.head_dim
        raised = shape.intermediate * (2 if shape.gated else 1)
        return _Layer(
            norm=self._ones(),
            qkv=self._weights(projected, shape.hidden),
            qkv_bias=self._bias(shape.attention_bias, projected),
            out=self._weights(shape.hidden, attended),
            out_bias=self._bias(shape.output_bias, shape.hidden),
            mlp_norm=self._ones(),
            up=self._weights(raised, shape.hidden),
            up_bias=self._bias(shape.mlp_bias, raised),
            down=self._weights(shape.hidden, shape.intermediate),
            down_bias=self._bias(shape.mlp_bias, shape.hidden),
        )

    # ---- a step -------------------------------------------------------------------------

    def logits(self, tokens: Tensor, positions: Tensor, attend: Attend, rows: Tensor) -> Tensor:
        """Compute a step.

        Parameters
        ----------
        tokens, positions : int64 Tensor (n)
            New tokens of all sequences, and where each stands in its own.
        attend : Attend
            Attention over the caller's cache.
        rows : int64 Tensor (m)
            Tokens whose successors are wanted.

        Returns
        -------
        Tensor (m, vocabulary)
        """
        stream, turns, update = functional.embedding(tokens, self._embedding), None, None
        if self.shape.learned_positions:
            stream = stream + functional.embedding(positions, self._positions)
        else:
            turns = self._elementwise.turns(positions, self._cosine, self._sine)
        for number, layer in enumerate(self._layers):
            normed, stream = self._add_norm(stream, update, layer.norm)
            update = self._attention(number, layer, normed, turns, attend)
            normed, stream = self._add_norm(stream, update, layer.mlp_norm)
            update = self._feed_forward(layer, normed)
        spoken = None if update is None else update[rows]
        normed, _ = self._add_norm(stream[rows], spoken, self._norm)
        return functional.linear(normed, self._head)

    def _attention(
        self, number: int, layer: _Layer, normed: Tensor, turns: Turns | None, attend: Attend
    ) -> Tensor:
        shape = self.shape
        heads = shape.heads + 2 * shape.kv_heads
        mixed = functional.linear(normed, layer.qkv, layer.qkv_bias)
        mixed = mixed.view(-1, heads, shape.head_dim)
        query, key, value = torch.split(mixed, [shape.heads, shape.kv_heads, shape.kv_heads], 1)
        if turns is not None:
            query, key = self._elementwise.rotate(query, key, turns)
        attended = attend(number, query, key, value).reshape(len(normed), -1)
        return functional.linear(attended, layer.out, layer.out_bias)

    def _feed_forward(self, layer: _Layer, normed: Tensor) -> Tensor:
        raised = functional.linear(normed, layer.up, layer.up_bias)
        if self.shape.gated:
            raised = self._elementwise.gate(raised)
        else:
            raised = functional.gelu(raised, approximate="tanh")
        return functional.linear(raised, layer.down, layer.down_bias)

    def _add_norm(
        self, stream: Tensor, update: Tensor | None, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add to the residual stream: (its norm, the stream)."""
        if self.shape.learned_positions:
            stream = stream if update is None else stream + update
            width = (self.shape.hidden,)
            return functional.layer_norm(stream, width, weight, eps=_EPSILON), stream
        if update is None:
            return self._elementwise.norm(stream, weight), stream
        return self._elementwise.add_norm(stream, update, weight)
