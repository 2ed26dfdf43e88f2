"""Llama 3.2 Vision: a few layers keep an image's K and V, and nothing of the text."""

import pytest

from kvsim.catalog.models import find_model
from kvsim.errors import InputError
from kvsim.memory.footprint import bytes_per_token, sequence_bytes
from kvsim.memory.weights import weight_bytes
from tests.support.hf_configs import BF16, counts, read

# MllamaVisionConfig's and MllamaTextConfig's defaults are the 11B's but for image_size, 448 there.
VISION = {"model_type": "mllama_vision_model", "image_size": 560}
TEXT = {"model_type": "mllama_text_model"}


def vision_llama(vision=VISION, **text):
    """A config of MllamaForConditionalGeneration."""
    return {
        "model_type": "mllama",
        "architectures": ["MllamaForConditionalGeneration"],
        "torch_dtype": "bfloat16",
        "text_config": TEXT | text,
        "vision_config": vision,
    }


def test_a_fifth_of_the_layers_keeps_the_image_alone():
    spec = read(vision_llama())
    full, cross = spec.layer_groups
    assert cross.layers == (3, 8, 13, 18, 23, 28, 33, 38)
    assert sorted(full.layers + cross.layers) == list(range(40))
    assert [cache.kind for group in spec.layer_groups for cache in group.caches] == [
        "full",
        "cross",
    ]
    # Four tiles of (560 / 14) ** 2 patches and a class token; 8 KV heads of 128 in 16 bits.
    assert (full.encoder_tokens, cross.encoder_tokens, spec.encoder_tokens) == (0, 6404, 6404)
    assert bytes_per_token(spec, BF16) == 32 * 4096 == 131_072
    assert sequence_bytes(spec, BF16, 1000) == 1000 * 131_072 + 6404 * 8 * 4096


def test_a_decoder_layer_of_whisper_keeps_the_sequence_too():
    assert find_model("whisper-large-v3").encoder_tokens == 0


@pytest.mark.parametrize(
    ("name", "stored_bytes", "cross_layers"),
    [
        # The modules of transformers' MllamaForConditionalGeneration, counted by hand, in 16 bits:
        # tower 863,567,379; projection 7,680 x 4,096 + 4,096; 32 + 8 layers of 218,112,000; tables
        # of 128,264 and 128,256 rows; a last norm. Published as 10.67 billion, 21.3 GB.
        ("llama3.2-11b-vision", 21_340_441_670, 8),
        # 80 + 20 layers of 855,654,400. Published as 88.6 billion, 177 GB.
        ("llama3.2-90b-vision", 177_186_710_646, 20),
    ],
)
def test_weights_are_the_checkpoints(name, stored_bytes, cross_layers):
    """Norms of queries and keys, and two gates, are what no model's count here has."""
    left_out = cross_layers * (2 * 128 + 2) * 2
    assert weight_bytes(find_model(name)) == stored_bytes - left_out


def test_what_a_config_leaves_out_is_the_configuration_classs():
    spec = read(vision_llama(vision={}))
    assert spec.encoder_tokens == 4 * ((448 // 14) ** 2 + 1)
    entry = find_model("llama3.2-11b-vision")
    assert read(vision_llama()).layer_groups == entry.layer_groups
    assert read(vision_llama()).other_parameters == entry.other_parameters


def test_groups_come_in_the_order_of_their_first_layers():
    spec = read(vision_llama(cross_attention_layers=[2, 0]))
    assert [(group.name, group.layers[0]) for group in spec.layer_groups] == [
        ("cross", 0),
        ("full", 1),
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [("cross_attention_window", 2), ("sliding_cross_pattern", 4), ("kv_source_layer_ids", [1])],
)
def test_an_invented_field_is_refused_by_name(key, value):
    with pytest.raises(InputError, match=f"with the field '{key}'"):
        read(vision_llama(**{key: value}))


def test_its_list_says_nothing_in_another_models_config():
    config = vision_llama() | {"text_config": TEXT | {"model_type": "llama"}}
    with pytest.raises(InputError, match="'cross_attention_layers' is a kind of attention"):
        read(config | {"text_config": config["text_config"] | {"cross_attention_layers": [3]}})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cross_attention_layers": [3, 40]}, "names layer 40 of 40, counted from 0"),
        ({"cross_attention_layers": [3, 3]}, "names a layer twice"),
        ({"cross_attention_layers": []}, "leaves no layer with cross-attention"),
        ({"cross_attention_layers": list(range(40))}, "leaves no layer with self-attention"),
        ({"cross_attention_layers": "3"}, "not a list of whole numbers"),
        ({"vision": None}, "the config has no vision_config"),
        ({"vision": {"image_size": 561}}, "image_size 561 is not a multiple of patch_size 14"),
        ({"vision": {"max_num_tiles": 0}}, "max_num_tiles is 0"),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        read(vision_llama(**changes))


def test_the_classes_of_both_sizes_have_their_layers():
    large = vision_llama(num_hidden_layers=100, cross_attention_layers=list(range(3, 100, 5)))
    assert counts(large) == {"full": 80, "cross": 20}
    published = find_model("meta-llama/Llama-3.2-90B-Vision-Instruct").layer_groups
    assert [group.layers for group in published] == [g.layers for g in read(large).layer_groups]
