"""What a plan holds. Sizes are bytes of one rank, lengths tokens, times seconds.

Field names are the JSON keys; `Plan.to_dict` and `Plan.from_dict` are each other's inverse.
The parts are named tuples: Python makes one of those in a quarter of the time that a frozen
dataclass takes, and there are seventeen.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from kvsim.engines.base import GroupLayout
from kvsim.errors import InputError

__all__ = [
    "SCHEMA_VERSION",
    "AcceleratorFacts",
    "CapacityTokens",
    "Concurrency",
    "Decode",
    "DecodeBatch",
    "EngineFacts",
    "Fragmentation",
    "KVCache",
    "KVKind",
    "Memory",
    "ModelFacts",
    "Parallelism",
    "Plan",
    "Reservation",
    "RetentionChoice",
    "Suggestion",
    "plain",
]

SCHEMA_VERSION = "1"

T = TypeVar("T")


class ModelFacts(NamedTuple):
    """The model: `parameters` counts every weight, experts included."""

    name: str
    parameters: int
    hf_id: str
    dtype: str
    quantization: str | None
    max_position_embeddings: int


class AcceleratorFacts(NamedTuple):
    """The accelerator: `memory_bytes` is what the driver reports, not the number on the box."""

    name: str
    memory_bytes: int
    advertised_memory_gb: float
    bandwidth_bytes_per_s: float


class EngineFacts(NamedTuple):
    """The serving engine and the release whose rules were applied."""

    name: str
    version: str


class Parallelism(NamedTuple):
    """Degrees of tensor, pipeline and data parallelism."""

    tp: int
    pp: int
    dp: int


class Memory(NamedTuple):
    """Where the memory of the tightest rank goes, bytes.

    `cuda_graph_in_budget` tells whether the engine takes CUDA graphs out of its budget, or
    leaves them to the memory outside it.
    """

    total_bytes: int
    budget_bytes: int
    weights_bytes: int
    activation_bytes: int
    non_torch_bytes: int
    cuda_graph_bytes: int
    kv_cache_bytes: int
    cuda_graph_in_budget: bool

    @property
    def overhead_bytes(self) -> int:
        """Everything that is neither weights nor KV cache."""
        return self.activation_bytes + self.non_torch_bytes + self.cuda_graph_bytes

    @property
    def unused_bytes(self) -> int:
        """What no term claims: memory outside the budget."""
        claimed = self.weights_bytes + self.overhead_bytes + max(0, self.kv_cache_bytes)
        return max(0, self.total_bytes - claimed)


class KVCache(NamedTuple):
    """The engine's KV cache on one rank; `capacity_tokens` is what its log prints."""

    dtype: str
    bytes_per_token: int
    block_size: int
    bytes_per_block: int
    num_blocks: int
    capacity_tokens: int
    max_model_len: int
    max_concurrency: float


class CapacityTokens(NamedTuple):
    """Tokens held at ``max_model_len`` a sequence, in three regimes never mixed."""

    admission: int
    steady: int
    all_full: int


class KVKind(NamedTuple):
    """What the layers of one group keep.

    ``bytes_per_token`` is what a token adds while every window is open; ``context_bytes``
    what a sequence of the plan's context really keeps; ``formula`` the sum with its numbers.
    """

    group: str
    kind: str
    layers: int
    formula: str
    bytes_per_token: int
    fixed_bytes: int
    context_bytes: int
    all_full_bytes: int
    shares_with: str | None = None


class Concurrency(NamedTuple):
    """Sequences of one length that fit at once, in steady decode.

    `requests` is what memory holds; `running` what ``max_num_seqs`` lets run of them.
    """

    context_len: int
    sequence_bytes: int
    requests: int
    running: int


class Reservation(NamedTuple):
    """Contiguous reservation of ``max_model_len`` against paging, at one context length."""

    context_len: int
    contiguous_bytes: int
    contiguous_requests: int
    paged_bytes: int
    paged_requests: int


class Fragmentation(NamedTuple):
    """Bytes of a sequence's blocks that hold no token of it, around one context length.

    `expected_bytes` is the mean and `worst_bytes` the most over the lengths that end in the
    last block; the shares are of the bytes that the sequence occupies.
    """

    context_len: int
    block_size: int
    expected_bytes: int
    expected_share: float
    worst_bytes: int
    worst_share: float


class DecodeBatch(NamedTuple):
    """One decode step of `batch` sequences at the plan's context length."""

    batch: int
    step_seconds: float
    tokens_per_s: float
    arithmetic_intensity: float
    bound_by: str


class Decode(NamedTuple):
    """Decode of the largest running batch: FLOPs a byte read, and what binds it.

    `ridge_point` is the card's datasheet FLOP/s over bytes/s: below it a step is bound by
    memory. `source` tells where the step times come from.
    """

    batch: int
    context_len: int
    arithmetic_intensity: float
    ridge_point: float
    bound_by: str
    batches: tuple[DecodeBatch, ...]
    source: str


class RetentionChoice(NamedTuple):
    """What one retention policy would keep of a sequence, before any block rounding."""

    policy: str
    context_len: int
    kept_tokens: int
    sequence_bytes: int
    share: float
    requests: int
    price: str


class Suggestion(NamedTuple):
    """A change that makes the plan fit, and what the re-computed plan then says."""

    change: str
    flag: str
    kv_cache_bytes: int
    max_model_len: int
    max_concurrency: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a model gets on an accelerator under an engine's flags.

    `fits` means that the KV cache holds at least one request of ``max_model_len``; `verdict`
    says so in a sentence, and when not, which term took the memory.
    """

    model: ModelFacts
    accelerator: AcceleratorFacts
    engine: EngineFacts
    parallelism: Parallelism
    options: dict[str, Any]
    memory: Memory
    kv_cache: KVCache
    capacity_tokens: CapacityTokens
    kv_kinds: tuple[KVKind, ...]
    groups: tuple[GroupLayout, ...]
    concurrency: tuple[Concurrency, ...]
    contiguous_vs_paged: Reservation
    fragmentation: Fragmentation
    decode: Decode
    retention: tuple[RetentionChoice, ...]
    regimes: dict[str, str]
    fits: bool
    verdict: str
    command: str
    warnings: tuple[str, ...]
    suggestions: tuple[Suggestion, ...]
    provenance: dict[str, str]
    schema_version: str = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready lists and dicts, ``schema_version`` first."""
        fields = plain(self)
        return {"schema_version": fields.pop("schema_version"), **fields}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from `to_dict`'s answer.

        Raises
        ------
        InputError
            For another schema version, or a key that is missing or unknown.
        """
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(
                f"plan has schema_version {version!r}", fix=f"this kvsim reads {SCHEMA_VERSION!r}"
            )
        return _build(cls, content, "plan")


def plain(value: Any) -> Any:
    """Turn parts into dicts and tuples into lists, as JSON would."""
    if dataclasses.is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _build(cls: type[T], content: Mapping[str, Any], where: str) -> T:
    """Fill a part `cls` from a mapping, following its annotations."""
    hints = typing.get_type_hints(cls)
    wrong = set(content) ^ set(hints)
    if wrong:
        raise InputError(f"unexpected or missing keys {sorted(wrong)}", where=where)
    return cls(**{key: _value(hints[key], content[key], f"{where}.{key}") for key in hints})


def _value(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return tuple(_value(item, each, f"{where}[{i}]") for i, each in enumerate(value))
    is_part = dataclasses.is_dataclass(hint) or hasattr(hint, "_fields")
    return _build(hint, value, where) if is_part else value
