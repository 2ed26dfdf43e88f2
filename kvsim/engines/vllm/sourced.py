"""DeepSeek-V4.1's attention in vLLM: what its kernels take on a card, and how its states are paged.

::

    window      32 tokens a page, in each layer
    states      one for each `ratio` tokens of a block, in the sources
    index keys  as the states
    ring        eight tokens, in the sources that fold two
"""

from __future__ import annotations

from math import lcm
from typing import NamedTuple

from kvsim.engines.base import Deployment, ResolvedDeployment
from kvsim.engines.vllm.kernel_checks import (
    check_bf16,
    check_block_multiple,
    check_undivided,
)
from kvsim.engines.vllm.rules import Rules, kernels_on
from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
from kvsim.memory.rank import Rank
from kvsim.specs.attention import Entry
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat, kv_format
from kvsim.units import ceil_div

__all__ = ["WINDOW_BLOCK", "SourcedKernels", "check_sourced", "shares_states"]

# Tokens of a window's page.
WINDOW_BLOCK = 32
# What vLLM's words for the KV cache are on one card or another.
_FORMATS = {"fp8_ds_mla": ("fp8_ds_mla", "mxfp8"), "nvfp4_ds_mla": ("nvfp4_ds_mla",)}


class SourcedKernels(NamedTuple):
    """What the kernels of one card take.

    Parameters
    ----------
    kv : tuple of str
        Formats of the states, the default first.
    block : int
        Tokens of a block, and what it is a multiple of.
    page_multiple : int
        Bytes that pages are rounded up to.
    whole_records : bool
        Whether blocks must hold whole records of each size.
    """

    kv: tuple[str, ...]
    block: int
    page_multiple: int
    whole_records: bool

    @classmethod
    def of(cls, deployment: Deployment, rules: Rules) -> SourcedKernels:
        """Look the card up."""
        found = kernels_on(deployment, rules, "sourced_kernels")
        return cls(tuple(found["kv"]), found["block"], found["page"], found["whole_records"])

    def kv_format(self, deployment: Deployment) -> KVFormat:
        """The format that is asked for; "auto" and "fp8" are what the card's kernels prefer.

        Raises
        ------
        InputError
            For one that they do not take.
        """
        asked = deployment.options.kv_cache_dtype
        if asked in (None, "auto", "fp8"):
            return kv_format(self.kv[0])
        known = [name for name in _FORMATS.get(str(asked), ()) if name in self.kv]
        if not known:
            words = [word for word, names in _FORMATS.items() if {*names} & {*self.kv}]
            raise InputError(
                f"the sparse attention of {deployment.model.name} has no {asked} KV cache on"
                f" {deployment.accelerator.name}",
                where="--kv-cache-dtype",
                fix=f"choose {' or '.join(words)}",
            )
        return kv_format(known[0])

    def page_bytes(self, entry: Entry, tokens: int) -> int:
        """Bytes of a page of so many tokens."""
        states = ceil_div(tokens, entry.span) if entry.kept == "folded" else tokens
        return ceil_div(states * entry.entry_bytes, self.page_multiple) * self.page_multiple

    def whole_page_bytes(self, entry: Entry, tokens: int) -> int:
        """Bytes of which a block is a multiple, so that it is whole pages of the kernels.

        A block of several is read as that many pages, and must not end inside one.

        Notes
        -----
        Source: vLLM 0.33.0, ``v1/kv_cache_interface.py`` (get_block_stride_alignment) and
        ``v1/worker/utils.py`` (customize_attention_spec).
        """
        return self.page_bytes(entry, self.block) if tokens > self.block else 1

    def stride_bytes(self, deployment: ResolvedDeployment) -> int:
        """Bytes of which a block is a multiple."""
        if not self.whole_records:
            return 1
        fmt = deployment.kv_format
        caches = (cache for _, cache in layer_caches(deployment.model))
        records = (e for cache in caches for e in cache.entries(fmt) if e.what == "record")
        return lcm(*(entry.entry_bytes for entry in records))


def shares_states(model: ModelSpec) -> bool:
    """Whether layers read states that an earlier one keeps."""
    return any(cache.keeps("record") for _, cache in layer_caches(model))


def check_sourced(deployment: Deployment, rules: Rules) -> None:
    """Refuse a block, a dtype or a sharding that such attention lacks.

    Raises
    ------
    InputError
        Naming the flag.
    """
    name = deployment.model.name
    check_block_multiple(deployment, SourcedKernels.of(deployment, rules).block, "the states")
    check_bf16(deployment, f"the sparse attention of {name} does not run in {deployment.dtype}")
    _check_stages(deployment)
    check_undivided(
        deployment,
        "decode_context_parallel_size",
        f"how vLLM shares the rings and windows of {name} between ranks of one context is not"
        " known",
    )


def _check_stages(deployment: Deployment) -> None:
    """Refuse stages whose layers read the states of a source on another.

    Source: vLLM 0.33.0, ``models/deepseek_v41/attention.py`` (DeepseekV4Attention.__init__).
    """
    model, stages = deployment.model, deployment.options.pipeline_parallel_size
    if _keeps_sources_near(model, stages):
        return
    whole = (n for n in range(1, model.num_layers + 1) if _keeps_sources_near(model, n))
    raise InputError(
        f"layers of {model.name} read states that a layer of another of {stages} pipeline stages"
        " keeps",
        where="--pipeline-parallel-size",
        fix=f"choose {' or '.join(map(str, whole))}",
    )


def _keeps_sources_near(model: ModelSpec, stages: int) -> bool:
    """Whether each layer that reads what a source keeps has it on its own stage."""
    caches = {
        layer: cache
        for group in model.layer_groups
        for cache in group.owned_caches
        for layer in group.layers
    }
    for stage in range(stages):
        held = [caches[i] for i in Rank(pp=stages, stage=stage).layers_of(model) if i in caches]
        sharing = [cache for cache in held if cache.reads_earlier or cache.keeps("indexer")]
        if sharing and sharing[0].reads_earlier:
            return False
    return True
