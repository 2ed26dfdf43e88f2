"""Safetensors headers, checkpoint folders and GGUF files: exact bytes, and one-line refusals."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.memory.tensors import parameter_count
from kvsim.memory.weights import weight_bytes
from kvsim.readers.checkpoint import spec_from_folder
from kvsim.readers.safetensors import header_weight_bytes, index_total_bytes
from tests.support.checkpoints import LFS_POINTER, one_line, size_or_line

TINY_LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 64,
    "max_position_embeddings": 32,
    "torch_dtype": "bfloat16",
}


def write_safetensors(path, header, *, length=None, data=b""):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(content) if length is None else length
    path.write_bytes(struct.pack("<Q", size) + content + data)
    return path


def tensor(begin, end):
    return {"dtype": "BF16", "shape": [(end - begin) // 2], "data_offsets": [begin, end]}


class TestSafetensorsHeader:
    def test_bytes_are_those_of_the_tensors_not_of_the_file(self, tmp_path):
        header = {"__metadata__": {"format": "pt"}, "a": tensor(0, 24), "b": tensor(24, 30)}
        path = write_safetensors(tmp_path / "model.safetensors", header, data=bytes(30))
        assert header_weight_bytes(path) == 30

    def test_a_header_alone_is_enough(self, tmp_path):
        path = write_safetensors(tmp_path / "m.safetensors", {"a": tensor(0, 10**12)})
        assert header_weight_bytes(path) == 10**12

    def test_no_tensors_weigh_nothing(self, tmp_path):
        assert header_weight_bytes(write_safetensors(tmp_path / "m.safetensors", {})) == 0

    def test_a_header_of_a_terabyte_is_refused_unread(self, tmp_path):
        path = write_safetensors(tmp_path / "m.safetensors", {}, length=2**40)
        with pytest.raises(InputError, match="claims a header of 1 TiB") as error:
            header_weight_bytes(path)
        assert str(path) in one_line(error)

    def test_a_git_lfs_pointer_is_named(self, tmp_path):
        path = tmp_path / "m.safetensors"
        path.write_text(LFS_POINTER)
        with pytest.raises(InputError, match=r"git-LFS pointer.*git lfs pull"):
            header_weight_bytes(path)

    @pytest.mark.parametrize(
        ("header", "length", "words"),
        [
            ({"a": tensor(0, 8)}, 5000, "is cut off"),
            (b"", 0, "too short"),
            (b"\xff\xfe\x00\x01", None, "does not hold the JSON"),
            (b"[1, 2]", None, "does not hold the JSON"),
            (b"[" * 100_000, None, "does not hold the JSON"),
            ({"a": {"dtype": "F16"}}, None, "'a' has no usable data_offsets"),
            ({"a": tensor(8, 2)}, None, "'a' has no usable data_offsets"),
            ({"a": tensor(0, 2**70)}, None, "'a' has no usable data_offsets"),
            ({"a": tensor(False, True)}, None, "'a' has no usable data_offsets"),
            ({"a": {"data_offsets": "08"}}, None, "'a' has no usable data_offsets"),
            ({"a": tensor(0, 8), "b": tensor(4, 12)}, None, "overlap or leave holes"),
            ({"a": tensor(0, 8), "b": tensor(10, 12)}, None, "overlap or leave holes"),
        ],
    )
    def test_damage_is_one_line(self, tmp_path, header, length, words):
        path = write_safetensors(tmp_path / "m.safetensors", header, length=length)
        with pytest.raises(InputError, match=words) as error:
            header_weight_bytes(path)
        assert str(path) in one_line(error)

    @pytest.mark.parametrize("content", [b"", b"\x01\x02"])
    def test_shorter_than_a_length_is_refused(self, tmp_path, content):
        path = tmp_path / "m.safetensors"
        path.write_bytes(content)
        with pytest.raises(InputError, match="too short"):
            header_weight_bytes(path)

    def test_a_missing_file_and_a_folder_are_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"absent\.safetensors: no such file"):
            header_weight_bytes(tmp_path / "absent.safetensors")
        with pytest.raises(InputError, match="cannot be read"):
            header_weight_bytes(tmp_path)

    @given(st.binary(max_size=200))
    def test_any_bytes_give_a_number_or_one_line(self, tmp_path_factory, content):
        path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
        path.write_bytes(content)
        assert size_or_line(header_weight_bytes, path)


class TestIndex:
    def write(self, tmp_path, content):
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    @pytest.mark.parametrize("size", [16_060_522_496, 16_060_522_496.0])
    def test_total_size_whole_or_as_a_float(self, tmp_path, size):
        path = self.write(tmp_path, {"metadata": {"total_size": size}, "weight_map": {}})
        assert index_total_bytes(path) == 16_060_522_496

    @pytest.mark.parametrize("size", [None, "16 GB", -1, 0, True, 1e300, float("nan")])
    def test_no_size_is_refused_by_value(self, tmp_path, size):
        path = self.write(tmp_path, {"metadata": {"total_size": size}})
        with pytest.raises(InputError, match="total_size is") as error:
            index_total_bytes(path)
        one_line(error)

    @pytest.mark.parametrize("content", ["", "{", "[]", "\x00\x01", '{"metadata": 3}'])
    def test_damage_is_one_line(self, tmp_path, content):
        with pytest.raises(InputError) as error:
            index_total_bytes(self.write(tmp_path, content))
        one_line(error)

    def test_a_git_lfs_pointer_is_named(self, tmp_path):
        with pytest.raises(InputError, match="git-LFS"):
            index_total_bytes(self.write(tmp_path, LFS_POINTER))


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps(TINY_LLAMA))
        return tmp_path

    def test_a_config_alone_leaves_the_size_to_be_computed(self, folder):
        spec = spec_from_folder(folder)
        assert spec.weight_bytes_on_disk is None
        assert spec.name == folder.name
        assert weight_bytes(spec) == 2 * parameter_count(spec)

    def test_shards_are_summed_and_copies_and_adapters_left_out(self, folder):
        for name in ("model-00001-of-00002", "model-00002-of-00002"):
            write_safetensors(folder / f"{name}.safetensors", {"a": tensor(0, 1000)})
        for name in ("consolidated", "adapter_model"):
            write_safetensors(folder / f"{name}.safetensors", {"a": tensor(0, 7)})
        spec = spec_from_folder(folder)
        assert spec.weight_bytes_on_disk == 2000
        assert weight_bytes(spec) == 2000

    def test_an_index_wins_over_the_headers(self, folder):
        write_safetensors(folder / "model-00001-of-00009.safetensors", {"a": tensor(0, 10)})
        index = {"metadata": {"total_size": 5000}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert spec_from_folder(folder).weight_bytes_on_disk == 5000

    def test_a_folder_without_a_config_says_what_it_found(self, tmp_path):
        (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
        with pytest.raises(InputError, match=r"no config\.json here.*tiny\.gguf"):
            spec_from_folder(tmp_path)

    def test_a_broken_shard_is_not_passed_over(self, folder):
        (folder / "model.safetensors").write_text(LFS_POINTER)
        with pytest.raises(InputError, match="git-LFS"):
            spec_from_folder(folder)
