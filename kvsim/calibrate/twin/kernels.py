"""Attention kernels of a decode step, best first: what engines use where it is installed.

::

    vLLM's flash_attn_varlen_func   FlashInfer   flash-attn   torch's varlen_attn   flex_attention
        block tables, one call a layer for all sequences                            (compiled)
    ─────────────────────────────────────────────────────────────────────────────────────────────
    gathered blocks                 torch has its flash kernel only without a mask: sequences of
                                    equal length are copied together and attended to at once

Which one a device takes is found by trying: the first that runs, and that agrees with plain
arithmetic on a few sequences. On a CPU blocks are gathered by like length, behind a mask.

Sources of the signatures: vLLM 0.9 to 0.12 (`vllm.vllm_flash_attn`), FlashInfer 0.2 to 0.5
(`BatchDecodeWithPagedKVCacheWrapper`), flash-attn 2.5 (`flash_attn_with_kvcache`), torch 2.13.
Only gathering has been run on a device here; a kernel that has changed is left out by its trial.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kvsim.calibrate.twin.decodes import Decodes, Geometry
from kvsim.calibrate.twin.gathered import Gathered
from kvsim.calibrate.twin.trials import reason_against
from kvsim.errors import UnsupportedError
from kvsim.units import MIB, ceil_div

__all__ = [
    "KERNELS",
    "Choice",
    "best_kernel",
    "choose_kernel",
    "plain_attention",
]

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``attend(query, keys, values)``: (sequences, heads, dim), and one layer's blocks."""

_FLASHINFER_BYTES = 128 * MIB  # of its workspace, as its documentation has it
_FLEX_QUERIES = 64  # of a tile: the sparsity's blocks must be whole tiles
_TRIAL_LENGTHS = (5, 37, 64)
_CLOSE = 0.02  # of values around 1: bf16 has eight bits


class DecodeKernel(ABC):
    """Attention of one token a sequence.

    Parameters
    ----------
    geometry : Geometry
        What it is for.

    Attributes
    ----------
    name : str
        What it is called in results.
    gathers : bool
        Whether it copies blocks together, instead of reading K and V where they lie.

    Raises
    ------
    ImportError
        When its library is not installed.
    """

    name: ClassVar[str]
    gathers: ClassVar[bool] = False

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    @abstractmethod
    def plan(self, decodes: Decodes) -> Attend:
        """Lay out one step's attention; every layer then calls what is returned."""

    def tables(self, decodes: Decodes) -> tuple[Tensor, Tensor]:
        """Block tables (n, most), padded, and lengths (n), both int32."""
        size, device = self.geometry.block_size, self.geometry.device
        most = ceil_div(max(decodes.lengths), size)
        padded = [[*ids[:most], *[0] * (most - len(ids))] for ids in decodes.tables]
        tables = torch.tensor(padded, dtype=torch.int32, device=device)
        return tables, torch.tensor(decodes.lengths, dtype=torch.int32, device=device)

    def starts(self, decodes: Decodes) -> Tensor:
        """Where each sequence's one query begins in the batch, int32 (n + 1)."""
        count = len(decodes.lengths) + 1
        return torch.arange(count, dtype=torch.int32, device=self.geometry.device)


# Where vLLM keeps it: newer releases first.
_VERSION_CHOOSERS = (
    "vllm.v1.attention.backends.fa_utils",
    "vllm.attention.utils.fa_utils",
    "vllm.attention.backends.utils",
)


def _first_of(names: Sequence[str]) -> Any:
    """Import the first module that is there.

    Raises
    ------
    ImportError
        When none is.
    """
    for name in names[:-1]:
        try:
            return import_module(name)
        except ImportError:
            continue
    return import_module(names[-1])


class VllmFlash(DecodeKernel):
    """What vLLM calls on NVIDIA cards, in the version that it takes on this one."""

    name = "vLLM flash_attn_varlen_func"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self._attend = import_module("vllm.vllm_flash_attn").flash_attn_varlen_func
        self._version = _first_of(_VERSION_CHOOSERS).get_flash_attn_version()
        if self._version is None:
            raise UnsupportedError("vLLM has no flash attention for this card")

    def plan(self, decodes: Decodes) -> Attend:
        """One call for all sequences."""
        tables, lengths = self.tables(decodes)
        known = {
            "cu_seqlens_q": self.starts(decodes),
            "max_seqlen_q": 1,
            "seqused_k": lengths,
            "max_seqlen_k": max(decodes.lengths),
            "causal": True,
            "block_table": tables,
            "fa_version": self._version,
        }
        return lambda query, keys, values: self._attend(q=query, k=keys, v=values, **known)


@cache
def _workspace(device: torch.device) -> Tensor:
    """FlashInfer's, one a device: zeros, which its first use asks for."""
    return torch.zeros(_FLASHINFER_BYTES, dtype=torch.uint8, device=device)


