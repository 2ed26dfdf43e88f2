"""TensorRT-LLM: a fraction of what is free *after* the weights and a dummy request's peak.

::

    total
    ├── weights, context, peak of the dummy request      measured first
    └── free
        ├── x kv_cache_free_gpu_memory_fraction (0.9)    KV cache
        └── the rest                                     stays free

``tokens = (kv - intercept) / slope``: the slope is a token's bytes on the rank, the intercept
the recurrent states of a full batch. Rules of the PyTorch executor's ``_util.py``
(``KvCacheCreator``) and ``resource_manager.py``; older releases differ in the block size.
"""

from __future__ import annotations

from collections.abc import Collection

from kvsim.engines.base import Capacity, Deployment, GroupLayout, MemoryBudget
from kvsim.engines.common import (
    ReleasedEngine,
    check_kv_format,
    check_options,
    context_length,
    fill,
    gib_bytes,
    heaviest_stage,
    mlp_activation_bytes,
    refuse_kinds,
    resolve_kv_format,
    stage_weight_bytes,
    tightest_stage,
    tokens_at,
)
from kvsim.errors import InputError
from kvsim.memory.footprint import fixed_bytes, layer_caches
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import ceil_div

__all__ = ["TensorRTLLM"]

_KV_FORMATS = ("bf16", "fp16", "fp32", "fp8_e4m3", "int8", "nvfp4")

_FLAGS = {
    "tensor_parallel_size": "--tp_size",
    "pipeline_parallel_size": "--pp_size",
    "enable_expert_parallel": "--ep_size",
    "enable_dp_attention": "enable_attention_dp",
    "dtype": "dtype",
    "quantization": "quant_config",
    "kv_cache_dtype": "kv_cache_config.dtype",
    "gpu_memory_utilization": "--kv_cache_free_gpu_memory_fraction",
    "max_model_len": "--max_seq_len",
    "max_num_seqs": "--max_batch_size",
    "max_num_batched_tokens": "--max_num_tokens",
    "block_size": "kv_cache_config.tokens_per_block",
    "num_gpu_blocks_override": "kv_cache_config.max_tokens",
    "enable_prefix_caching": "kv_cache_config.enable_block_reuse",
    "disable_hybrid_kv_cache_manager": "kv_cache_config.max_attention_window",
    "enforce_eager": "cuda_graph_config",
}
_HINTS = {
    "kv_cache_memory_bytes": "set kv_cache_config.max_tokens (--num-gpu-blocks-override here)",
    "data_parallel_size": "start one server per replica, or set enable_attention_dp",
    "decode_context_parallel_size": "TensorRT-LLM does not estimate context-parallel set-ups",
    "swa_full": "leave max_attention_window unset (--disable-hybrid-kv-cache-manager here)",
    "kv_cache_dtype_v": "K and V share kv_cache_config.dtype",
}


