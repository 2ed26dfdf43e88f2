"""What kvsim refuses to read, by name, in one line: fields, layers and files."""

import json

import pytest

from kvsim.errors import InputError
from kvsim.readers.huggingface.config import spec_from_json_file
from tests.support.hf_configs import counts, llama, read

BRAND_NEW = {"model_type": "brand_new", "architectures": ["BrandNewForCausalLM"]}

# --- refusals by name --------------------------------------------------------------------


def test_unknown_layer_kind_is_named():
    kinds = ["full_attention"] * 31 + ["hyena_attention"]
    with pytest.raises(InputError, match="'hyena_attention'"):
        read(llama(layer_types=kinds))


def test_unknown_pattern_letter_is_named():
    with pytest.raises(InputError, match="'X'"):
        read(llama(model_type="nemotron_h", num_hidden_layers=3, hybrid_override_pattern="M*X"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("local_window", 1024),
        ("attention_pattern", "LLG"),
        ("mamba_d_state", 16),
        ("ssm_cfg", {"layer": "Mamba2"}),
        ("kv_lora_rank", 512),
        ("layer_types", ["sliding_attention"] * 32),
        ("sliding_window", 4096),
        ("attn_layer_period", 8),
    ],
)
def test_unknown_family_with_a_telling_field_is_refused_by_name(key, value):
    with pytest.raises(InputError, match=key):
        read(llama(**BRAND_NEW, **{key: value}))


def test_unknown_plain_decoder_is_full_attention():
    kinds = ["full_attention"] * 32
    config = llama(**BRAND_NEW, sliding_window=None, layer_types=kinds)
    assert counts(config) == {"full": 32}


def test_known_family_with_anothers_layers_is_refused():
    with pytest.raises(InputError, match="hybrid_override_pattern"):
        read(llama(hybrid_override_pattern="M*" * 16))


def test_linear_layers_of_a_family_without_them_are_refused():
    kinds = ["linear_attention"] * 32
    with pytest.raises(InputError, match="linear_attention"):
        read(llama(layer_types=kinds))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_hidden_layers": 10_001}, "num_hidden_layers is 10001, outside 1..10000"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": -8}, "num_attention_heads is -8"),
        ({"hidden_size": float("nan")}, "hidden_size is nan, not a whole number"),
        ({"hidden_size": True}, "hidden_size is True, not a whole number"),
        ({"vocab_size": "128256"}, "vocab_size is '128256', not a whole number"),
        ({"vocab_size": "absent"}, "no vocab_size"),
        ({"num_hidden_layers": [32]}, "not a whole number"),
        ({"num_key_value_heads": 7}, "32 query heads cannot share 7 KV heads"),
        ({"hidden_size": 4097}, "not a multiple of 32 heads"),
        ({"tie_word_embeddings": "yes"}, "not true or false"),
        ({"num_hidden_layers": 10**5000}, "outside 1..10000"),
    ],
)
def test_absurd_fields_are_named(changes, named):
    with pytest.raises(InputError, match=named) as caught:
        read(llama(**changes))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


# --- files -------------------------------------------------------------------------------


def test_a_file_is_called_after_its_folder(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(llama()))
    spec = spec_from_json_file(folder / "config.json")
    assert spec.name == "my-model"
    assert str(folder) in spec.source


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 700\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (json.dumps(llama()).encode()[:100], "is not whole JSON"),
        (b"", "is not whole JSON"),
        (b"\x80\x02}q\x00(X" + bytes(range(256)), "text"),
        (LFS, "git-LFS pointer"),
        (b"[1, 2]", "holds a JSON list"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"hidden_size": ' + b"9" * 6000 + b"}", "not usable JSON"),
        (b"{}", "no num_hidden_layers"),
        (b'{"hidden_size": 1, "hidden_size": 2}', "the key 'hidden_size' is given twice"),
        (b'{"text_config": {"a": 1, "a": 1}}', "the key 'a' is given twice"),
        (b'{"hidden_size": NaN, "num_hidden_layers": Infinity}', "not a whole number"),
    ],
)
def test_broken_files_give_one_line_that_names_them(tmp_path, content, says):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        spec_from_json_file(file)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_huge_file_is_refused_unread(tmp_path):
    file = tmp_path / "config.json"
    with file.open("wb") as stream:
        stream.write(b" " * (2**24 + 1))
        stream.truncate(2**31)
    with pytest.raises(InputError, match="larger than 16,777,216 bytes"):
        spec_from_json_file(file)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        spec_from_json_file(tmp_path / "absent.json")
    with pytest.raises(InputError, match="cannot be read"):
        spec_from_json_file(tmp_path)
