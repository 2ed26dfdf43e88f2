"""The face of vLLM's accounting."""

from __future__ import annotations

from kvsim.engines.base import Capacity, Deployment, Engine, MemoryBudget
from kvsim.engines.vllm.budget import stage_budget, tightest_stage
from kvsim.engines.vllm.defaults import resolve_options
from kvsim.engines.vllm.launch import serve_command
from kvsim.engines.vllm.layout import Layout, capacity_of, layout_of
from kvsim.engines.vllm.rules import NEWEST, Rules
from kvsim.memory.weights import stage_layers

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
        self._last: tuple[Deployment, Layout, int] | None = None

    def resolve(self, deployment: Deployment) -> Deployment:
        """Fill every missing option; see `kvsim.engines.base.Engine.resolve`."""
        return resolve_options(deployment, self.rules)

    def budget(self, deployment: Deployment) -> MemoryBudget:
        """Predict the memory of the rank with the fewest blocks."""
        stage = tightest_stage(deployment, self.rules)
        return stage_budget(deployment, self.rules, stage)

    def capacity(self, deployment: Deployment, kv_bytes: int) -> Capacity:
        """Lay blocks over `kv_bytes` of the rank that `budget` describes."""
        return capacity_of(deployment, self.rules, kv_bytes, self._layers(deployment))

    def sequence_bytes(self, deployment: Deployment, context: int) -> int:
        """Bytes that a running sequence of `context` tokens occupies: blocks of every group."""
        layout, block_bytes = self._blocks(deployment)
        return layout.steady_blocks(context) * block_bytes

    def _blocks(self, deployment: Deployment) -> tuple[Layout, int]:
        """Groups and bytes per block; a plan asks about hundreds of lengths of one deployment."""
        if self._last is None or self._last[0] is not deployment:
            layout = layout_of(deployment, self.rules)
            block_bytes = layout.bytes_per_block(self._layers(deployment))
            self._last = (deployment, layout, block_bytes)
        return self._last[1:]

    def _layers(self, deployment: Deployment) -> range:
        """Layers of the rank with the fewest blocks."""
        stage = tightest_stage(deployment, self.rules)
        return stage_layers(deployment.model, deployment.options.pipeline_parallel_size, stage)

    def command(self, deployment: Deployment) -> str:
        """Return the ``vllm serve`` line of the unresolved deployment."""
        return serve_command(deployment)
