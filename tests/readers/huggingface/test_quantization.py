"""How a checkpoint stores each family of tensors, by its own lists of modules."""

import pytest

from kvsim.errors import InputError, UnsupportedError
from kvsim.memory.rank import Rank
from kvsim.memory.weights import rank_weight_bytes, weight_bytes
from kvsim.readers.huggingface.module_lists import (
    ModuleList,
    exactly,
    like_modelopt,
    whole_words,
)
from kvsim.readers.huggingface.modules import Module
from tests.support.hf_configs import llama, read, stored

ATTENTION = {"attention": None, "attention_output": None}
EACH_OF_32 = range(32)
FP8_E8M0 = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}


def quantised(config=None, **quantization):
    """Families of a model of that quantization_config; Llama-3-8B's shape unless given."""
    spec = read({**(config or llama()), "quantization_config": quantization})
    return spec.quantization, stored(spec)


def each_layer(*modules, layers=EACH_OF_32):
    return [f"model.layers.{layer}.{module}" for layer in layers for module in modules]


def qwen3_moe(**changes):
    return (
        llama(
            model_type="qwen3_moe",
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
        )
        | changes
    )


def deepseek(**changes):
    """Three layers of DeepSeek-V3's kind, the first of them dense."""
    return (
        llama(
            model_type="deepseek_v3",
            num_hidden_layers=3,
            first_k_dense_replace=1,
            q_lora_rank=1536,
            kv_lora_rank=512,
            qk_rope_head_dim=64,
            qk_nope_head_dim=128,
            v_head_dim=128,
            n_routed_experts=8,
            n_shared_experts=1,
            num_experts_per_tok=2,
            moe_intermediate_size=2048,
        )
        | changes
    )


def qwen35(**changes):
    """Four layers of Qwen3.5's kind: GDN, GDN, GDN, attention."""
    text = {
        "model_type": "qwen3_5_text",
        "hidden_size": 2048,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "intermediate_size": 6144,
        "vocab_size": 248320,
        "max_position_embeddings": 4096,
        "layer_types": [*3 * ["linear_attention"], "full_attention"],
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    }
    return {"model_type": "qwen3_5", "text_config": text | changes}


class TestMethods:
    @pytest.mark.parametrize(
        ("config", "name"),
        [
            ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
            ({"quant_method": "fp8"}, "fp8"),
            ({"quant_method": "fbgemm_fp8"}, "fp8"),
            ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq"),
            ({"quant_method": "gptq", "bits": 4}, "gptq"),
            ({"quant_method": "gptq", "bits": 8}, "int8"),
            ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
            ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
            ({"quant_method": "mxfp4"}, "mxfp4"),
        ],
    )
    def test_all_matrices_inside_layers(self, config, name):
        assert quantised(**config) == (name, {})

    @pytest.mark.parametrize(
        ("algorithm", "name"),
        [
            ("FP8", "fp8"),
            ("FP8_PER_CHANNEL_PER_TOKEN", "fp8"),
            ("fp8_pb_wo", "fp8_block"),
            ("NVFP4", "nvfp4"),
            ("W4A16_NVFP4", "w4a16_nvfp4"),
            ("MXFP8", "mxfp8"),
        ],
    )
    def test_modelopt_quantises_the_head_unless_it_is_excluded(self, algorithm, name):
        """vLLM's `ModelOptQuantConfigBase.get_quant_method` takes `ParallelLMHead`, too."""
        config = {"quant_method": "modelopt", "quant_algo": algorithm}
        assert quantised(**config, ignore=["lm_head"]) == (name, {})
        assert quantised(**config, ignore=[]) == (name, {"output_head": name})

    @pytest.mark.parametrize(
        ("weights", "layout", "name"),
        [
            ({"num_bits": 8, "type": "float", "strategy": "channel"}, "float-quantized", "fp8"),
            ({"num_bits": 8, "type": "float", "strategy": "block"}, "float-quantized", "fp8_block"),
            ({"num_bits": 8, "type": "int", "strategy": "channel"}, "int-quantized", "int8"),
            ({"num_bits": 4, "type": "int", "group_size": 128}, "pack-quantized", "gptq"),
            ({"num_bits": 4, "type": "int", "group_size": 32}, "pack-quantized", "int4"),
            ({"num_bits": 4, "type": "float"}, "nvfp4-pack-quantized", "nvfp4"),
            ({"num_bits": 8, "type": "float"}, "mxfp8-quantized", "mxfp8"),
        ],
    )
    def test_compressed_tensors(self, weights, layout, name):
        groups = {"group_0": {"weights": weights}}
        config = {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups}
        assert quantised(**config) == (name, {})

    @pytest.mark.parametrize(
        ("config", "what"),
        [
            ({"quant_method": "exl9"}, "quant_method 'exl9'"),
            ({"quant_method": "fp8", "weight_block_size": [64, 64]}, r"\[64, 64\] is not known"),
            ({"quant_method": "modelopt", "quant_algo": "FP7"}, "quant_algo 'fp7'"),
            ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "quantized_layers"),
            ({"quant_method": "compressed-tensors"}, "config_groups"),
        ],
    )
    def test_what_is_not_known_is_named(self, config, what):
        with pytest.raises(InputError, match=what):
            quantised(**config)

    def test_a_pattern_that_is_none_is_refused(self):
        groups = {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}
        with pytest.raises(InputError, match="regular expression"):
            quantised(quant_method="compressed-tensors", config_groups=groups, ignore=["re:("])


