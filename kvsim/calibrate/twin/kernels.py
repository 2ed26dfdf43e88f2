"""Attention kernels of a decode step, best first: what engines use where it is installed.

::

    vLLM's flash_attn_varlen_func   FlashInfer   flash-attn   torch's varlen_attn   flex_attention
        block tables, one call a layer for all sequences                            (compiled)
    ─────────────────────────────────────────────────────────────────────────────────────────────
    gathered blocks                 torch has its flash kernel only without a mask: sequences of
                                    equal length are copied together and attended to at once

Which one a device takes is found by trying: the first that runs, and that agrees with plain
arithmetic on a few sequences. On a CPU blocks are gathered by like length, behind a mask.

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kvsim.calibrate.twin.decodes import Decodes, Geometry
from kvsim.calibrate.twin.engine_kernels import FlashAttention, FlashInfer, VllmFlash
from kvsim.calibrate.twin.kernel import DecodeKernel
from kvsim.calibrate.twin.torch_kernels import ByEqualLength, ByLikeLength, Flex, TorchVarlen
from kvsim.calibrate.twin.trials import reason_against
from kvsim.errors import UnsupportedError
from kvsim.units import ceil_div

__all__ = [
    "KERNELS",
    "Choice",
    "best_kernel",
    "choose_kernel",
    "plain_attention",
]

_TRIAL_LENGTHS = (5, 37, 64)
_CLOSE = 0.02  # of values around 1: bf16 has eight bits


KERNELS: tuple[type[DecodeKernel], ...] = (
    VllmFlash,
    FlashInfer,
    FlashAttention,
    TorchVarlen,
    Flex,
    ByEqualLength,
)


class Choice(NamedTuple):
    """The kernel of a device.

    Parameters
    ----------
    kernel : DecodeKernel
        What is called.
    passed_over : tuple of str
        Better ones that are not to be had, and why, a line each.
    """

    kernel: DecodeKernel
    passed_over: tuple[str, ...] = ()


@cache
def choose_kernel(geometry: Geometry) -> Choice:
    """The best kernel of a device; see `best_kernel`."""
    on_cpu = geometry.device.type == "cpu"
    return best_kernel(geometry, (ByLikeLength,) if on_cpu else KERNELS)


def best_kernel(geometry: Geometry, kinds: Sequence[type[DecodeKernel]]) -> Choice:
    """Find the first kernel that runs here and agrees with plain arithmetic.

    Raises
    ------
    UnsupportedError
        When none does.
    """
    passed_over: list[str] = []
    for kind in kinds:
        made: list[DecodeKernel] = []

        def trial(kind: type[DecodeKernel] = kind, made: list[DecodeKernel] = made) -> float:
            made.append(kind(geometry))
            return _trial_error(made[0])

        reason = reason_against(trial, 1.0)
        if not reason:
            return Choice(made[0], tuple(passed_over))
        passed_over.append(f"{kind.name}: {reason}")
    raise UnsupportedError(f"no attention kernel runs on this device: {'; '.join(passed_over)}")


def _trial_error(kernel: DecodeKernel) -> float:
    """Largest difference from plain arithmetic, over what rounding explains: values are below 4."""
    known = kernel.geometry
    random = torch.Generator(device=known.device).manual_seed(0)
    counts = [ceil_div(length, known.block_size) for length in _TRIAL_LENGTHS]

    def values(*shape: int) -> Tensor:
        empty = torch.empty(shape, device=known.device, dtype=known.dtype)
        return empty.normal_(generator=random)

    blocks = (sum(counts), known.block_size, known.kv_heads, known.head_dim)
    keys, vals = values(*blocks), values(*blocks)
    query = values(len(counts), known.heads, known.head_dim)
    decodes = Decodes(list(_shuffled_tables(counts)), _TRIAL_LENGTHS)
    found = kernel.plan(decodes)(query, keys, vals)
    right = plain_attention(decodes, query, keys, vals)
    return float((found.float() - right).abs().max()) / _CLOSE


def _shuffled_tables(counts: Sequence[int]) -> Iterator[list[int]]:
    """Blocks of sequences in no order: every third one, and so on."""
    total = sum(counts)
    ids = iter([at for first in range(3) for at in range(first, total, 3)])
    for count in counts:
        yield [next(ids) for _ in range(count)]


def plain_attention(decodes: Decodes, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention by its definition in fp32, a sequence after the other: (n, heads, dim)."""
    heads = query.shape[1]

    def of(row: int) -> Tensor:
        table, length = list(decodes.tables[row]), decodes.lengths[row]
        both = (each[table].flatten(0, 1)[:length].float() for each in (keys, values))
        key, value = (each.repeat_interleave(heads // each.shape[1], 1) for each in both)
        scores = torch.einsum("hd,thd->ht", query[row].float(), key) / key.shape[-1] ** 0.5
        return torch.einsum("ht,thd->hd", functional.softmax(scores, -1), value)

    return torch.stack([of(row) for row in range(len(query))])
