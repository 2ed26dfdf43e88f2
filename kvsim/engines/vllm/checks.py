"""Flags that contradict each other, the model or the card, refused as vLLM refuses them."""

from __future__ import annotations

from kvsim.engines.base import Deployment
from kvsim.engines.common import read_data
from kvsim.engines.vllm.kernel_checks import check_block_multiple, check_undivided
from kvsim.engines.vllm.pages import COMPRESSED_BLOCK
from kvsim.engines.vllm.rules import Rules, architecture, kernel_class, parts_of
from kvsim.errors import InputError, UnsupportedError
from kvsim.memory.footprint import layer_caches
from kvsim.memory.rank import Rank
from kvsim.specs.attention import heads_per_rank
from kvsim.specs.engine_options import EngineOptions, ResolvedOptions
from kvsim.specs.model import ModelSpec

__all__ = ["check_batch", "check_flags"]

_MODELS = "vllm_models"
_ANY_PATCH = (999, 999)  # of a release of which only the first parts are known


def check_flags(deployment: Deployment, rules: Rules) -> None:
    """Refuse flags, of those that the engine has, that it would not start with.

    Raises
    ------
    InputError
        For the first, with the fix.
    """
    _check_served(deployment.model, rules)
    _check_pool(deployment.options, rules)
    _check_graphs(deployment)
    _check_adapters(deployment)
    _check_block(deployment.options)
    _check_weights(deployment, rules)
    _check_sharding(deployment)
    _check_whole_heads(deployment, rules)
    _check_indexed_block(deployment, rules)
    _check_compressed(deployment)
    _check_windows(deployment, rules)
    _check_stages(deployment, rules)
    _check_async(deployment.options, rules)


def plans_ahead(options: EngineOptions, rules: Rules) -> bool:
    """Whether a step can be scheduled while the one before it is computed."""
    return options.pipeline_parallel_size == 1 or bool(rules.value("async_with_stages"))


def _check_async(options: EngineOptions, rules: Rules) -> None:
    """Refuse asynchronous scheduling of pipeline stages in a release that cannot."""
    if options.async_scheduling and not plans_ahead(options, rules):
        raise InputError(
            f"vLLM {rules.said} does not schedule pipeline stages asynchronously",
            where="async_scheduling",
            fix="leave it out, choose --pp 1 or a later --engine-version",
        )


def _check_served(model: ModelSpec, rules: Rules) -> None:
    """Refuse a model whose class the release does not have: not yet, no longer, or never."""
    known = read_data(_MODELS)
    if model.architecture in known["never"]:
        raise UnsupportedError(
            f"vLLM has no {model.architecture} and does not serve {model.name}; choose engine"
            " transformers"
        )
    absent, last = (known[each].get(model.architecture) for each in ("absent_through", "last"))
    patch = (*rules.release, *_ANY_PATCH)[:3]
    if absent and patch <= parts_of(absent):
        raise UnsupportedError(
            f"vLLM {rules.said} does not serve {model.name}: {absent} had no"
            f" {model.architecture} yet; choose a later --engine-version"
        )
    if last and rules.release[:2] > parts_of(last)[:2]:
        raise UnsupportedError(
            f"vLLM {rules.said} no longer serves {model.name}: {last} was the last to have"
            f" {model.architecture}; choose --engine-version {last}"
        )


def _check_pool(options: EngineOptions, rules: Rules) -> None:
    """Refuse a pool in bytes from releases that had no such flag."""
    if options.kv_cache_memory_bytes is None or rules.value("pool_in_bytes"):
        return
    raise InputError(
        f"vLLM {rules.said} has no --kv-cache-memory-bytes, which came with 0.10.2",
        fix="set --num-gpu-blocks-override or --gpu-memory-utilization",
    )


def _check_weights(deployment: Deployment, rules: Rules) -> None:
    """Refuse weights in a format that no kernel of the release knows on the card."""
    name = deployment.quantization or deployment.model.quantization
    card = deployment.accelerator
    if architecture(card) in rules.value("weights_lacking").get(name, ()):
        raise InputError(
            f"vLLM {rules.said} has no {name} weights on {card.name}",
            where="--quantization",
            fix="choose gptq, a model in 16 bits, or a newer card",
        )


def _check_sharding(deployment: Deployment) -> None:
    options, model = deployment.options, deployment.model
    tp, pp = options.tensor_parallel_size, options.pipeline_parallel_size
    if pp > model.num_layers:
        raise InputError(
            f"{model.num_layers} layers cannot fill {pp} pipeline stages",
            where="--pipeline-parallel-size",
            fix=f"choose at most {model.num_layers}",
        )
    for _, cache in layer_caches(model):
        heads, groups = cache.query_heads, cache.query_groups
        if heads % tp or groups % tp:
            what = f"{heads} attention heads" if heads % tp else f"{groups} groups of heads"
            raise InputError(
                f"{what} of {model.name} cannot be split over tp={tp}",
                where="--tensor-parallel-size",
                fix=f"choose one of {[n for n in range(1, groups + 1) if groups % n == 0]}",
            )
        _check_context_parallel(options, max(1, cache.vectors.heads))


def _check_whole_heads(deployment: Deployment, rules: Rules) -> None:
    """Refuse more ranks than KV heads where the model's class copies none."""
    model, tp = deployment.model, deployment.options.tensor_parallel_size
    heads = min((cache.vectors.heads for _, cache in layer_caches(model)), default=tp)
    if model.architecture in rules.value("undealt_kv_heads") and tp > heads:
        raise InputError(
            f"vLLM {rules.said} copies none of the {heads} KV heads of {model.name} to tp={tp}",
            where="--tensor-parallel-size",
            fix=f"choose at most {heads}",
        )


