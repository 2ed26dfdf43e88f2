"""Which kind each layer is: the ways that configs say it, one test each."""

import pytest

from kvsim.catalog.models import find_model
from kvsim.errors import InputError
from kvsim.memory.footprint import bytes_per_token, fixed_bytes
from kvsim.specs.attention import (
    ChunkedAttention,
    CompressedLatentAttention,
    FullAttention,
    RecurrentState,
    SlidingAttention,
)
from kvsim.specs.model import MoeMlp
from tests.support.hf_configs import BF16, counts, llama, only_cache, read

# --- windows -----------------------------------------------------------------------------


def test_sliding_window_with_use_sliding_window_false_is_full():
    """Qwen2.5-7B-Instruct lists sliding_window 131072 and max_window_layers 28."""
    changes = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}
    assert counts(llama(model_type="qwen2", **changes)) == {"full": 32}


def test_qwen2_needs_use_sliding_window_to_have_one():
    assert counts(llama(model_type="qwen2", sliding_window=4096)) == {"full": 32}


def test_max_window_layers_are_full_before_the_window_starts():
    changes = {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 24}
    assert counts(llama(model_type="qwen2", **changes)) == {"full": 24, "sliding": 8}


def test_window_without_layer_types_is_on_all_layers():
    """Mistral v0.1: the field stands alone, and several calculators miss it."""
    cache = only_cache(llama(model_type="mistral", sliding_window=4096))
    assert isinstance(cache, SlidingAttention)
    assert cache.window == 4096


def test_null_window_is_none():
    assert counts(llama(model_type="mistral", sliding_window=None)) == {"full": 32}


@pytest.mark.parametrize("window", [131072, 262144])
def test_window_that_no_context_outgrows_is_none(window):
    """Phi-3.5-mini: 262,144 for a context of 131,072."""
    config = llama(model_type="phi3", max_position_embeddings=131072, sliding_window=window)
    assert counts(config) == {"full": 32}


def test_layer_types_win_over_the_pattern():
    kinds = ["full_attention"] * 31 + ["sliding_attention"]
    changes = {"layer_types": kinds, "sliding_window": 4096, "sliding_window_pattern": 2}
    assert counts(llama(model_type="gemma2", **changes)) == {"full": 31, "sliding": 1}


def test_sliding_window_pattern_makes_every_nth_layer_full():
    """Gemma-3-27B: 62 layers, 52 of them sliding, the last two too."""
    config = {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "num_hidden_layers": 62,
            "num_attention_heads": 32,
            "num_key_value_heads": 16,
            "hidden_size": 5376,
            "head_dim": 128,
            "sliding_window": 1024,
        },
    }
    spec = read(config)
    assert counts(config) == {"sliding": 52, "full": 10}
    assert {60, 61} <= set(spec.group("sliding").layers)
    assert spec.tie_embeddings


def test_gemma3_text_config_omits_what_its_class_defaults_to():
    """gemma-3-4b-it's text_config names neither heads nor vocabulary."""
    nested = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    }
    spec = read({"model_type": "gemma3", "text_config": nested})
    cache = spec.group("full").caches[0]
    assert (cache.heads, cache.kv_heads, cache.key_dim) == (8, 4, 256)
    assert spec.vocab_size == 262208


def test_gemma2_alternates_from_sliding():
    config = llama(model_type="gemma2", head_dim=256, sliding_window=4096)
    spec = read(config)
    assert spec.group("sliding").layers[:3] == (0, 2, 4)
    assert counts(config) == {"sliding": 16, "full": 16}


def test_chunked_attention_is_chunked_not_sliding():
    """Llama 4 Scout: three chunked layers, then a full one; text nested."""
    inner = llama(
        model_type="llama4_text",
        num_hidden_layers=48,
        hidden_size=5120,
        num_attention_heads=40,
        head_dim=128,
        intermediate_size=8192,
        intermediate_size_mlp=16384,
        attention_chunk_size=8192,
        num_local_experts=16,
        num_experts_per_tok=1,
        interleave_moe_layer_step=1,
    )
    spec = read({"model_type": "llama4", "text_config": inner})
    assert spec.group("chunked").count == 36
    assert isinstance(spec.group("chunked").caches[0], ChunkedAttention)
    assert spec.group("full").layers[:2] == (3, 7)
    expected = MoeMlp(
        experts=16, experts_per_token=1, intermediate_size=8192, shared_intermediate_size=8192
    )
    assert spec.group("full").mlp == expected