class TestLists:
    """Each way in which a checkpoint says which modules it spares."""

    def test_gpt_oss_spares_attention_by_a_wildcard(self):
        spared = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"]
        assert quantised(qwen3_moe(), quant_method="mxfp4", modules_to_not_convert=spared) == (
            "mxfp4",
            ATTENTION,
        )

    def test_a_hybrid_lists_only_the_layers_that_have_attention(self):
        spared = ["model.language_model.layers.3.self_attn*", "lm_head"]
        config = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": spared}
        assert quantised(qwen35(), **config) == ("nvfp4", ATTENTION)

    def test_a_recurrent_family_is_spared_by_its_own_name(self):
        spared = [f"model.language_model.layers.{layer}.linear_attn*" for layer in range(3)]
        config = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": [*spared, "lm_head"]}
        assert quantised(qwen35(), **config) == ("nvfp4", {"recurrent": None})

    def test_fp8_lists_each_projection(self):
        """As Qwen3.8-2.4T-A95B-FP8 does; its in_proj_a and in_proj_b decide nothing."""
        names = ("in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj")
        spared = each_layer(*(f"linear_attn.{name}" for name in names), layers=range(3))
        config = {"quant_method": "fp8", "modules_to_not_convert": spared}
        assert quantised(qwen35(), **config) == ("fp8", {"recurrent": None})

    def test_a_router_spares_no_matrix_whose_name_begins_like_its_own(self):
        spared = [*each_layer("mlp.gate"), "gate", "lm_head"]
        config = {"quant_method": "fp8", "modules_to_not_convert": spared}
        assert quantised(**config) == ("fp8", {})
        assert quantised(qwen3_moe(), **config) == ("fp8", {})

    def test_a_whole_layer_and_the_families_of_the_others(self):
        """Kimi-K2.6-NVFP4: `layers.0*`, then attention and shared experts of all others."""
        root = "language_model.model.layers"
        spared = [f"{root}.0*", "language_model.lm_head"]
        spared += [f"{root}.{n}.{m}*" for n in (1, 2) for m in ("self_attn", "mlp.shared_experts")]
        config = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": spared}
        assert quantised(deepseek(), **config) == (
            "nvfp4",
            {"mlp": None, "shared_experts": None, **ATTENTION},
        )

    def test_the_output_projection_may_differ_from_the_rest_of_attention(self):
        """DeepSeek-V3.1-NVFP4 quantises o_proj alone."""
        names = ("kv_a_proj_with_mqa", "kv_b_proj", "q_a_proj", "q_b_proj")
        spared = each_layer(*(f"self_attn.{name}" for name in names), layers=range(3))
        config = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": [*spared, "lm_head"]}
        assert quantised(deepseek(), **config) == ("nvfp4", {"attention": None})

    def test_compressed_tensors_lists_patterns(self):
        """Kimi-K2-Thinking's list; the shared experts' own name is no dense block's."""
        spared = ["lm_head", "re:.*self_attn.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"]
        groups = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32}}}
        config = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
        found = quantised(deepseek(), **config, config_groups=groups, ignore=spared)
        assert found == ("int4", {"mlp": None, **ATTENTION})

    def test_a_pattern_is_anchored_where_the_checkpoint_begins_its_names(self):
        groups = {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}
        spared = [r"re:model\.layers\.\d+\.self_attn\..*", r"re:layers\.mlp.*"]
        config = {"quant_method": "compressed-tensors", "config_groups": groups}
        assert quantised(**config, ignore=spared) == ("fp8", ATTENTION)

    def test_groups_of_compressed_tensors_have_formats_of_their_own(self):
        groups = {
            "group_0": {
                "targets": ["re:.*self_attn.*"],
                "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
            },
            "group_1": {
                "format": "nvfp4-pack-quantized",
                "targets": ["Linear"],
                "weights": {"num_bits": 4, "type": "float", "group_size": 16},
            },
        }
        fp8 = dict.fromkeys(ATTENTION, "fp8")
        config = {"quant_method": "compressed-tensors", "format": "mixed-precision"}
        assert quantised(**config, config_groups=groups) == ("nvfp4", fp8)

    def test_gemma4_has_a_dense_block_beside_its_experts(self):
        """Gemma-4-26B-A4B-NVFP4 spares `mlp*`, and means the dense block."""
        config = llama(
            model_type="gemma4_text",
            num_hidden_layers=2,
            layer_types=["sliding_attention", "full_attention"],
            sliding_window=1024,
            enable_moe_block=True,
            num_experts=8,
            top_k_experts=2,
            moe_intermediate_size=704,
        )
        spared = [
            f"model.language_model.layers.{n}.{m}*" for n in (0, 1) for m in ("mlp", "router")
        ]
        found = quantised(config, quant_method="modelopt", quant_algo="NVFP4", ignore=spared)
        assert found == ("nvfp4", {"shared_experts": None})

    def test_a_feed_forward_block_without_a_gate_has_two_matrices(self):
        spared = each_layer("mlp.up_proj", "mlp.down_proj")
        config = {"quant_method": "fp8", "modules_to_not_convert": spared}
        assert quantised(llama(model_type="nemotron"), **config) == ("fp8", {"mlp": None})

    def test_everything_spared_is_nothing_quantised(self):
        spared = ["model.layers.*"]
        assert quantised(quant_method="fp8", modules_to_not_convert=spared) == (None, {})

    def test_layer_1_is_not_layer_10_but_where_a_list_means_any_part_of_a_name(self):
        """ModelOpt's `layers.1*` covers layers 10 to 19, in vLLM as on disk."""
        layer_10 = Module("mlp", ("layers.10.mlp.up_proj",), 10)
        assert layer_10 not in ModuleList(["model.layers.1"], whole_words)
        assert layer_10 not in ModuleList(["model.layers.1*"], exactly)
        assert layer_10 in ModuleList(["model.layers.1*"], like_modelopt)
        assert layer_10 not in ModuleList(["model.layers.1.*"], like_modelopt)

    @pytest.mark.parametrize(
        ("module", "family"), [("mlp.down_proj", "mlp"), ("self_attn.k_proj", "attention")]
    )
    def test_a_layer_that_stores_a_family_in_two_formats_is_refused(self, module, family):
        spared = each_layer(module, layers=[7])
        what = f"the {family} matrices of its layer 7 are stored as fp8 and unquantised"
        with pytest.raises(UnsupportedError, match=what) as error:
            quantised(quant_method="fp8", modules_to_not_convert=spared)
        assert "\n" not in str(error.value)


