"""MiniMax-M3's config.json: three dense layers, then sparse attention and experts."""

import pytest

from kvsim.catalog.models import find_model
from kvsim.errors import InputError
from kvsim.memory.tensors import parameter_count, tensor_families
from kvsim.specs.attention import BlockSparseAttention, FullAttention
from kvsim.specs.model import DenseMlp, MoeMlp
from tests.support.hf_configs import counts, llama, read

SPARSE = {
    "sparse_attention_freq": [0, 1, 1, 1],
    "sparse_num_index_heads": 8,
    "sparse_index_dim": 64,
    "sparse_block_size": 32,
    "sparse_topk_blocks": 4,
}


def config(**changes):
    """Four layers, Llama-3-8B's heads."""
    fields = {
        "model_type": "minimax_m3",
        "num_hidden_layers": 4,
        "sparse_attention_config": SPARSE,
        "moe_layer_freq": [0, 0, 1, 1],
        "num_local_experts": 16,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "dense_intermediate_size": 12288,
        "intermediate_size": 3072,
    }
    return llama(**{**fields, **changes})


def sparse(**changes):
    return config(sparse_attention_config={**SPARSE, **changes})


def test_minimax_m3_has_the_published_shape():
    """Counted from vLLM 0.33's modules: norms, biases and the draft layers aside."""
    model = find_model("minimax-m3")
    full, block_sparse = model.layer_groups
    assert (full.name, full.layers) == ("full", (0, 1, 2))
    assert (block_sparse.name, block_sparse.layers) == ("block_sparse", tuple(range(3, 60)))
    heads = {"heads": 64, "kv_heads": 4, "key_dim": 128, "value_dim": 128}
    assert full.caches == (FullAttention(**heads),)
    index = {"index_heads": 4, "index_dim": 128, "block": 128, "top_blocks": 16}
    assert block_sparse.caches == (BlockSparseAttention(**heads, **index),)
    assert full.mlp == DenseMlp(intermediate_size=12288)
    assert block_sparse.mlp == MoeMlp(
        experts=128, experts_per_token=4, intermediate_size=3072, shared_intermediate_size=3072
    )
    norms = sum(f.parameters for f in tensor_families(model) if f.name == "norms")
    assert parameter_count(model) - norms == 426_173_792_256


def test_a_layer_is_sparse_where_its_frequency_is_not_zero():
    assert counts(config()) == {"full": 1, "block_sparse_dense": 1, "block_sparse_moe": 2}
    assert counts(sparse(sparse_attention_freq=[0] * 4)) == {"full_dense": 2, "full_moe": 2}
    off = sparse(use_sparse_attention=False)  # which vLLM does not ask
    assert counts(off) == counts(config())


def test_the_dense_width_is_not_the_experts():
    model = read(config())
    assert model.group("full").mlp.intermediate_size == 12288
    moe = model.group("block_sparse_moe").mlp
    assert (moe.intermediate_size, moe.shared_intermediate_size) == (3072, 3072)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (config(sparse_attention_config="absent"), "no sparse_attention_config with a sparse_"),
        (sparse(sparse_attention_freq=None), "no sparse_attention_config with a sparse_"),
        (sparse(sparse_attention_freq=[0, 1]), "describes 2 layers, num_hidden_layers is 4"),
        (sparse(sparse_topk_blocks=None), "no sparse_topk_blocks"),
        (sparse(sparse_block_size=0), "sparse_block_size is 0"),
        (sparse(sparse_num_index_heads=4), "4 index heads for 8 KV heads"),
        (config(sparse_attention_config=[1]), "not an object"),
    ],
)
def test_a_config_that_leaves_something_open_is_refused(changed, named):
    with pytest.raises(InputError, match=named) as caught:
        read(changed)
    assert "\n" not in str(caught.value)


def test_another_family_with_such_a_field_is_still_refused():
    with pytest.raises(InputError, match="sparse_attention_config"):
        read(llama(sparse_attention_config=SPARSE))


def test_the_language_model_inside_a_vision_model_is_read():
    """vLLM's MiniMaxM3Config: an outer minimax_m3_vl with a text_config of minimax_m3_text."""
    inner = config(model_type="minimax_m3_text")
    outer = {"model_type": "minimax_m3_vl", "text_config": inner}
    assert counts(outer) == counts(config())
    inner.pop("model_type")
    assert counts(outer) == counts(config())