def test_interleaved_moe_names_groups_by_their_mlp():
    """Llama 4 Maverick: experts in every second layer."""
    inner = llama(
        model_type="llama4_text",
        num_hidden_layers=48,
        intermediate_size_mlp=16384,
        num_local_experts=128,
        num_experts_per_tok=1,
        interleave_moe_layer_step=2,
    )
    found = counts({"model_type": "llama4", "text_config": inner})
    assert found == {"chunked_dense": 24, "chunked_moe": 12, "full": 12}


def test_gemma4_full_layers_have_their_own_heads():
    """Gemma-4-26B-A4B: 2 KV heads of 512 on full layers, 8 of 256 on sliding ones."""
    config = llama(
        model_type="gemma4_text",
        hidden_size=2816,
        num_hidden_layers=30,
        num_attention_heads=16,
        num_key_value_heads=8,
        num_global_key_value_heads=2,
        head_dim=256,
        global_head_dim=512,
        sliding_window=1024,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
        intermediate_size=2112,
        enable_moe_block=True,
    )
    spec = read(config)
    full, sliding = spec.group("full"), spec.group("sliding")
    assert full.layers == (5, 11, 17, 23, 29)
    assert (full.caches[0].kv_heads, full.caches[0].key_dim) == (2, 512)
    assert (sliding.caches[0].kv_heads, sliding.caches[0].key_dim) == (8, 256)
    assert full.mlp.shared_intermediate_size == 2112


def test_the_last_layer_of_gemma4_is_full_at_any_depth():
    """transformers' Gemma4TextConfig: "Forcing last layer to `full_attention`", listed or not."""
    shallow = {"model_type": "gemma4_text", "head_dim": 256, "sliding_window": 1024}

    def full_layers(layers, **listed):
        return read(llama(**shallow, num_hidden_layers=layers, **listed)).group("full").layers

    assert full_layers(8) == (5, 7)  # every sixth, and the last
    assert full_layers(6) == (5,)
    assert full_layers(3, layer_types=["full_attention", *["sliding_attention"] * 2]) == (0, 2)


def test_shared_layers_own_nothing():
    """Gemma 3n E4B: the last 15 of 35 layers read the K and V of earlier ones."""
    spec = read({"model_type": "gemma3n", "text_config": {"model_type": "gemma3n_text"}})
    found = {g.name: (g.count, g.shares_kv_with) for g in spec.layer_groups}
    assert found == {
        "sliding": (16, None),
        "full": (4, None),
        "sliding_shared": (12, "sliding"),
        "full_shared": (3, "full"),
    }
    assert bytes_per_token(spec, BF16) == 20 * 2 * 512 * 2


def test_mimo_has_its_own_heads_in_window_layers_and_ignores_its_chunk_size():
    config = llama(
        model_type="mimo_v2_flash",
        num_hidden_layers=6,
        num_attention_heads=64,
        num_key_value_heads=4,
        head_dim=192,
        v_head_dim=128,
        swa_num_key_value_heads=8,
        swa_head_dim=192,
        swa_v_head_dim=128,
        hybrid_layer_pattern=[0, 1, 1, 1, 1, 0],
        sliding_window_size=128,
        attention_chunk_size=128,
    )
    spec = read(config)
    sliding = spec.group("sliding").caches[0]
    assert (sliding.kv_heads, sliding.key_dim, sliding.value_dim) == (8, 192, 128)
    assert spec.group("full").caches[0].kv_heads == 4
    assert spec.group("full").layers == (0, 5)


# --- latent attention --------------------------------------------------------------------


