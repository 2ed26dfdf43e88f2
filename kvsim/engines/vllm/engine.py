"""The face of vLLM's accounting."""

from __future__ import annotations

from kvsim.engines.base import Capacity, Deployment, Engine, MemoryBudget, ResolvedDeployment
from kvsim.engines.vllm.budget import stage_budget
from kvsim.engines.vllm.defaults import resolve_options
from kvsim.engines.vllm.launch import serve_command
from kvsim.engines.vllm.layout import capacity_of, layout_of
from kvsim.engines.vllm.rules import NEWEST, Rules

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

    def stage_budget(self, deployment: ResolvedDeployment, stage: int) -> MemoryBudget:
        """Predict one rank's memory."""
        return stage_budget(deployment, self.rules, stage)

    def stage_need_bytes(self, deployment: ResolvedDeployment, stage: int) -> int:
        """Bytes of a block there: sequences take the same blocks on every stage."""
        return layout_of(deployment, self.rules).bytes_per_block(
            self.stage_layers(deployment, stage)
        )

    def capacity(self, deployment: ResolvedDeployment, kv_bytes: int) -> Capacity:
        """Lay blocks over `kv_bytes` of the rank that `budget` describes."""
        layers = self.stage_layers(deployment, self.tightest_stage(deployment))
        return capacity_of(deployment, self.rules, kv_bytes, layers)

    def command(self, deployment: Deployment) -> str:
        """Return the ``vllm serve`` line of the unresolved deployment."""
        return serve_command(deployment)