class TestLayers:
    """Layers that differ from the others of their kind."""

    def formats(self, **quantization):
        spec = read(llama(quantization_config=quantization))
        return [(each.family, each.format, each.layers) for each in spec.family_formats]

    def test_the_first_and_last_are_spared(self):
        spared = each_layer("mlp", layers=[0, 31])
        found = self.formats(quant_method="fp8", modules_to_not_convert=spared)
        assert found == [("mlp", None, (0, 31))]

    def test_most_layers_say_what_is_usual(self):
        """All but one layer's attention is spared; the one goes first, for the first holds."""
        spared = each_layer("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        spared = [name for name in spared if ".5." not in name]
        found = self.formats(quant_method="fp8", modules_to_not_convert=spared)
        assert found == [("attention", "fp8", (5,)), ("attention", None, None)]

    def test_the_bytes_are_those_of_the_layers(self):
        """Two of 32 MLPs of 3 * 4096 * 14336 keep 16 bits, where the rest has 8."""
        spared = each_layer("mlp", layers=[0, 31])
        config = {"quant_method": "fp8", "modules_to_not_convert": spared}
        spec = read(llama(quantization_config=config))
        whole = read(llama(quantization_config={"quant_method": "fp8"}))
        assert weight_bytes(spec) - weight_bytes(whole) == 2 * 3 * 4096 * 14336
        stages = [
            rank_weight_bytes(spec, Rank(pp=4, stage=n))
            - rank_weight_bytes(whole, Rank(pp=4, stage=n))
            for n in range(4)
        ]
        assert stages == [3 * 4096 * 14336, 0, 0, 3 * 4096 * 14336]


class TestMixedPrecision:
    """Only what `quantized_layers` names is quantised (vLLM's `_resolve_quant_algo`)."""

    def config(self, layers, **more):
        named = {name: {"quant_algo": algorithm} for name, algorithm in layers.items()}
        more |= {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}
        return {"quantized_layers": named, **more}

    def test_each_module_has_its_own_format(self):
        """Qwen3.6-27B-NVFP4: GDN and attention in FP8, MLP and head in four bits."""
        root = "model.language_model.layers"
        layers = {"lm_head": "W4A16_NVFP4", f"{root}.3.self_attn.o_proj": "FP8"}
        for name in ("gate_proj", "up_proj", "down_proj"):
            layers |= {f"{root}.{n}.mlp.{name}": "W4A16_NVFP4" for n in range(4)}
        for name in ("in_proj_qkv", "in_proj_z", "out_proj"):
            layers |= {f"{root}.{n}.linear_attn.{name}": "FP8" for n in range(3)}
        assert quantised(qwen35(), **self.config(layers)) == (
            "w4a16_nvfp4",
            {
                "attention": None,
                "attention_output": "fp8",
                "recurrent": "fp8",
                "output_head": "w4a16_nvfp4",
            },
        )

    def test_an_exclusion_goes_first(self):
        layers = dict.fromkeys(each_layer("mlp", "self_attn"), "FP8")
        spared = {"exclude_modules": ["*self_attn*"]}
        assert quantised(**self.config(layers, **spared)) == ("fp8", ATTENTION)

    def test_an_entry_for_the_experts_holds_for_each(self):
        layers = dict.fromkeys(each_layer("mlp.experts"), "NVFP4")
        assert quantised(qwen3_moe(), **self.config(layers)) == ("nvfp4", ATTENTION)

    def test_a_module_without_a_known_algorithm_is_refused(self):
        with pytest.raises(InputError, match="quant_algo 'fp3'"):
            quantised(**self.config({"lm_head": "FP3"}))


class TestFp4Experts:
    """DeepSeek-V4: experts of four bits, all other linear layers in fp8 with e8m0 scales."""

    def rest(self, name):
        return dict.fromkeys(("mlp", "shared_experts", *ATTENTION), name)

    def test_mxfp4_unless_told_otherwise(self):
        config = deepseek(expert_dtype="fp4")
        assert quantised(config, **FP8_E8M0) == ("mxfp4", self.rest("fp8_block_e8m0"))

    def test_v41_says_it_in_the_quantization_and_has_smaller_blocks(self):
        smaller = {"expert_dtype": "fp4", "weight_block_size": [32, 32]}
        found = quantised(deepseek(), **FP8_E8M0 | smaller)
        assert found == ("mxfp4", self.rest("fp8_block32_e8m0"))

    def test_modelopts_nvfp4_experts_leave_the_rest_as_it_was(self):
        """Its `ignore` speaks of nvfp4 alone: attention stays fp8."""
        more = {"moe_quant_algo": "NVFP4", "quant_algo": "MIXED_PRECISION", "ignore": ["*.attn.*"]}
        found = quantised(deepseek(expert_dtype="fp4"), **FP8_E8M0, **more)
        assert found == ("nvfp4", self.rest("fp8_block_e8m0"))

    def test_experts_that_it_ignores_stay_mxfp4(self):
        more = {"moe_quant_algo": "NVFP4", "ignore": ["*experts*"]}
        found = quantised(deepseek(expert_dtype="fp4"), **FP8_E8M0, **more)
        assert found == ("mxfp4", self.rest("fp8_block_e8m0"))