class FlashInfer(DecodeKernel):
    """FlashInfer's batch decode, on tensor cores where queries share K and V."""

    name = "FlashInfer BatchDecodeWithPagedKVCacheWrapper"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        kind = import_module("flashinfer").BatchDecodeWithPagedKVCacheWrapper
        workspace = _workspace(geometry.device)
        shared = geometry.heads > geometry.kv_heads
        self._wrapper = kind(workspace, "NHD", use_tensor_cores=shared)

    def plan(self, decodes: Decodes) -> Attend:
        """Its own planning, and then one call a layer."""
        known, size = self.geometry, self.geometry.block_size
        counts = [ceil_div(length, size) for length in decodes.lengths]
        ids = [at for n, table in zip(counts, decodes.tables, strict=True) for at in table[:n]]
        ends = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        last = [(length - 1) % size + 1 for length in decodes.lengths]
        self._wrapper.plan(
            ends.to(known.device),
            torch.tensor(ids, dtype=torch.int32, device=known.device),
            torch.tensor(last, dtype=torch.int32, device=known.device),
            known.heads,
            known.kv_heads,
            known.head_dim,
            size,
            q_data_type=known.dtype,
            kv_data_type=known.dtype,
        )
        return lambda query, keys, values: self._wrapper.run(query, (keys, values))


class FlashAttention(DecodeKernel):
    """The flash-attn package's decode; of version 2 blocks have to be of 256 tokens."""

    name = "flash-attn flash_attn_with_kvcache"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self._attend = import_module("flash_attn").flash_attn_with_kvcache

    def plan(self, decodes: Decodes) -> Attend:
        """One call for all sequences, a query of length one each."""
        tables, lengths = self.tables(decodes)

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            known = {"cache_seqlens": lengths, "block_table": tables, "causal": True}
            found: Tensor = self._attend(query[:, None], keys, values, **known)
            return found[:, 0]

        return attend


class TorchVarlen(DecodeKernel):
    """Torch's own flash attention with block tables, since 2.13."""

    name = "torch varlen_attn"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self._attend = import_module("torch.nn.attention.varlen").varlen_attn

    def plan(self, decodes: Decodes) -> Attend:
        """One call for all sequences."""
        tables, lengths = self.tables(decodes)
        starts, longest = self.starts(decodes), max(decodes.lengths)
        known = {"enable_gqa": True, "seqused_k": lengths, "block_table": tables}

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            found: Tensor = self._attend(query, keys, values, starts, None, 1, longest, **known)
            return found

        return attend


class Flex(DecodeKernel):
    """Torch's compiled flex_attention: the block table is its sparsity.

    Whole blocks need no mask, and of each sequence's last one only the filled slots count.
    """

    name = "torch flex_attention, compiled"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        flex = import_module("torch.nn.attention.flex_attention")
        self._mask: Any = flex.BlockMask
        self._attend = self.compiled(flex.flex_attention)

    @staticmethod
    def compiled(attention: Any) -> Any:
        """Compile it for batches that change from step to step; not at all rather than in parts."""
        return torch.compile(attention, dynamic=True, fullgraph=True)

    def plan(self, decodes: Decodes) -> Attend:
        """One call for all sequences, a batch entry each over the same blocks."""
        tables, lengths = self.tables(decodes)

        @cache
        def mask_of(blocks: int) -> Any:
            return self._block_mask(tables, lengths, blocks)

        def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            flat = [each.flatten(0, 1).transpose(0, 1)[None] for each in (keys, values)]
            mask = mask_of(len(keys))  # one for all layers
            found: Tensor = self._attend(
                query[:, :, None],
                *flat,
                block_mask=mask,
                enable_gqa=True,
                kernel_options={"BLOCK_M": _FLEX_QUERIES, "BLOCK_N": self.geometry.block_size},
            )
            return found[:, :, 0]

        return attend

    def _block_mask(self, tables: Tensor, lengths: Tensor, blocks: int) -> Any:
        """Which of all blocks each sequence (n) reads, and which slots of its last one.

        Whole blocks are not asked again; where nothing is compiled every slot is.
        """
        size, count = self.geometry.block_size, len(lengths)
        whole = (lengths - 1) // size
        logical = torch.arange(tables.shape[1], dtype=torch.int32, device=tables.device)
        logical = torch.where(logical <= whole[:, None], logical, -1)
        # of each sequence and block, which of its own it is; a padded table says none of block 0
        own = torch.full((count, blocks), -1, dtype=torch.int32, device=tables.device)
        own = own.scatter_reduce(1, tables.long(), logical, "amax")
        order = functional.pad(tables, (0, blocks - tables.shape[1]))
        last = order.gather(1, whole[:, None].long()).expand(-1, blocks).contiguous()

        def filled(batch: Tensor, head: Tensor, query: Tensor, slot: Tensor) -> Tensor:
            at = own[batch, slot // size]
            return (at >= 0) & (at * size + slot % size < lengths[batch])

        return self._mask.from_kv_blocks(
            torch.ones_like(whole)[:, None, None],
            last[:, None, None],
            whole[:, None, None],
            order[:, None, None],
            BLOCK_SIZE=(_FLEX_QUERIES, size),
            mask_mod=filled,
            seq_lengths=(1, blocks * size),
            compute_q_blocks=False,
        )


class ByEqualLength(DecodeKernel):
    """Torch's flash attention over gathered blocks: it has no mask, so lengths are equal."""

    name = "torch scaled_dot_product_attention, gathered by equal length"
    gathers = True
    masked = False

    def plan(self, decodes: Decodes) -> Attend:
        """A gathered group after the other."""
        return Gathered(decodes, self.geometry, masked=self.masked)


class ByLikeLength(ByEqualLength):
    """The same behind a mask, so that few groups do: a CPU's kernel has one."""

    name = "torch scaled_dot_product_attention, gathered by like length"
    masked = True


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
