"""Models whose layers were chosen one by one, against the sizes that vLLM's code gives them."""

import pytest

from kvsim.errors import InputError
from kvsim.memory.tensors import parameter_count
from tests.support.hf_configs import counts, llama, read


def block(group=8, mult=5.25, **attention):
    """A layer of a search: None leaves a part out."""
    heads = {"n_heads_in_group": group, "no_op": group is None, "window_length": None}
    return {
        "attention": heads | {"replace_with_linear": False, "sparsify": None} | attention,
        "ffn": {"ffn_mult": mult, "no_op": mult is None, "replace_with_linear": False},
    }


def searched(*layers, **changes):
    return llama(
        model_type="nemotron-nas",
        hidden_size=8192,
        num_hidden_layers=len(layers),
        num_attention_heads=64,
        num_key_value_heads=None,
        intermediate_size=None,
        block_configs=list(layers),
        **changes,
    )


def test_llama_nemotron_super_is_49_billion_parameters():
    """49 of 80 layers have attention; blocks of six widths (vLLM 0.33, nemotron_nas.py).

    Which of them lie where moves nothing, so they stand here one after the other.
    """
    narrow = {1.3125: 10, 1.0: 8, 2.625: 6, 0.5: 6, 3.28125: 1}
    without = [block(None, mult) for mult, count in narrow.items() for _ in range(count)]
    spec = read(searched(*[block()] * 49, *without))
    assert spec.num_layers == 80
    assert [(g.count, g.caches[0].kv_heads) for g in spec.layer_groups if g.caches] == [(49, 8)]
    widths = {g.mlp.intermediate_size: g.count for g in spec.layer_groups}
    assert widths == {28_672: 49, 7168: 10, 5632: 8, 14_336: 6, 2816: 6, 17_920: 1}
    attention = 2 * 8192**2 + 2 * 8192 * 8 * 128 + 8192
    mlps = sum(count * (3 * 8192 * width + 8192) for width, count in widths.items())
    whole = 49 * attention + mlps + 2 * 128_256 * 8192 + 8192
    assert parameter_count(spec) == whole == pytest.approx(49.87e9, rel=1e-3)


def test_layers_may_share_heads_in_groups_of_their_own_size():
    spec = read(searched(block(8), block(16), block(8), block(64, None)))
    assert [(g.layers, g.caches[0].kv_heads) for g in spec.layer_groups] == [
        ((0, 2), 8), ((1,), 4), ((3,), 1)
    ]  # fmt: skip
    assert [g.mlp is None for g in spec.layer_groups] == [False, False, True]
    assert sum(counts(searched(block(8), block(None))).values()) == 2


def test_a_width_may_be_said_as_it_is():
    layer = block() | {"ffn": {"intermediate_size": 5000}}
    assert read(searched(layer)).layer_groups[0].mlp.intermediate_size == 5000


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (block(replace_with_linear=True), r"block_configs\[1\]: attention: replace_with_linear"),
        (block(window_length=512), "window_length is 512"),
        (block(num_sink_tokens=4), "num_sink_tokens is 4"),
        (block(sparsify=["q_proj"]), "sparsify"),
        (block(None, no_op=False), "no n_heads_in_group"),
        (block(7), "64 query heads are no multiple of a group of 7"),
        (block(mult=0.0), "ffn_mult is 0.0"),
        (block(mult=float("nan")), "ffn_mult is nan"),
        (block(mult="2"), "ffn_mult is '2'"),
        (block() | {"ffn": {}}, "no intermediate_size"),
        (block() | {"ffn": {"replace_with_linear": True}}, "ffn: replace_with_linear is True"),
        (7, "not a list of objects"),
    ],
)
def test_a_layer_that_kvsim_does_not_know_is_named_by_its_number(layer, says):
    with pytest.raises(InputError, match=says):
        read(searched(block(), layer))


def test_there_is_a_block_for_every_layer():
    with pytest.raises(
        InputError, match="block_configs describes 1 layers, num_hidden_layers is 2"
    ):
        read(searched(block()) | {"num_hidden_layers": 2})
