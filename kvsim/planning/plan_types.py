"""What a plan holds. Sizes are bytes of one rank, lengths tokens, times seconds.

Field names are the JSON keys; `Plan.to_dict` and `Plan.from_dict` are each other's inverse.
A value that an engine derived is held as it is (`memory`, `groups`); a part that repeats some
fields of a wider one is filled by their names (`part_of`). The parts are named tuples: Python
makes one of those in a quarter of the time that a frozen dataclass takes.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from kvsim.engines.base import Band, MemoryBudget
from kvsim.errors import InputError
from kvsim.planning.certainty import certainty
from kvsim.steptime.bands import TimeBand

__all__ = [
    "SCHEMA_VERSION",
    "AcceleratorFacts",
    "CapacityTokens",
    "Concurrency",
    "Decode",
    "DecodeBatch",
    "EngineFacts",
    "Fragmentation",
    "GroupFacts",
    "KVCache",
    "KVKind",
    "ModelFacts",
    "Parallelism",
    "Plan",
    "PoolFacts",
    "Reservation",
    "RetentionChoice",
    "Suggestion",
    "part_of",
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


class PoolFacts(NamedTuple):
    """Memory that the engine hands out by itself, in blocks of one size, on one rank.

    `withheld_blocks` of its blocks no request is ever given (vLLM's null block).
    """

    name: str
    block_size: int
    block_bytes: int
    num_blocks: int
    withheld_blocks: int


class GroupFacts(NamedTuple):
    """Layers that share a block table, and the pool that they draw from.

    `blocks_per_sequence` is what the start-up check charges a sequence of ``max_model_len``.
    A running one takes a block every `block_size` tokens, at most `most_blocks` (None: it
    grows to its end), beside `fixed_blocks` whatever its length.
    """

    pool: str
    name: str
    layers: int
    padding_layers: int
    block_size: int
    page_bytes: int
    blocks_per_sequence: int
    most_blocks: int | None
    fixed_blocks: int


class CapacityTokens(NamedTuple):
    """Tokens held at ``max_model_len`` per sequence, in three regimes never mixed."""

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
    """Decode of the largest running batch: FLOPs per byte read, and what binds it.

    `ridge_point` is the card's datasheet FLOP/s over bytes/s: below it a step is bound by
    memory. `source` tells where the step times come from, and `band` how sure they are.
    """

    batch: int
    context_len: int
    arithmetic_intensity: float
    ridge_point: float
    bound_by: str
    batches: tuple[DecodeBatch, ...]
    source: str
    band: TimeBand


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
    memory: MemoryBudget
    kv_band: Band
    kv_cache: KVCache
    capacity_tokens: CapacityTokens
    kv_kinds: tuple[KVKind, ...]
    pools: tuple[PoolFacts, ...]
    groups: tuple[GroupFacts, ...]
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

    @property
    def certainty(self) -> str:
        """How sure the KV size is, in one sentence; "" where it was given."""
        return certainty(self.kv_band, self.memory.kv_cache_bytes)

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


def part_of(kind: Callable[..., T], whole: object, **others: Any) -> T:
    """Make a part of the attributes of `whole` that have its fields' names, and of `others`."""
    names: tuple[str, ...] = getattr(kind, "_fields")  # noqa: B009 - a named tuple's
    return kind(**{each: getattr(whole, each) for each in names if each not in others}, **others)


def plain(value: Any) -> Any:
    """Turn parts into dicts and tuples into lists, as JSON would."""
    if dataclasses.is_dataclass(value):
        return {name: plain(getattr(value, name)) for name in _keys(type(value))}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _keys(cls: Any) -> tuple[str, ...]:
    """The fields of a part that its JSON has."""
    if not dataclasses.is_dataclass(cls):
        return tuple(cls._fields)
    return tuple(each.name for each in dataclasses.fields(cls) if each.metadata.get("json", True))


def _build(cls: type[T], content: Mapping[str, Any], where: str) -> T:
    """Fill a part `cls` from a mapping, following its annotations."""
    hints, keys = typing.get_type_hints(cls), _keys(cls)
    wrong = set(content) ^ set(keys)
    if wrong:
        raise InputError(f"unexpected or missing keys {sorted(wrong)}", where=where)
    return cls(**{key: _value(hints[key], content[key], f"{where}.{key}") for key in keys})


def _value(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return tuple(_value(item, each, f"{where}[{i}]") for i, each in enumerate(value))
    is_part = dataclasses.is_dataclass(hint) or hasattr(hint, "_fields")
    return _build(hint, value, where) if is_part else value
