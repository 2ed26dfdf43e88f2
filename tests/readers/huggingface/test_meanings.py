"""Fields by what they mean: passed over, read whatever the model is called, or refused."""

import pytest

from kvsim.errors import InputError
from kvsim.memory.tensors import parameter_count
from tests.support.hf_configs import counts, llama, read

LATENT = {
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "q_lora_rank": 1536,
}
INDEXER = {"index_topk": 2048, "index_head_dim": 128, "index_n_heads": 64}
WINDOWED = {
    "layer_types": ["sliding_attention"] * 24 + ["full_attention"] * 8,
    "sliding_window": 1024,
}
DELTA = {
    "full_attention_interval": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_conv_kernel_dim": 4,
}


def called(model_type, **changes):
    """A decoder of a model_type, and of a class that says no more."""
    return llama(model_type=model_type, architectures=["BrandNewForCausalLM"], **changes)


def without_name(config):
    spec = read(config)
    return spec.model_copy(update={"architecture": "", "source": ""})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_mamba_kernels", True),
        ("mtp_hybrid_override_pattern", "*E"),
        ("mtp_layers_block_type", ["attention", "moe"]),
        ("num_mtp_modules", 3),
        ("dspark_window", 5),
        ("mamba_hidden_act", "silu"),
        ("mamba_proj_bias", False),
        ("mamba_chunk_size", 256),
        ("compress_rope_theta", 160_000),
        ("attn_type_list", [1] * 32),
        ("layer_types", ["full_attention"] * 32),
        ("add_cross_attention", False),
        ("sliding_window_pattern", None),
    ],
)
@pytest.mark.parametrize("model_type", ["llama", "brand_new"])
def test_what_can_change_nothing_changes_nothing(key, value, model_type):
    plain = called(model_type)
    assert without_name(plain | {key: value}) == without_name(plain)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_window_blocks", 4),
        ("recurrent_slots", 8),
        ("my_sparse_attention", {"top": 4}),
        ("attn_type_list", [1] * 31 + [0]),
        ("attn_type_list", 1),
        ("index_kpool", 4),
        ("kv_source_layer_ids", [2, 8]),
        ("engram_layer_ids", [1, 14]),
        ("block_configs", [{"attention": {"no_op": True}}]),
        ("attention_type", "hashed"),
        ("num_key_value_heads_per_layer", [4] * 32),
        ("attention_chunk_size", 8192),
        ("moba_chunk_size", 512),
        ("attention_kind", "block_sparse"),
        ("attention_sink_size", 4),
        ("kv_compression_ratio", 4),
        ("kv_cache_sharing", 2),
        ("kv_reuse_every", 2),
        ("cross_layer_kv", 2),
        ("local_attn_every", 4),
        ("token_eviction_budget", 1024),
        ("nsa_config", {"block": 64}),
    ],
)
@pytest.mark.parametrize("model_type", ["llama", "brand_new"])
def test_what_could_change_what_is_kept_is_refused_by_name(key, value, model_type):
    with pytest.raises(InputError, match=key):
        read(called(model_type, **{key: value}))


@pytest.mark.parametrize("model_type", ["llama", "brand_new"])
def test_what_lies_around_the_language_models_config_is_refused_too(model_type):
    inner = called(model_type)
    around = {"model_type": "seeing", "text_config": inner, "vision_config": {}}
    with pytest.raises(InputError, match=r"my_sparse_attention_window.*move it inside"):
        read(around | {"my_sparse_attention_window": 512})

    # what the language model's own config has counts, and what says that there is nothing
    plain = without_name(around)
    assert without_name(around | {"use_sliding_window": False}) == plain
    own = {**inner, "sliding_window": None}
    repeated = around | {"text_config": own, "sliding_window": 4096}
    assert without_name(repeated) == plain


@pytest.mark.parametrize(
    ("fields", "relative"),
    [
        (LATENT, "deepseek_v3"),
        (LATENT | INDEXER, "deepseek_v32"),
        (WINDOWED, "qwen3"),
        (WINDOWED | {"sliding_window_pattern": 4, "layer_types": None}, "olmo3"),
        (DELTA | {"attn_output_gate": True}, "qwen3_next"),
    ],
)
def test_a_model_that_nobody_knows_is_read_by_fields_that_say_everything(fields, relative):
    """As the family is that is known to mean just that by them."""
    unknown = without_name(called("brand_new", **fields))
    window = {"use_sliding_window": True, "max_window_layers": 0} if relative == "qwen3" else {}
    assert unknown == without_name(called(relative, **fields, **window))
    assert unknown.layer_groups != read(called("brand_new")).layer_groups


@pytest.mark.parametrize(
    ("fields", "missing"),
    [(LATENT, each) for each in ("kv_lora_rank", "qk_rope_head_dim", "v_head_dim")]
    + [(LATENT | INDEXER, "index_head_dim"), (WINDOWED, "sliding_window")]
    + [(DELTA, "linear_num_key_heads"), (DELTA, "linear_conv_kernel_dim")],
)
def test_a_model_that_nobody_knows_must_say_all_of_a_kind(fields, missing):
    some = {key: value for key, value in fields.items() if key != missing}
    with pytest.raises(InputError) as caught:
        read(called("brand_new", **some))
    assert "brand_new" in str(caught.value) or missing in str(caught.value)


# --- families of 2026, against the sizes that their engine's code gives them --------------


