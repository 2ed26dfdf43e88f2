"""vLLM's own layout: the model's class built without memory, its layers' specs, its own planning.

The order is the engine's: ``VllmConfig``, the model (``initialize_model``, on torch's meta device),
``Platform.update_block_size_for_backend``, ``get_kv_cache_spec`` of every layer on every pipeline
stage, ``resolve_kv_cache_layout``, ``get_global_kv_cache_groups``, ``get_kv_cache_configs``.

Of a model's ``config.json`` the catalogue keeps what kvsim reads. `_FILLED` are fields that its
class asks for beside those; no cache depends on them. Left out are the formats of weights and the
scaling of positions, which no cache depends on either.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.engine_oracle.layout_cases import Case, Groups, Planned
from tests.engine_oracle.layout_stub import on_no_device, set_groups

__all__ = ["plan_in_engine"]

_LEFT_OUT = ("quantization_config", "compression_config", "rope_scaling", "rope_parameters")
_HYPER = {"hc_eps": 1e-6, "hc_mult": 4, "hc_sinkhorn_iters": 20, "swiglu_limit": 10.0}
_ROUTER = {
    "n_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "scoring_func": "sigmoid",
    "topk_group": 1,
    "topk_method": "noaux_tc",
}
_FILLED: dict[str, Mapping[str, Any]] = {
    "chatglm": {"original_rope": True},
    "deepseek_v2": {**_ROUTER, "topk_method": "greedy"},
    "deepseek_v41_text": {
        **_HYPER,
        **_ROUTER,
        "candidate_block_size": 8,
        "candidate_source_layer_id": 20,
        "candidate_topk_blocks": 2048,
        "compress_rope_theta": 160_000,
        "engram_compressed_vocab_size": 99_092,
        "engram_pad_token_id": 2,
        "engram_vocab_size": 16_000_000,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000,
    },
    "gemma4": {"audio_config": {}, "vision_config": {}},
    "glm5_next_text": {
        **_HYPER,
        **_ROUTER,
        "hidden_act": "silu",
        "indexer_rope_interleave": True,
        "mhc": True,
        "mla_use_nope": True,
        "rms_norm_eps": 1e-5,
    },
    "kimi_linear": {"mla_use_nope": True},
    "mimo_v2_flash": {
        **_ROUTER,
        "add_full_attention_sink_bias": False,
        "add_swa_attention_sink_bias": True,
        "layernorm_epsilon": 1e-5,
        "sliding_window_size": 128,
        "swa_rope_theta": 10000,
    },
    "minimax_m2": {**_ROUTER, "rms_norm_eps": 1e-6},
    "minimax_m3": {
        **_ROUTER,
        "attention_output_gate": False,
        "hidden_act": "swigluoai",
        "partial_rotary_factor": 0.5,
        "qk_norm_type": "per_head",
        "rms_norm_eps": 1e-6,
        "rope_theta": 5_000_000,
        "swiglu_alpha": 1.702,
        "swiglu_beta": 1.0,
        "swiglu_limit": 7.0,
        "use_gemma_norm": True,
        "use_qk_norm": True,
        "use_routing_bias": True,
    },
    "minimax_text_01": {"postnorm": False, "rms_norm_eps": 1e-5, "rope_theta": 10_000_000},
    "qwen3_omni_moe": {
        "thinker_config": {
            "text_config": {"tie_word_embeddings": False},
            "vision_config": {"apply_vit_abs_pos_embed": True, "image_size": 768},
        }
    },
}


def plan_in_engine(case: Case, config: Mapping[str, Any]) -> Planned:
    """Plan a case as the engine's start does.

    Parameters
    ----------
    case : Case
        What is planned.
    config : mapping
        The model's ``config.json``.

    Raises
    ------
    Exception
        What the engine raises where it does not start.
    """
    from vllm.v1.core.kv_cache_planning import (
        _pool_bytes_per_block,
        get_global_kv_cache_groups,
        get_kv_cache_configs,
    )
    from vllm.v1.core.kv_cache_utils import (
        generate_scheduler_kv_cache_config,
        get_kv_cache_capacity,
    )
    from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs

    stages = [_on_stage(case, config, stage) for stage in range(case.pp)]
    engine, _ = stages[0]
    specs = [each for _, each in stages]
    register_all_kvcache_specs(engine)
    global_groups = get_global_kv_cache_groups(engine, specs)
    engine.adjust_dcp_kv_cache_interleave_size(global_groups)
    plans = get_kv_cache_configs(engine, specs, [case.kv_bytes] * case.pp, global_groups)
    for plan, (staged, _) in zip(plans, stages, strict=True):
        _start_worker(staged, plan)
    tokens, concurrency = get_kv_cache_capacity(engine, generate_scheduler_kv_cache_config(plans))
    stage_bytes = [_pool_bytes_per_block(engine, plan.kv_cache_groups) for plan in plans]
    return Planned(
        plans[0].num_blocks,
        tokens,
        concurrency,
        tuple(stage_bytes),
        _groups(global_groups),
    )


def _start_worker(engine: Any, plan: Any) -> None:
    """Check what a worker does when it is given its plan.

    Notes
    -----
    Source: vLLM 0.33.0, ``v1/worker/gpu_model_runner.py`` (initialize_kv_cache:
    check_attention_cp_compatibility, prepare_kernel_block_sizes).
    """
    from vllm.config import set_current_vllm_config
    from vllm.v1.worker.cp_utils import check_attention_cp_compatibility
    from vllm.v1.worker.utils import prepare_kernel_block_sizes

    layers = _layers(engine)
    with set_current_vllm_config(engine):
        check_attention_cp_compatibility(engine)
        pairs = [
            [
                SimpleNamespace(backend=layers[name].get_attn_backend(), kv_cache_spec=spec)
                for name, spec in _layer_specs(group)
            ]
            for group in plan.kv_cache_groups
        ]
        prepare_kernel_block_sizes(plan, pairs)


def _layer_specs(group: Any) -> list[tuple[str, Any]]:
    spec, names = group.kv_cache_spec, group.layer_names
    inner = getattr(spec, "kv_cache_specs", None)  # of layers whose pages differ
    return [(name, inner[name] if inner else spec) for name in names]


def _groups(groups: Any) -> Groups:
    """Layers, tokens of a block and bytes of a block of each group."""
    found = []
    for group in groups:
        pages = [spec.page_size_bytes for _, spec in _layer_specs(group)]
        found.append((len(pages), group.kv_cache_spec.block_size, sum(pages)))
    return tuple(sorted(found))


def _on_stage(case: Case, config: Mapping[str, Any], stage: int) -> tuple[Any, dict[str, Any]]:
    """Build the layers of one stage; return the engine's config and their specs."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.platforms import current_platform
    from vllm.utils.torch_utils import set_default_torch_dtype
    from vllm.v1.attention.backends.utils import (
        get_supported_kv_cache_layouts,
        resolve_kv_cache_layout,
    )

    engine = _config(case, config)
    if reason := _stops_later(case, config):
        raise NotImplementedError(reason)
    set_groups(case.tp, case.pp, stage, case.dcp)
    with set_default_torch_dtype(engine.model_config.dtype), torch.device("meta"), on_no_device():
        initialize_model(engine)
    with set_current_vllm_config(engine):
        current_platform.update_block_size_for_backend(engine)
        specs = _specs(engine)
        backends = {layer.get_attn_backend() for layer in _layers(engine).values()}
        layouts = [each.name for each in get_supported_kv_cache_layouts(backends)]
        resolve_kv_cache_layout(engine, [layouts], specs.values())
    return engine, specs


