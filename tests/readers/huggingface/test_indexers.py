"""Sparse latent layers that share an earlier layer's indexer, in each way a config says it.

The rule is vLLM 0.33's, ``models/deepseek_v32/attention.py``: a layer has no indexer where
``max(layer - index_skip_topk_offset + 1, 0) % index_topk_freq != 0``.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.catalog.models import find_model
from kvsim.errors import InputError
from kvsim.memory.footprint import bytes_per_token
from kvsim.memory.tensors import parameter_count
from kvsim.readers.huggingface.config import spec_from_json_file
from kvsim.specs.attention import LatentAttention
from kvsim.specs.precision import kv_format
from kvsim.units import GIB
from tests.support.hf_configs import BF16, counts, llama, read

LAYERS = 78
FULL = (0, 1, 2, *range(6, 75, 4))  # zai-org/GLM-5.2-FP8, indexer_types
RULE = {"index_topk_freq": 4, "index_skip_topk_offset": 3}


def glm(**changes):
    """GLM-5.2's shape, all of whose layers have an indexer unless told."""
    config = {
        "model_type": "glm_moe_dsa",
        "architectures": ["GlmMoeDsaForCausalLM"],
        "hidden_size": 6144,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 64,
        "num_key_value_heads": 64,
        "intermediate_size": 12288,
        "vocab_size": 154880,
        "max_position_embeddings": 1048576,
        "q_lora_rank": 2048,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 192,
        "v_head_dim": 256,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "moe_intermediate_size": 2048,
        "first_k_dense_replace": 3,
        "index_topk": 2048,
        "index_head_dim": 128,
        "index_n_heads": 32,
    }
    return llama(**config | changes)


def types(full=FULL, layers=LAYERS):
    return ["full" if layer in full else "shared" for layer in range(layers)]


def letters(full=FULL, layers=LAYERS):
    return "".join("F" if layer in full else "S" for layer in range(layers))


# --- GLM-5.2 -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        RULE,
        {"indexer_types": types()},
        {"index_topk_pattern": letters()},
        {"index_topk_pattern": list(letters())},
        {**RULE, "indexer_types": types(), "index_topk_pattern": None},
        {"index_topk_pattern": letters(), "index_topk_freq": 1},  # the pattern wins
    ],
)
def test_glm_5_2_has_21_indexers_in_78_layers(said):
    spec = read(glm(**said))
    assert {group.name: group.layers for group in spec.layer_groups} == {
        "mla_dense": (0, 1, 2),
        "mla_moe": FULL[3:],
        "mla_shared": tuple(sorted(set(range(LAYERS)) - set(FULL))),
    }
    assert bytes_per_token(spec, BF16) == 78 * 1152 + 21 * 132 == 92_628
    assert bytes_per_token(spec, kv_format("fp8_ds_mla")) == 78 * 656 + 21 * 132 == 53_940
    assert bytes_per_token(spec, kv_format("fp8_e4m3")) == 78 * 576 + 21 * 132 == 47_700
    # Published as 743 B. Without 57 indexers it is smaller than GLM-5, published as 744 B.
    assert parameter_count(spec) / 1e9 == pytest.approx(743.377, abs=0.0005)


def test_glm_5_2_as_published(kvsim_data):
    spec = spec_from_json_file(
        kvsim_data / "reference" / "configs" / "zai-org--GLM-5.2-FP8" / "config.json"
    )
    assert spec.layer_groups == find_model("glm-5.2").layer_groups
    assert bytes_per_token(spec, BF16) == 92_628
    assert spec.quantization == "fp8_block"


def test_a_shared_layer_reads_what_is_picked_and_scores_nothing():
    (cache,) = read(glm(**RULE)).group("mla_shared").caches
    assert isinstance(cache, LatentAttention)
    assert (cache.indexer_dim, cache.indexer_heads, cache.indexer_top_k) == (None, None, 2048)
    (own,) = read(glm(**RULE)).group("mla_moe").caches
    assert cache.read_bytes(BF16, 10_000) == 2048 * 1152
    assert own.read_bytes(BF16, 10_000) == 2048 * 1152 + 10_000 * 132
    assert cache.pairs(0, 10_000) == own.pairs(0, 10_000)


def test_glm_5_says_nothing_and_has_an_indexer_in_every_layer():
    """Of GLM-5.1, the same shape, vLLM 0.19.1 logged 343,744 tokens in 32.06 GiB."""
    assert counts(glm()) == {"mla_dense": 3, "mla_moe": 75}
    assert 343_744 * bytes_per_token(read(glm()), BF16) / GIB == pytest.approx(32.06, abs=0.005)


