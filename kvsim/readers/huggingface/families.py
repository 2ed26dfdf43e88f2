"""What an architecture's name says that its config leaves out.

A config.json omits what equals the defaults of its configuration class, and says nothing
about what its modelling code fixes (a gated MLP, a bias). Both are kept here, once each, as
known from the public configuration classes of Hugging Face transformers.
"""

from __future__ import annotations

from kvsim.readers.huggingface.family import Family

__all__ = [
    "DELTA_FIELDS",
    "FAMILIES",
    "MLA_FIELDS",
]

_TIED = {"tie_word_embeddings": True}
_FOURFOLD = {"expansion_ratio": 4}  # MLP width over hidden size
_OPT_IN_WINDOW = {"use_sliding_window": False}
_PATTERN = ("sliding_window_pattern",)
MLA_FIELDS = (
    "kv_lora_rank",
    "qk_rope_head_dim",
    "qk_nope_head_dim",
    "index_topk",
    "index_head_dim",
    "index_n_heads",
    "indexer_types",
    "index_topk_freq",
    "index_topk_pattern",
    "index_skip_topk_offset",
    "indexer_rope_interleave",  # which elements are rotated, not how many
)

_PLAIN = Family()
_MISTRAL = Family()
_QWEN2 = Family(qkv_bias=True, bias_covers_output=False, defaults=_OPT_IN_WINDOW)
_QWEN3 = Family(defaults=_OPT_IN_WINDOW)
_DEEPSEEK = Family(reads=MLA_FIELDS)
_GLM = Family(bias_covers_output=False)
_MATRIX_BIASED = Family(gated=False, mlp_bias=True, qkv_bias=True, output_bias=True)

