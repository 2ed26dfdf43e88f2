"""DeepSeek-V4.1: layers that keep folded states, and layers that read and pick among them.

Expected numbers: vLLM 0.33, ``vllm/models/deepseek_v41`` (attention.py, compressor.py,
common/engram.py) and ``deepseek_v4/common/vision.py``, matrix by matrix.
"""

import pytest

from kvsim.catalog.models import find_model
from kvsim.errors import InputError
from kvsim.memory.footprint import bytes_per_token, sequence_bytes
from kvsim.memory.tensors import parameter_count
from kvsim.specs.precision import kv_format
from tests.support.hf_configs import counts, llama, read

PACKED, NVFP4 = kv_format("fp8_ds_mla"), kv_format("nvfp4_ds_mla")


def v41(**changes):
    """Eight layers: two of windows, four that fold two tokens, two that fold none."""
    config = {
        "model_type": "deepseek_v41_text",
        "architectures": ["DeepseekV41ForCausalLM"],
        "hidden_size": 5120,
        "num_hidden_layers": 8,
        "num_attention_heads": 64,
        "num_key_value_heads": 1,
        "head_dim": 512,
        "qk_rope_head_dim": 64,
        "q_lora_rank": 1280,
        "o_lora_rank": 1024,
        "o_groups": 8,
        "sliding_window": 128,
        "compress_ratios": [0, 0, 2, 2, 2, 2, 1, 1],
        "kv_source_layer_ids": [2, 4, 6],
        "index_source_layer_ids": [2, 4, 6, 7],
        "index_n_heads": 32,
        "index_head_dim": 128,
        "index_topk": 512,
    }
    return llama(**config | changes)


def test_who_keeps_and_who_reads():
    assert counts(v41()) == {
        "window": 2,
        "source_2": 2,
        "reader_2": 2,
        "source_1": 1,
        "indexed_1": 1,
    }


def test_only_sources_keep_states_and_index_keys():
    model = read(v41())
    # eight windows; of each token half a state and half a key in two layers, both in a third
    assert bytes_per_token(model, PACKED) == 8 * 584 + 2 * (292 + 66) + 584 + 132
    assert sequence_bytes(model, PACKED, 1001) == (
        8 * 128 * 584 + 2 * 500 * (584 + 132) + 1001 * (584 + 132)
    )
    # NVFP4 states of 256 bytes and 32 scales beside MXFP8 windows of 512 and 16
    assert sequence_bytes(model, NVFP4, 1001) == (
        8 * 128 * 528 + 2 * 500 * (288 + 132) + 1001 * (288 + 132)
    )


def test_a_reader_reads_what_it_does_not_keep():
    model = read(v41())
    reader, picker = (model.group(name).caches[0] for name in ("reader_2", "indexed_1"))
    assert reader.held_bytes(PACKED, 10_000) == 128 * 584
    assert reader.read_bytes(PACKED, 10_000) == (128 + 512) * 584
    assert reader.read_bytes(PACKED, 600) == (128 + 300) * 584
    assert picker.read_bytes(PACKED, 10_000) == (128 + 512) * 584 + 10_000 * 132


def test_only_sources_that_fold_keep_a_ring():
    rings = {group.name: group.caches[0].unfolded for group in read(v41()).layer_groups}
    assert [name for name, ring in rings.items() if ring] == ["source_2"]
    (ring,) = rings["source_2"]
    # eight tokens, each with a value and a score of 512 elements in fp32
    assert (ring.entry_bytes, ring.kept, ring.span) == (4096, "fixed", 8)


def test_what_each_layer_weighs():
    shared = 5120 * (1280 + 512) + 1280 * 64 * 512 + 1024 * (64 * 512 + 8 * 5120)
    picks = 32 * (1280 * 128 + 5120)
    expected = {
        "window": shared,
        "reader_2": shared,
        "source_2": shared + 5120 * 2 * 512 + picks + 512 * 128,
        "source_1": shared + 5120 * 512 + picks + 512 * 128,
        "indexed_1": shared + picks,
    }
    weighed = {
        group.name: sum(part.parameters for part in group.caches[0].weights(5120))
        for group in read(v41()).layer_groups
    }
    assert weighed == expected


def test_engram_tables_stay_on_the_host_and_their_projections_do_not():
    engram = {
        "hc_mult": 4,
        "engram_layer_ids": [1, 4],
        "engram_num_embeddings": [384006168, 384016682],
        "engram_max_ngram_size": 4,
        "engram_n_heads": 8,
        "engram_head_dim": 256,
    }
    more = parameter_count(read(v41(**engram))) - parameter_count(read(v41()))
    assert more == 2 * (3 * 8 * 256) * (5 * 5120)
    assert "768,022,850 rows of 256 are left out" in read(v41(**engram)).source


def test_the_whole_of_deepseek_v4_1_flash():
    shared = 5120 * (1280 + 512) + 1280 * 64 * 512 + 1024 * (64 * 512 + 8 * 5120)
    picks = 8 * 32 * (1280 * 128 + 5120) + 4 * 512 * 128
    compressors = (3 * 2 + 1) * 5120 * 512
    experts = 40 * (385 * 3 * 5120 * 2304 + 384 * 5120)
    engram = 2 * (3 * 8 * 256) * (5 * 5120)
    tower = 32 * (4 * 1024**2 + 3 * 1024 * 2816) + 3 * 14**2 * 1024
    aligner = 9 * 1024 * 5120 + 5120**2
    tables = 2 * 129280 * 5120
    hand = 40 * shared + picks + compressors + experts + engram + tower + aligner + tables
    assert parameter_count(find_model("deepseek-v4.1-flash")) == pytest.approx(hand, rel=2e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"compress_ratios": [0, 0, 2, 2, 2, 2, 4, 4]}, "compress_ratios names 4"),
        ({"kv_source_layer_ids": [4, 2, 6]}, "not layers of 8 in ascending order"),
        ({"index_source_layer_ids": [2, 4, 6, 8]}, "not layers of 8 in ascending order"),
        ({"kv_source_layer_ids": [1, 2, 4, 6]}, "layer 1 is a source, and its compress_ratios"),
        ({"index_source_layer_ids": [2, 4, 7]}, "layer 6 is in kv_source_layer_ids and not in"),
        (
            {"kv_source_layer_ids": [4, 6]},
            "layer 2 reads states folded by 2, and its source is none",
        ),
        (
            {"kv_source_layer_ids": [2, 4], "index_source_layer_ids": [2, 4, 7]},
            "layer 6 reads states folded by 1, and its source is layer 4, folded by 2",
        ),
        ({"index_topk": "absent"}, "the config has no index_topk"),
        ({"query_source_layer_ids": [2]}, "the field 'query_source_layer_ids' is a kind"),
        ({"engram_stride": 2}, "the field 'engram_stride' is a kind of attention"),
    ],
)
def test_what_is_not_known_is_refused_by_name(changes, said):
    with pytest.raises(InputError) as refused:
        read(v41(**changes))
    assert said in str(refused.value)