class TensorRTLLM(ReleasedEngine):
    """TensorRT-LLM 0.5 to 1.4, rules of the PyTorch executor."""

    name = "tensorrt-llm"
    oldest_release, newest_version = "0.5", "1.4"
    data_name = "tensorrt_llm_overheads"

    def resolve(self, deployment: Deployment) -> Deployment:
        """Fill this release's defaults.

        Raises
        ------
        InputError
            For a flag, KV format or block size that TensorRT-LLM lacks.
        UnsupportedError
            For encoder-decoder models, whose pools it does not estimate.
        """
        options, model = deployment.options, deployment.model
        check_options(self.name, options, _FLAGS, _HINTS)
        refuse_kinds(self.name, model, "compressed_latent", "cross")
        fmt = resolve_kv_format(deployment)
        check_kv_format(self.name, "kv_cache_config.dtype", fmt, _KV_FORMATS)
        block = self.data["tokens_per_block"]["now" if self.since("blocks_of_32") else "before"]
        resolved = fill(
            deployment,
            max_model_len=model.max_position_embeddings,
            max_num_seqs=self.data["max_batch_size"],
            max_num_batched_tokens=self.data["max_num_tokens"],
            block_size=block,
            gpu_memory_utilization=self.data["free_gpu_memory_fraction"],
            enable_prefix_caching=True,
            kv_cache_dtype=fmt.name,
        )
        _check_block(resolved.options.block_size or block)
        self._stage(resolved)
        return resolved

    def budget(self, deployment: Deployment) -> MemoryBudget:
        """``kv = fraction * (total - weights - context - peak)`` of the tightest rank.

        The budget is what those terms and the KV cache add up to; the remaining fraction of
        the free memory lies outside it.
        """
        return tightest_stage(deployment, self._stage_budget)

    def _stage_budget(self, deployment: Deployment, stage: int) -> MemoryBudget:
        options, total = deployment.options, deployment.accelerator.memory_bytes
        weights = stage_weight_bytes(deployment, stage, _attention_tp(options))
        activation = mlp_activation_bytes(
            deployment.model, options.max_num_batched_tokens or 0, options.tensor_parallel_size
        )
        context = self.data["non_torch_gib"]
        non_torch = gib_bytes(context)
        used = weights + activation + non_torch
        fraction = options.gpu_memory_utilization or self.data["free_gpu_memory_fraction"]
        kv_bytes = int((total - used) * fraction)
        return MemoryBudget(
            total_bytes=total,
            budget_bytes=used + kv_bytes,
            weights_bytes=weights,
            activation_bytes=activation,
            non_torch_bytes=non_torch,
            cuda_graph_bytes=0,
            kv_cache_bytes=kv_bytes,
            provenance=(
                ("activation_bytes", "computed: widest layer at max_num_tokens"),
                ("cuda_graph_bytes", "captured into what the fraction leaves free"),
                ("non_torch_bytes", context["source"]),
            ),
        )

    def _stage(self, deployment: Deployment) -> Collection[int]:
        return heaviest_stage(
            deployment, lambda layers: sum(self._pools(deployment, layers).values())
        )

    def _pools(self, deployment: Deployment, layers: Collection[int]) -> dict[int, int]:
        """Bytes per token by window, the longest first: one pool each.

        The window of a layer that keeps everything is the longest sequence.
        """
        fmt, tp = resolve_kv_format(deployment), _attention_tp(deployment.options)
        windows = self.since("windows") and not deployment.options.disable_hybrid_kv_cache_manager
        length = context_length(deployment)
        pools: dict[int, int] = {}
        for count, attention in layer_caches(deployment.model, layers):
            token_bytes = count * attention.state_bytes(fmt, tp)
            window = min(length, (windows and attention.recent_tokens) or length)
            if token_bytes:
                pools[window] = pools.get(window, 0) + token_bytes
        return dict(sorted(pools.items(), reverse=True))

    def capacity(self, deployment: Deployment, kv_bytes: int) -> Capacity:
        """Lay blocks over `kv_bytes`: one pool per window, each of the bytes its window needs.

        A pool's share is ``window * bytes per token``, over the sum of all; so each pool holds
        the same number of sequences of ``max_model_len``, and admission is steady residency.
        """
        options, length = deployment.options, context_length(deployment)
        layers = self._stage(deployment)
        pools, block = self._pools(deployment, layers), options.block_size or 1
        intercept = self.intercept_bytes(deployment, layers)
        spare = max(0, kv_bytes - intercept)
        need = sum(window * token_bytes for window, token_bytes in pools.items())
        if not need:
            raise InputError(f"no layer of {deployment.model.name} keeps tokens: nothing to size")
        longest, per_token = next(iter(pools.items()))
        tokens = spare * longest // need
        if options.num_gpu_blocks_override:
            tokens = min(tokens, options.num_gpu_blocks_override * block)
        usable = spare if not options.num_gpu_blocks_override else tokens * need // longest
        sequence = sum(ceil_div(w, block) * block * b for w, b in pools.items())
        all_full = ceil_div(length, block) * block * sum(pools.values())
        return Capacity(
            kv_cache_bytes=kv_bytes,
            kv_cache_dtype=resolve_kv_format(deployment).name,
            bytes_per_token=sum(pools.values()),
            block_size=block,
            bytes_per_block=block * per_token,
            num_blocks=tokens // block,
            max_model_len=length,
            max_concurrency=usable / sequence,
            logged_tokens=tokens // block * block if self.since("whole_blocks") else tokens,
            admission_tokens=tokens_at(usable, sequence, length),
            steady_tokens=tokens_at(usable, need, length),
            all_full_tokens=tokens_at(usable, all_full, length),
            groups=_groups(deployment, pools, layers),
        )

    def intercept_bytes(self, deployment: Deployment, layers: Collection[int]) -> int:
        """Recurrent states of a full batch, set aside before tokens are counted."""
        tp = _attention_tp(deployment.options)
        states = deployment.options.max_num_seqs or 0
        return states * fixed_bytes(deployment.model, tp=tp, layers=layers)

    def sequence_bytes(self, deployment: Deployment, context: int) -> int:
        """Whole blocks of every pool, and the recurrent state."""
        layers, block = self._stage(deployment), deployment.options.block_size or 1
        pools = self._pools(deployment, layers)
        tokens = sum(ceil_div(min(context, w), block) * block * b for w, b in pools.items())
        tp = _attention_tp(deployment.options)
        return tokens + fixed_bytes(deployment.model, tp=tp, layers=layers)

    def sequences(self, deployment: Deployment, kv_bytes: int, context: int) -> int:
        """What the first pool to run out holds, and no more than have a recurrent state."""
        layers, options = self._stage(deployment), deployment.options
        pools, block = self._pools(deployment, layers), options.block_size or 1
        states = self.intercept_bytes(deployment, layers)
        need = sum(window * token_bytes for window, token_bytes in pools.items())
        longest, spare = max(pools), max(0, kv_bytes - states)
        tokens = spare * longest // need
        if options.num_gpu_blocks_override:
            tokens = min(tokens, options.num_gpu_blocks_override * block)
        held = (
            tokens * window // longest // (ceil_div(min(context, window), block) * block)
            for window in pools
        )
        return min(*held, options.max_num_seqs or 0) if states else min(held)

    def command(self, deployment: Deployment) -> str:
        """A ``trtllm-serve`` line, with the options that only its YAML file has behind it."""
        options, model = deployment.options, deployment.model
        words = [f"trtllm-serve {model.hf_id or model.name}"]
        sections: dict[str, list[str]] = {}
        given = options.model_dump(exclude_defaults=True)
        for name, flag in _FLAGS.items():
            if name not in given:
                continue
            section, _, key = flag.rpartition(".")
            value = _yaml_value(options, name)
            if flag.startswith("--"):
                words.append(f"{flag} {value}")
            else:
                sections.setdefault(section, []).append(f"{key}: {value}")
        if sections:
            words.append(f"--extra_llm_api_options <(echo '{{{_yaml_line(sections)}}}')")
        return " ".join(words)


