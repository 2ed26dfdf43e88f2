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
        asked, room = _unlike(sizing.pool_bytes, sizing.room_bytes)
        return (
            f"DOES NOT FIT: the KV cache asked for is {asked}, and the card has"
            f" {room} beside the weights and the engine's own memory"
        )
    if sizing.budget.kv_cache_bytes <= 0:
        return f"DOES NOT FIT: nothing is left for KV cache; {binding_term(sizing)}"
    scarcest = sizing.pools.scarcest(capacity.max_model_len)
    blocks = scarcest.blocks_at(capacity.max_model_len)
    if len(sizing.pools.pools) > 1 and scarcest.given_blocks < blocks:
        return (
            f"DOES NOT FIT: one request of {longest} needs {blocks:,} blocks of the {scarcest.name}"
            f" pool and there are {scarcest.given_blocks:,}; {_taken(sizing)}"
        )
    withheld = sizing.capacity.withheld_blocks * sizing.capacity.bytes_per_block
    needed, left = _unlike(_request_bytes(sizing), max(0, sizing.pool_bytes - withheld))
    return (
        f"DOES NOT FIT: one request of {longest} needs {needed} of KV cache and there is"
        f" {left}{_withheld(sizing)}; {binding_term(sizing)}"
    )


def _taken(sizing: Sizing) -> str:
    """What took the memory of several pools: states set aside for every seat, or the rest."""
    budget, options = sizing.budget, sizing.deployment.options
    states = sum(
        pool.num_blocks * pool.block_bytes for pool in sizing.pools if pool.name == "states"
    )
    if states > budget.kv_cache_bytes // 2:
        return f"the states of max_num_seqs = {options.max_num_seqs:,} take {_gib(states)}"
    return binding_term(sizing)


def _withheld(sizing: Sizing) -> str:
    """What no request is given, where there would be enough with it."""
    blocks, capacity = sizing.capacity.withheld_blocks, sizing.capacity
    if not blocks or capacity.max_concurrency < 1:
        return ""
    return f" without the block of {capacity.num_blocks:,} that {sizing.engine.name} withholds"


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


def _gib(size_bytes: float, digits: int = 2) -> str:
    """GiB as the tables print them, and a smaller unit where that would be nothing."""
    if 0 < abs(size_bytes) < GIB / 100:
        return format_bytes(size_bytes)
    return f"{size_bytes / GIB:,.{digits}f} GiB"


def _unlike(one: float, other: float) -> tuple[str, str]:
    """Two sizes with as many digits as it takes to tell them apart."""
    for digits in range(2, 9):
        written = _gib(one, digits), _gib(other, digits)
        if written[0] != written[1]:
            break
    return written
