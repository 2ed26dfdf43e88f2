"""The face of vLLM's accounting."""

from __future__ import annotations

from kvsim.engines.base import Capacity, Deployment, Engine, MemoryBudget
from kvsim.engines.vllm.budget import stage_budget, tightest_stage
from kvsim.engines.vllm.command import serve_command
from kvsim.engines.vllm.defaults import resolve_options
from kvsim.engines.vllm.layout import capacity_of, layout_of
from kvsim.engines.vllm.rules import NEWEST, Rules
from kvsim.weights import stage_layers

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

    def resolve(self, deployment: Deployment) -> Deployment:
        """Fill every missing option; see `kvsim.engines.base.Engine.resolve`."""
        return resolve_options(deployment, self.rules)

    def budget(self, deployment: Deployment) -> MemoryBudget:
        """Predict the memory of the rank with the fewest blocks."""
        stage = tightest_stage(deployment, self.rules)
        return stage_budget(deployment, self.rules, stage)

    def capacity(self, deployment: Deployment, kv_bytes: int) -> Capacity:
        """Lay blocks over `kv_bytes` of the rank that `budget` describes."""
        options = deployment.options
        stage = tightest_stage(deployment, self.rules)
        layers = stage_layers(deployment.model, options.pipeline_parallel_size, stage)
        return capacity_of(deployment, self.rules, kv_bytes, layers)

    def sequence_bytes(self, deployment: Deployment, context: int) -> int:
        """Bytes that a running sequence of `context` tokens occupies: blocks of every group."""
        options = deployment.options
        stage = tightest_stage(deployment, self.rules)
        layers = stage_layers(deployment.model, options.pipeline_parallel_size, stage)
        layout = layout_of(deployment, self.rules)
        return layout.steady_blocks(context) * layout.bytes_per_block(layers)

    def command(self, deployment: Deployment) -> str:
        """Return the ``vllm serve`` line of the unresolved deployment."""
        return serve_command(deployment)
