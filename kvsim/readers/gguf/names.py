"""GGUF's words for architectures and fields, and a config.json's words for the same.

GGUF keys are those that llama.cpp's converter writes, ``{architecture}.{suffix}``.
"""

from __future__ import annotations

__all__ = ["FIELDS", "MODEL_TYPES"]

_ALIKE = (
    "llama",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3n",
    "gemma4",
    "glm4",
    "phi3",
    "falcon",
    "mpt",
    "gpt2",
    "gptj",
    "bloom",
    "starcoder2",
    "cohere2",
    "llama4",
    "nemotron",
    "nemotron_h",
    "granite",
    "granitemoe",
    "internlm2",
    "stablelm",
    "olmo",
    "olmo2",
    "olmoe",
    "minicpm",
    "baichuan",
    "chatglm",
    "seed_oss",
    "smollm3",
    "ernie4_5",
    "bert",
)

# general.architecture -> model_type
MODEL_TYPES: dict[str, str] = {
    **{name: name for name in _ALIKE},
    "mistral3": "mistral",
    "qwen2moe": "qwen2_moe",
    "qwen2vl": "qwen2_vl",
    "qwen3moe": "qwen3_moe",
    "qwen3vl": "qwen3_vl",
    "qwen3vlmoe": "qwen3_vl_moe",
    "qwen3next": "qwen3_next",
    "qwen35": "qwen3_5",
    "qwen35moe": "qwen3_5_moe",
    "gpt-oss": "gpt_oss",
    "deepseek2": "deepseek_v2",
    "glm4moe": "glm4_moe",
    "phi2": "phi",
    "gptneox": "gpt_neox",
    "command-r": "cohere",
    "minimax-m2": "minimax_m2",
    "nomic-bert": "nomic_bert",
    "modern-bert": "modernbert",
    "jina-bert-v2": "bert",
}

# {architecture}.suffix -> field of a config.json, the same in all architectures
FIELDS: dict[str, str] = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "context_length": "max_position_embeddings",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "v_head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.q_lora_rank": "q_lora_rank",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "leading_dense_block_count": "first_k_dense_replace",
    "interleave_moe_layer_step": "interleave_moe_layer_step",
    "full_attention_interval": "full_attention_interval",
    "embedding_length_per_layer_input": "hidden_size_per_layer_input",
}
