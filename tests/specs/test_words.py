"""What a specification is called, and what it has no answer for."""

import pytest

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.errors import InputError, UnknownNameError
from kvsim.specs.precision import (
    kv_format,
    kv_format_names,
    weight_format,
    weight_format_names,
)


def test_every_name_of_a_format_is_found():
    assert [kv_format(name).name for name in kv_format_names()] == kv_format_names()
    assert [weight_format(name).name for name in weight_format_names()] == weight_format_names()
    with pytest.raises(InputError, match="a weight format needs a name"):
        weight_format("")
    with pytest.raises(UnknownNameError, match=r"fp7"):
        kv_format("fp7")


@pytest.mark.parametrize(
    ("name", "weights", "stored_bytes", "compute"),
    [
        ("mxfp8", 32, 32 + 1, "fp8"),
        ("mxfp4", 32, 16 + 1, "bf16"),
        ("nvfp4", 16, 8 + 1, "fp4"),
        ("w4a16_nvfp4", 16, 8 + 1, "bf16"),
        ("fp8_block", 128 * 128, 128 * 128 + 4, "fp8"),
        ("fp8_block_e8m0", 128 * 128, 128 * 128 + 1, "fp8"),
        ("fp8_block32_e8m0", 32 * 32, 32 * 32 + 1, "fp8"),
    ],
)
def test_a_weight_format_counts_its_scales(name, weights, stored_bytes, compute):
    """One block of each with its scale: e8m0 and e4m3 are a byte, fp32 is four."""
    fmt = weight_format(name)
    assert (fmt.bits_per_weight * weights / 8, fmt.compute) == (stored_bytes, compute)


def test_a_device_without_a_rate_says_so():
    """16-bit floats stand in for each other, and for nothing that no device has."""
    card = find_accelerator("h100")
    only = card.model_copy(update={"flops": {"fp64": card.flops["bf16"]}})
    with pytest.raises(InputError, match="no arithmetic rate for bf16"):
        only.flops_per_s("bf16")
    half = card.model_copy(update={"flops": {"fp16": card.flops["bf16"]}})
    assert half.flops_per_s("bf16") == half.flops_per_s("fp32") == card.flops["bf16"].value


def test_cross_attention_keeps_the_encoders_tokens_whatever_the_context():
    own, cross = find_model("whisper-large-v3").layer_groups[0].caches
    assert (own.label, cross.caption) == ("MHA", "cross, 1,500 encoder tokens")
    fmt = kv_format("bf16")
    assert cross.formula(fmt).unit == "per encoder token"
    assert cross.read_bend is None
    assert cross.pairs(0, 3) == cross.pairs(100, 3) == 3 * 1500
    (entry,) = cross.entries(fmt)
    assert (entry.kept, entry.span) == ("fixed", 1500)


def test_formats_with_scales_spell_their_bytes():
    """Q8_0: 32 elements and a scale of two bytes take 34 bytes; FP8 latents carry theirs."""
    heads = find_model("llama3.1-8b").layer_groups[0].caches[0]
    scaled = kv_format("q8_0")
    assert heads.key_dim == 128
    assert heads.formula(scaled).factors == "8 KV heads x (136 + 136) bytes with scales"
