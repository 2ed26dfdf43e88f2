"""The KV cache format that a checkpoint asks for: vLLM 0.33, utils/torch_utils.py."""

import json

import pytest

from kvsim.errors import InputError
from kvsim.readers.huggingface.config import spec_from_json_file
from kvsim.specs.model import DeclaredKV
from tests.support.hf_configs import llama, read

FP8 = {"num_bits": 8, "type": "float", "dynamic": False}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
}
BY_MODELOPT = DeclaredKV(format="fp8_e4m3", method="modelopt")


@pytest.mark.parametrize(
    ("config", "declared"),
    [
        (MODELOPT | {"kv_cache_scheme": FP8}, BY_MODELOPT),
        (MODELOPT | {"kv_cache_quant_algo": "FP8"}, BY_MODELOPT),
        (MODELOPT | {"quant_method": "modelopt_fp4", "kv_cache_quant_algo": "fp8"}, BY_MODELOPT),
        (
            MODELOPT | {"kv_cache_scheme": FP8 | {"num_bits": 4}},
            DeclaredKV(format="nvfp4", method="modelopt"),
        ),
        (MODELOPT, None),
        (MODELOPT | {"kv_cache_scheme": FP8 | {"dynamic": True}}, None),
        (MODELOPT | {"kv_cache_scheme": FP8 | {"type": "int"}}, None),
        (MODELOPT | {"kv_cache_quant_algo": "INT8"}, None),
        (
            COMPRESSED | {"kv_cache_scheme": FP8},
            DeclaredKV(format="fp8_e4m3", method="compressed-tensors"),
        ),
        (COMPRESSED | {"kv_cache_scheme": None}, None),
        # DeepSeek-V4's NVFP4 experts: the method is fp8, which declares nothing
        ({"quant_method": "fp8", "kv_cache_scheme": FP8, "kv_cache_quant_algo": "FP8"}, None),
        ({"quant_method": "fp8"}, None),
    ],
)
def test_what_a_checkpoint_declares(config, declared):
    assert read(llama(quantization_config=config)).declared_kv == declared


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (MODELOPT | {"kv_cache_scheme": 8}, "kv_cache_scheme is 8, not an object"),
        (MODELOPT | {"kv_cache_quant_algo": 8}, "kv_cache_quant_algo is 8, not a word"),
        (MODELOPT | {"kv_cache_scheme": FP8 | {"num_bits": "8"}}, "num_bits is '8'"),
        (COMPRESSED | {"kv_cache_scheme": [8]}, "kv_cache_scheme is"),
    ],
)
def test_a_declaration_that_says_nothing_clear_is_refused(config, says):
    with pytest.raises(InputError, match=says):
        read(llama(quantization_config=config))


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a config, and what says how it is quantised inside or beside it."""

    def written(config=None, beside=None):
        changes = {} if config is None else {"quantization_config": config}
        (tmp_path / "config.json").write_text(json.dumps(llama(**changes)))
        if beside is not None:
            (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
        return str(tmp_path / "config.json")

    return written


def test_the_file_beside_the_config_declares_as_well(checkpoint):
    said = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    file = checkpoint(beside={"producer": {"name": "modelopt"}, "quantization": said})
    assert spec_from_json_file(file).declared_kv == BY_MODELOPT
