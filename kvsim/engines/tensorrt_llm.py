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

import math
import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from kvsim.engines.base import Capacity, Deployment, MemoryBudget, ResolvedDeployment
from kvsim.engines.common import (
    ReleasedEngine,
    check_kv_format,
    check_options,
    check_pool,
    deployed_weight_bytes,
    gib_bytes,
    layout_ratio,
    mlp_activation_bytes,
    most_tokens,
    refuse_unknown,
    resolve,
    tokens_at,
)
from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
from kvsim.memory.growth import Growth
from kvsim.memory.pools import Group, KVPools, Pool
from kvsim.memory.rank import Rank
from kvsim.specs.engine_options import EngineOptions, ResolvedOptions
from kvsim.specs.model import ModelSpec
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
    "max_total_tokens": "kv_cache_config.max_tokens",
    "kv_cache_memory_bytes": "kv_cache_config.max_gpu_total_bytes",
    "enable_prefix_caching": "kv_cache_config.enable_block_reuse",
    "disable_hybrid_kv_cache_manager": "kv_cache_config.max_attention_window",
    "enforce_eager": "cuda_graph_config",
}
_HINTS = {
    "hf_overrides": "edit the model's config.json",
    "rope_scaling": "edit the model's config.json",
    "data_parallel_size": "start one server per replica, or set enable_attention_dp",
    "decode_context_parallel_size": "TensorRT-LLM does not estimate context-parallel set-ups",
    "swa_full": "leave max_attention_window unset (--disable-hybrid-kv-cache-manager here)",
    "kv_cache_dtype_v": "K and V share kv_cache_config.dtype",
}


class _Windows(NamedTuple):
    """What the layers of one rank keep.

    Parameters
    ----------
    token_bytes : dict of int to int
        Bytes per token by window, the longest first: one pool each. The window of a layer
        that keeps everything is the longest sequence.
    layers : dict of int to int
        Layers of each pool.
    state_bytes, state_layers : int
        Recurrent state of one request, and the layers that have one.
    """

    token_bytes: dict[int, int]
    layers: dict[int, int]
    state_bytes: int
    state_layers: int

    @property
    def need_bytes(self) -> int:
        """Bytes of the tokens of one sequence of the longest length."""
        return sum(window * each for window, each in self.token_bytes.items())

    def blocks_bytes(self, length: int, block: int) -> int:
        """Bytes of one sequence of `length` tokens in whole blocks of every pool."""
        return sum(
            ceil_div(min(window, length), block) * block * each
            for window, each in self.token_bytes.items()
        )


