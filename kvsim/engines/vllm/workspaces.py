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
from kvsim.memory.tensors import TensorFamily
from kvsim.memory.weights import weight_storage
from kvsim.specs.model import LayerGroup, MoeMlp
from kvsim.units import MIB, ceil_div

__all__ = ["keeps_experts", "picked_index_bytes", "stand_in_bytes", "workspace_bytes"]

# An index key: 128 numbers in fp8 and a scale in fp32.
_INDEX_KEY_BYTES = 132
_MOST_EXPANDED = 64 * 1024
# As many of them as fit in a latent that is unpacked; longer contexts than this gather fewer.
_KEYS_PER_LATENT = 8
_LONG = 256 * 1024
# The latent that FlashMLA unpacks from fp8 to 16 bits.
_UNPACKED_LATENT_BYTES = 576 * 2


def workspace_bytes(deployment: ResolvedDeployment, rank: Rank, rules: Rules, element: int) -> int:
    """Bytes of the shared buffer on one rank: the largest request of its layers."""
    if not rules.value("shared_workspace"):
        return 0
    model, sizes = deployment.model, list(_sparse_bytes(deployment, rules))
    for group in model.layer_groups:
        if rank.count_of(model, group.layers) and keeps_experts(deployment, group, rules):
            sizes.append(_expert_bytes(deployment, group, rank, element))
    return max(sizes, default=0)


def stand_in_bytes(deployment: ResolvedDeployment, rank: Rank, rules: Rules, element: int) -> int:
    """Bytes that a profiled layer allocates, and frees, to stand for its largest step.

    Without a context, latent attention allocates what it would expand one to, and a sparse
    indexer its logits (``sparse_attn_indexer.py`` of 0.19.1), one after the other.
    """
    logits = int(rules.value("indexer_logits_mib")) * MIB * _has_indexer(deployment)
    expands = bool(rules.value("expands_latents"))
    return max(logits, _expanded_bytes(deployment, rank, element) * expands)


def _expanded_bytes(deployment: ResolvedDeployment, rank: Rank, element: int) -> int:
    """Keys, without their rotary part, and values of a chunk of contexts.

    Source: ``MLAAttention.forward_impl`` and ``determine_chunked_prefill_workspace_size``
    (mla_attention.py of 0.19.1): 8 contexts or 4 blocks a sequence, up to 64K tokens.
    """
    options = deployment.options
    widths = [
        ceil_div(cache.expansion // cache.vectors.value_dim, rank.tp)
        for _, cache in layer_caches(deployment.model)
        if cache.expansion
    ]
    blocks = options.max_num_seqs * options.block_size
    tokens = max(min(max(8 * options.max_model_len, 4 * blocks), _MOST_EXPANDED), blocks)
    return tokens * max(widths, default=0) * element


def picked_index_bytes(deployment: ResolvedDeployment) -> int:
    """Bytes of the places that an indexer picks for each token of a step: int32, made at load.

    Source: ``topk_indices_buffer`` of ``DeepseekV2Model`` (deepseek_v2.py of 0.11.0 to 0.33.0).
    """
    caches = [cache for _, cache in layer_caches(deployment.model) if cache.keeps("indexer")]
    picked = max((cache.read_bend or 0 for cache in caches if cache.keeps("latent")), default=0)
    return picked * deployment.options.max_num_batched_tokens * 4


def keeps_experts(deployment: ResolvedDeployment, group: LayerGroup, rules: Rules) -> bool:
    """Whether a layer's experts work in the shared buffer: by release, card and weight format."""
    storage = weight_storage(deployment.model, deployment.weight_dtype, deployment.quantization)
    form = storage.format_of(TensorFamily("experts", group.layers, 0)).name
    kernels = kernel_class(deployment.accelerator)
    return any(form in row["formats"] and kernels in row["cards"] for row in _rows(rules))


def _rows(rules: Rules) -> list[dict[str, list[str]]]:
    rows: list[dict[str, list[str]]] = rules.value("expert_workspace")
    return rows


def _expert_bytes(
    deployment: ResolvedDeployment, group: LayerGroup, rank: Rank, element: int
) -> int:
    """Rows of both GEMMs for every token and expert of its own; 0 for a layer without experts.

    Source: ``TritonExperts.workspace_shapes`` (fused_moe.py of 0.19.1): ``(M, topk, max(N / 2,
    K))`` and ``(M, topk, max(N, K))``; DeepGEMM's, CUTLASS's and Marlin's are the same but for
    padding.
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
    """Keys that an indexer gathers, and latents that are unpacked, for some longest contexts.

    Source: ``get_max_prefill_buffer_size`` (v1/attention/backends/mla/indexer.py) and
    ``get_prefill_workspace_size`` (flashmla_sparse.py) of 0.13.0 to 0.33.0.
    """
    length, contexts = deployment.options.max_model_len, rules.value("prefill_contexts")
    tokens = length * contexts["to_256k" if length <= _LONG else "beyond"]
    for _, cache in layer_caches(deployment.model):
        if not cache.keeps("indexer"):
            continue
        yield tokens * _KEYS_PER_LATENT // cache.fold_tokens * _INDEX_KEY_BYTES
        if cache.keeps("latent") and deployment.kv_format.name == "fp8_ds_mla":
            yield tokens * _UNPACKED_LATENT_BYTES


def _has_indexer(deployment: ResolvedDeployment) -> bool:
    return any(cache.keeps("indexer") for _, cache in layer_caches(deployment.model))
