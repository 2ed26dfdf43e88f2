"""Total memory to bytes left for KV, on the rank that leaves the fewest blocks."""

from __future__ import annotations

import math
from typing import NamedTuple

from kvsim.engines.base import MemoryBudget, ResolvedDeployment
from kvsim.engines.vllm.loading import loaded_weight_bytes
from kvsim.engines.vllm.overheads import (
    activation_bytes,
    coefficient_source,
    cuda_graph_bytes,
    fused_all_reduce_bytes,
    lora_bytes,
    non_torch_bytes,
    profiled_images_bytes,
    profiled_step,
    sampler_of,
)
from kvsim.engines.vllm.rules import Rules
from kvsim.engines.vllm.workspaces import picked_index_bytes
from kvsim.memory.rank import Rank

__all__ = ["rank_budget"]


class _Term(NamedTuple):
    """Bytes of one part of the budget, and where the number comes from."""

    name: str
    size_bytes: int
    source: str


def rank_budget(deployment: ResolvedDeployment, rules: Rules, rank: Rank) -> MemoryBudget:
    """Predict one rank's memory, for a resolved deployment.

    ``requested = ceil(total * utilisation)``, and what is not taken is KV cache;
    ``--kv-cache-memory-bytes`` sets it instead.
    """
    options, total = deployment.options, deployment.accelerator.memory_bytes
    requested = math.ceil(total * options.gpu_memory_utilization)
    weights = _weights(deployment, rules, rank)
    activation = _activation(deployment, rules, rank)
    non_torch = _non_torch(deployment, rules)
    graphs = _graphs(deployment, rules)
    terms = (weights, activation, non_torch, graphs)
    counts_graphs = bool(rules.value("cuda_graphs_in_budget"))
    taken = sum(term.size_bytes for term in (terms if counts_graphs else terms[:3]))
    given = options.kv_cache_memory_bytes
    return MemoryBudget(
        total_bytes=total,
        budget_bytes=requested,
        weights_bytes=weights.size_bytes,
        activation_bytes=activation.size_bytes,
        non_torch_bytes=non_torch.size_bytes,
        cuda_graph_bytes=graphs.size_bytes,
        kv_cache_bytes=requested - taken if given is None else given,
        cuda_graph_in_budget=counts_graphs,
        provenance=_provenance(deployment, terms),
    )


def _weights(deployment: ResolvedDeployment, rules: Rules, rank: Rank) -> _Term:
    size = loaded_weight_bytes(
        deployment.model,
        rank,
        dtype=deployment.weight_dtype,
        quantization=deployment.quantization,
    )
    adapters = lora_bytes(deployment) if rules.value("lora_in_weights") else 0
    source = "computed: tensors by family and format, as loaded"
    total = size + adapters + picked_index_bytes(deployment)
    return _Term("weights", total, source + (" + LoRA buffers" if adapters else ""))


def _activation(deployment: ResolvedDeployment, rules: Rules, rank: Rank) -> _Term:
    given = deployment.options.activation_bytes
    if given is not None:
        return _Term("activation", given, "given")
    step = profiled_step(deployment, rank, rules)
    sampler = sampler_of(deployment, rules)
    size, images_bytes = activation_bytes(step, sampler), profiled_images_bytes(deployment, rules)
    if images_bytes > size:
        images = f"{deployment.options.max_num_seqs:,} images at once (max_num_seqs)"
        source = rules.entry("profiled_image_token_bytes")["source"]
        return _Term("activation", images_bytes, f"computed: {images}, from {source}")
    return _Term(
        "activation", size, f"fitted ({sampler} sampler): {coefficient_source('activation')}"
    )


def _non_torch(deployment: ResolvedDeployment, rules: Rules) -> _Term:
    given = deployment.options.non_torch_bytes
    if given is not None:
        return _Term("non_torch", given, "given")
    size = non_torch_bytes(deployment, rules)
    source = f"fitted: {coefficient_source('non_torch')}"
    if fused_all_reduce_bytes(deployment, rules):
        source += "; computed: FlashInfer's all-reduce workspace"
    return _Term("non_torch", size, source)


def _graphs(deployment: ResolvedDeployment, rules: Rules) -> _Term:
    given = deployment.options.cuda_graph_bytes
    if given is not None:
        return _Term("cuda_graph", given, "given")
    size = cuda_graph_bytes(deployment, rules)
    source = f"fitted: {coefficient_source('cuda_graph')}" if size else "none is captured"
    return _Term("cuda_graph", size, source)


def _provenance(
    deployment: ResolvedDeployment, terms: tuple[_Term, ...]
) -> tuple[tuple[str, str], ...]:
    memory = deployment.accelerator.memory
    is_given = deployment.options.kv_cache_memory_bytes is not None
    how = "given: --kv-cache-memory-bytes" if is_given else "computed: budget less the terms above"
    return (
        ("total", f"{memory.source} (confidence {memory.confidence})"),
        ("budget", "computed: ceil(total * gpu_memory_utilization)"),
        *((term.name, term.source) for term in terms),
        ("kv_cache", how),
    )
