"""Warnings of a plan: one small function per check, each silent when all is well."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import floor, inf
from pathlib import Path

from kvsim.catalog.accelerators import names_file, siblings
from kvsim.engines.base import Band
from kvsim.memory.footprint import layer_caches
from kvsim.planning.idle_options import idle_options
from kvsim.planning.plan_types import Fragmentation
from kvsim.planning.sizing import Sizing
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.precision import weight_format
from kvsim.units import GIB, format_bytes

__all__ = ["alias_warning", "other_checkpoint", "warnings"]

_MADE_AT_LOAD = ("fp8", "bitsandbytes")
# Above this share a hybrid's blocks waste enough to look for a better block size.
WASTEFUL_SHARE = 0.05


def warnings(sizing: Sizing, fragments: Fragmentation, band: Band) -> tuple[str, ...]:
    """Collect what a reader of this plan should know and may not have asked."""
    return (*_checks(sizing), *_close_call(sizing, band), *_fragmentation(fragments))


def _checks(sizing: Sizing) -> Iterator[str]:
    checks: tuple[Callable[[Sizing], Iterator[str]], ...] = (
        _longer_than_servable,
        _one_of_several,
        _scheduler_limits_first,
        _scarcest_pool,
        _slots_at_start,
        _replicated_heads,
        other_checkpoint,
        _kv_wider_than_weights,
        _declared_kv,
        _untold_kv,
        _other_layout,
        _trained_length,
        _stated_blocks,
        _idle_flags,
        _idle_overrides,
        _rope_as_stated,
    )
    for check in checks:
        yield from check(sizing)


def alias_warning(sizing: Sizing, asked: str | Path | AcceleratorProfile) -> Iterator[str]:
    """Say which card an ambiguous name was taken for, and name the others that it fits."""
    card = sizing.deployment.accelerator
    if not isinstance(asked, str) or names_file(asked) or asked.lower() == card.name.lower():
        return
    others = [name for name in siblings(card) if _fits(asked, name)]
    if others:
        which = "the other is" if len(others) == 1 else "the others are"
        yield f"{asked!r} is taken as {card.name}; {which} {', '.join(others)}"


def _fits(asked: str, name: str) -> bool:
    """Whether all words of a name asked for begin words of a card's.

    Examples
    --------
    >>> _fits("h100", "H100-NVL-94GB"), _fits("NVIDIA H100 80GB HBM3", "H100-PCIE-80GB")
    (True, False)
    """
    said = [word for word in re.findall(r"[a-z0-9]+", asked.lower()) if word != "nvidia"]
    words = re.findall(r"[a-z0-9]+", name.lower())
    return all(any(word.startswith(each) for word in words) for each in said)


def _close_call(sizing: Sizing, band: Band) -> Iterator[str]:
    """One request fits, or does not, by less than the estimate is sure to."""
    held, requests = sizing.pool_bytes, sizing.capacity.max_concurrency
    if not band.within_bytes or held <= 0 or requests <= 0:
        return
    needed = held / requests
    if abs(held - needed) < band.within_bytes:
        verb = "fits by" if held >= needed else "is short of"
        yield (
            f"one request of {sizing.capacity.max_model_len:,} tokens {verb}"
            f" {abs(held - needed) / GIB:.2f} GiB, and the KV size is sure to"
            f" {band.within_bytes / GIB:.2f}"
        )


def _rope_as_stated(sizing: Sizing) -> Iterator[str]:
    """A scaling that the user gave, of which the engine makes no longer requests."""
    asked, model = sizing.asked.options, sizing.deployment.model
    told = f"{asked.hf_overrides or ''}{asked.rope_scaling or ''}"
    longest = sizing.capacity.max_model_len
    if "rope" in told and asked.max_model_len is None and longest <= model.max_position_embeddings:
        yield (
            f"the rope scaling makes no request longer here: {longest:,} tokens are what"
            " max_position_embeddings says; override that too"
        )


def _longer_than_servable(sizing: Sizing) -> Iterator[str]:
    """A request may be admitted that can never finish: its blocks exceed the whole pool."""
    length = sizing.capacity.max_model_len
    if sizing.fits and not sizing.serves:
        yield (
            f"a request of {length:,} tokens passes the start-up check but needs more blocks than"
            " there are: it would be preempted for ever"
        )


def _scheduler_limits_first(sizing: Sizing) -> Iterator[str]:
    limit, longest = sizing.deployment.options.max_num_seqs, sizing.capacity.max_model_len
    short = min(1024, longest)
    length = longest if sizing.requests(longest) > limit else short
    if sizing.requests(length) > limit:
        which = "" if length == longest else "short requests "
        yield (
            f"max_num_seqs = {limit:,} limits {which}before memory does:"
            f" {sizing.requests(length):,} requests of {length:,} tokens would fit"
        )


def _scarcest_pool(sizing: Sizing) -> Iterator[str]:
    """Of pools kept apart, one may be empty while others stand full."""
    longest, pools = sizing.capacity.max_model_len, sizing.pools
    scarcest = pools.scarcest(longest)
    held, main = pools.requests(longest), pools.main.concurrency(longest)
    if sizing.fits and held + 1 <= main < inf:
        yield (
            f"the {scarcest.name} pool runs out first: it holds {held:,} requests of"
            f" {longest:,} tokens, the {pools.main.name} pool {floor(main):,}"
        )


def _slots_at_start(sizing: Sizing) -> Iterator[str]:
    """llama.cpp allocates every slot's own cells before the first request."""
    options, length = sizing.deployment.options, sizing.capacity.max_model_len
    held, apart = sizing.requests(length), not options.kv_unified
    if sizing.engine.name == "llama.cpp" and apart and options.max_num_seqs > held:
        yield (
            f"-np {options.max_num_seqs:,} allocates as many slots of {length:,} tokens at start,"
            f" and {held:,} fit: lower --max-num-seqs or --max-model-len"
        )


