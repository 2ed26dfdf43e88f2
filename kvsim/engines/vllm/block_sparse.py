"""Block-sparse attention (MiniMax-M3): what its kernels take."""

from __future__ import annotations

from kvsim.engines.base import Deployment
from kvsim.engines.vllm.rules import kernel_class
from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec

__all__ = ["SPARSE_BLOCK", "check_block_sparse", "is_block_sparse"]

# Source: vllm/models/minimax_m3/common/sparse_attention.py of 0.33: kernels
# take pages of one sparse block, and NVFP4 on the data centre's Blackwell alone (SM100).
SPARSE_BLOCK = 128
_KV_DTYPES = ("bf16", "fp8_e4m3", "fp8_e5m2")


def is_block_sparse(model: ModelSpec) -> bool:
    """Whether a KV head of some layer picks the blocks that it reads."""
    return any(cache.keeps("block_indexer") for _, cache in layer_caches(model))


def check_block_sparse(deployment: Deployment) -> None:
    """Refuse a block, a KV format or a context sharding that block-sparse attention lacks."""
    options, name = deployment.options, deployment.model.name
    size = options.block_size
    if size is not None and size % SPARSE_BLOCK:
        raise InputError(
            f"the block-sparse attention of {name} takes no blocks of {size} tokens",
            where="--block-size",
            fix=f"choose a multiple of {SPARSE_BLOCK}",
        )
    known = _kv_dtypes(deployment.accelerator)
    if options.kv_cache_dtype not in (None, "auto") and deployment.kv_format.name not in known:
        raise InputError(
            f"the block-sparse attention of {name} has no {deployment.kv_format.name} KV cache"
            f" on {deployment.accelerator.name}",
            where="--kv-cache-dtype",
            fix=f"choose {', '.join(known)}",
        )
    if options.decode_context_parallel_size > 1:
        # Its kernels return no log-sum-exp, by which ranks would join what each has read.
        raise InputError(
            f"the block-sparse attention of {name} cannot shard the context of a sequence",
            where="--decode-context-parallel-size",
            fix="choose 1",
        )


def _kv_dtypes(card: AcceleratorProfile) -> tuple[str, ...]:
    is_sm100 = kernel_class(card) == "blackwell"
    return (*_KV_DTYPES, "nvfp4") if is_sm100 else _KV_DTYPES
