"""The flags of a serving engine, as a person states them; each engine fills in what is None."""

from __future__ import annotations

from typing import Annotated

from kvsim.specs.checked import Checked, NonNegativeInt, PositiveFloat, PositiveInt, Within

__all__ = ["EngineOptions", "ResolvedOptions"]

Share = Annotated[float, Within(above=0, most=1)]
Degree = Annotated[int, Within(above=0, most=65_536)]  # more devices than any cluster has


class EngineOptions(Checked):
    """Flags of a serving engine, under vLLM's names; None means the engine's default.

    Sizes are bytes, lengths tokens. An engine ignores nothing silently: a flag that it does
    not have is an `InputError` from its `resolve`.
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
    max_model_len: PositiveInt | None = None
    max_num_seqs: PositiveInt | None = None
    max_num_batched_tokens: PositiveInt | None = None
    block_size: PositiveInt | None = None
    enforce_eager: bool = False
    enable_prefix_caching: bool | None = None
    disable_hybrid_kv_cache_manager: bool = False
    kv_cache_memory_bytes: PositiveInt | None = None
    num_gpu_blocks_override: PositiveInt | None = None
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
    activation_bytes: NonNegativeInt | None = None
    non_torch_bytes: NonNegativeInt | None = None
    cuda_graph_bytes: NonNegativeInt | None = None


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
    max_model_len: PositiveInt
    max_num_seqs: PositiveInt
    max_num_batched_tokens: PositiveInt
    block_size: PositiveInt
    enable_prefix_caching: bool
    swa_full_tokens_ratio: PositiveFloat
    flash_attention: bool
    kv_unified: bool
    async_scheduling: bool
    flashinfer_sampler: bool