class TensorRTLLM(ReleasedEngine):
    """TensorRT-LLM 0.5 to 1.4, rules of the PyTorch executor."""

    name = "tensorrt-llm"
    oldest_release, newest_version = "0.5", "1.4"
    data_name = "tensorrt_llm_overheads"

    def resolve(self, deployment: Deployment) -> ResolvedDeployment:
        """Fill this release's defaults.

        Raises
        ------
        InputError
            For a flag, KV format or block size that TensorRT-LLM lacks.
        UnsupportedError
            For encoder-decoder models, whose pools it does not estimate.
        """
        model = deployment.model
        check_options(self.name, deployment.options, _FLAGS, _HINTS)
        refuse_unknown(self.name, model)
        check_pool(deployment.options)
        self._check_byte_limit(deployment.options)
        fmt = deployment.kv_format
        check_kv_format(self.name, "kv_cache_config.dtype", fmt, _KV_FORMATS)
        block = self.data["tokens_per_block"]["now" if self.since("blocks_of_32") else "before"]
        resolved = resolve(
            deployment,
            kv=fmt,
            max_model_len=_inferred_length(model),
            max_num_seqs=self.data["max_batch_size"],
            max_num_batched_tokens=self.data["max_num_tokens"],
            block_size=block,
            gpu_memory_utilization=self.data["free_gpu_memory_fraction"],
            enable_prefix_caching=True,
        )
        _check_block(resolved.options.block_size)
        self._windows(resolved, self.rank(resolved))
        return resolved

    def _check_byte_limit(self, options: EngineOptions) -> None:
        """Refuse a pool in bytes from releases whose KvCacheConfig had none."""
        if options.kv_cache_memory_bytes is not None and not self.since("byte_limit"):
            raise InputError(
                f"TensorRT-LLM {self.version} has no kv_cache_config.max_gpu_total_bytes",
                where="--kv-cache-memory-bytes",
                fix="set kv_cache_config.max_tokens (--max-total-tokens here)",
            )

    def rank(self, deployment: ResolvedDeployment, stage: int = 0) -> Rank:
        """Attention-DP gives each rank the whole attention and its own requests."""
        rank = super().rank(deployment, stage)
        return replace(rank, attention_tp=1) if deployment.options.enable_dp_attention else rank

    def rank_budget(self, deployment: ResolvedDeployment, rank: Rank) -> MemoryBudget:
        """``kv = fraction * (total - weights - context - peak)`` of one rank.

        ``max_gpu_total_bytes`` is the most that it takes of that (`KvCacheConfig`: "memory
        corresponding to the minimum will be allocated"). The budget is what those terms and the
        KV cache add up to; the remaining fraction of the free memory lies outside it.
        """
        options, total = deployment.options, deployment.accelerator.memory_bytes
        weights = deployed_weight_bytes(deployment, rank)
        activation = mlp_activation_bytes(deployment.model, options.max_num_batched_tokens, rank.tp)
        context = self.data["non_torch_gib"]
        non_torch = gib_bytes(context)
        used = weights + activation + non_torch
        kv_bytes = int((total - used) * options.gpu_memory_utilization)
        if options.kv_cache_memory_bytes is not None:
            kv_bytes = min(kv_bytes, options.kv_cache_memory_bytes)
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

    def rank_need_bytes(self, deployment: ResolvedDeployment, rank: Rank) -> int:
        """Bytes of a sequence of ``max_model_len`` on that rank, its states included."""
        windows = self._windows(deployment, rank)
        return windows.need_bytes + windows.state_bytes

    def _sequences_in(self, deployment: ResolvedDeployment, rank: Rank, kv_bytes: int) -> float:
        """What is left for tokens beside the states of a full batch."""
        windows = self._windows(deployment, rank)
        if not windows.need_bytes:
            return super()._sequences_in(deployment, rank, kv_bytes)
        return _spare_bytes(windows, deployment.options, kv_bytes) / windows.need_bytes

    def _windows(self, deployment: ResolvedDeployment, rank: Rank) -> _Windows:
        """Sort the layers of one rank into pools."""
        options, tp = deployment.options, rank.attention_ranks
        length = options.max_model_len
        apart = self.since("windows") and not options.disable_hybrid_kv_cache_manager
        token_bytes: dict[int, int] = {}
        layers: dict[int, int] = {}
        states = state_bytes = 0
        for count, attention in layer_caches(deployment.model, rank):
            state_bytes += count * attention.fixed_bytes(tp)
            each = attention.state_bytes(deployment.kv_format, tp)
            if not each:
                states += count
                continue
            window = min(length, (apart and attention.recent_tokens) or length)
            token_bytes[window] = token_bytes.get(window, 0) + count * each
            layers[window] = layers.get(window, 0) + count
        longest_first = dict(sorted(token_bytes.items(), reverse=True))
        return _Windows(longest_first, layers, state_bytes, states)

    def capacity(self, deployment: ResolvedDeployment, kv_bytes: int) -> Capacity:
        """Lay blocks over `kv_bytes`: one pool per window, each of the bytes its window needs.

        A pool's share is ``window * bytes per token``, over the sum of all; so each pool holds
        the same number of sequences of ``max_model_len``, and admission is steady residency.
        Recurrent states of a full batch are set aside before tokens are counted.
        """
        options, length = deployment.options, deployment.options.max_model_len
        rank = self.tightest_rank(deployment)
        windows, block = self._windows(deployment, rank), options.block_size
        spare = _spare_bytes(windows, options, kv_bytes)
        need = windows.need_bytes
        if not need:
            raise InputError(f"no layer of {deployment.model.name} keeps tokens: nothing to size")
        longest = next(iter(windows.token_bytes))
        tokens = spare * longest // need
        usable, most = spare, most_tokens(options, block)
        if most is not None and most < tokens:
            tokens, usable = most, most * need // longest
        sequence, per_token = windows.blocks_bytes(length, block), sum(windows.token_bytes.values())
        all_full = ceil_div(length, block) * block * per_token
        return Capacity(
            kv_cache_bytes=kv_bytes,
            kv_cache_dtype=options.kv_cache_dtype,
            bytes_per_token=per_token,
            max_model_len=length,
            max_concurrency=usable / sequence,
            logged_tokens=tokens // block * block if self.since("whole_blocks") else tokens,
            admission_tokens=tokens_at(usable, sequence, length),
            steady_tokens=tokens_at(usable, need, length),
            all_full_tokens=tokens_at(usable, all_full, length),
            pools=KVPools(
                tuple(_pools(windows, deployment, tokens)),
                layout_ratio(deployment, per_token, rank),
            ),
        )

    def command(self, deployment: Deployment) -> str:
        """A ``trtllm-serve`` line, with the options that only its YAML file has behind it."""
        options, model = deployment.options, deployment.model
        words = [f"trtllm-serve {shlex.quote(model.hf_id or model.name)}"]
        sections: dict[str, list[str]] = {}
        given = deployment.launched
        block = self.resolve(deployment).options.block_size
        for name, flag in _FLAGS.items():
            if name not in given:
                continue
            section, _, key = flag.rpartition(".")
            value = _yaml_value(options, name, block)
            if flag.startswith("--"):
                words.append(f"{flag} {value}")
            else:
                sections.setdefault(section, []).append(f"{key}: {value}")
        if sections:
            words.append(f"--extra_llm_api_options <(echo '{{{_yaml_line(sections)}}}')")
        return " ".join(words)


