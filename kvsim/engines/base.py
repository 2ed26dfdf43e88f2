"""What every serving engine answers: how it divides a device, and how many tokens result.

::

    Deployment ──resolve──▶ ResolvedDeployment   no option left open
        │
        ├── tightest_rank(deployment)       ─▶ Rank           the one that decides for all
        ├── budget(deployment)              ─▶ MemoryBudget   of that rank
        └── capacity(deployment, kv_bytes)  ─▶ Capacity       its pools, and what a log prints

`budget` predicts what the engine leaves for KV; `capacity` is exact arithmetic on that
number, so that a log's own KV bytes can be checked apart from the prediction.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from kvsim.memory.pools import Group, KVPools
from kvsim.memory.rank import Rank
from kvsim.readers.huggingface.overrides import Overrides
from kvsim.specs.engine_options import EngineOptions, ResolvedOptions
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat, kv_format, weight_format

__all__ = ["Band", "Capacity", "Deployment", "Engine", "MemoryBudget", "ResolvedDeployment"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model on an accelerator under an engine's flags: the question a plan answers."""

    model: ModelSpec
    accelerator: AcceleratorProfile
    options: EngineOptions = field(default_factory=EngineOptions)

    @property
    def dtype(self) -> str:
        """Format of activations, and of weights that are not quantised."""
        asked = self.options.dtype
        return self.model.dtype if asked in (None, "auto") else weight_format(str(asked)).name

    @property
    def weight_dtype(self) -> str | None:
        """Format that weights are cast to at load; None where no byte changes (bf16 to fp16)."""
        formats = (weight_format(name) for name in (self.dtype, self.model.dtype))
        return self.dtype if len({each.bits_per_weight for each in formats}) > 1 else None

    @property
    def quantization(self) -> str | None:
        """Format that was asked for in place of the checkpoint's own.

        "fp8" is the name of a method, too: ``--quantization fp8`` of a checkpoint in blocks of fp8
        loads it as it is.
        """
        asked, own = self.options.quantization, self.model.quantization or ""
        if asked is not None and weight_format(asked).name == "fp8" and own.startswith("fp8_"):
            return None
        return asked

    @property
    def launched(self) -> dict[str, Any]:
        """The options that were set, by name, as a launch line has them.

        Plain floats are no method of ``--quantization``: without one the checkpoint is loaded.
        """
        given = self.options.model_dump(exclude_defaults=True)
        asked = given.get("quantization")
        if asked is not None and weight_format(asked).is_plain:
            del given["quantization"]
        return given

    @property
    def kv_format(self) -> KVFormat:
        """Format of K (and of V, unless it has its own): "auto" is the compute dtype.

        Never the weights' format. An engine may choose otherwise as it resolves the options.
        """
        asked = self.options.kv_cache_dtype
        return kv_format(self.dtype if asked in (None, "auto") else str(asked))


@dataclass(frozen=True, slots=True)
class ResolvedDeployment(Deployment):
    """A deployment as the engine runs it: every option has its value."""

    options: ResolvedOptions


