"""A model_type that nobody knows: the class in ``architectures`` names the family.

An engine chooses its code by the class (vLLM 0.33, ``model_executor/models/registry.py``, from
which the names below are taken).
"""

import pytest

from kvsim.catalog.models import find_model
from kvsim.errors import InputError
from kvsim.memory.tensors import parameter_count
from kvsim.memory.weights import weight_bytes
from kvsim.readers.huggingface.classes import model_type_of_class
from kvsim.readers.huggingface.config import spec_from_json_file
from kvsim.readers.huggingface.families import FAMILIES
from tests.support.hf_configs import counts, llama, only_cache, read


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("LlamaForCausalLM", "llama"),
        ("LLaMAForCausalLM", "llama"),
        ("DeepseekV3ForCausalLM", "deepseek_v3"),
        ("DeepseekV32ForCausalLM", "deepseek_v32"),
        ("DeepseekV4ForCausalLM", "deepseek_v4"),
        ("GlmMoeDsaForCausalLM", "glm_moe_dsa"),
        ("Glm4MoeLiteForCausalLM", "glm4_moe_lite"),
        ("GptOssForCausalLM", "gpt_oss"),
        ("GPTNeoXForCausalLM", "gpt_neox"),
        ("GPT2LMHeadModel", "gpt2"),
        ("GPTJForCausalLM", "gptj"),
        ("Gemma3nForCausalLM", "gemma3n"),
        ("Qwen3_5MoeForCausalLM", "qwen3_5_moe"),
        ("MiniMaxM2ForCausalLM", "minimax_m2"),
        ("MiMoV2FlashForCausalLM", "mimo_v2_flash"),
        ("NemotronHForCausalLM", "nemotron_h"),
        ("FalconH1ForCausalLM", "falcon_h1"),
        ("DeepseekV41ForCausalLM", "deepseek_v41"),
        ("Glm5NextForCausalLM", "glm5_next"),
        ("FalconMambaForCausalLM", None),
        ("Qwen2AudioForConditionalGeneration", None),
        ("BartForCausalLM", None),
        ("ForCausalLM", None),
        ("", None),
    ],
)
def test_a_class_is_named_after_its_family(name, model_type):
    assert model_type_of_class(name) == model_type
    assert model_type is None or model_type in FAMILIES


def test_the_class_decides_where_the_model_type_is_not_known():
    """OPT has two more rows of positions than positions, and a tied head."""
    opt = llama(model_type="our_own", architectures=["OPTForCausalLM"], hidden_size=4096)
    assert read(opt).position_embeddings == 8194
    assert read(opt).tie_embeddings


def test_a_model_type_that_is_known_decides_against_the_class():
    gemma = llama(model_type="gemma", head_dim="absent")
    assert gemma["architectures"] == ["LlamaForCausalLM"]
    assert only_cache(gemma).key_dim == 256


def test_the_text_parts_class_is_asked_before_the_wrappers():
    text = llama(model_type="our_text", architectures=["OPTForCausalLM"])
    outer = {"model_type": "our_own", "architectures": ["LlamaForCausalLM"], "text_config": text}
    assert read(outer).position_embeddings == 8194


def test_fields_that_the_classs_family_does_not_read_are_still_refused():
    with pytest.raises(InputError, match="model_type 'llama' with the field 'mamba_d_state'"):
        read(llama(model_type="our_own", mamba_d_state=16))


def test_deepseek_v4_flash_under_a_name_of_its_own(kvsim_data):
    """sgl-project/DeepSeek-V4-Flash-FP8: experts in fp8 too, for it names no expert_dtype.

    By the layers of vLLM 0.33, models/deepseek_v4: 284.33e9 parameters in 285.9 GB, of which
    34e6 are hyper-connections and 0.3 GB is that compressors stay in bf16; neither is counted.
    """
    folder = kvsim_data / "reference" / "configs" / "sgl-project--DeepSeek-V4-Flash-FP8"
    spec = spec_from_json_file(folder / "config.json")
    flash = find_model("deepseek-v4-flash")
    assert spec.layer_groups == flash.layer_groups
    assert parameter_count(spec) / 1e9 == pytest.approx(284.33, rel=2e-4)
    assert (spec.quantization, spec.family_formats) == ("fp8_block", ())
    assert weight_bytes(spec) / 1e9 == pytest.approx(285.9, rel=2e-3)


def test_unknown_classes_are_plain_decoders():
    config = llama(model_type="our_own", architectures=["OurOwnForCausalLM"])
    assert counts(config) == {"full": 32}
