"""What every serving engine answers: how it divides a device, and how many tokens result.

::

    Deployment ──resolve──▶ Deployment with every option filled by the engine's defaults
        │
        ├── budget(deployment)              ─▶ MemoryBudget   of the tightest rank
        └── capacity(deployment, kv_bytes)  ─▶ Capacity       blocks, tokens, concurrency

`budget` predicts what the engine leaves for KV; `capacity` is exact arithmetic on that
number, so that a log's own KV bytes can be checked apart from the prediction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec

__all__ = ["Capacity", "Deployment", "Engine", "GroupLayout", "MemoryBudget"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model on an accelerator under an engine's flags: the question a plan answers."""

    model: ModelSpec
    accelerator: AcceleratorProfile
    options: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Where one rank's memory goes, bytes; the rank is the one with the least left for KV.

    ``kv_cache_bytes = budget_bytes - weights - activation - non_torch - cuda_graph`` where
    the engine counts graphs inside its budget, else without the last term. It may be
    negative: then nothing fits, and the terms say why.

    `provenance` says where each term comes from; a plan holds it beside its other sources.
    """

    total_bytes: int
    budget_bytes: int
    weights_bytes: int
    activation_bytes: int
    non_torch_bytes: int
    cuda_graph_bytes: int
    kv_cache_bytes: int
    cuda_graph_in_budget: bool = False
    provenance: tuple[tuple[str, str], ...] = field(
        default=(), compare=False, metadata={"json": False}
    )

    @property
    def overhead_bytes(self) -> int:
        """Everything that is neither weights nor KV cache."""
        return self.activation_bytes + self.non_torch_bytes + self.cuda_graph_bytes

    @property
    def unused_bytes(self) -> int:
        """What no term claims: memory outside the budget."""
        claimed = self.weights_bytes + self.overhead_bytes + max(0, self.kv_cache_bytes)
        return max(0, self.total_bytes - claimed)


class GroupLayout(NamedTuple):
    """One KV-cache group: layers that share a block table.

    Parameters
    ----------
    name : str
        Layer group(s) it holds.
    layers : int
        Layer slots that it allocates, padding included.
    padding_layers : int
        Slots of those that hold no layer.
    block_size : int
        Tokens (or states) per block.
    page_bytes : int
        Bytes of one layer's page.
    blocks_per_sequence : int
        Blocks that one sequence of ``max_model_len`` needs at admission.
    most_blocks : int or None
        Blocks at which a running sequence stops taking more (a window, a chunk, a state);
        None grows with the context.
    """

    name: str
    layers: int
    padding_layers: int
    block_size: int
    page_bytes: int
    blocks_per_sequence: int
    most_blocks: int | None = None


class Capacity(NamedTuple):
    """What a number of KV bytes holds, in one engine's accounting, on one rank.

    Parameters
    ----------
    kv_cache_bytes : int
        Bytes given.
    kv_cache_dtype : str
        KV format that was used.
    bytes_per_token : int
        All layers, one rank, every growing cache at full length: what one more token of a
        short context adds.
    block_size : int
        Tokens per block of the engine's main group.
    bytes_per_block : int
        Bytes that one block id stands for.
    num_blocks : int
        Blocks that the engine allocates.
    max_model_len : int
        Length that the concurrency is stated at.
    max_concurrency : float
        Sequences of that length, as the engine computes it.
    logged_tokens : int
        What the engine prints as its KV cache size.
    admission_tokens, steady_tokens, all_full_tokens : int
        Tokens at ``max_model_len`` per sequence by the three regimes: the engine's start-up
        check, real steady residency, and no window saving at all.
    groups : tuple of GroupLayout
        The engine's groups, in its order.
    withheld_blocks : int
        Blocks that no request is ever given (vLLM's null block).
    """

    kv_cache_bytes: int
    kv_cache_dtype: str
    bytes_per_token: int
    block_size: int
    bytes_per_block: int
    num_blocks: int
    max_model_len: int
    max_concurrency: float
    logged_tokens: int
    admission_tokens: int
    steady_tokens: int
    all_full_tokens: int
    groups: tuple[GroupLayout, ...] = ()
    withheld_blocks: int = 0

    @property
    def holds_one(self) -> bool:
        """Whether the blocks that are given out hold one sequence of ``max_model_len``."""
        given = self.num_blocks - self.withheld_blocks
        return given > 0 and self.max_concurrency * given >= self.num_blocks * (1 - 1e-12)


class Engine(ABC):
    """A serving engine at one version: pure arithmetic on a `Deployment`.

    Parameters
    ----------
    version : str
        Release whose rules apply, normalised; "" chooses the newest known.
    """

    name: ClassVar[str]
    newest_version: ClassVar[str]

    def __init__(self, version: str = "") -> None:
        self.version = version or self.newest_version

    @abstractmethod
    def resolve(self, deployment: Deployment) -> Deployment:
        """Fill every missing option with this version's default for this card.

        Raises
        ------
        InputError
            For a flag that this engine does not have, a contradiction, or a sharding that
            no rank layout allows.
        """

    @abstractmethod
    def budget(self, deployment: Deployment) -> MemoryBudget:
        """Predict where the tightest rank's memory goes, for a resolved deployment."""

    @abstractmethod
    def capacity(self, deployment: Deployment, kv_bytes: int) -> Capacity:
        """Lay blocks over `kv_bytes` of one rank, for a resolved deployment."""

    @abstractmethod
    def sequence_bytes(self, deployment: Deployment, context: int) -> int:
        """Bytes of one rank that a running sequence of `context` tokens occupies, in blocks.

        Steady residency: windows are honoured, block rounding is included.
        """

    def sequences(self, deployment: Deployment, kv_bytes: int, context: int) -> int | None:
        """Sequences of `context` tokens that pools cut out of `kv_bytes` hold at once.

        None where one pool serves every layer, so that bytes alone decide. Where there are
        several, the one that runs out first does, however much the others have left.
        """
        return None

    @abstractmethod
    def command(self, deployment: Deployment) -> str:
        """The engine's own launch line for the *unresolved* deployment."""