def _stops_later(case: Case, config: Mapping[str, Any]) -> str:
    """What stops or falsifies the engine's first step, which is not run here, in 0.33.0."""
    match config["model_type"]:
        case "glm5_next" if case.pp > 1:
            # models/glm5next/common/model.py, at ``if not get_pp_group().is_last_rank``
            return "stages do not hand on what the hyper-connections defer"
        case "deepseek_v4" if case.block_size not in (None, 256):
            # models/deepseek_v4/sparse_mla.py, get_supported_kernel_block_sizes; a packed block is
            # not held to it (v1/worker/utils.py, prepare_kernel_block_sizes)
            return "its kernels read pages of 256 tokens"
        case "deepseek_v4" if case.tp > config["o_groups"]:
            # models/deepseek_v4/attention.py, n_local_groups
            return "ranks without a group of heads"
        case "deepseek_v41" if (case.block_size or 64) % 64:
            # utils/deep_gemm.py, get_paged_mqa_page_sizes, of which an index key is two tokens; a
            # packed block is not held to it either
            return "its indexers read pages of 32 or 64 keys"
        case "deepseek_v32" | "glm_moe_dsa" if case.dcp > 1 and case.kv_dtype == "fp8":
            # v1/attention/backends/mla/flashmla_sparse.py, FlashMLASparseMetadataBuilder
            heads = config["num_attention_heads"] // case.tp
            if heads >= 32 or heads * case.dcp > 64:
                return "the builder of FlashMLA's metadata cannot join so many heads"
    return ""