class Band(NamedTuple):
    """How far a predicted KV size may be from what the engine would print.

    Parameters
    ----------
    share : float
        Share of such start-ups that lie within (0.9).
    within_bytes : int
        Bytes of one rank, above or below.
    start_ups : int
        How many of the same traits were compared.
    like : tuple of str
        What such a start-up has, in words.
    source : str
        What the band comes from.
    is_extrapolated : bool
        Whether few or no devices like this one were compared.
    """

    share: float
    within_bytes: int
    start_ups: int
    like: tuple[str, ...]
    source: str
    is_extrapolated: bool

    @classmethod
    def exact(cls, source: str) -> Band:
        """Make the band of a size that is not an estimate."""
        return cls(1.0, 0, 0, (), source, is_extrapolated=False)


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
    max_model_len : int
        Length that the concurrency is stated at.
    max_concurrency : float
        Sequences of that length, as the engine computes it.
    logged_tokens : int
        What the engine prints as its KV cache size.
    admission_tokens, steady_tokens, all_full_tokens : int
        Tokens at ``max_model_len`` per sequence by the three regimes: the engine's start-up
        check, real steady residency, and no window saving at all.
    pools : KVPools
        What is handed out, and what a sequence holds of it.
    lacking_bytes : int
        What the start-up check finds too few for one sequence, though the blocks may hold it.
    """

    kv_cache_bytes: int
    kv_cache_dtype: str
    bytes_per_token: int
    max_model_len: int
    max_concurrency: float
    logged_tokens: int
    admission_tokens: int
    steady_tokens: int
    all_full_tokens: int
    pools: KVPools
    lacking_bytes: int = 0

    @property
    def block_size(self) -> int:
        """Tokens per block of the engine's main group."""
        return self.pools.main.block_size

    @property
    def bytes_per_block(self) -> int:
        """Bytes that one block of the main pool stands for."""
        return self.pools.main.block_bytes

    @property
    def num_blocks(self) -> int:
        """Blocks of the main pool, as the engine counts them."""
        return self.pools.main.num_blocks

    @property
    def withheld_blocks(self) -> int:
        """Blocks of the main pool that no request is ever given (vLLM's null block)."""
        return self.pools.main.withheld_blocks

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of all pools, in the engine's order."""
        return tuple(group for pool in self.pools for group in pool.groups)

    @property
    def holds_one(self) -> bool:
        """Whether one sequence of ``max_model_len`` passes the start-up check and fits."""
        main = self.pools.main
        given = main.given_blocks
        charged = sum(group.blocks_per_sequence for group in main.groups)
        if self.lacking_bytes or given < charged:
            return False
        return given > 0 and self.max_concurrency * given >= main.num_blocks * (1 - 1e-12)


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
        self._decided: tuple[ResolvedDeployment, Rank] | None = None

    @abstractmethod
    def resolve(self, deployment: Deployment) -> ResolvedDeployment:
        """Fill every missing option with this version's default for this card.

        Raises
        ------
        InputError
            For a flag that this engine does not have, a contradiction, or a sharding that
            no rank layout allows.
        """

    def overrides(self, options: EngineOptions) -> Overrides | None:
        """Fields of the model's config that the flags override; None as a rule.

        Raises
        ------
        InputError
            For a flag that this release does not have.
        """
        return None

    def rank(self, deployment: ResolvedDeployment, stage: int = 0) -> Rank:
        """A rank of one pipeline stage: how this engine splits the model, and deals layers."""
        options = deployment.options
        return Rank(
            tp=options.tensor_parallel_size,
            pp=options.pipeline_parallel_size,
            stage=stage,
            ep=options.tensor_parallel_size if options.enable_expert_parallel else 1,
            dcp=options.decode_context_parallel_size,
        )

    def tightest_rank(self, deployment: ResolvedDeployment) -> Rank:
        """A rank of the stage that holds the fewest sequences: it decides for all ranks."""
        stages = range(deployment.options.pipeline_parallel_size)
        if len(stages) == 1:
            return self.rank(deployment)
        if self._decided is None or self._decided[0] is not deployment:
            ranks = [self.rank(deployment, stage) for stage in stages]
            held = {rank: self._held_by(deployment, rank) for rank in ranks}
            self._decided = deployment, min(ranks, key=held.__getitem__)
        return self._decided[1]

    def _held_by(self, deployment: ResolvedDeployment, rank: Rank) -> tuple[float, float]:
        """Sequences of ``max_model_len`` that one rank holds; of equals the fewest bytes."""
        need = self.rank_need_bytes(deployment, rank)
        left = self.rank_budget(deployment, rank).kv_cache_bytes
        share = left / need if need else math.inf
        return (self._sequences_in(deployment, rank, left) if share > 0 else share), share

    def _sequences_in(self, deployment: ResolvedDeployment, rank: Rank, kv_bytes: int) -> float:
        """Sequences of ``max_model_len`` in `kv_bytes` of one rank.

        An engine that cuts them into pools otherwise than a sequence needs them says so here.
        """
        need = self.rank_need_bytes(deployment, rank)
        return kv_bytes / need if need else math.inf

    @abstractmethod
    def rank_need_bytes(self, deployment: ResolvedDeployment, rank: Rank) -> int:
        """Bytes that a sequence of ``max_model_len`` takes of one rank, or a share of it.

        Only its proportion between stages matters.
        """

    @abstractmethod
    def rank_budget(self, deployment: ResolvedDeployment, rank: Rank) -> MemoryBudget:
        """Predict where one rank's memory goes."""

    def budget(self, deployment: ResolvedDeployment) -> MemoryBudget:
        """Predict where the tightest rank's memory goes."""
        return self.rank_budget(deployment, self.tightest_rank(deployment))

    @abstractmethod
    def kv_band(self, deployment: ResolvedDeployment, budget: MemoryBudget) -> Band:
        """How far the budget's KV size may be from what the engine prints."""

    @abstractmethod
    def capacity(self, deployment: ResolvedDeployment, kv_bytes: int) -> Capacity:
        """Lay pools over `kv_bytes` of the tightest rank."""

    @abstractmethod
    def command(self, deployment: Deployment) -> str:
        """The engine's own launch line for the *unresolved* deployment."""
