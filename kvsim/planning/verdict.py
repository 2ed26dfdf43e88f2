"""The answer in one sentence: it fits, or which term took the memory."""

from __future__ import annotations

from kvsim.planning.sizing import Sizing
from kvsim.units import GIB, format_bytes

__all__ = ["binding_term", "verdict"]


def verdict(sizing: Sizing) -> str:
    """Say in one sentence whether the plan fits and, when not, what took the memory."""
    capacity = sizing.capacity
    longest = f"{capacity.max_model_len:,} tokens"
    if sizing.fits:
        return f"FITS: {capacity.max_concurrency:,.2f} requests of {longest} at once"
    if sizing.pool_bytes > sizing.room_bytes:
        return (
            f"DOES NOT FIT: the KV cache asked for is {_gib(sizing.pool_bytes)}, and the card has"
            f" {_gib(sizing.room_bytes)} beside the weights and the engine's own memory"
        )
    if sizing.budget.kv_cache_bytes <= 0:
        return f"DOES NOT FIT: nothing is left for KV cache; {binding_term(sizing)}"
    needed = _request_bytes(sizing)
    return (
        f"DOES NOT FIT: one request of {longest} needs {_gib(needed)} of KV cache and there is"
        f" {_gib(sizing.pool_bytes)}; {binding_term(sizing)}"
    )


def _request_bytes(sizing: Sizing) -> float:
    """KV bytes of one request of ``max_model_len``, as admission charges it where it can."""
    capacity = sizing.capacity
    if capacity.max_concurrency > 0:
        return sizing.pool_bytes / capacity.max_concurrency
    return sizing.occupied_bytes(capacity.max_model_len)


def binding_term(sizing: Sizing) -> str:
    """Name the flag that limits the pool, or the term that takes the most of the budget."""
    budget, options = sizing.budget, sizing.deployment.options
    if options.num_gpu_blocks_override is not None:
        return f"num_gpu_blocks_override is {options.num_gpu_blocks_override:,}"
    if options.kv_cache_memory_bytes is not None:
        return "kv_cache_memory_bytes allows no more"
    terms = {
        "the weights": budget.weights_bytes,
        "activations": budget.activation_bytes,
        "memory outside the framework": budget.non_torch_bytes,
        "CUDA graphs": budget.cuda_graph_bytes if budget.cuda_graph_in_budget else 0,
    }
    name = max(terms, key=lambda term: terms[term])
    verb = "take" if name.endswith("s") else "takes"
    return f"{name} {verb} {_gib(terms[name])} of the {_gib(budget.budget_bytes)} budget"


def _gib(size_bytes: float) -> str:
    """GiB as the tables print them, and a smaller unit where that would be nothing."""
    if abs(size_bytes) < GIB / 100:
        return format_bytes(size_bytes)
    return f"{size_bytes / GIB:,.2f} GiB"