def _layers(engine: Any) -> dict[str, Any]:
    from vllm.config import get_layers_from_vllm_config
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

    found: dict[str, Any] = get_layers_from_vllm_config(engine, AttentionLayerBase)
    return found


def _specs(engine: Any) -> dict[str, Any]:
    """As ``GPUModelRunner.get_kv_cache_spec`` asks the layers."""
    from vllm.v1.kv_cache_interface import AttentionSpec
    from vllm.v1.worker.utils import customize_attention_spec

    specs = {}
    for name, layer in _layers(engine).items():
        if getattr(layer, "kv_sharing_target_layer_name", None):
            continue
        spec = layer.get_kv_cache_spec(engine)
        if isinstance(spec, AttentionSpec):
            spec = customize_attention_spec(layer.get_attn_backend(), spec)
        if spec:
            specs[name] = spec
    return specs


def _config(case: Case, config: Mapping[str, Any]) -> Any:
    from vllm.config import (
        CacheConfig,
        ModelConfig,
        ParallelConfig,
        SchedulerConfig,
        VllmConfig,
    )

    model = ModelConfig(
        model=_checkpoint(json.dumps(_filled(config))),
        skip_tokenizer_init=True,
        max_model_len=case.max_model_len,
        enforce_eager=True,
    )
    block = {"block_size": case.block_size} if case.block_size else {}
    return VllmConfig(
        model_config=model,
        cache_config=CacheConfig(
            cache_dtype=case.kv_dtype,
            enable_prefix_caching=case.caches_prefixes,
            sliding_window=_window_of_all(model),
            **block,
        ),
        parallel_config=ParallelConfig(
            tensor_parallel_size=case.tp,
            pipeline_parallel_size=case.pp,
            decode_context_parallel_size=case.dcp,
            distributed_executor_backend="mp" if case.tp * case.pp > 1 else "uni",
        ),
        scheduler_config=SchedulerConfig(
            max_num_seqs=case.max_num_seqs,
            max_num_batched_tokens=case.max_num_batched_tokens,
            max_model_len=case.max_model_len,
            is_encoder_decoder=model.is_encoder_decoder,
        ),
    )


def _window_of_all(model: Any) -> int | None:
    """A window that all layers keep.

    Source: vLLM 0.33.0, ``engine/arg_utils.py`` (create_engine_config).
    """
    kinds = getattr(model.hf_text_config, "layer_types", None)
    if kinds is not None and any(kind != "sliding_attention" for kind in kinds):
        return None
    window: int | None = model.get_sliding_window()
    return window


@cache
def _checkpoint(config: str) -> str:
    """Write a checkpoint that is nothing but its config, until this process ends."""
    folder = tempfile.mkdtemp(prefix="kvsim-layout-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Path(folder, "config.json").write_text(config)
    return folder


def _filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill what the model's class asks for, and leave out what no cache depends on."""
    filled = _merged(_FILLED.get(config.get("model_type", ""), {}), config)
    for key in _LEFT_OUT:
        filled.pop(key, None)
    for key, value in filled.items():
        if isinstance(value, Mapping):
            filled[key] = _filled(value)
    if filled.get("architectures") == ["MiniMaxM3ForCausalLM"]:  # its language model's own class
        filled["architectures"] = ["MiniMaxM3SparseForCausalLM"]
    return filled


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        inner = under.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, Mapping) else value
    return merged
