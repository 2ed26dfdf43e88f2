"""Reading config.json: every trap in its fields that has misled a calculator, one test each."""

import pytest

from kvsim.catalog.models import find_model
from kvsim.errors import InputError
from kvsim.memory.footprint import bytes_per_token
from kvsim.specs.attention import (
    LatentAttention,
)
from kvsim.specs.model import DenseMlp
from kvsim.specs.precision import kv_format
from kvsim.specs.vision import VisionTower
from tests.support.hf_configs import BF16, counts, llama, only_cache, read

# --- heads and dimensions ----------------------------------------------------------------


def test_head_dim_absent_is_hidden_over_heads():
    assert only_cache(llama()).key_dim == 128


def test_null_head_dim_is_absent():
    assert only_cache(llama(head_dim=None)).key_dim == 128


def test_head_dim_times_heads_need_not_be_hidden():
    qwen3_32b = llama(model_type="qwen3", hidden_size=5120, num_attention_heads=64, head_dim=128)
    assert only_cache(qwen3_32b).key_dim == 128


def test_head_dim_of_an_mla_model_plays_no_part():
    """GLM-5 lists head_dim 64, its rope size: the cache is 512 + 64 elements per layer."""
    glm5 = llama(
        model_type="glm_moe_dsa",
        num_hidden_layers=78,
        num_key_value_heads=32,
        head_dim=64,
        kv_lora_rank=512,
        q_lora_rank=2048,
        qk_rope_head_dim=64,
        qk_nope_head_dim=192,
        v_head_dim=256,
    )
    cache = only_cache(glm5)
    assert isinstance(cache, LatentAttention)
    assert cache.state_bytes(BF16) == 2 * (512 + 64) + 132


def test_kv_heads_absent_is_multi_head():
    assert only_cache(llama(num_key_value_heads="absent")).label == "MHA"


def falcon(**changes):
    return {
        "model_type": "falcon",
        "hidden_size": 4544,
        "num_hidden_layers": 32,
        "num_attention_heads": 71,
        "vocab_size": 65024,
        "torch_dtype": "bfloat16",
    } | changes


def test_multi_query_is_one_kv_head_whatever_num_kv_heads_lists():
    """Falcon-7B: transformers reports num_kv_heads 71 for it."""
    cache = only_cache(falcon(multi_query=True, num_kv_heads=71))
    assert (cache.heads, cache.kv_heads, cache.key_dim) == (71, 1, 64)


def test_falcons_new_decoder_reads_num_kv_heads():
    changes = {"hidden_size": 8192, "num_attention_heads": 128, "num_kv_heads": 8}
    cache = only_cache(falcon(multi_query=True, new_decoder_architecture=True, **changes))
    assert cache.kv_heads == 8


def test_falcon_without_multi_query_is_multi_head():
    config = falcon(hidden_size=4096, num_attention_heads=32, multi_query=False)
    assert only_cache(config).kv_heads == 32


# --- older spellings ---------------------------------------------------------------------


def test_gpt2_spells_n_layer_n_head_n_embd():
    spec = read({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None})
    assert bytes_per_token(spec, kv_format("fp16")) == 12 * 12 * 2 * 64 * 2
    assert spec.position_embeddings == 1024
    assert spec.tie_embeddings
    assert spec.layer_groups[0].mlp == DenseMlp(intermediate_size=3072, gated=False, bias=True)


def test_opt_spells_ffn_dim_and_has_two_more_positions():
    spec = read(
        {
            "model_type": "opt",
            "hidden_size": 5120,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "ffn_dim": 20480,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
            "do_layer_norm_before": True,
        }
    )
    assert spec.position_embeddings == 2050
    assert spec.layer_groups[0].mlp.intermediate_size == 20480
    assert spec.layer_groups[0].caches[0].bias


def test_mpt_spells_d_model_n_heads():
    cache = only_cache(
        {
            "model_type": "mpt",
            "d_model": 7168,
            "n_layers": 48,
            "n_heads": 64,
            "max_seq_len": 8192,
            "vocab_size": 50432,
            "attn_config": {"alibi": True, "attn_type": "grouped_query_attention", "kv_n_heads": 8},
        }
    )
    assert (cache.kv_heads, cache.key_dim) == (8, 112)


# --- nesting and dtype -------------------------------------------------------------------


def test_dtype_only_inside_text_config():
    inner = llama(torch_dtype="float16")
    assert read({"model_type": "llava", "text_config": inner}).dtype == "fp16"


def test_dtype_only_outside_text_config():
    config = {"torch_dtype": "float16", "text_config": llama(torch_dtype="absent")}
    assert read(config).dtype == "fp16"


def test_dtype_and_torch_dtype_are_one_field():
    assert read(llama(torch_dtype="absent", dtype="float32")).dtype == "fp32"


def test_no_dtype_at_all_is_bf16_and_the_source_says_so():
    spec = read(llama(torch_dtype="absent"))
    assert spec.dtype == "bf16"
    assert "bf16 assumed" in spec.source