def _yaml_line(sections: dict[str, list[str]]) -> str:
    """Keys of the options file in YAML's flow style; the section "" is the top level."""
    top = [", ".join(sections[""])] if "" in sections else []
    nested = [f"{name}: {{{', '.join(keys)}}}" for name, keys in sections.items() if name]
    return ", ".join(top + nested)


def _yaml_value(options: EngineOptions, name: str) -> str:
    """What an option's flag or key is set to."""
    value = getattr(options, name)
    if name == "num_gpu_blocks_override":
        return str(value * (options.block_size or 32))
    if name == "enable_expert_parallel":
        return str(options.tensor_parallel_size)
    if name in ("enforce_eager", "disable_hybrid_kv_cache_manager"):
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _attention_tp(options: EngineOptions) -> int:
    """Attention-DP gives each rank the whole attention and its own requests."""
    return 1 if options.enable_dp_attention else options.tensor_parallel_size


def _check_block(block: int) -> None:
    if block < 2 or block & (block - 1):
        raise InputError(
            f"{block} tokens per block is not a power of two above 1",
            where="tokens_per_block",
            fix="choose 16, 32, 64 or 128",
        )


def _groups(
    deployment: Deployment, pools: dict[int, int], layers: Collection[int]
) -> tuple[GroupLayout, ...]:
    """One group per pool; a pool's layers are alike, so a page is an equal share."""
    block, length = deployment.options.block_size or 1, context_length(deployment)
    named = {window: "full" if window == length else f"window {window}" for window in pools}
    counts = dict.fromkeys(pools, 0)
    for count, attention in layer_caches(deployment.model, layers):
        window = min(length, attention.recent_tokens or length)
        if attention.grows:
            counts[window if window in pools else max(pools)] += count
    return tuple(
        GroupLayout(
            name=named[window],
            layers=counts[window],
            padding_layers=0,
            block_size=block,
            page_bytes=block * token_bytes // max(1, counts[window]),
            blocks_per_sequence=ceil_div(window, block),
        )
        for window, token_bytes in pools.items()
    )