def deepseek(**changes):
    return llama(
        model_type="deepseek_v3",
        hidden_size=7168,
        num_hidden_layers=61,
        num_attention_heads=128,
        num_key_value_heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        qk_nope_head_dim=128,
        v_head_dim=128,
        n_routed_experts=256,
        num_experts_per_tok=8,
        n_shared_experts=1,
        moe_intermediate_size=2048,
        first_k_dense_replace=3,
        **changes,
    )


def test_mla_without_head_dim_keeps_one_latent_a_token():
    """DeepSeek-V3: 70,272 bytes per token in bf16; hidden / heads = 56 means nothing."""
    assert bytes_per_token(read(deepseek()), BF16) == 61 * 576 * 2 == 70_272
    assert counts(deepseek()) == {"mla_dense": 3, "mla_moe": 58}


def test_sparse_indexer_adds_132_bytes_a_layer():
    indexed = deepseek(index_topk=2048, index_head_dim=128, index_n_heads=64)
    assert bytes_per_token(read(indexed), BF16) == 61 * (1152 + 132)


def test_compressed_mla_reads_a_ratio_a_layer_and_leaves_out_draft_layers():
    config = llama(
        model_type="deepseek_v4",
        num_hidden_layers=4,
        num_key_value_heads=1,
        head_dim=512,
        qk_rope_head_dim=64,
        q_lora_rank=1024,
        o_lora_rank=1024,
        index_head_dim=128,
        sliding_window=128,
        compress_ratios=[0, 4, 128, 4, 0],
        num_nextn_predict_layers=1,
    )
    spec = read(config)
    assert counts(config) == {"sliding_state": 1, "compressed_4": 2, "compressed_128": 1}
    cache = spec.group("compressed_128").caches[0]
    assert isinstance(cache, CompressedLatentAttention)
    assert cache.states(12_800) == 128 + 100


def test_compressed_mla_reads_groups_of_the_output_and_heads_of_the_indexer():
    """DeepSeek-V4-Pro has 16 groups; its class (transformers 5.18) defaults to Flash's 8 and 64."""
    config = llama(
        model_type="deepseek_v4",
        num_hidden_layers=2,
        head_dim=512,
        qk_rope_head_dim=64,
        sliding_window=128,
        compress_ratios=[128, 4],
    )
    told = {"o_groups": 16, "o_lora_rank": 512, "index_n_heads": 32}
    for changes, expected in (({}, (8, 1024, 64)), (told, (16, 512, 32))):
        spec = read(config | changes)
        (cache,) = spec.group("compressed_4").caches
        assert (cache.output_groups, cache.output_lora_rank, cache.indexer_heads) == expected
        (plain,) = spec.group("compressed_128").caches
        assert (plain.output_groups, plain.indexer_heads) == (expected[0], None)


# --- hybrids -----------------------------------------------------------------------------


def qwen35(**changes):
    return llama(
        model_type="qwen3_5_text",
        num_hidden_layers=64,
        hidden_size=5120,
        num_attention_heads=24,
        num_key_value_heads=4,
        head_dim=256,
        linear_num_key_heads=16,
        linear_num_value_heads=48,
        **changes,
    )


def test_full_attention_interval_leaves_a_quarter_of_the_layers_growing():
    """Qwen3.5-27B: 16 full layers; 3,207,168 bytes of state in each of the 48 others."""
    spec = read(qwen35(full_attention_interval=4))
    assert counts(qwen35(full_attention_interval=4)) == {"gated_delta_net": 48, "full": 16}
    assert spec.group("full").layers[:2] == (3, 7)
    assert bytes_per_token(spec, BF16) == 16 * 4096
    assert fixed_bytes(spec) == 48 * 3_207_168


def test_layer_types_say_linear_attention():
    kinds = (["linear_attention"] * 3 + ["full_attention"]) * 16
    assert counts(qwen35(layer_types=kinds)) == {"gated_delta_net": 48, "full": 16}


def test_output_gate_doubles_the_query_projection():
    assert read(qwen35()).group("full").caches[0].output_gate


def nemotron(pattern, layers):
    return llama(
        model_type="nemotron_h",
        num_hidden_layers=layers,
        hidden_size=8192,
        num_attention_heads=64,
        attention_head_dim=128,
        hybrid_override_pattern=pattern,
        mamba_num_heads=256,
        mamba_head_dim=64,
        ssm_state_size=256,
        n_groups=8,
        conv_kernel=4,
    )


