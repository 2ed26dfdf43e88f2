"""Encoder-decoders cache twice; encoders alone cannot be cached at all."""

import pytest

from kvsim.errors import UnsupportedError
from kvsim.memory.footprint import bytes_per_token, sequence_bytes
from kvsim.specs.attention import (
    CrossAttention,
)
from tests.support.hf_configs import BF16, llama, read

# --- encoder-decoder, encoder-only -------------------------------------------------------


def test_whisper_keeps_the_encoders_frames_once():
    whisper = {
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "d_model": 1280,
        "encoder_layers": 32,
        "decoder_layers": 32,
        "decoder_attention_heads": 20,
        "encoder_attention_heads": 20,
        "decoder_ffn_dim": 5120,
        "encoder_ffn_dim": 5120,
        "vocab_size": 51866,
        "max_source_positions": 1500,
        "max_target_positions": 448,
        "torch_dtype": "float16",
    }
    spec = read(whisper)
    (group,) = spec.layer_groups
    cross = group.caches[1]
    assert isinstance(cross, CrossAttention)
    assert cross.states(1) == cross.states(448) == 1500
    assert bytes_per_token(spec, BF16) == 32 * 2 * 1280 * 2
    assert sequence_bytes(spec, BF16, 448) == 32 * 2 * 1280 * 2 * (448 + 1500)
    assert (spec.max_position_embeddings, spec.position_embeddings) == (448, 448)
    assert spec.other_parameters == 32 * (4 * 1280**2 + 2 * 1280 * 5120)


def test_t5_heads_need_not_fill_its_width():
    t5 = {
        "model_type": "t5",
        "d_model": 2048,
        "d_kv": 64,
        "d_ff": 5120,
        "num_layers": 24,
        "num_heads": 32,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
    }
    spec = read(t5)
    assert spec.layer_groups[0].mlp.gated
    assert spec.layer_groups[0].caches[0].key_dim == 64
    assert not spec.tie_embeddings


@pytest.mark.parametrize("model_type", ["bert", "roberta", "modernbert", "llada"])
def test_encoders_are_refused_with_the_reason(model_type):
    with pytest.raises(UnsupportedError, match="changes the K and V of all earlier tokens"):
        read(llama(model_type=model_type))


def test_a_decoder_made_bidirectional_is_refused():
    with pytest.raises(UnsupportedError, match="bidirectional"):
        read(llama(model_type="gemma3_text", use_bidirectional_attention=True))
