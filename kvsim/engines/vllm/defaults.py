"""Flags left open become this release's defaults on this card; contradictions are refused."""

from __future__ import annotations

from dataclasses import replace

from kvsim.engines.base import Deployment, ResolvedDeployment
from kvsim.engines.common import check_options, declared_kv_format, resolve
from kvsim.engines.vllm.batching import default_batched_tokens
from kvsim.engines.vllm.block_sparse import SPARSE_BLOCK, check_block_sparse, is_block_sparse
from kvsim.engines.vllm.checks import check_batch, check_flags, plans_ahead
from kvsim.engines.vllm.folded_index import FoldedKernels, check_folded, index_fold
from kvsim.engines.vllm.image_layers import check_batch_of_images, check_image_layers
from kvsim.engines.vllm.kernel_checks import check_fp8_alibi, check_shared_context
from kvsim.engines.vllm.lengths import check_length, default_length
from kvsim.engines.vllm.rules import Rules, architecture, card_class, kernel_class
from kvsim.engines.vllm.sourced import SourcedKernels, check_sourced, shares_states
from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
from kvsim.specs.checked import defaults
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import KVFormat, kv_format, weight_format

__all__ = ["FLAGS", "has_recurrent_layers", "resolve_options"]

FLAGS = {
    name: "--" + name.replace("_", "-")
    for name in defaults(EngineOptions)
    if name
    not in (
        "max_total_tokens",
        "swa_full_tokens_ratio",
        "swa_full",
        "kv_cache_dtype_v",
        "flash_attention",
        "kv_unified",
        "enable_dp_attention",
    )
}
_HINTS = {
    "max_total_tokens": "its pool has a size in bytes (--kv-cache-memory-bytes) or in blocks"
    " (--num-gpu-blocks-override)",
    "swa_full_tokens_ratio": "one pool serves windows and full layers here",
    "swa_full": "its word for that is --disable-hybrid-kv-cache-manager",
    "kv_cache_dtype_v": "K and V share --kv-cache-dtype here",
}
# Before 0.11 the flag had no words for these, and they are what "auto" means.
_COMPUTE_DTYPES = ("fp32", "fp16", "bf16")
_MLA_ONLY = ("fp8_ds_mla", "nvfp4_ds_mla")
_GLM_SPARSE = "GlmMoeDsaForCausalLM"
_CAST = {"fp32": "bf16"}
_NO_BF16 = ("volta", "turing")
_V0_SEQS = 256
_DEFAULT_BLOCK = 16
# Keys of an indexer: 0.13.0 platforms/cuda.py; since 0.18 DeepseekV32IndexerBackend's only size.
_INDEXED_BLOCK = 64


def resolve_options(deployment: Deployment, rules: Rules) -> ResolvedDeployment:
    """Fill every option that is None; see `kvsim.engines.base.Engine.resolve`.

    Raises
    ------
    InputError
        For a flag that vLLM lacks, a contradiction, or a sharding that no layout allows.
    """
    check_options("vllm", deployment.options, FLAGS, _HINTS)
    model = deployment.model
    if model.encoder_tokens:
        check_image_layers(deployment, rules)
    check_length(deployment, rules)
    check_flags(deployment, rules)
    if is_block_sparse(model):
        check_block_sparse(deployment)
    options = deployment.options
    length = options.max_model_len or default_length(model, rules)
    tokens = options.max_num_batched_tokens or default_batched_tokens(deployment, rules, length)
    compute = {"dtype": _compute_dtype(deployment, rules)}
    named = replace(deployment, options=options.model_copy(update=compute))
    if index_fold(model) > 1:
        check_folded(named, rules)
    if shares_states(model):
        check_sourced(named, rules)
    kv = _kv_format(named, rules)
    check_shared_context(named, rules, kv)
    resolved = resolve(
        named,
        kv=kv,
        gpu_memory_utilization=rules.value("gpu_memory_utilization"),
        max_model_len=length,
        max_num_batched_tokens=tokens,
        max_num_seqs=min(_sequences(deployment, rules), tokens),
        block_size=_block_size(deployment, rules, kv),
        async_scheduling=rules.value("async_scheduling") and plans_ahead(options, rules),
        enable_prefix_caching=_caches_prefixes(deployment, rules),
    )
    check_batch(resolved.options)
    if model.encoder_tokens:
        check_batch_of_images(resolved.options)
    return replace(resolved, model=_with_state_dtype(model, resolved.dtype))


def has_recurrent_layers(model: ModelSpec) -> bool:
    """Whether some layer keeps a state instead of a growing cache."""
    return any(cache.fixed_bytes() for _, cache in layer_caches(model))


def _with_state_dtype(model: ModelSpec, dtype: str) -> ModelSpec:
    """Keep recurrent states in the compute dtype where the config names none.

    Source: ``MambaStateDtypeCalculator`` (model_executor/layers/mamba/mamba_utils.py): "auto" is
    the dtype of the convolution's state, which is the model's, in every release from 0.10 on.
    """
    if not has_recurrent_layers(model):
        return model
    element_bytes = int(weight_format(dtype).bits_per_weight) // 8
    groups = [
        group.model_copy(
            update={"caches": tuple(c.with_state_elements(element_bytes) for c in group.caches)}
        )
        for group in model.layer_groups
    ]
    return model.model_copy(update={"layer_groups": tuple(groups)})


def _caches_prefixes(deployment: Deployment, rules: Rules) -> bool:
    """Whether prefixes are cached unless told not to: by V1 (0.8.0 ``engine/arg_utils.py``)."""
    model = deployment.model
    if model.encoder_tokens or rules.is_v0(model, deployment.accelerator):
        return False
    return not has_recurrent_layers(model) or bool(rules.value("recurrent_prefix_caching"))


