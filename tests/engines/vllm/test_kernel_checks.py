"""What a model's class and the kernels of a card make of flags, from the sources named."""

import pytest

from kvsim import plan
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.errors import InputError
from kvsim.specs.engine_options import EngineOptions


def resolved(model, gpu="h100", version="", **options):
    asked = Deployment(find_model(model), find_accelerator(gpu), EngineOptions(**options))
    return get_engine("vllm", version).resolve(asked)


@pytest.mark.parametrize(
    ("gpu", "version", "kv", "block"),
    [
        ("h100", "0.33.0", "fp8", 64),  # flash_attn.py, _get_sm90_fa4_fp8_kv_block_size
        ("h100", "0.30.0", "fp8", 16),  # no such kernel
        ("h100", "0.33.0", "fp8_e5m2", 16),  # another backend's
        ("h100", "0.33.0", "auto", 16),
        ("b200", "0.33.0", "fp8", 16),
    ],
)
def test_heads_of_512_in_fp8_ask_for_blocks_of_64_on_hopper(gpu, version, kv, block):
    options = resolved("gemma4-31b", gpu, version, kv_cache_dtype=kv, max_model_len=4096).options
    assert options.block_size == block


def test_falcon_keeps_its_cache_in_16_bits():
    """From 0.11.1 on: its class tells its attention nothing (models/falcon.py)."""
    assert resolved("falcon-7b", version="0.11.0", kv_cache_dtype="fp8").kv_format.bits == 8
    assert resolved("falcon-7b", version="0.11.2", kv_cache_dtype="fp8").kv_format.name == "bf16"
    answer = plan("falcon-7b", "h100", engine_version="0.33.0", kv_cache_dtype="fp8")
    (note,) = [said for said in answer.warnings if "changes nothing" in said]
    assert note.endswith("vllm keeps the KV cache of falcon-7b in bf16")
    assert not any(
        "changes nothing" in said for said in plan("falcon-7b", "h100", engine="vllm").warnings
    )


def test_alibi_and_fp8_are_refused_where_no_kernel_has_both():
    """0.27.1 and later on Hopper: flash_attn.py, FlashAttentionImpl."""
    asked = {"kv_cache_dtype": "fp8", "max_model_len": 2048}
    with pytest.raises(InputError, match=r"reads fp8 with the ALiBi of bloom-7b1.*choose auto"):
        resolved("bloom-7b1", "h100", "0.33.0", **asked)
    for gpu, version in (("h100", "0.26.0"), ("b200", "0.33.0"), ("a100", "0.33.0")):
        assert resolved("bloom-7b1", gpu, version, **asked).kv_format.name == "fp8_e4m3"


def test_whisper_has_no_stages():
    with pytest.raises(InputError, match="does not cut whisper-large-v3 into pipeline stages"):
        resolved("whisper-large-v3", pipeline_parallel_size=2)
