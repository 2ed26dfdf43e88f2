"""Buffers that vLLM's kernels share, sized while it profiles and kept ever after.

``WorkspaceManager`` (v1/worker/workspace.py) keeps one buffer, as large as the largest request so
far: what a mixture of experts works in, or what a sparse indexer gathers its keys in. It is
still there when the profiled step samples, so it adds to either moment of the peak.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvsim.engines.base import ResolvedDeployment
from kvsim.engines.vllm.rules import Rules, kernel_class
from kvsim.memory.footprint import layer_caches
from kvsim.memory.rank import Rank
from kvsim.specs.model import LayerGroup, MoeMlp
from kvsim.units import MIB

__all__ = ["indexer_logits_bytes", "keeps_experts", "workspace_bytes"]

# An index key: 128 numbers in fp8 and a scale in fp32.
_INDEX_KEY_BYTES = 132
# The latent that FlashMLA unpacks from fp8 to 16 bits.
_UNPACKED_LATENT_BYTES = 576 * 2
# Weights whose experts run in Triton's, DeepGEMM's or CUTLASS's kernels.
_PLAIN = (None, "bf16", "fp16", "fp32")
# Fused kernels of FlashInfer and AITER keep none of these.
_WITHOUT = ("blackwell", "rocm")


def workspace_bytes(deployment: ResolvedDeployment, rank: Rank, rules: Rules, element: int) -> int:
    """Bytes of the shared buffer on one rank: the largest request of its layers."""
    if not rules.value("shared_workspace"):
        return 0
    sizes = list(_sparse_bytes(deployment, rules))
    if keeps_experts(deployment, rules):
        model = deployment.model
        groups = [group for group in model.layer_groups if rank.count_of(model, group.layers)]
        sizes += [_expert_bytes(deployment, group, rank, element) for group in groups]
    return max(sizes, default=0)


def indexer_logits_bytes(deployment: ResolvedDeployment, rules: Rules) -> int:
    """Bytes that the profiled step allocates to stand for a sparse indexer's logits."""
    return int(rules.value("indexer_logits_mib")) * MIB * _has_indexer(deployment)


def keeps_experts(deployment: ResolvedDeployment, rules: Rules) -> bool:
    """Whether experts work in the shared buffer: by release, card and weight format."""
    form = deployment.options.quantization or deployment.model.quantization
    is_plain = form in _PLAIN or str(form).startswith("fp8")
    has_kernels = kernel_class(deployment.accelerator) not in _WITHOUT
    return bool(rules.value("expert_workspace")) and is_plain and has_kernels


def _expert_bytes(
    deployment: ResolvedDeployment, group: LayerGroup, rank: Rank, element: int
) -> int:
    """Rows of both GEMMs for every token and expert of its own.

    Source: ``TritonExperts.workspace_shapes`` (fused_moe.py of 0.19.1): ``(M, topk, max(N / 2,
    K))`` and ``(M, topk, max(N, K))``; DeepGEMM's and CUTLASS's are the same but for padding.
    """
    mlp = group.mlp
    if not isinstance(mlp, MoeMlp):
        return 0
    inner = mlp.intermediate_size if rank.ep > 1 else mlp.intermediate_size // rank.tp
    inputs = mlp.latent_size or deployment.model.hidden_size
    outer = inner * (2 if mlp.gated else 1)
    rows = deployment.options.max_num_batched_tokens * mlp.experts_per_token
    return rows * (max(inner, inputs) + max(outer, inputs)) * element


def _sparse_bytes(deployment: ResolvedDeployment, rules: Rules) -> Iterator[int]:
    """Keys that an indexer gathers, and latents that are unpacked, for some longest contexts."""
    if not _has_indexer(deployment):
        return
    length = deployment.options.max_model_len
    yield length * rules.value("gathered_keys") * _INDEX_KEY_BYTES
    if deployment.kv_format.name == "fp8_ds_mla":
        yield length * 5 * _UNPACKED_LATENT_BYTES


def _has_indexer(deployment: ResolvedDeployment) -> bool:
    return any(cache.keeps("indexer") for _, cache in layer_caches(deployment.model))