_GEMMA3 = Family(
    reads=_PATTERN,
    defaults={
        **_TIED,
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "rope_local_base_freq": 10_000,
    },
)
_SHARED = (
    "num_kv_shared_layers",
    "sliding_window_pattern",
    "activation_sparsity_pattern",
    "global_head_dim",
)
_GEMMA3N = Family(
    reads=_SHARED,
    defaults={
        **_TIED,
        "vocab_size": 262_400,
        "vocab_size_per_layer_input": 262_144,
        "hidden_size": 2048,
        "hidden_size_per_layer_input": 256,
        "intermediate_size": 16_384,
        "num_hidden_layers": 35,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "max_position_embeddings": 32_768,
        "sliding_window": 512,
        "sliding_window_pattern": 5,
        "num_kv_shared_layers": 15,
        "laurel_rank": 64,
    },
)
_GEMMA4 = Family(
    layout="gemma4",
    reads=(*_SHARED, "num_global_key_value_heads"),
    defaults={**_TIED, "head_dim": 256, "sliding_window_pattern": 6},
)
DELTA_FIELDS = (
    "full_attention_interval",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_conv_kernel_dim",
    "mamba_ssm_dtype",
)
_DELTA = Family(
    linear="gated_delta_net",
    output_gate=True,
    reads=DELTA_FIELDS,
    defaults={
        "full_attention_interval": 4,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
    },
)
_MAMBA_READS = (
    "mamba_chunk_size",
    "mamba_d_conv",
    "mamba_d_state",
    "mamba_d_head",
    "mamba_d_ssm",
    "mamba_dt_rank",
    "mamba_expand",
    "mamba_n_groups",
    "mamba_n_heads",
    "mamba_use_mlp",
    "mamba_ssm_cache_dtype",
    "attn_layer_indices",
)
_NEMOTRON_H = Family(
    layout="nemotron_h",
    gated=False,
    rotary=False,
    reads=(
        "hybrid_override_pattern",
        "mamba_num_heads",
        "mamba_head_dim",
        "mamba_ssm_cache_dtype",
        "ssm_state_size",
        "conv_kernel",
        "chunk_size",
    ),
    defaults={
        "chunk_size": 128,
        "conv_kernel": 4,
        "n_groups": 8,
        "ssm_state_size": 128,
        "mamba_ssm_cache_dtype": "float32",
    },
)
_BAMBA = Family(
    layout="bamba",
    reads=_MAMBA_READS,
    defaults={
        "mamba_chunk_size": 256,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_d_state": 256,
    },
)
_SEQ2SEQ = Family(
    layout="seq2seq",
    gated=False,
    mlp_bias=True,
    qkv_bias=True,
    output_bias=True,
    position_offset=0,
    defaults=_TIED,
)

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        (
            "llama",
            "yi",
            "granite",
            "granitemoe",
            "internlm2",
            "olmo",
            "olmo2",
            "olmoe",
            "stablelm",
            "seed_oss",
            "smollm3",
            "baichuan",
            "deepseek",
            "minimax",
            "minimax_m2",
            "minicpm",
            "ernie4_5",
            "helium",
            "hunyuan_v1_dense",
        ),
        _PLAIN,
    ),
    **dict.fromkeys(("mistral", "mixtral", "ministral", "ministral3", "phi3"), _MISTRAL),
    **dict.fromkeys(
        ("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen2_audio", "qwen2_5_omni"), _QWEN2
    ),
    **dict.fromkeys(("qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_moe", "qwen3_omni_moe"), _QWEN3),
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite", "minicpm3"), _DEEPSEEK
    ),
    "deepseek_v32": _DEEPSEEK,
    "glm_moe_dsa": Family(
        reads=MLA_FIELDS, defaults={"index_topk": 2048, "index_head_dim": 128, "index_n_heads": 32}
    ),
    "deepseek_v4": Family(
        layout="compressed",
        reads=(
            "index_topk",
            "index_head_dim",
            "index_n_heads",
            "qk_rope_head_dim",
            "o_groups",
            "o_lora_rank",
            "compress_ratios",
            "compress_rates",
        ),
        defaults={
            "o_groups": 8,
            "o_lora_rank": 1024,
            "index_head_dim": 128,
            "index_n_heads": 64,
        },
    ),
    "deepseek_v41": Family(
        layout="sourced",
        reads=(
            "index_topk",
            "index_head_dim",
            "index_n_heads",
            "qk_rope_head_dim",
            "compress_ratios",
            "kv_source_layer_ids",
            "index_source_layer_ids",
            "candidate_source_layer_id",  # which keys are scored, not which are kept
            "engram_layer_ids",
            "engram_num_embeddings",
            "engram_max_ngram_size",
            "engram_vocab_size",
            "engram_n_heads",
            "engram_head_dim",
            "engram_pad_token_id",
            "engram_compressed_vocab_size",
        ),
    ),
    **dict.fromkeys(("glm", "glm4", "glm4_moe"), _GLM),
    "chatglm": Family(qkv_bias=True, bias_covers_output=False),
    "gemma": Family(
        defaults={**_TIED, "head_dim": 256, "max_position_embeddings": 8192},
    ),
    "gemma2": Family(
        reads=_PATTERN,
        defaults={
            **_TIED,
            "head_dim": 256,
            "max_position_embeddings": 8192,
            "sliding_window": 4096,
            "sliding_window_pattern": 2,
        },
    ),
    **dict.fromkeys(("gemma3", "gemma3_text"), _GEMMA3),
    "gemma3n": _GEMMA3N,
    **dict.fromkeys(("gemma4", "gemma4_unified"), _GEMMA4),
    "cohere": Family(defaults={**_TIED, "max_position_embeddings": 8192}),
    "cohere2": Family(
        reads=_PATTERN, defaults={**_TIED, "sliding_window": 4096, "sliding_window_pattern": 4}
    ),
    "olmo3": Family(reads=_PATTERN, defaults={"sliding_window_pattern": 4}),
    "gpt_oss": Family(
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        reads=_PATTERN,
        defaults={"sliding_window": 128, "sliding_window_pattern": 2},
    ),
    "llama4": Family(
        layout="llama4",
        reads=("attention_chunk_size", "no_rope_layers", "no_rope_layer_interval"),
        defaults={"attention_chunk_size": 8192, "no_rope_layer_interval": 4},
    ),
    "mllama": Family(
        layout="mllama",
        reads=("cross_attention_layers",),
        defaults={
            "vocab_size": 128_256,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        },
    ),
    "mimo_v2_flash": Family(
        layout="mimo",
        reads=("hybrid_layer_pattern", "attention_chunk_size", "swa_head_dim", "swa_v_head_dim"),
    ),
    **dict.fromkeys(("qwen3_next", "qwen3_5", "qwen3_5_moe"), _DELTA),
    "muse_glimmer": Family(output_gate=True),
    **dict.fromkeys(("step3p5", "step3p7"), Family(reads=("attention_other_setting",))),
    "nemotron": Family(gated=False),
    "nemotron-nas": Family(layout="blocks", reads=("block_configs",)),
    "nemotron_h": _NEMOTRON_H,
    "jamba": Family(
        layout="jamba",
        reads=(*_MAMBA_READS, "attn_layer_period", "attn_layer_offset"),
        defaults={
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_conv": 4,
            "mamba_d_state": 16,
            "mamba_expand": 2,
        },
    ),
    **dict.fromkeys(("bamba", "granitemoehybrid"), _BAMBA),
    "falcon_h1": Family(layout="falcon_h1", reads=_MAMBA_READS, defaults=_BAMBA.defaults),
    **dict.fromkeys(
        ("minimax_text_01", "minimax_text"),
        Family(layout="minimax_text", linear="lightning", reads=("attn_type_list",)),
    ),
    # Without a sparse_attention_config, vLLM's configuration class and transformers' differ: no
    # defaults here.
    **dict.fromkeys(
        ("minimax_m3", "minimax_m3_vl"),
        Family(layout="minimax_m3", reads=("sparse_attention_config",)),
    ),
    "kimi_linear": Family(
        layout="kimi_linear", linear="kimi_delta", reads=(*MLA_FIELDS, "linear_attn_config")
    ),
    "glm5_next": Family(
        layout="glm5_next",
        linear="kimi_delta",
        reads=(
            *MLA_FIELDS,
            "linear_attn_config",
            "index_kpool",
            "index_kpool_compress",
            "index_kpool_always_select_tail",
        ),
    ),
    "gpt2": Family(
        gated=False,
        mlp_bias=True,
        qkv_bias=True,
        output_bias=True,
        position_offset=0,
        defaults={**_TIED, **_FOURFOLD, "vocab_size": 50_257, "max_position_embeddings": 1024},
    ),
    "opt": Family(
        gated=False,
        mlp_bias=True,
        qkv_bias=True,
        output_bias=True,
        position_offset=2,
        defaults={**_TIED, "max_position_embeddings": 2048},
    ),
    "bloom": Family(
        gated=False,
        mlp_bias=True,
        qkv_bias=True,
        output_bias=True,
        defaults={**_TIED, **_FOURFOLD, "max_position_embeddings": 2048},
    ),
    "gptj": Family(
        gated=False, mlp_bias=True, defaults={**_FOURFOLD, "max_position_embeddings": 2048}
    ),
    **dict.fromkeys(("gpt_neox", "phi", "starcoder2"), _MATRIX_BIASED),
    "mpt": Family(gated=False, reads=("attn_config",), defaults={**_TIED, **_FOURFOLD}),
    **dict.fromkeys(
        ("falcon", "refinedweb", "refinedwebmodel"),
        Family(gated=False, defaults={**_TIED, **_FOURFOLD, "max_position_embeddings": 2048}),
    ),
    "t5": Family(
        layout="t5",
        gated=False,
        reads=("is_gated_act",),
        defaults={**_TIED, "max_position_embeddings": 512},
    ),
    "whisper": _SEQ2SEQ,
    **dict.fromkeys(("bart", "mbart", "m2m_100", "pegasus", "marian"), _SEQ2SEQ),
}
