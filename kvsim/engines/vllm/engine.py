"""The face of vLLM's accounting."""

from __future__ import annotations

from dataclasses import replace

from kvsim.engines.base import (
    Band,
    Capacity,
    Deployment,
    Engine,
    MemoryBudget,
    ResolvedDeployment,
)
from kvsim.engines.vllm.budget import rank_budget
from kvsim.engines.vllm.defaults import resolve_options
from kvsim.engines.vllm.launch import serve_command
from kvsim.engines.vllm.layout import capacity_of, layout_of
from kvsim.engines.vllm.overrides import overrides_of
from kvsim.engines.vllm.residuals import kv_band
from kvsim.engines.vllm.rules import NEWEST, Rules
from kvsim.memory.rank import Rank
from kvsim.readers.huggingface.overrides import Overrides
from kvsim.specs.engine_options import EngineOptions

__all__ = ["VLLM"]


class VLLM(Engine):
    """vLLM at one release; see `kvsim.engines.vllm` for the parts.

    Parameters
    ----------
    version : str
        "0.19.0", "0.8.5.post1", "0.26.1rc1.dev608", "0.10.x"; "" is the newest known.

    Raises
    ------
    InputError
        For a version whose rules are not known.
    """

    name = "vllm"
    newest_version = NEWEST

    def __init__(self, version: str = "") -> None:
        super().__init__(version)
        self.rules = Rules.of(self.version)

    def resolve(self, deployment: Deployment) -> ResolvedDeployment:
        """Fill every missing option; see `kvsim.engines.base.Engine.resolve`."""
        return resolve_options(deployment, self.rules)

    def overrides(self, options: EngineOptions) -> Overrides | None:
        """``--hf-overrides`` and ``--rope-scaling``."""
        return overrides_of(options, self.rules)

    def rank(self, deployment: ResolvedDeployment, stage: int = 0) -> Rank:
        """Experts are dealt over the ranks of all replicas."""
        rank = super().rank(deployment, stage)
        if not deployment.options.enable_expert_parallel:
            return rank
        return replace(rank, ep=rank.tp * deployment.options.data_parallel_size)

    def rank_budget(self, deployment: ResolvedDeployment, rank: Rank) -> MemoryBudget:
        """Predict one rank's memory."""
        return rank_budget(deployment, self.rules, rank)

    def kv_band(self, deployment: ResolvedDeployment, budget: MemoryBudget) -> Band:
        """How far start-ups of the same traits were off."""
        return kv_band(deployment, self.rules, budget)

    def rank_need_bytes(self, deployment: ResolvedDeployment, rank: Rank) -> int:
        """Bytes of a block there: sequences take the same blocks on every stage."""
        layers = rank.layers_of(deployment.model)
        return layout_of(deployment, self.rules).bytes_per_block(layers)

    def capacity(self, deployment: ResolvedDeployment, kv_bytes: int) -> Capacity:
        """Lay blocks over `kv_bytes` of the rank that `budget` describes."""
        return capacity_of(deployment, self.rules, kv_bytes, self.tightest_rank(deployment))

    def command(self, deployment: Deployment) -> str:
        """Return the ``vllm serve`` line of the unresolved deployment."""
        return serve_command(deployment, self.rules)