def test_the_offset_is_2_where_only_the_frequency_is_said():
    layers = {"num_hidden_layers": 10, "first_k_dense_replace": 0}
    spec = read(glm(**layers, index_topk_freq=4))
    assert spec.group("mla").layers == (0, 1, 5, 9)


def test_a_frequency_of_1_shares_nothing():
    assert read(glm(index_topk_freq=1, index_skip_topk_offset=3)) == read(glm())


def test_layers_past_the_end_of_a_pattern_have_their_own_indexer():
    spec = read(glm(num_hidden_layers=6, first_k_dense_replace=0, index_topk_pattern="FSS"))
    assert spec.group("mla_shared").layers == (1, 2)
    assert spec.group("mla").layers == (0, 3, 4, 5)


def test_dense_and_expert_layers_that_share_are_told_apart():
    changes = {"num_hidden_layers": 4, "first_k_dense_replace": 2, "index_topk_pattern": "FSFS"}
    assert set(counts(glm(**changes))) == {
        "mla_dense",
        "mla_shared_dense",
        "mla_moe",
        "mla_shared_moe",
    }


@given(st.sets(st.integers(1, 11)), st.integers(1, 11))
def test_one_more_shared_layer_keeps_132_bytes_a_token_less(shared, more):
    """And has less by an indexer's weights: wq_b 2048 x 4096, wk_weights_proj 6144 x 160."""
    names = {"num_hidden_layers": 12, "first_k_dense_replace": 0}
    without, with_one = (
        read(glm(**names, indexer_types=types(set(range(12)) - layers, 12)))
        for layers in (shared - {more}, shared | {more})
    )
    assert bytes_per_token(without, BF16) - bytes_per_token(with_one, BF16) == 132
    fewer = parameter_count(without) - parameter_count(with_one)
    assert fewer == 2048 * 32 * 128 + 6144 * (128 + 32)


# --- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (
            {**RULE, "indexer_types": ["full"] * LAYERS},
            "indexer_types calls layer 3 'full', and index_topk_freq makes it 'shared'",
        ),
        (
            {"index_topk_freq": 1, "indexer_types": types()},
            "indexer_types calls layer 3 'shared', and index_topk_freq makes it 'full'",
        ),
        (
            {"index_topk_pattern": letters((0,)), "indexer_types": types()},
            "layer 1 'full', and index_topk_pattern makes it 'shared'",
        ),
        ({"indexer_types": types((1, 2))}, "layer 0 shares an indexer"),
        ({"indexer_types": types(layers=79)}, "describes 79 layers, num_hidden_layers is 78"),
        ({"indexer_types": ["full", "half"] * 39}, "indexer_types names 'half'"),
        ({"index_topk_pattern": "FXF"}, "index_topk_pattern names 'X'"),
        ({"index_topk_freq": 0}, "index_topk_freq is 0"),
        ({**RULE, "index_topk": None}, "no index_topk"),
    ],
)
def test_statements_that_do_not_fit_are_refused(said, named):
    with pytest.raises(InputError, match=named):
        read(glm(**said))


# --- experts, layer by layer -------------------------------------------------------------


def test_mlp_layer_types_say_which_layers_have_experts():
    words = ["dense", "sparse", "dense", "sparse"]
    config = glm(num_hidden_layers=4, first_k_dense_replace="absent", mlp_layer_types=words)
    spec = read(config)
    assert spec.group("mla_dense").layers == (0, 2)
    assert spec.group("mla_dense").mlp.intermediate_size == 12288
    assert spec.group("mla_moe").layers == (1, 3)


def test_mlp_layer_types_beside_the_rule_that_says_the_same():
    words = ["dense"] * 3 + ["sparse"] * 75
    assert read(glm(mlp_layer_types=words)) == read(glm())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"mlp_layer_types": ["dense"] * 4 + ["sparse"] * 74},
            "calls layer 3 'dense', first_k_dense_replace 3 does not",
        ),
        ({"mlp_layer_types": ["sparse"] * 77}, "describes 77 layers"),
        ({"mlp_layer_types": ["hash_moe"] * 78}, "mlp_layer_types names 'hash_moe'"),
        (
            {
                "mlp_layer_types": ["sparse"] * 78,
                "first_k_dense_replace": 0,
                "n_routed_experts": "absent",
            },
            "no num_experts",
        ),
    ],
)
def test_mlp_layer_types_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        read(glm(**changes))