def _one_of_several(sizing: Sizing) -> Iterator[str]:
    """Say that a plan is that of one replica."""
    replicas = sizing.deployment.options.data_parallel_size
    if replicas > 1:
        yield (
            f"data_parallel_size = {replicas}: all numbers are those of one of {replicas} replicas"
        )


def _stated_blocks(sizing: Sizing) -> Iterator[str]:
    """Say where a stated number of blocks is more than the KV cache has bytes for."""
    if sizing.deployment.options.num_gpu_blocks_override is None:
        return
    stated = sizing.pools.main.num_blocks
    taken, room = sizing.pools.total_bytes, max(0, sizing.capacity.kv_cache_bytes)
    if taken > room:
        yield (
            f"num_gpu_blocks_override = {stated:,}: these blocks are {format_bytes(taken)}, and the"
            f" KV cache {format_bytes(room)}; the engine allocates them whether they fit or not"
        )


def _idle_flags(sizing: Sizing) -> Iterator[str]:
    """Flags that were given and change no number of the plan."""
    for name, why in idle_options(sizing):
        yield f"{name} = {getattr(sizing.asked.options, name)} changes nothing: {why}"


def _idle_overrides(sizing: Sizing) -> Iterator[str]:
    """Fields of the config that a flag overrode to no effect on any number here."""
    for field in sizing.deployment.model.idle_overrides:
        yield f"the overridden field {field} changes nothing here"


def other_checkpoint(sizing: Sizing) -> Iterator[str]:
    """Weights that the model's own repository does not hold, and no engine makes as it loads."""
    asked, model = sizing.asked.quantization, sizing.deployment.model
    if asked is None or sizing.engine.name == "llama.cpp":  # whose line names a file
        return
    fmt, own = weight_format(asked), weight_format(model.quantization or model.dtype)
    if fmt.name in (*_MADE_AT_LOAD, own.name) or (fmt.is_plain and own.is_plain):
        return
    yield (
        f"{fmt.name} weights are a checkpoint of their own: in the launch line its name takes the"
        f" place of {model.hf_id or model.name}, whose weights are {own.name}"
    )


def _replicated_heads(sizing: Sizing) -> Iterator[str]:
    tp, dcp = sizing.rank.tp, sizing.rank.dcp
    if tp == 1 or dcp > 1:
        return
    caches = [cache for _, cache in layer_caches(sizing.deployment.model)]
    if any(
        cache.keeps("latent") or cache.keeps("shared") or cache.keeps("record") for cache in caches
    ):
        yield (
            f"tp={tp} keeps the whole latent cache on every rank: {tp} copies of the same bytes;"
            " data-parallel attention keeps one"
        )
    fewest = [cache.vectors.heads for cache in caches if cache.keeps("kv")]
    if fewest and min(fewest) < tp:
        copies = tp // min(fewest)
        yield (
            f"{min(fewest)} KV heads over tp={tp}: each is kept on {copies} ranks, so"
            f" {1 - 1 / copies:.0%} of that cache is copies"
        )


def _kv_wider_than_weights(sizing: Sizing) -> Iterator[str]:
    name = sizing.deployment.quantization or sizing.deployment.model.quantization
    if name and weight_format(name).bits_per_weight < sizing.kv_format.bits:
        yield (
            f"the weights are {name}, the KV cache is {sizing.kv_format.name}: a weight format"
            " never sets the KV format; --kv-cache-dtype does"
        )


def _declared_kv(sizing: Sizing) -> Iterator[str]:
    declared = sizing.deployment.model.declared_kv
    if declared is None:
        return
    kept, engine = sizing.kv_format.name, sizing.engine.name
    if kept == declared.format:
        yield f"the checkpoint declares a KV cache of {kept}, and {engine} keeps to it"
    else:
        yield f"the checkpoint declares a KV cache of {declared.format}; this is for {kept}"


def _untold_kv(sizing: Sizing) -> Iterator[str]:
    """A model's class that leaves the cache in the compute dtype, whatever the flag says."""
    asked, kept = sizing.asked.kv_format.name, sizing.kv_format.name
    is_told = sizing.asked.options.kv_cache_dtype not in (None, "auto")
    if is_told and asked != kept == sizing.deployment.dtype:
        yield (
            f"kv_cache_dtype = {asked} changes nothing: {sizing.engine.name} keeps the KV cache of"
            f" {sizing.deployment.model.name} in {kept}"
        )


def _other_layout(sizing: Sizing) -> Iterator[str]:
    ratio, dcp = sizing.pools.layout_ratio, sizing.deployment.options.decode_context_parallel_size
    if ratio != 1 and dcp == 1:
        yield (
            f"{sizing.engine.name} keeps {sizing.capacity.bytes_per_token:,} bytes per token,"
            f" {ratio:.2f} times what the model's own layout (the table of kinds) needs"
        )


def _trained_length(sizing: Sizing) -> Iterator[str]:
    trained, length = sizing.deployment.model.scaled_positions, sizing.capacity.max_model_len
    if length > trained:
        yield f"max_model_len {length:,} is beyond the {trained:,} tokens the model was made for"


def _fragmentation(fragments: Fragmentation) -> Iterator[str]:
    if fragments.expected_share > WASTEFUL_SHARE and fragments.block_size > 1:
        yield (
            f"{fragments.expected_share:.0%} of a {fragments.context_len:,}-token sequence's blocks"
            f" holds no token of it (blocks of {fragments.block_size:,} tokens)"
        )
