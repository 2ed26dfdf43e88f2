"""GLM-5.3: latents without a rotary part, index keys of four tokens, Kimi's delta attention beside.

Expected numbers: vLLM 0.33, ``vllm/models/glm5next/common`` (attention.py, kda.py, multimodal.py),
matrix by matrix.
"""

import pytest

from kvsim.catalog.models import find_model
from kvsim.errors import InputError
from kvsim.memory.footprint import bytes_per_token, fixed_bytes
from kvsim.memory.tensors import parameter_count
from kvsim.specs.attention import LatentAttention
from kvsim.specs.precision import kv_format
from tests.support.hf_configs import BF16, counts, llama, read, stored

WORDS = ["linear_attention", "linear_attention", "linear_attention", "deepseek_sparse_attention"]
DELTA = {"num_heads": 64, "head_dim": 128, "short_conv_kernel_size": 4, "gate_lower_bound": -5.0}


def glm(**changes):
    """GLM-5.3's shape in eight layers."""
    config = {
        "model_type": "glm5_next_text",
        "architectures": ["Glm5NextForCausalLM"],
        "num_hidden_layers": 8,
        "num_attention_heads": 64,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 0,
        "qk_nope_head_dim": 256,
        "v_head_dim": 256,
        "layer_types": WORDS * 2,
        "linear_attn_config": DELTA,
        "index_topk": 2048,
        "index_head_dim": 128,
        "index_n_heads": 32,
        "index_kpool": 4,
        "index_kpool_compress": True,
        "index_kpool_always_select_tail": True,
    }
    return llama(**config | changes)


def test_a_token_adds_a_latent_and_a_quarter_of_an_index_key():
    model = read(glm())
    assert counts(glm()) == {"gated_delta_net": 6, "mla": 2}
    assert bytes_per_token(model, BF16) == 2 * (512 * 2 + 132 // 4)
    assert bytes_per_token(model, kv_format("fp8_e4m3")) == 2 * (512 + 132 // 4)
    # the packed layout keeps a place for 64 rotary elements in bf16
    assert bytes_per_token(model, kv_format("fp8_ds_mla")) == 2 * (512 + 16 + 128 + 132 // 4)
    # convolutions of q, k and v in bf16, a matrix of 128 x 128 a head in fp32
    assert fixed_bytes(model) == 6 * (3 * 64 * 128 * 3 * 2 + 64 * 128 * 128 * 4)


def test_a_key_is_held_once_its_tokens_are_whole():
    (cache,) = read(glm()).group("mla").caches
    assert isinstance(cache, LatentAttention)
    assert [cache.held_bytes(BF16, n) for n in (3, 4, 9)] == [
        3 * 1024,
        4 * 1024 + 132,
        9 * 1024 + 2 * 132,
    ]
    assert cache.read_bytes(BF16, 10_000) == 2048 * 1024 + 2500 * 132
    explained = cache.formula(BF16)
    assert explained.factors == "(512 x 2 bytes + 132 / 4 tokens for the indexer)"
    assert explained.total_bytes == 1057


def test_what_an_indexer_weighs_with_the_gate_of_its_folds():
    (cache,) = read(glm()).group("mla").caches
    query_a, query_b, down = 4096 * 1536, 1536 * 64 * 256, 4096 * 512
    expand, output = 512 * 64 * (256 + 256), 64 * 256 * 4096
    indexer = 1536 * 32 * 128 + 4096 * (128 + 32) + 4096 * 128
    weighed = sum(part.parameters for part in cache.weights(4096))
    assert weighed == query_a + query_b + down + expand + output + indexer


def test_the_whole_of_glm_5_3_flash():
    """34 and 11 layers; 42 of them with 288 experts; a tower of 24 blocks and its merger."""
    delta = 4 * 4096 * 8192 + 2 * (4096 * 128 + 128 * 8192) + 4096 * 64
    latent = 4096 * (1536 + 512) + 64 * 256 * (1536 + 2 * 512 + 4096)
    indexer = 1536 * 32 * 128 + 4096 * (128 + 32 + 128)
    expert = 3 * 4096 * 2048
    sparse = 42 * (289 * expert + 288 * 4096)
    dense = 3 * 3 * 4096 * 12288
    blocks = 24 * (4 * 1024**2 + 3 * 1024 * 4096) + 3 * 2 * 14**2 * 1024
    merger = 1024 * 4 * 4096 + 4096**2 + 3 * 4096 * 10240
    tables = 2 * 154880 * 4096
    hand = 34 * delta + 11 * (latent + indexer) + sparse + dense + blocks + merger + tables
    # taps, norms and decays are the rest
    assert parameter_count(find_model("glm-5.3-flash")) == pytest.approx(hand, rel=2e-5)


def test_attention_is_loaded_in_16_bits_whatever_the_list_leaves_out():
    """The list of zai-org/GLM-5.3-Flash spares kv_b_proj and not q_b_proj; vLLM dequantises."""
    spared = [f"model.layers.{layer}.self_attn.kv_b_proj" for layer in (3, 7)]
    method = {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": [*spared, "visual.blocks.0.mlp.up_proj"],
    }
    model = read(glm(quantization_config=method))
    assert model.quantization == "fp8_block"
    assert stored(model) == {"attention": None, "attention_output": None, "recurrent": None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"index_kpool_compress": False}, "index_kpool_compress is false"),
        ({"index_kpool_always_select_tail": False}, "index_kpool_always_select_tail is false"),
        ({"index_kpool": 1}, "index_kpool is 1"),
        ({"qk_rope_head_dim": 64}, "qk_rope_head_dim is 64 where index_kpool folds keys"),
        (
            {"indexer_types": ["full"] * 7 + ["shared"]},
            "a layer that folds index keys shares an earlier layer's indexer",
        ),
        ({"layer_types": [*WORDS, *WORDS[:3], "dilated"]}, "the kind 'dilated'"),
        ({"layer_types": WORDS}, "layer_types describes 4 layers, num_hidden_layers is 8"),
        (
            {"linear_attn_config": DELTA | {"my_window": 512}},
            "linear_attn_config says 'my_window', which kvsim does not know",
        ),
        (
            {"linear_attn_config": DELTA | {"kda_layers": [0, 1, 2, 3, 4, 5]}},
            "kda_layers names other layers than layer_types",
        ),
        (
            {"linear_attn_config": DELTA | {"full_attn_layers": [4, 8]}},
            "full_attn_layers names other layers than layer_types",
        ),
        ({"index_kpool_stride": 2}, "the field 'index_kpool_stride' is a kind of attention"),
        ({"sliding_window_pattern": 2}, "the field 'sliding_window_pattern' is a kind"),
    ],
)
def test_what_is_not_known_is_refused_by_name(changes, said):
    with pytest.raises(InputError) as refused:
        read(glm(**changes))
    assert said in str(refused.value)


def test_a_field_of_glm_5_3_in_another_model_is_refused():
    plain = {key: value for key, value in glm().items() if not key.startswith("l")}
    with pytest.raises(InputError, match="the field 'index_kpool"):
        read(plain | {"model_type": "somebodys", "architectures": ["SomebodysModel"]})


def test_lists_that_agree_are_read():
    lists = {"kda_layers": [0, 1, 2, 4, 5, 6], "full_attn_layers": [3, 7]}
    config = glm(linear_attn_config=DELTA | lists, indexer_types=["full"] * 8)
    assert counts(config) == {"gated_delta_net": 6, "mla": 2}
