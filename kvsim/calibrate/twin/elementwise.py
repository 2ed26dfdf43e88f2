"""Norms, rotary positions and gates of a decoder layer: fused where something fuses them.

vLLM's own kernels where it is installed, else torch's compiler, else torch's operators one by one.
A CPU takes the last: its seconds are no launches, and compiling takes longer than a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kvsim.calibrate.twin.trials import reason_against

__all__ = ["Elementwise", "Fused", "best_elementwise", "choose_elementwise", "rotary_tables"]

_ROTARY_BASE = 10_000.0
_EPSILON = 1e-5
_CLOSE = 0.02  # after three operations in bf16, of 1 and of the value
_TRIAL_TOKENS, _TRIAL_HEADS, _TRIAL_DIM = 5, 4, 64


class Turns(NamedTuple):
    """Where the tokens of a step stand, and the tables of their angles."""

    positions: Tensor
    cosine: Tensor
    sine: Tensor


def rotary_tables(
    longest: int, head_dim: int, *, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (longest, head_dim / 2) each."""
    half = torch.arange(0, head_dim, 2, device=device) / head_dim
    angles = torch.arange(longest, device=device)[:, None] / _ROTARY_BASE**half
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _add_norm(stream: Tensor, update: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    stream = stream + update
    return functional.rms_norm(stream, weight.shape, weight, eps=_EPSILON), stream


def _rotated(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate halves of (tokens, heads, dim) by their positions' angles (tokens, 1, dim / 2)."""
    first, second = heads.chunk(2, dim=-1)
    turned = first * cosine - second * sine, second * cosine + first * sine
    return torch.cat(turned, dim=-1)


def _both_rotated(
    query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor
) -> tuple[Tensor, Tensor]:
    return _rotated(query, cosine, sine), _rotated(key, cosine, sine)


def _gate(raised: Tensor) -> Tensor:
    gate, up = raised.chunk(2, dim=-1)
    return functional.silu(gate) * up


class Elementwise:
    """Torch's operators, one kernel or more each."""

    name: ClassVar[str] = "torch, not fused"

    def norm(self, stream: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm of (tokens, hidden)."""
        return functional.rms_norm(stream, weight.shape, weight, eps=_EPSILON)

    def add_norm(self, stream: Tensor, update: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Add to the residual stream: (its norm, the stream); what was given may be overwritten."""
        return _add_norm(stream, update, weight)

    def turns(self, positions: Tensor, cosine: Tensor, sine: Tensor) -> Turns:
        """Look a step's angles up, once for all layers."""
        return Turns(positions, cosine[positions, None], sine[positions, None])

    def rotate(self, query: Tensor, key: Tensor, turns: Turns) -> tuple[Tensor, Tensor]:
        """Rotate queries and keys, (tokens, heads, dim) each."""
        return _both_rotated(query, key, turns.cosine, turns.sine)

    def gate(self, raised: Tensor) -> Tensor:
        """SwiGLU: (tokens, 2 * width) to (tokens, width)."""
        return _gate(raised)


class Compiled(Elementwise):
    """Torch's compiler: each of the four is one kernel."""

    name = "torch.compile"

    def __init__(self) -> None:
        def compiled(function: Callable[..., Any]) -> Any:
            return torch.compile(function, dynamic=True)

        self._norm = compiled(super().norm)
        self._add_norm, self._gate = compiled(_add_norm), compiled(_gate)
        self._rotate = compiled(_both_rotated)

    def norm(self, stream: Tensor, weight: Tensor) -> Tensor:
        """See `Elementwise`."""
        normed: Tensor = self._norm(stream, weight)
        return normed

    def add_norm(self, stream: Tensor, update: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """See `Elementwise`."""
        both: tuple[Tensor, Tensor] = self._add_norm(stream, update, weight)
        return both

    def rotate(self, query: Tensor, key: Tensor, turns: Turns) -> tuple[Tensor, Tensor]:
        """See `Elementwise`."""
        both: tuple[Tensor, Tensor] = self._rotate(query, key, turns.cosine, turns.sine)
        return both

    def gate(self, raised: Tensor) -> Tensor:
        """See `Elementwise`."""
        gated: Tensor = self._gate(raised)
        return gated


class VllmOps(Elementwise):
    """vLLM's own kernels; signatures as of vLLM 0.11 (``vllm/_custom_ops.py``)."""

    name = "vLLM's fused operators"

    def __init__(self) -> None:
        self._ops: Any = import_module("vllm._custom_ops")

    def norm(self, stream: Tensor, weight: Tensor) -> Tensor:
        """See `Elementwise`."""
        out = torch.empty_like(stream)
        self._ops.rms_norm(out, stream, weight, _EPSILON)
        return out

    def add_norm(self, stream: Tensor, update: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """In place: the update becomes the norm."""
        self._ops.fused_add_rms_norm(update, stream, weight, _EPSILON)
        return update, stream

    def turns(self, positions: Tensor, cosine: Tensor, sine: Tensor) -> Turns:
        """The tables as one, cosines first."""
        return Turns(positions, torch.cat((cosine, sine), dim=-1), sine)

    def rotate(self, query: Tensor, key: Tensor, turns: Turns) -> tuple[Tensor, Tensor]:
        """In place."""
        flat = query.flatten(1), key.flatten(1)
        self._ops.rotary_embedding(turns.positions, *flat, query.shape[-1], turns.cosine, True)
        return flat[0].view(query.shape), flat[1].view(key.shape)

    def gate(self, raised: Tensor) -> Tensor:
        """See `Elementwise`."""
        out = raised.new_empty(len(raised), raised.shape[1] // 2)
        torch.ops._C.silu_and_mul(out, raised)
        return out


class Fused(NamedTuple):
    """The kernels of a device.

    Parameters
    ----------
    kernels : Elementwise
        What is called.
    passed_over : tuple of str
        Better ones that are not to be had, and why, a line each.
    """

    kernels: Elementwise
    passed_over: tuple[str, ...] = ()


@cache
def choose_elementwise(device: torch.device, dtype: torch.dtype) -> Fused:
    """The best kernels of a device; see `best_elementwise`."""
    return best_elementwise(device, dtype, () if device.type == "cpu" else (VllmOps, Compiled))


def best_elementwise(
    device: torch.device, dtype: torch.dtype, kinds: Sequence[type[VllmOps | Compiled]]
) -> Fused:
    """Find the first kernels that run here and agree with torch's operators; else those."""
    passed_over: list[str] = []
    for kind in kinds:
        made: list[Elementwise] = []

        def trial(kind: type[VllmOps | Compiled] = kind, made: list[Elementwise] = made) -> float:
            made.append(kind())
            return _trial_error(made[0], device, dtype)

        reason = reason_against(trial, 1.0)
        if not reason:
            return Fused(made[0], tuple(passed_over))
        passed_over.append(f"{kind.name}: {reason}")
    return Fused(Elementwise(), tuple(passed_over))


def _trial_error(kernels: Elementwise, device: torch.device, dtype: torch.dtype) -> float:
    """Largest difference from torch's operators, over what rounding explains, of a few tokens."""
    with torch.inference_mode():
        found, right = (_answers(each, device, dtype) for each in (kernels, Elementwise()))
        pairs = zip(found, right, strict=True)
        return max(_apart(a.float(), b.float()) for a, b in pairs)


def _apart(found: Tensor, right: Tensor) -> float:
    """The largest difference as a multiple of what rounding explains: more of larger values."""
    return float(((found - right).abs() / (_CLOSE * (1 + right.abs()))).max())


def _answers(kernels: Elementwise, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What kernels make of the same random values."""
    random = torch.Generator(device=device).manual_seed(0)
    tokens, heads, dim = _TRIAL_TOKENS, _TRIAL_HEADS, _TRIAL_DIM

    def values(*shape: int) -> Tensor:
        return torch.empty(shape, device=device, dtype=dtype).normal_(generator=random)

    weight, stream = values(heads * dim), values(tokens, heads * dim)
    normed = kernels.norm(stream, weight)
    update = values(tokens, heads * dim)
    both = kernels.add_norm(stream, update, weight)
    tables = rotary_tables(tokens, dim, device=device, dtype=dtype)
    positions = torch.arange(tokens, dtype=torch.int64, device=device)
    query, key = values(tokens, heads, dim), values(tokens, heads, dim)
    rotated = kernels.rotate(query, key, kernels.turns(positions, *tables))
    return normed, *both, *rotated, kernels.gate(values(tokens, 2 * dim))