def test_minimax_m2_has_full_attention_in_every_layer():
    """62 layers of 8 KV heads of 128; 228.7 B parameters (it is called 229B-A10B)."""
    config = llama(
        model_type="minimax_m2",
        attn_type_list=[1] * 62,
        hidden_size=3072,
        num_hidden_layers=62,
        num_attention_heads=48,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=1536,
        num_local_experts=256,
        num_experts_per_tok=8,
        shared_intermediate_size=0,
        num_mtp_modules=3,
        mtp_transformer_layers=1,
        vocab_size=200_064,
    )
    assert counts(config) == {"full": 62}
    # attention, experts and router a layer; embedding and head
    matrices = 62 * (44_040_192 + 3_623_878_656 + 786_432) + 1_229_193_216
    norms = (62 * 2 + 1) * 3072
    assert parameter_count(read(config)) == matrices + norms


MUSE = {
    "model_type": "muse_glimmer",
    "out_hidden_size": 6144,
    "projector_hidden_size": 4096,
    "text_config": llama(
        model_type="muse_glimmer_text",
        hidden_size=6656,
        head_dim=128,
        num_hidden_layers=52,
        num_attention_heads=32,
        num_key_value_heads=2,
        intermediate_size=19_968,
        vocab_size=202_048,
        sliding_window=2048,
        layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 13,
    ),
    "vision_config": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 50,
        "merge_size": 2,
        "patch_size": 14,
        "patch_temporal": 2,
        "pos_emb_height": 32,
        "pos_emb_width": 32,
    },
}


def test_muse_glimmer_gates_its_attention_and_windows_three_layers_of_four():
    """vLLM 0.33, muse_glimmer.py: a gate as wide as the queries in every layer, two KV heads."""
    spec = read(MUSE)
    assert counts(MUSE) == {"sliding": 39, "full": 13}
    assert {g.caches[0].kv_heads for g in spec.layer_groups} == {2}
    assert spec.group("sliding").caches[0].window == 2048
    layer = 3 * 27_262_976 + 3_407_872 + 398_721_024  # queries, gate, output; K and V; MLP
    norms = (2 * 52 + 1) * 6656
    assert parameter_count(spec) - spec.other_parameters == 52 * layer + 2_689_662_976 + norms
    # blocks, patches, positions, adapter and projection; biases (1.1 M) are left out
    tower = 1_848_115_200 + 1_806_336 + 1_572_864 + 41_943_040 + 27_262_976
    assert spec.other_parameters == tower


STEP = llama(
    model_type="step3p7",
    hidden_size=4096,
    num_hidden_layers=45,
    num_attention_heads=64,
    num_key_value_heads="absent",
    num_attention_groups=8,
    head_dim=128,
    intermediate_size=11_264,
    vocab_size=128_896,
    sliding_window=512,
    layer_types=(["full_attention"] + ["sliding_attention"] * 3) * 12,  # three of them draft
    num_nextn_predict_layers=3,
    moe_num_experts=288,
    moe_top_k=8,
    moe_intermediate_size=1280,
    share_expert_dim=1280,
    moe_layers_enum=",".join(map(str, range(3, 45))),
)


def test_step_names_its_experts_and_heads_in_its_own_words():
    """vLLM 0.33, step3p5.py: three dense layers; what lies beyond the 45th drafts."""
    assert counts(STEP) == {
        "full_dense": 1, "sliding_dense": 2, "sliding_moe": 31, "full_moe": 11
    }  # fmt: skip
    attention, dense = 75_497_472, 138_412_032
    experts, shared, router = 4_529_848_320, 15_728_640, 1_179_648
    norms = (2 * 45 + 1) * 4096
    matrices = 45 * attention + 3 * dense + 42 * (experts + shared + router) + 1_055_916_032
    assert parameter_count(read(STEP)) == matrices + norms


@pytest.mark.parametrize(
    "said",
    [
        {"num_sliding_attention_heads": 96},
        {
            "attention_other_setting": {
                "attention_type": "sliding_attention",
                "num_attention_heads": 96,
                "num_attention_groups": 8,
            }
        },
    ],
)
def test_step_s_sliding_layers_may_have_more_query_heads(said):
    """96 of 128 in place of 64: queries and output, 33 layers; K and V are as many."""
    more = parameter_count(read(STEP | said)) - parameter_count(read(STEP))
    assert more == 33 * 2 * 4096 * (96 - 64) * 128
    heads = {
        g.name: (g.caches[0].heads, g.caches[0].kv_heads) for g in read(STEP | said).layer_groups
    }
    assert (heads["full_moe"], heads["sliding_moe"]) == ((64, 8), (96, 8))


def test_step_s_other_setting_is_refused_where_it_is_of_other_layers():
    other = {"attention_type": "full_attention", "num_attention_heads": 96}
    with pytest.raises(InputError, match="attention_other_setting: attention_type is 'full_att"):
        read(STEP | {"attention_other_setting": other})


@pytest.mark.parametrize("enum", ["3,x", "3,,4", ""])
def test_layers_with_experts_are_numbers(enum):
    with pytest.raises(InputError, match="moe_layers_enum"):
        read(STEP | {"moe_layers_enum": enum})


def test_a_list_of_kinds_may_name_draft_layers_and_no_more():
    with pytest.raises(InputError, match="layer_types describes 48 layers"):
        read(STEP | {"num_nextn_predict_layers": 2})
