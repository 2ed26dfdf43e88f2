"""ModelOpt's file beside a config, and real checkpoints against the bytes their lists make."""

import json

import pytest

from kvsim.errors import InputError
from kvsim.memory.tensors import tensor_families
from kvsim.memory.weights import weight_storage
from kvsim.readers.huggingface.config import spec_from_json_file
from tests.support.hf_configs import llama, stored

NVFP4_FILE = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}


class TestFileBesideTheConfig:
    """ModelOpt's hf_quant_config.json, which vLLM reads where the config says nothing."""

    def write(self, folder, beside=NVFP4_FILE, name="config.json", **changes):
        (folder / name).write_text(json.dumps(llama(**changes)))
        (folder / "hf_quant_config.json").write_text(json.dumps(beside))
        return spec_from_json_file(folder / name)

    def test_it_says_how_the_weights_are_stored(self, tmp_path):
        spec = self.write(tmp_path)
        assert (spec.quantization, stored(spec)) == ("nvfp4", {})
        assert "and hf_quant_config.json" in spec.source

    def test_the_config_goes_first(self, tmp_path):
        spec = self.write(tmp_path, quantization_config={"quant_method": "fp8"})
        assert spec.quantization == "fp8"
        inner = llama(quantization_config={"quant_method": "awq", "bits": 4})
        spec = self.write(tmp_path, model_type="llava", text_config=inner)
        assert spec.quantization == "awq"

    def test_a_config_of_another_name_is_no_checkpoints(self, tmp_path):
        assert self.write(tmp_path, name="mine.json").quantization is None

    def test_without_lists_every_linear_layer_is_taken_and_the_source_says_so(self, tmp_path):
        spec = self.write(tmp_path, {"quantization": {"quant_algo": "NVFP4"}})
        assert (spec.quantization, stored(spec)) == ("nvfp4", {"output_head": "nvfp4"})
        assert "nvfp4 taken for all linear layers" in spec.source

    def test_a_broken_file_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="quantization is 3"):
            self.write(tmp_path, {"quantization": 3})


# GB of all matrices, by the names in each checkpoint's own lists and vLLM's rules for them, of
# shapes that transformers' modules have: norms and vision towers left out.
EXACT_GB = {
    "MiniMaxAI--MiniMax-M2.7": 230.02,
    "Qwen--Qwen3-235B-A22B-FP8": 236.44,
    "Qwen--Qwen3-32B-FP8-Static-PerTensor": 34.32,
    "Qwen--Qwen3.8-2.4T-A95B-FP8": 2469.36,
    "deepseek-ai--DeepSeek-R1": 673.15,
    "deepseek-ai--DeepSeek-V3.2": 674.08,
    "deepseek-ai--DeepSeek-V4-Flash": 155.85,
    "deepseek-ai--DeepSeek-V4-Pro": 850.38,
    "deepseek-ai--DeepSeek-V4.1-Flash": 298.13,
    "moonshotai--Kimi-K3": 1553.0,
    "nvidia--DeepSeek-V3.1-NVFP4": 386.38,
    "nvidia--DeepSeek-V4-Flash-NVFP4": 164.51,
    "nvidia--DeepSeek-V4-Pro-NVFP4": 898.74,
    "nvidia--GLM-5-NVFP4": 440.91,
    "nvidia--Kimi-K2.5-NVFP4": 589.84,
    "nvidia--Kimi-K2.6-NVFP4": 594.20,
    "nvidia--Kimi-K2.7-Code-NVFP4": 594.20,
    "nvidia--MiniMax-M2.5-NVFP4": 134.40,
    # Of these two the lists are cut off: the format of all linear layers.
    "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4": 68.8,
    "nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-NVFP4": 310.8,
    "nvidia--Qwen3-235B-A22B-NVFP4": 134.10,
    "nvidia--Qwen3.5-122B-A10B-NVFP4": 77.52,
    "nvidia--Qwen3.5-397B-A17B-NVFP4": 237.03,
    "nvidia--Qwen3.6-27B-NVFP4": 20.15,
    "zai-org--GLM-5-FP8": 746.19,
    "zai-org--GLM-5.2-FP8": 745.6,
    "zai-org--GLM-5.3-Flash": 320.74,
}


@pytest.mark.parametrize("checkpoint", EXACT_GB)
def test_real_checkpoints_weigh_what_their_lists_say(kvsim_data, checkpoint):
    spec = spec_from_json_file(kvsim_data / "reference/configs" / checkpoint / "config.json")
    storage = weight_storage(spec)
    matrices = [f for f in tensor_families(spec) if f.name not in ("norms", "other")]
    size_gb = sum(storage.bytes_of(family, family.parameters) for family in matrices) / 1e9
    assert size_gb == pytest.approx(EXACT_GB[checkpoint], rel=0.003)