def _compute_dtype(deployment: Deployment, rules: Rules) -> str:
    """Dtype of activations: the model's own, cast where the card or vLLM lacks it."""
    name = deployment.options.dtype
    generation = architecture(deployment.accelerator)
    lacks_bf16 = generation in _NO_BF16
    if name in (None, "auto"):
        native = deployment.model.dtype
        cast = _CAST.get(native, native)
        return "fp16" if lacks_bf16 and cast == "bf16" else cast
    dtype = weight_format(str(name)).name
    if dtype not in ("fp32", "fp16", "bf16"):
        raise InputError(
            f"--dtype {name} is no dtype of activations",
            fix="choose float32, float16 or bfloat16; --quantization names a weight format",
        )
    if dtype == "bf16" and lacks_bf16:
        raise InputError(
            f"{deployment.accelerator.name} has no bfloat16 arithmetic, and vLLM refuses it there",
            where="--dtype",
            fix="choose float16",
        )
    return dtype


def _kv_format(deployment: Deployment, rules: Rules) -> KVFormat:
    """KV format: the compute dtype unless told; sparse MLA has layouts of its own."""
    model = deployment.model
    latent = [cache for _, cache in layer_caches(model) if cache.keeps("latent")]
    is_sparse = any(cache.keeps("indexer") for cache in latent)
    is_compressed = any(cache.keeps("shared") for _, cache in layer_caches(model))
    name = deployment.options.kv_cache_dtype
    declared = declared_kv_format(deployment, rules.value("declared_kv"))
    if declared and not is_compressed:
        name = declared
        deployment = replace(
            deployment, options=deployment.options.model_copy(update={"kv_cache_dtype": name})
        )
    if shares_states(model):
        return SourcedKernels.of(deployment, rules).kv_format(deployment)
    if index_fold(model) > 1:
        return FoldedKernels.of(deployment, rules).kv_format(deployment)
    if name in (None, "auto"):
        if is_compressed:
            return kv_format("fp8_ds_mla")
        own = _sparse_layout(deployment, rules, "sparse_latent_auto") if is_sparse else None
        return kv_format(own) if own else deployment.kv_format
    fmt = deployment.kv_format.name
    known = rules.value("kv_dtypes")
    if fmt not in (*_COMPUTE_DTYPES, *known):
        raise InputError(
            f"vLLM {rules.said} has no KV cache dtype {name!r}",
            where="--kv-cache-dtype",
            fix=f"choose auto or one of {', '.join((*_COMPUTE_DTYPES, *known))}",
        )
    if fmt in _MLA_ONLY and not latent and not is_compressed:
        raise InputError(
            f"--kv-cache-dtype {fmt} is a layout of latent attention, and {model.name} has none",
            fix="choose fp8",
        )
    if model.architecture in rules.value("untold_kv_dtype"):
        return kv_format(deployment.dtype)
    check_fp8_alibi(deployment, rules)
    if is_sparse and fmt == "fp8_e4m3":
        return kv_format(_sparse_layout(deployment, rules, "sparse_latent_fp8") or fmt)
    return kv_format(fmt)


def _sparse_layout(deployment: Deployment, rules: Rules, rule: str) -> str | None:
    """What a rule makes of the KV cache of sparse MLA on this card; None: nothing of its own."""
    kernels = kernel_class(deployment.accelerator)
    found = rules.value(rule)
    if rule == "sparse_latent_auto" and deployment.model.architecture == _GLM_SPARSE:
        found = found | rules.value("glm_sparse_auto")
    layout: str | None = found.get(kernels, found.get("any"))
    return layout


def _block_size(deployment: Deployment, rules: Rules, kv: KVFormat) -> int:
    """16, or what the kernels of block-sparse or latent attention on the card ask for."""
    model = deployment.model
    if is_block_sparse(model):
        return SPARSE_BLOCK
    if shares_states(model):
        return SourcedKernels.of(deployment, rules).block
    is_latent = any(cache.keeps("latent") for _, cache in layer_caches(model))
    if not is_latent:
        return _attention_block(deployment, rules, kv)
    if (fold := index_fold(model)) > 1:
        return fold * FoldedKernels.of(deployment, rules).states
    kernels = kernel_class(deployment.accelerator)
    if any(cache.keeps("indexer") for _, cache in layer_caches(model)) and kernels != "rocm":
        return _INDEXED_BLOCK
    by_bits = rules.value("latent_block_size").get(kernels, {})
    return int(by_bits.get(kv.bits, _DEFAULT_BLOCK))


def _attention_block(deployment: Deployment, rules: Rules, kv: KVFormat) -> int:
    """16, or what the kernels of wide heads ask for in an fp8 cache (Gemma 4)."""
    caches = layer_caches(deployment.model)
    widest = max((c.vectors.key_dim for _, c in caches if c.keeps("kv")), default=0)
    blocks = rules.value("wide_fp8_block").get(kernel_class(deployment.accelerator), {})
    return int(blocks.get(widest, _DEFAULT_BLOCK)) if kv.name == "fp8_e4m3" else _DEFAULT_BLOCK


def _sequences(deployment: Deployment, rules: Rules) -> int:
    """Most sequences at once: V0's number is one for all cards (``_set_default_args_v0``)."""
    if rules.is_v0(deployment.model, deployment.accelerator):
        return _V0_SEQS
    sequences: int = rules.value("max_num_seqs")[card_class(deployment.accelerator)]
    return sequences
