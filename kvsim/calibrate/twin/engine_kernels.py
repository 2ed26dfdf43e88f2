"""The attention kernels of serving engines, called as their documentation has it.

Sources of the signatures: vLLM 0.9 to 0.12 (`vllm.vllm_flash_attn`), FlashInfer 0.2 to 0.5
(`BatchDecodeWithPagedKVCacheWrapper`), flash-attn 2.5 (`flash_attn_with_kvcache`). None has been
run on a device here; one that has changed is left out by its trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from kvsim.calibrate.twin.decodes import Decodes, Geometry
from kvsim.calibrate.twin.kernel import Attend, DecodeKernel
from kvsim.errors import UnsupportedError
from kvsim.units import MIB, ceil_div

__all__ = ["FlashAttention", "FlashInfer", "VllmFlash"]

_FLASHINFER_BYTES = 128 * MIB  # of its workspace, as its documentation has it
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
    held_bytes = _FLASHINFER_BYTES + 8 * MIB  # and its own, of integers

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
