"""GGUF files: layers, heads and bytes of each architecture, and one-line refusals."""

import struct
import sys

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError, MissingExtraError, UnsupportedError
from kvsim.memory.rank import Rank
from kvsim.memory.weights import rank_weight_bytes, weight_bytes
from kvsim.readers.gguf.file import spec_from_gguf
from kvsim.specs.attention import FullAttention, LatentAttention, RecurrentState, SlidingAttention
from tests.support.checkpoints import LFS_POINTER, one_line, size_or_line
from tests.support.hf_configs import stored

TABLES = {"token_embd.weight": (64, 32), "output.weight": (64, 32)}


def write_gguf(path, architecture, values, tensors=None, *, kind=np.float16):
    """Write a tiny GGUF; `values` are put under the architecture's name."""
    writer = gguf.GGUFWriter(path, architecture)
    for suffix, value in values.items():
        key = suffix.removeprefix("/") if suffix.startswith("/") else f"{architecture}.{suffix}"
        match value:
            case str():
                writer.add_string(key, value)
            case list():
                writer.add_array(key, value)
            case _:
                writer.add_uint32(key, value)
    for name, shape in (tensors or TABLES).items():
        writer.add_tensor(name, np.zeros(shape, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


BASE = {
    "block_count": 6,
    "embedding_length": 32,
    "context_length": 4096,
    "feed_forward_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}


class TestGguf:
    def test_a_llama_file(self, tmp_path):
        path = write_gguf(
            tmp_path / "tiny.gguf",
            "llama",
            {**BASE, "/general.name": "Tiny", "/tokenizer.ggml.tokens": ["a", "b", "c"]},
        )
        spec = spec_from_gguf(path)
        (group,) = spec.layer_groups
        (cache,) = group.caches
        assert (spec.name, spec.num_layers, spec.vocab_size) == ("Tiny", 6, 64)
        assert (cache.heads, cache.kv_heads, cache.key_dim) == (4, 2, 8)
        assert spec.max_position_embeddings == 4096
        assert not spec.tie_embeddings
        assert (spec.dtype, spec.quantization) == ("fp16", None)

    def test_weight_bytes_are_those_of_the_tensors_to_the_byte(self, tmp_path):
        tensors = {"token_embd.weight": (64, 32), "odd": (7,)}
        spec = spec_from_gguf(write_gguf(tmp_path / "t.gguf", "llama", BASE, tensors))
        assert weight_bytes(spec) == spec.weight_bytes_on_disk == 2 * (64 * 32 + 7)
        assert spec.tie_embeddings

    def test_blocks_of_quantised_tensors_are_weighed_with_their_scales(self, tmp_path):
        writer = gguf.GGUFWriter(tmp_path / "q.gguf", "llama")
        for suffix, value in BASE.items():
            writer.add_uint32(f"llama.{suffix}", value)
        table = gguf.quants.quantize(np.zeros((64, 32), np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("token_embd.weight", table, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        spec = spec_from_gguf(tmp_path / "q.gguf")
        assert spec.weight_bytes_on_disk == 64 * (32 + 2)  # 32 int8 and one fp16 scale per block
        assert (spec.dtype, spec.quantization) == ("fp16", "q8_0")

    def test_mxfp4_is_the_experts_format_alone(self, tmp_path):
        """A block of it is 32 weights in 17 bytes; one tensor makes it the main kind."""
        if not hasattr(gguf.GGMLQuantizationType, "MXFP4"):
            pytest.skip("this gguf library does not know MXFP4")
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
        for suffix, value in BASE.items():
            writer.add_uint32(f"llama.{suffix}", value)
        table = np.zeros((64, 17), np.uint8)
        writer.add_tensor("token_embd.weight", table, raw_dtype=gguf.GGMLQuantizationType.MXFP4)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        spec = spec_from_gguf(tmp_path / "m.gguf")
        assert spec.quantization == "mxfp4"
        assert "experts" not in stored(spec)
        assert set(stored(spec)) >= {"mlp", "attention", "attention_output", "recurrent"}
        assert set(stored(spec).values()) == {None}

    def test_key_and_value_lengths_need_not_be_hidden_over_heads(self, tmp_path):
        values = {**BASE, "attention.key_length": 24, "attention.value_length": 16}
        spec = spec_from_gguf(write_gguf(tmp_path / "t.gguf", "qwen3", values))
        (cache,) = spec.layer_groups[0].caches
        assert (cache.key_dim, cache.value_dim) == (24, 16)

    def test_gemma3_slides_in_five_of_six_layers(self, tmp_path):
        values = {**BASE, "attention.sliding_window": 512, "attention.key_length": 8}
        spec = spec_from_gguf(write_gguf(tmp_path / "t.gguf", "gemma3", values))
        layers = {group.name: group.layers for group in spec.layer_groups}
        assert layers == {"sliding": (0, 1, 2, 3, 4), "full": (5,)}
        assert spec.group("sliding").caches[0].window == 512

    def test_gpt_oss_alternates(self, tmp_path):
        values = {
            **BASE,
            "attention.sliding_window": 128,
            "attention.key_length": 64,
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_feed_forward_length": 16,
        }
        spec = spec_from_gguf(write_gguf(tmp_path / "t.gguf", "gpt-oss", values))
        assert {g.name: g.layers for g in spec.layer_groups} == {
            "sliding": (0, 2, 4),
            "full": (1, 3, 5),
        }
        mlp = spec.layer_groups[0].mlp
        assert (mlp.experts, mlp.experts_per_token, mlp.intermediate_size) == (4, 2, 16)

    def test_a_pattern_said_layer_by_layer(self, tmp_path):
        slides = [True, True, False, True, True, False]
        values = {
            **BASE,
            "attention.sliding_window": 64,
            "attention.sliding_window_pattern": slides,
        }
        spec = spec_from_gguf(write_gguf(tmp_path / "t.gguf", "gemma3", values))
        assert spec.group("full").layers == (2, 5)

    @pytest.mark.parametrize("newer", [True, False])
    def test_latent_attention_in_both_generations_of_files(self, tmp_path, newer):
        values = {
            **BASE,
            "attention.kv_lora_rank": 16,
            "attention.q_lora_rank": 12,
            "rope.dimension_count": 4,
            "leading_dense_block_count": 1,
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_feed_forward_length": 8,
            "expert_shared_count": 1,
        }
        if newer:  # the cache as one head of 16 + 4, the expanded heads under _mla
            values |= {
                "attention.head_count_kv": 1,
                "attention.key_length": 20,
                "attention.value_length": 16,
                "attention.key_length_mla": 12,
                "attention.value_length_mla": 8,
            }
        else:
            values |= {
                "attention.head_count_kv": 4,
                "attention.key_length": 12,
                "attention.value_length": 8,
            }
        spec = spec_from_gguf(write_gguf(tmp_path / "t.gguf", "deepseek2", values))
        cache = spec.layer_groups[0].caches[0]
        assert isinstance(cache, LatentAttention)
        assert (cache.kv_lora_rank, cache.rope_dim, cache.nope_dim, cache.value_dim) == (
            16,
            4,
            8,
            8,
        )
        assert [group.mlp.kind for group in spec.layer_groups] == ["dense", "moe"]

    def test_nemotron_h_by_its_arrays(self, tmp_path):
        values = {
            **BASE,
            "attention.head_count_kv": [0, 0, 2, 0, 0, 0],
            "feed_forward_length": [0, 64, 0, 0, 64, 0],
            "ssm.conv_kernel": 4,
            "ssm.state_size": 16,
            "ssm.group_count": 2,
            "ssm.inner_size": 64,
            "ssm.time_step_rank": 8,
        }
        spec = spec_from_gguf(write_gguf(tmp_path / "t.gguf", "nemotron_h", values))
        kinds = {
            group.layers: [type(cache) for cache in group.caches] for group in spec.layer_groups
        }
        assert kinds == {(0, 3, 5): [RecurrentState], (1, 4): [], (2,): [FullAttention]}

    def test_gemma4_has_other_heads_in_full_layers(self, tmp_path):
        values = {
            **BASE,
            "attention.head_count_kv": [2, 2, 1, 2, 2, 1],
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.key_length_swa": 16,
            "attention.value_length_swa": 16,
            "attention.sliding_window": 64,
            "attention.sliding_window_pattern": [True, True, False, True, True, False],
        }
        spec = spec_from_gguf(write_gguf(tmp_path / "t.gguf", "gemma4", values))
        full, sliding = spec.group("full").caches[0], spec.group("sliding").caches[0]
        assert isinstance(sliding, SlidingAttention)
        assert (full.kv_heads, full.key_dim, full.value_dim) == (1, 32, 32)
        assert (sliding.kv_heads, sliding.key_dim, sliding.value_dim) == (2, 16, 16)

    def test_qwen3_next_mixes_delta_nets_and_attention(self, tmp_path):
        values = {
            **BASE,
            "block_count": 8,
            "full_attention_interval": 4,
            "ssm.conv_kernel": 4,
            "ssm.state_size": 8,
            "ssm.group_count": 2,
            "ssm.inner_size": 32,
            "ssm.time_step_rank": 4,
        }
        spec = spec_from_gguf(write_gguf(tmp_path / "t.gguf", "qwen3next", values))
        assert spec.group("full").layers == (3, 7)
        (state,) = spec.group("gated_delta_net").caches
        assert state.recurrent_elements == 4 * 8 * 8
        assert state.conv_elements == (2 * 2 * 8 + 32) * 3

    def test_draft_blocks_are_no_layers(self, tmp_path):
        values = {**BASE, "nextn_predict_layers": 1}
        spec = spec_from_gguf(write_gguf(tmp_path / "t.gguf", "llama", values))
        assert spec.num_layers == 5

    def test_a_split_file_is_read_whole_from_any_part(self, tmp_path):
        first = tmp_path / "big-00001-of-00002.gguf"
        second = tmp_path / "big-00002-of-00002.gguf"
        write_gguf(first, "llama", BASE, {"token_embd.weight": (64, 32)})
        write_gguf(second, "llama", {"/split.no": 1}, {"output.weight": (64, 32)})
        for part in (first, second):
            assert spec_from_gguf(part).weight_bytes_on_disk == 2 * 2 * 64 * 32
        second.unlink()
        with pytest.raises(InputError, match=r"big-00002-of-00002\.gguf is not beside it"):
            spec_from_gguf(first)

    def test_a_big_endian_file_reads_the_same(self, tmp_path):
        writer = gguf.GGUFWriter(tmp_path / "be.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
        for suffix, value in BASE.items():
            writer.add_uint32(f"llama.{suffix}", value)
        writer.add_array("tokenizer.ggml.tokens", ["a", "bc"])
        writer.add_tensor("token_embd.weight", np.zeros((64, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        assert spec_from_gguf(tmp_path / "be.gguf").weight_bytes_on_disk == 4 * 64 * 32

    def test_a_rank_holds_its_share_of_the_real_bytes(self, tmp_path):
        spec = spec_from_gguf(write_gguf(tmp_path / "t.gguf", "llama", BASE))
        both = 2 * rank_weight_bytes(spec, Rank(tp=2))
        assert spec.weight_bytes_on_disk <= both < 1.1 * spec.weight_bytes_on_disk


class TestGgufRefusals:
    @pytest.fixture
    def whole(self, tmp_path):
        return write_gguf(
            tmp_path / "t.gguf", "llama", {**BASE, "/tokenizer.ggml.tokens": ["ab"] * 50}
        )

    @pytest.mark.parametrize("kept", [0.1, 0.3, 0.5, 0.99])
    def test_a_cut_off_file(self, whole, kept):
        content = whole.read_bytes()
        whole.write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(InputError, match=r"cut off|damaged") as error:
            spec_from_gguf(whole)
        assert str(whole) in one_line(error)

    def test_an_array_that_claims_to_be_endless(self, whole):
        content = whole.read_bytes()
        place = content.index(struct.pack("<IQ", 8, 50))  # strings, fifty of them
        claims = struct.pack("<IQ", 8, 2**60)
        whole.write_bytes(content[:place] + claims + content[place + len(claims) :])
        with pytest.raises(InputError, match=r"cut off|damaged"):
            spec_from_gguf(whole)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "does not begin with GGUF"),
            (b"GGML....", "does not begin with GGUF"),
            (LFS_POINTER.encode(), "git-LFS pointer"),
            (b"GGUF", "cut off"),
            (b"GGUF" + b"\xff" * 100, "damaged"),
        ],
    )
    def test_something_else(self, tmp_path, content, words):
        path = tmp_path / "t.gguf"
        path.write_bytes(content)
        with pytest.raises(InputError, match=words) as error:
            spec_from_gguf(path)
        one_line(error)

    def test_a_missing_file_and_a_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"absent\.gguf: no such file"):
            spec_from_gguf(tmp_path / "absent.gguf")
        with pytest.raises(InputError, match="cannot be read"):
            spec_from_gguf(tmp_path)

    def test_an_unknown_architecture_is_named_with_a_way_out(self, tmp_path):
        path = write_gguf(tmp_path / "t.gguf", "rwkv7", BASE)
        with pytest.raises(UnsupportedError, match=r"'rwkv7'.*config\.json instead") as error:
            spec_from_gguf(path)
        one_line(error)

    def test_an_encoder_is_refused_with_the_reason(self, tmp_path):
        path = write_gguf(tmp_path / "t.gguf", "bert", BASE)
        with pytest.raises(UnsupportedError, match="bidirectional"):
            spec_from_gguf(path)

    def test_heads_that_differ_where_kvsim_cannot_say_so(self, tmp_path):
        values = {**BASE, "attention.head_count_kv": [2, 2, 1, 1, 1, 1]}
        path = write_gguf(tmp_path / "t.gguf", "llama", values)
        with pytest.raises(UnsupportedError, match="num_key_value_heads differs"):
            spec_from_gguf(path)

    def test_a_key_that_is_missing_is_named(self, tmp_path):
        values = {key: value for key, value in BASE.items() if key != "embedding_length"}
        path = write_gguf(tmp_path / "t.gguf", "llama", values)
        with pytest.raises(InputError, match="hidden_size"):
            spec_from_gguf(path)

    def test_without_the_package_the_extra_is_named(self, whole, monkeypatch):
        from kvsim.readers.gguf import header as gguf_header

        monkeypatch.setitem(sys.modules, "gguf", None)
        gguf_header._reader_class.cache_clear()
        with pytest.raises(MissingExtraError, match=r"kvsim\[gguf\]"):
            spec_from_gguf(whole)

    @given(st.integers(4, 600), st.binary(min_size=1, max_size=12))
    def test_flipped_bytes_give_a_spec_or_one_line(self, tmp_path_factory, place, garbage):
        folder = tmp_path_factory.getbasetemp()
        whole = folder / "whole.gguf"
        if not whole.exists():
            write_gguf(whole, "llama", {**BASE, "/tokenizer.ggml.tokens": ["ab"] * 5})
        content = bytearray(whole.read_bytes())
        content[place : place + len(garbage)] = garbage
        path = folder / "fuzz.gguf"
        path.write_bytes(bytes(content))
        assert size_or_line(lambda file: spec_from_gguf(file).num_layers, path)
