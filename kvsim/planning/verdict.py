"""The answer in one sentence: it fits, or which term took the memory."""

from __future__ import annotations

from kvsim.memory.pools import Pool
from kvsim.planning.sizing import Sizing
from kvsim.units import GIB, format_bytes

__all__ = ["binding_term", "verdict"]

# Share of the pools' bytes from which one pool is what keeps the others small.
_CROWDED = 0.9


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
    if len(sizing.pools.pools) > 1:
        return f"DOES NOT FIT: one request of {longest} needs {_short_pool(sizing)}"
    withheld = sizing.capacity.withheld_blocks * sizing.capacity.bytes_per_block
    needed, left = _unlike(_request_bytes(sizing), max(0, sizing.pool_bytes - withheld))
    return (
        f"DOES NOT FIT: one request of {longest} needs {needed} of KV cache and there is"
        f" {left}{_withheld(sizing)}; {binding_term(sizing)}"
    )


def _short_pool(sizing: Sizing) -> str:
    """What one request lacks in the pool that runs out first, and what took the memory."""
    pools = sizing.pools
    short = min(pools, key=lambda pool: pool.given_blocks / _charged_blocks(pool))
    needed, left = _unlike(
        _charged_blocks(short) * short.block_bytes, short.given_blocks * short.block_bytes
    )
    largest = max(pools, key=lambda pool: pool.num_blocks * pool.block_bytes)
    taken = largest.num_blocks * largest.block_bytes
    is_crowded = largest is not short and taken > _CROWDED * sizing.pool_bytes
    why = f"the pool {largest.name!r} takes {_gib(taken)}" if is_crowded else binding_term(sizing)
    return f"{needed} of KV cache in the pool {short.name!r} and there is {left}; {why}"


def _charged_blocks(pool: Pool) -> int:
    """Blocks that admission charges one request of ``max_model_len``."""
    return max(1, sum(group.blocks_per_sequence for group in pool.groups))


def _withheld(sizing: Sizing) -> str:
    """What no request is given, where there would be enough with it."""
    blocks, capacity = sizing.capacity.withheld_blocks, sizing.capacity
    if not blocks or capacity.max_concurrency < 1:
        return ""
    return f" without the block of {capacity.num_blocks:,} that {sizing.engine.name} withholds"


def _request_bytes(sizing: Sizing) -> float:
    """KV bytes of one request of ``max_model_len``, as admission charges it where it can."""
    capacity = sizing.capacity
    if capacity.lacking_bytes:
        return sizing.pool_bytes + capacity.lacking_bytes
    if capacity.max_concurrency > 0:
        return sizing.pool_bytes / capacity.max_concurrency
    return sizing.occupied_bytes(capacity.max_model_len)


def binding_term(sizing: Sizing) -> str:
    """Name the flag that limits the pool, or the term that takes the most of the budget."""
    budget, options = sizing.budget, sizing.deployment.options
    if options.num_gpu_blocks_override is not None:
        return f"num_gpu_blocks_override is {options.num_gpu_blocks_override:,}"
    if options.max_total_tokens is not None:
        return f"max_total_tokens is {options.max_total_tokens:,}"
    if options.kv_cache_memory_bytes == budget.kv_cache_bytes:
        return "kv_cache_memory_bytes allows no more"
    terms = {
        "the weights": budget.weights_bytes,
        "activations": budget.activation_bytes,
        "memory outside the framework": budget.non_torch_bytes,
        "captured graphs": budget.cuda_graph_bytes if budget.cuda_graph_in_budget else 0,
    }
    ranked = sorted(terms.items(), key=lambda term: -term[1])
    (name, most), (other, next_most) = ranked[:2]
    budget_gib = f"of the {_gib(budget.budget_bytes)} budget"
    if budget.kv_cache_bytes <= 0 and most < budget.budget_bytes:  # no term alone is the cause
        return f"{name} take {_gib(most)} and {other} {_gib(next_most)} {budget_gib}"
    verb = "take" if name.endswith("s") else "takes"
    return f"{name} {verb} {_gib(most)} {budget_gib}"


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