def _check_indexed_block(deployment: Deployment, rules: Rules) -> None:
    """Refuse a block that no indexer's kernel takes."""
    multiple, caches = rules.value("indexed_block_multiple"), layer_caches(deployment.model)
    if multiple is None or kernel_class(deployment.accelerator) == "rocm":
        return
    if any(cache.keeps("indexer") and cache.keeps("latent") for _, cache in caches):
        check_block_multiple(deployment, multiple, "the indexers")


def _check_compressed(deployment: Deployment) -> None:
    """Refuse blocks that DeepSeek-V4's kernels do not take.

    Source: vLLM 0.33.0, ``models/deepseek_v4/sparse_mla.py`` (get_supported_kernel_block_sizes).
    """
    name, size = deployment.model.name, deployment.options.block_size
    is_compressed = any(cache.keeps("shared") for _, cache in layer_caches(deployment.model))
    if is_compressed and size not in (None, COMPRESSED_BLOCK):
        raise InputError(
            f"the kernels of {name} take no blocks of {size} tokens",
            where="--block-size",
            fix=f"choose {COMPRESSED_BLOCK}",
        )


def _check_windows(deployment: Deployment, rules: Rules) -> None:
    """Refuse ranks that share a context of which some layers keep a window.

    Source: vLLM 0.11.0 to 0.33.0, ``v1/kv_cache_interface.py`` (SlidingWindowSpec,
    max_memory_usage_bytes); a window that is charged as full attention is shared like it.
    """
    if deployment.options.disable_hybrid_kv_cache_manager or not rules.value("hybrid_groups"):
        return
    sorts = {sort for _, cache in layer_caches(deployment.model) for sort in cache.sorts}
    if deployment.model.idle_window or any(sort.endswith(" window") for sort in sorts):
        refusal = f"ranks of one context cannot share the windows of {deployment.model.name}"
        check_undivided(deployment, "decode_context_parallel_size", refusal)


def _check_stages(deployment: Deployment, rules: Rules) -> None:
    """Refuse stages of a class that has none, or of which one reads another's keys and values.

    Source: vLLM 0.33.0, ``model_executor/layers/attention/attention.py``
    (validate_kv_sharing_target).
    """
    model, stages = deployment.model, deployment.options.pipeline_parallel_size
    if model.architecture in rules.value("undivided_layers"):
        refusal = f"vLLM {rules.said} does not cut {model.name} into pipeline stages"
        check_undivided(deployment, "pipeline_parallel_size", refusal)
    for stage in range(stages if stages > 1 else 0):
        held = Rank(pp=stages, stage=stage).layers_of(model)
        for group in model.layer_groups:
            if group.shares_kv_with is None or not any(i in held for i in group.layers):
                continue
            kept = max(model.group(group.shares_kv_with).layers)
            if kept not in held:
                raise InputError(
                    f"layers of {model.name} on stage {stage} read the keys and values of layer"
                    f" {kept}, which another of {stages} stages keeps",
                    where="--pipeline-parallel-size",
                    fix="choose 1",
                )


def _check_context_parallel(options: EngineOptions, kv_heads: int) -> None:
    """Refuse a context sharding that has no replicated heads to shard."""
    tp, dcp = options.tensor_parallel_size, options.decode_context_parallel_size
    heads_per_rank(kv_heads, tp)
    replicas = max(1, tp // kv_heads)
    if replicas % dcp:
        raise InputError(
            f"{dcp} does not divide the {replicas} replicas that each KV head has at tp={tp}",
            where="--decode-context-parallel-size",
            fix=f"choose a divisor of {replicas}, or raise tp",
        )


def check_batch(options: ResolvedOptions) -> None:
    """Refuse more sequences than a step has tokens."""
    seqs, tokens = options.max_num_seqs, options.max_num_batched_tokens
    if seqs > tokens:
        raise InputError(
            f"--max-num-seqs {seqs} exceeds --max-num-batched-tokens {tokens}",
            fix="a step schedules at least one token per sequence: raise the latter",
        )


def _check_graphs(deployment: Deployment) -> None:
    """Refuse memory for CUDA graphs that are switched off."""
    if deployment.options.enforce_eager and deployment.options.cuda_graph_bytes:
        raise InputError(
            "--enforce-eager captures no CUDA graphs, and --cuda-graph-bytes sets memory aside",
            fix="leave one of the two out",
        )


def _check_block(options: EngineOptions) -> None:
    """Refuse a block that no release takes: theirs are 1, 8 and multiples of 16.

    Source: ``BlockSize`` of vllm/config/cache.py is 1, 8, 16, 32, ..., 256 up to 0.15; later
    attention backends ask for a multiple of 16, such as the 784 tokens of Qwen3.5's blocks.
    """
    size = options.block_size
    if size is None or size in (1, 8) or size % 16 == 0:
        return
    below, above = size // 16 * 16, (size // 16 + 1) * 16
    close = f"{below} or {above}" if below else str(8 if size < 12 else above)
    raise InputError(
        f"vLLM has no blocks of {size} tokens", where="--block-size", fix=f"choose {close}"
    )


def _check_adapters(deployment: Deployment) -> None:
    """Refuse a rank for adapters that are switched off: it would change nothing."""
    options = deployment.options
    if options.max_lora_rank != EngineOptions().max_lora_rank and not options.enable_lora:
        raise InputError(
            f"--max-lora-rank {options.max_lora_rank} says nothing without --enable-lora",
            fix="add --enable-lora",
        )
