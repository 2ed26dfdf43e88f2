"""Sparse latent attention whose indexer folds tokens into one key (GLM-5.3): what its kernels ask.

::

    latents     # # # # # # # # # #     a row a token; blocks lie whole pages of rows apart
    index keys  #       #               one for each `fold` tokens, in pages of `states` keys
    ring                        # #     the tokens that are yet to be folded, overwritten in turn
"""

from __future__ import annotations

from typing import NamedTuple

from kvsim.engines.base import Deployment
from kvsim.engines.vllm.kernel_checks import (
    check_bf16,
    check_block_multiple,
    check_undivided,
)
from kvsim.engines.vllm.rules import Rules, kernels_on
from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat, kv_format

__all__ = ["FoldedKernels", "check_folded", "index_fold"]


class FoldedKernels(NamedTuple):
    """What the kernels of one card take.

    Parameters
    ----------
    kv : dict
        Layouts of a latent, the default first, each with the rows of which blocks must lie a whole
        number apart.
    states : int
        Least page of index keys.
    whole_states : int
        Index keys of which blocks must lie a whole number apart.
    """

    kv: dict[str, int]
    states: int
    whole_states: int

    @classmethod
    def of(cls, deployment: Deployment, rules: Rules) -> FoldedKernels:
        """Look the card up."""
        found = kernels_on(deployment, rules, "folded_index_kernels")
        return cls(found["kv"], *found["states"])

    def kv_format(self, deployment: Deployment) -> KVFormat:
        """The layout that is asked for, or the default.

        Raises
        ------
        InputError
            For one that the card's kernels do not take.
        """
        if deployment.options.kv_cache_dtype in (None, "auto"):
            return kv_format(next(iter(self.kv)))
        asked = deployment.kv_format.name
        if asked == "fp8_e4m3" and asked not in self.kv:
            return kv_format("fp8_ds_mla")  # the packed layout is what such kernels mean by fp8
        if asked not in self.kv:
            raise InputError(
                f"the sparse attention of {deployment.model.name} has no {asked} KV cache on"
                f" {deployment.accelerator.name}",
                where="--kv-cache-dtype",
                fix=f"choose {', '.join(self.kv)}",
            )
        return kv_format(asked)


def index_fold(model: ModelSpec) -> int:
    """Tokens that share an index key of the model's latents; 1 where none do."""
    caches = (cache for _, cache in layer_caches(model))
    return max((c.fold_tokens for c in caches if c.keeps("latent")), default=1)


def check_folded(deployment: Deployment, rules: Rules) -> None:
    """Refuse a block, a dtype or a sharding that such attention lacks.

    Raises
    ------
    InputError
        Naming the flag.
    """
    name, kernels = deployment.model.name, FoldedKernels.of(deployment, rules)
    page = kernels.states * index_fold(deployment.model)
    if rules.value("state_block")["latent"] % page:  # beside states blocks are multiples of that
        check_block_multiple(deployment, page, "the index keys")
    check_bf16(
        deployment,
        f"how vLLM runs the sparse attention of {name} in {deployment.dtype} is not known",
    )
    # Its stages do not hand on the state of the hyper-connections (models/glm5next).
    check_undivided(
        deployment, "pipeline_parallel_size", f"vLLM does not cut {name} into pipeline stages"
    )
    check_undivided(
        deployment,
        "decode_context_parallel_size",
        f"how vLLM shares the recurrent states and rings of {name} between ranks of one context"
        " is not known",
    )
