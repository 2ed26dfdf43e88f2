"""Experts that work in a narrower width, and the models that have them: Nemotron 3, Kimi K3.

Expected numbers: vLLM 0.33's nemotron_h.py and kimi_k3/nvidia/model.py, matrix by matrix.
"""

import pytest

from kvsim.errors import InputError
from kvsim.memory.rank import Rank
from kvsim.memory.tensors import active_parameter_count, parameter_count, tensor_families
from kvsim.memory.weights import rank_weight_bytes
from tests.support.hf_configs import counts, llama, read

SUPER = llama(
    model_type="nemotron_h",
    hidden_size=4096,
    num_hidden_layers=88,
    hybrid_override_pattern=(
        "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME"
    ),
    num_key_value_heads=2,
    head_dim=128,
    mamba_num_heads=128,
    mamba_head_dim=64,
    ssm_state_size=128,
    n_groups=8,
    conv_kernel=4,
    intermediate_size=2688,
    moe_intermediate_size=2688,
    moe_latent_size=1024,
    moe_shared_expert_intermediate_size=5376,
    n_routed_experts=512,
    n_shared_experts=1,
    num_experts_per_tok=22,
    vocab_size=131_072,
    use_mamba_kernels=True,
    mtp_hybrid_override_pattern="*E",
    num_nextn_predict_layers=1,
    time_step_limit=[0.0, 1e308],
)
KINDS = {"M": "mamba", "E": "moe", "*": "attention"}


def test_nemotron_3_super_is_120_billion_parameters_of_which_12_are_active():
    """Its name: 120B-A12B. In the full width its experts alone would be 450 B."""
    spec = read(SUPER)
    assert counts(SUPER) == {"mamba2": 40, "moe": 40, "full": 8}
    experts = 512 * 2 * 1024 * 2688
    moe = experts + 2 * 4096 * 1024 + 2 * 4096 * 5376 + 512 * 4096
    layers = spec.group("moe").layers
    of_moe = (f for f in tensor_families(spec) if f.layers == layers and f.name != "norms")
    found = sum(family.parameters for family in of_moe)
    assert found == 40 * moe
    assert parameter_count(spec) == pytest.approx(120.67e9, rel=1e-4)
    assert active_parameter_count(spec) == pytest.approx(12.7e9, rel=0.01)


def test_its_states_are_what_the_engine_keeps():
    """30,720 elements of the convolution, 1,048,576 of the state in fp32: 4,255,744 bytes."""
    (state,) = read(SUPER).group("mamba2").caches
    assert (state.conv_elements, state.recurrent_elements) == (30_720, 1_048_576)
    assert state.fixed_bytes() == 4_255_744


def test_it_has_no_rotary_table():
    """Its attention knows positions by the states alone."""
    assert read(SUPER).rotary_table_elements == 0


def test_the_list_of_kinds_counts_the_layers_where_nothing_else_does():
    """Nemotron 3 Ultra is published without num_hidden_layers, its kinds as words."""
    words = [KINDS[letter] for letter in SUPER["hybrid_override_pattern"]]
    listed = {
        key: value
        for key, value in SUPER.items()
        if key not in ("num_hidden_layers", "hybrid_override_pattern")
    }
    assert read(listed | {"layers_block_type": words}) == read(SUPER)


def test_latent_projections_are_whole_on_every_rank():
    """Of two ranks each has half of all but these, the router, norms and what Mamba keeps whole."""
    plain = read(SUPER | {"moe_latent_size": 4096, "moe_intermediate_size": 672})
    latent = read(SUPER)
    (projections,) = (f.parameters for f in tensor_families(latent) if f.name == "latent")
    assert projections == 40 * 2 * 4096 * 1024
    (wider,) = (f.parameters for f in tensor_families(plain) if f.name == "latent")
    # the experts have as many elements in both
    one = rank_weight_bytes(plain, Rank(tp=2)) - rank_weight_bytes(latent, Rank(tp=2))
    assert one == 2 * (wider - projections)


@pytest.mark.parametrize(("count", "width"), [(0, 0), (2, 2 * 5376)])
def test_shared_experts_are_as_many_as_it_says(count, width):
    mlp = read(SUPER | {"n_shared_experts": count}).group("moe").mlp
    assert mlp.shared_intermediate_size == width


def test_a_latent_width_is_a_width():
    with pytest.raises(InputError, match="moe_latent_size is -1"):
        read(SUPER | {"moe_latent_size": -1})


FULL = [*range(4, 93, 4), 93]
KIMI = llama(
    model_type="kimi_linear",
    hidden_size=7168,
    num_hidden_layers=93,
    num_attention_heads=96,
    num_key_value_heads=96,
    intermediate_size=33_792,
    kv_lora_rank=512,
    q_lora_rank=1536,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    mla_use_output_gate=True,
    linear_attn_config={
        "full_attn_layers": FULL,
        "kda_layers": [layer for layer in range(1, 94) if layer not in FULL],
        "num_heads": 96,
        "head_dim": 128,
        "short_conv_kernel_size": 4,
        "use_full_rank_gate": True,
    },
    moe_intermediate_size=3072,
    num_experts=896,
    num_experts_per_token=16,
    num_shared_experts=2,
    first_k_dense_replace=1,
    routed_expert_hidden_size=3584,
    vocab_size=163_840,
)


def test_kimi_k3_is_2_8_trillion_parameters():
    """Of 92 layers 896 experts in half of the width; 5.5 trillion in all of it."""
    spec = read(KIMI)
    assert counts(KIMI) == {"gated_delta_net_dense": 1, "gated_delta_net_moe": 68, "mla": 24}
    experts = sum(f.parameters for f in tensor_families(spec) if f.name == "experts")
    assert experts == 92 * 896 * 3 * 3584 * 3072
    assert parameter_count(spec) == pytest.approx(2.78e12, rel=0.001)


@pytest.mark.parametrize(
    ("changes", "fewer"),
    [
        ({"mla_use_output_gate": False}, 24 * 7168 * 96 * 128),
        (
            {"linear_attn_config": KIMI["linear_attn_config"] | {"use_full_rank_gate": False}},
            69 * (7168 * 96 * 128 - (7168 * 128 + 128 * 96 * 128)),
        ),
    ],
)
def test_gates_are_counted(changes, fewer):
    """As wide as the output; of rank 128 in the delta net of Kimi Linear."""
    assert parameter_count(read(KIMI)) - parameter_count(read(KIMI | changes)) == fewer
