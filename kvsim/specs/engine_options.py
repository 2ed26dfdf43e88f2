"""The flags of a serving engine, as a person states them; each engine fills in what is None."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from kvsim.errors import InputError
from kvsim.specs.checked import Checked, Parsed, PositiveFloat, PositiveInt, Within
from kvsim.units import parse_bytes, parse_count

__all__ = ["EngineOptions", "ResolvedOptions"]


def _text(parse: Callable[[str], int]) -> Parsed:
    """Read text as a flag's is read, "32k" or "20GiB"; numbers are what they are."""

    def read(value: Any) -> Any:
        return parse(value) if isinstance(value, str) else value

    return Parsed(read)


def _json_object(value: Any) -> Any:
    """Read an object, or the text of one, as the shortest JSON of it."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise InputError("should be JSON, such as '{\"num_hidden_layers\": 2}'") from None
    if value is None:
        return None
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise InputError("should be an object in JSON")
    try:
        return json.dumps(dict(found))
    except (TypeError, ValueError, RecursionError):  # what only Python has, or a loop
        raise InputError("holds what JSON cannot") from None


Count = Annotated[int, _text(parse_count), Within(above=0)]
Size = Annotated[int, _text(parse_bytes), Within(above=0)]
Term = Annotated[int, _text(parse_bytes), Within(least=0)]
JsonObject = Annotated[str, Parsed(_json_object)]
Share = Annotated[float, Within(above=0, most=1)]
Degree = Annotated[int, Within(above=0, most=65_536)]  # more devices than any cluster has


class EngineOptions(Checked):
    """Flags of a serving engine, under vLLM's names; None means the engine's default.

    Sizes are bytes, lengths tokens, objects the text of their JSON. An engine ignores nothing
    silently: a flag that it does not have is an `InputError` from its `resolve`.
    """

    tensor_parallel_size: Degree = 1
    pipeline_parallel_size: Degree = 1
    data_parallel_size: Degree = 1
    decode_context_parallel_size: Degree = 1
    enable_expert_parallel: bool = False
    dtype: str | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    gpu_memory_utilization: Share | None = None
    max_model_len: Count | None = None
    hf_overrides: JsonObject | None = None
    rope_scaling: JsonObject | None = None
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    block_size: Count | None = None
    enforce_eager: bool = False
    enable_prefix_caching: bool | None = None
    disable_hybrid_kv_cache_manager: bool = False
    kv_cache_memory_bytes: Size | None = None
    num_gpu_blocks_override: Count | None = None
    max_total_tokens: Count | None = None
    swa_full_tokens_ratio: PositiveFloat | None = None
    swa_full: bool = False
    kv_cache_dtype_v: str | None = None
    flash_attention: bool | None = None
    kv_unified: bool | None = None
    enable_dp_attention: bool = False
    enable_lora: bool = False
    max_lora_rank: PositiveInt = 16
    async_scheduling: bool | None = None
    flashinfer_sampler: bool | None = None
    activation_bytes: Term | None = None
    non_torch_bytes: Term | None = None
    cuda_graph_bytes: Term | None = None

    @property
    def pool_key(self) -> str:
        """The option in which the pool's size is given; "" where it is not."""
        given = ("num_gpu_blocks_override", "max_total_tokens", "kv_cache_memory_bytes")
        return next((name for name in given if getattr(self, name) is not None), "")

    @property
    def pool_is_stated(self) -> bool:
        """Whether a number of blocks or of tokens says how large the pool is."""
        return self.pool_key in ("num_gpu_blocks_override", "max_total_tokens")


class ResolvedOptions(EngineOptions):
    """The flags as an engine runs with them: every default filled in, "auto" resolved.

    What stays None was not asked for and changes nothing: a pool's size, bytes of a term of
    the budget that replace a prediction, a weight format other than the checkpoint's. An
    option that the engine lacks has the value that it behaves like: one token per block where
    there are no blocks.
    """

    dtype: str
    kv_cache_dtype: str
    kv_cache_dtype_v: str
    gpu_memory_utilization: Share
    max_model_len: Count
    max_num_seqs: Count
    max_num_batched_tokens: Count
    block_size: Count
    enable_prefix_caching: bool
    swa_full_tokens_ratio: PositiveFloat
    flash_attention: bool
    kv_unified: bool
    async_scheduling: bool
    flashinfer_sampler: bool