def _inferred_length(model: ModelSpec) -> int:
    """``max_seq_len`` where nobody sets it: a scaling multiplies it, unless it is stated scaled.

    Source: `DecoderModelForCausalLM.infer_max_seq_len` (_torch/models/modeling_utils.py).
    """
    factors = [
        rope.factor or 1
        for rope in model.rope_scaling
        if rope.kind not in ("longrope", "llama3", "yarn")
    ]
    factor = factors[0] if len(model.rope_scaling) == len(factors) == 1 else 1
    return math.ceil(model.max_position_embeddings * factor)


def _yaml_line(sections: dict[str, list[str]]) -> str:
    """Keys of the options file in YAML's flow style; the section "" is the top level."""
    top = [", ".join(sections[""])] if "" in sections else []
    nested = [f"{name}: {{{', '.join(keys)}}}" for name, keys in sections.items() if name]
    return ", ".join(top + nested)


def _yaml_value(options: EngineOptions, name: str, block: int) -> str:
    """What an option's flag or key is set to."""
    value = getattr(options, name)
    if name == "num_gpu_blocks_override":
        return str(value * block)
    if name == "enable_expert_parallel":
        return str(options.tensor_parallel_size)
    if name in ("enforce_eager", "disable_hybrid_kv_cache_manager"):
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _spare_bytes(windows: _Windows, options: ResolvedOptions, kv_bytes: int) -> int:
    """What the recurrent states of a full batch leave."""
    return max(0, kv_bytes - options.max_num_seqs * windows.state_bytes)


def _check_block(block: int) -> None:
    if block < 2 or block & (block - 1):
        raise InputError(
            f"{block} tokens per block is not a power of two above 1",
            where="tokens_per_block",
            fix="choose 16, 32, 64 or 128",
        )


def _pools(windows: _Windows, deployment: ResolvedDeployment, tokens: int) -> Iterator[Pool]:
    """Yield a pool per window, `tokens` being what the longest holds, and one for the states.

    A pool's layers are alike, so a page is an equal share.
    """
    options = deployment.options
    block, longest = options.block_size, next(iter(windows.token_bytes))
    for window, token_bytes in windows.token_bytes.items():
        keeps_all = window == options.max_model_len
        name = "full" if keeps_all else f"window {window}"
        most = ceil_div(window, block)
        group = Group(
            name=name,
            layers=windows.layers[window],
            padding_layers=0,
            block_size=block,
            page_bytes=block * token_bytes // windows.layers[window],
            blocks_per_sequence=most,
            growth=Growth.full(block) if keeps_all else Growth.capped(block, most),
        )
        blocks = tokens * window // longest // block
        yield Pool(name, block, block * token_bytes, blocks, 0, (group,))
    if windows.state_bytes:
        page = windows.state_bytes // windows.state_layers
        state = Group("states", windows.state_layers, 0, 1, page, 1, Growth.constant(1))
        yield Pool("states", 1, windows.state_bytes, options.max_num_seqs, 0, (state,))