def test_unknown_dtype_is_refused():
    with pytest.raises(InputError, match="dtype is 'float7'"):
        read(llama(torch_dtype="float7"))


# --- weights -----------------------------------------------------------------------------


def test_biases_by_family():
    assert only_cache(llama(model_type="qwen2")).bias
    assert not only_cache(llama(model_type="qwen2")).output_bias
    assert not only_cache(llama()).bias
    everywhere = only_cache(llama(attention_bias=True))
    assert everywhere.bias
    assert everywhere.output_bias


def test_qwen_moe_layers_follow_the_sparse_step():
    config = llama(
        model_type="qwen3_moe",
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        decoder_sparse_step=2,
        mlp_only_layers=[1],
    )
    assert read(config).group("full_moe").layers[:2] == (3, 5)
    assert counts(config) == {"full_dense": 17, "full_moe": 15}


def test_vision_tower_counts_as_other_parameters():
    """SigLIP of Gemma 3: 27 layers of 4 * 1152^2 + 2 * 1152 * 4304, about 0.41 billion."""
    vision = {"hidden_size": 1152, "num_hidden_layers": 27, "intermediate_size": 4304}
    spec = read({"model_type": "llava", "text_config": llama(), "vision_config": vision})
    blocks = 27 * (4 * 1152**2 + 2 * 1152 * 4304)
    assert spec.other_parameters == blocks + 1152 * 4096


def test_kimis_vision_tower_has_words_of_its_own():
    """MoonViT of Kimi-K2.5: 27 layers, a table of 64 * 64 places, patches merged by four."""
    vision = {
        "vt_hidden_size": 1152,
        "vt_num_hidden_layers": 27,
        "vt_intermediate_size": 4304,
        "patch_size": 14,
        "init_pos_emb_height": 64,
        "init_pos_emb_width": 64,
        "merge_kernel_size": [2, 2],
    }
    spec = read({"model_type": "kimi_k25", "text_config": llama(), "vision_config": vision})
    blocks = 27 * (4 * 1152**2 + 2 * 1152 * 4304)
    patches = 64 * 64 * 1152 + 3 * 14 * 14 * 1152
    assert spec.other_parameters == blocks + patches + 4608 * 4608 + 4608 * 4096


def test_gemma3_computes_two_rotary_tables():
    """131,072 rows for the sliding layers; eight times that for the scaled full ones."""
    nested = {
        "model_type": "gemma3_text",
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    }
    spec = read({"model_type": "gemma3", "text_config": nested})
    assert spec.rotary_table_elements == 256 * 131_072 * 9
    assert read(llama()).rotary_table_elements is None


def test_the_rotary_table_is_as_wide_as_the_config_says():
    """MiniMax-M2.7 rotates 64 of 128 elements at 204,800 positions."""
    changes = {"rotary_dim": 64, "head_dim": 128, "max_position_embeddings": 204_800}
    assert read(llama(model_type="minimax_m2", **changes)).rotary_table_elements == 64 * 204_800


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({"use_bidirectional_attention": "vision"}, 2496),
        ({"use_bidirectional_attention": "all"}, 0),
        ({}, 0),
    ],
)
def test_gemma_4_takes_videos_whole_where_it_attends_to_them_both_ways(changes, tokens):
    """vLLM 0.25, gemma4_mm.py: 32 frames of 70 + 2 + 6 tokens."""
    kinds = (["sliding_attention"] * 5 + ["full_attention"]) * 5 + ["full_attention"] * 2
    config = llama(model_type="gemma4", layer_types=kinds, sliding_window=1024, **changes)
    assert read(config).whole_media_tokens == tokens
    assert read(llama(**changes)).whole_media_tokens == 0


def test_gemma_4_has_a_gated_tower_and_a_rotary_table_of_each_width():
    """550 million parameters by the model card; vLLM 0.25.1, Gemma4RotaryEmbedding: whole heads."""
    spec = find_model("gemma4-26b-a4b")
    blocks = 27 * (4 * 1152 * 1152 + 3 * 1152 * 4304)
    beside = 3 * 16 * 16 * 1152 + 2 * 10_240 * 1152 + 1152 * 2816
    assert spec.other_parameters == blocks + beside
    assert spec.rotary_table_elements == 262_144 * (256 + 512)


def test_the_vision_towers_whose_profile_engines_are_known_for():
    """The hub's config.json of Qwen3-VL-8B: patches of 2 frames of 16 x 16, merged by 2 x 2."""
    tower = find_model("qwen3-vl-8b").vision
    assert tower == VisionTower(
        kind="qwen3_vl",
        hidden_size=1152,
        intermediate_size=4304,
        patch_elements=3 * 2 * 16 * 16,
        patches_per_token=4,
        output_size=4096,
        outputs=4,
    )
    assert find_model("gemma3-12b").vision.patches_per_token == (64 * 64) // (16 * 16)
    assert find_model("qwen2.5-vl-7b").vision.kind == "qwen2_5_vl"
    assert find_model("llama4-scout").vision is None