def test_num_hidden_layers_may_count_mlp_blocks():
    """Nemotron-H: of "M-M-M-M*-" only the star holds K and V."""
    spec = read(nemotron("M-M-M-M*-", 9))
    assert counts(nemotron("M-M-M-M*-", 9)) == {"mamba2": 4, "mlp": 4, "full": 1}
    assert bytes_per_token(spec, BF16) == 8 * 256 * 2
    assert spec.group("mamba2").mlp is None
    assert spec.group("mlp").caches == ()
    assert not spec.group("mlp").mlp.gated
    assert spec.group("full").caches[0].key_dim == 128


def test_mamba2_state_is_convolution_and_matrix():
    """Channels 256 * 64 + 2 * 8 * 256 with three taps in bf16; 256 * 64 * 256 in fp32."""
    cache = read(nemotron("M*", 2)).group("mamba2").caches[0]
    assert cache.fixed_bytes() == 20480 * 3 * 2 + 256 * 64 * 256 * 4


def test_chunks_are_the_configurations_own():
    """128 by transformers' NemotronHConfig, 2,048 by vLLM's get_mamba_chunk_size for Jamba."""
    config = nemotron("M*", 2)
    assert read(config).group("mamba2").caches[0].chunk == 128
    assert read({**config, "chunk_size": 64}).group("mamba2").caches[0].chunk == 64
    assert find_model("granite-4.0-h-small").group("mamba2").caches[0].chunk == 256
    assert find_model("jamba-v0.1").group("mamba_moe").caches[0].chunk == 2048


@pytest.mark.parametrize(
    ("model", "exporter"),
    [
        ("qwen3.5-27b", "flashinfer"),
        ("nemotron-h-8b", "mamba2"),
        ("glm-5.3-flash", "flash_kda"),
        ("kimi-linear-48b-a3b", None),  # no bounded gate
        ("jamba-v0.1", None),
    ],
)
def test_states_are_saved_in_a_prefill_by_the_kernels_of_their_kind(model, exporter):
    """get_kv_cache_spec of vLLM 0.33's qwen_gdn_linear_attn.py, mamba_mixer2.py and kda.py."""
    caches = (cache for group in find_model(model).layer_groups for cache in group.caches)
    assert {cache.saves_in_prefill for cache in caches if cache.fixed_bytes()} == {exporter}


def test_pattern_of_another_length_is_refused():
    with pytest.raises(InputError, match="describes 2 layers, num_hidden_layers is 3"):
        read(nemotron("M*", 3))


def test_lightning_layers_keep_a_matrix_a_head():
    """MiniMax-Text-01: 64 heads of 128 x 128 in fp32, seven layers of eight."""
    config = llama(
        model_type="minimax_text_01",
        num_hidden_layers=8,
        num_attention_heads=64,
        head_dim=128,
        attn_type_list=[0, 0, 0, 0, 0, 0, 0, 1],
    )
    assert fixed_bytes(read(config)) == 7 * 64 * 128 * 128 * 4


def test_jamba_attends_in_one_layer_of_eight():
    config = llama(
        model_type="jamba",
        attn_layer_period=8,
        attn_layer_offset=4,
        num_experts=16,
        num_experts_per_tok=2,
    )
    spec = read(config)
    attending = [i for g in spec.layer_groups for i in g.layers if g.name.startswith("full")]
    assert attending == [4, 12, 20, 28]
    assert sum(g.count for g in spec.layer_groups if g.name.startswith("mamba")) == 28


def test_falcon_h1_layers_hold_both_a_cache_and_a_state():
    config = llama(
        model_type="falcon_h1",
        mamba_n_heads=24,
        mamba_d_head=128,
        mamba_d_ssm=3072,
        mamba_d_state=256,
        mamba_n_groups=1,
    )
    (group,) = read(config).layer_groups
    assert [type(cache) for cache in group.caches] == [FullAttention, RecurrentState]
