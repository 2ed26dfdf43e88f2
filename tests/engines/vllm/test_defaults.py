"""vLLM's defaults and refusals at their edges: what each flag becomes on each card and release."""

import pytest

from kvsim import plan
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.engines.vllm.rules import Rules, architecture, card_class, entry_at
from kvsim.errors import InputError
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import GIB


def resolved(model="llama3.1-8b", gpu="h100", version="", **options):
    spec = find_model(model) if isinstance(model, str) else model
    engine = get_engine("vllm", version)
    card = find_accelerator(gpu) if isinstance(gpu, str) else gpu
    return engine.resolve(Deployment(spec, card, EngineOptions(**options)))


@pytest.mark.parametrize(
    ("model", "gpu", "version", "block"),
    [
        ("deepseek-v2-lite", "h100", "0.8.5", 16),  # before FlashMLA's kernel block
        ("deepseek-v2-lite", "h100", "0.9.0", 64),
        ("deepseek-v2-lite", "b200", "0.9.0", 128),  # CUTLASS MLA on Blackwell
        ("deepseek-v2-lite", "b200", "0.8.5", 16),
        ("deepseek-v2-lite", "a100", "", 16),  # Triton MLA
        ("llama3.1-8b", "b200", "", 16),
        ("llama3.1-8b", "h100", "", 16),
    ],
)
def test_the_block_size_follows_the_latent_kernels_of_the_card(model, gpu, version, block):
    options = {"max_model_len": 4096}
    assert resolved(model, gpu, version, **options).options.block_size == block


@pytest.mark.parametrize(
    ("length", "tokens"), [(1000, 2048), (2048, 2048), (5000, 5000), (32768, 32768), (32769, 2048)]
)
def test_v0_profiles_a_whole_prompt_up_to_32768_tokens(length, tokens):
    """vLLM 0.6.6: chunked prefill, of 2,048 tokens a step, from 32,769 tokens on."""
    options = resolved(version="0.6.6", max_model_len=length).options
    assert options.max_num_batched_tokens == tokens


@pytest.mark.parametrize(
    ("model", "version", "length", "options", "tokens"),
    [
        ("llama3.1-8b", "0.4.3", 65_536, {}, 65_536),  # chunks are experimental and off
        ("llama3.1-8b", "0.5.5", 65_536, {}, 512),
        ("llama3.1-8b", "0.5.5", 65_536, {"enable_prefix_caching": True}, 65_536),
        ("llama3.1-8b", "0.6.6", 65_536, {"enable_prefix_caching": True}, 2048),
        ("llama3.1-8b", "0.7.3", 65_536, {"enable_lora": True}, 65_536),
        ("deepseek-v2-lite", "0.7.3", 40_000, {}, 2048),  # switched off only afterwards
        ("deepseek-v2-lite", "0.8.5", 40_000, {"gpu": "t4"}, 40_000),
        ("gemma3-4b", "0.8.5", 65_536, {"gpu": "t4"}, 65_536),  # windows, and images
        ("qwen2.5-vl-7b", "0.7.3", 4096, {}, 5120),  # an image's
        ("qwen2.5-vl-7b", "0.7.3", 8192, {}, 8192),
    ],
)
def test_v0_chunks_long_contexts_by_release_and_model(model, version, length, options, tokens):
    """create_engine_config of 0.5.5 and 0.6.6, _set_default_args_v0 of 0.8.5 (arg_utils.py)."""
    found = resolved(model, version=version, max_model_len=length, **options)
    assert found.options.max_num_batched_tokens == tokens


def test_a_step_of_fewer_tokens_than_sequences_schedules_fewer_sequences():
    assert resolved(max_num_batched_tokens=100).options.max_num_seqs == 100
    asked = resolved(max_num_batched_tokens=100, max_num_seqs=100).options
    assert (asked.max_num_seqs, asked.max_num_batched_tokens) == (100, 100)


@pytest.mark.parametrize(
    ("model", "gpu", "dtype", "expected"),
    [
        ("llama3.1-8b", "h100", None, "bf16"),
        ("llama3.1-8b", "h100", "auto", "bf16"),
        ("llama3.1-8b", "h100", "float16", "fp16"),
        ("llama3.1-8b", "h100", "float32", "fp32"),
        ("llama3.1-8b", "t4", "auto", "fp16"),
        ("llama3.1-8b", "t4", "float32", "fp32"),
        ("llama2-7b", "t4", None, "fp16"),
    ],
)
def test_the_dtype_that_a_plan_echoes(model, gpu, dtype, expected):
    found = resolved(model, gpu, "", dtype=dtype, max_model_len=1024).options
    assert (found.dtype, found.kv_cache_dtype) == (expected, expected)


def test_a_model_in_fp32_is_cast():
    """vLLM's _resolve_auto_dtype: float32 checkpoints are run in 16 bits; bfloat16 where it is."""
    model = find_model("llama3.1-8b").model_copy(update={"dtype": "fp32"})
    assert resolved(model).options.dtype == "bf16"
    assert resolved(model, "t4", max_model_len=1024).options.dtype == "fp16"


@pytest.mark.parametrize(
    ("model", "asked", "expected"),
    [
        ("llama3.1-8b", "fp8", "fp8_e4m3"),
        ("llama3.1-8b", "fp8_e5m2", "fp8_e5m2"),
        ("deepseek-v2-lite", "auto", "bf16"),
        ("deepseek-v2-lite", "fp8", "fp8_e4m3"),
        ("deepseek-v2-lite", "fp8_ds_mla", "fp8_ds_mla"),
        # Sparse MLA has one fp8 layout on this card, its own, and none unless asked for
        ("deepseek-v3.2", None, "bf16"),
        ("deepseek-v3.2", "fp8", "fp8_ds_mla"),
        ("deepseek-v3.2", "bf16", "bf16"),
        ("deepseek-v4-flash", None, "fp8_ds_mla"),
        ("deepseek-v4-flash", "fp8_ds_mla", "fp8_ds_mla"),
    ],
)
def test_the_kv_format_that_a_plan_echoes(model, asked, expected):
    found = resolved(model, "h200", kv_cache_dtype=asked, tensor_parallel_size=8, max_model_len=512)
    assert found.options.kv_cache_dtype == expected


@pytest.mark.parametrize(
    ("model", "card", "release", "asked", "expected"),
    [
        # models/config.py of each release: DeepseekV32ForCausalLM takes auto once, then fp8 alone
        ("deepseek-v3.2", "h200", "0.11.0", None, "fp8_ds_mla"),
        ("deepseek-v3.2", "h200", "0.11.1", None, "bf16"),
        ("deepseek-v3.2", "h200", "0.11.1", "fp8", "fp8_ds_mla"),
        ("deepseek-v3.2", "b200", "0.17.1", "fp8", "fp8_ds_mla"),
        # platforms/cuda.py: FlashInfer first for fp8, with plain elements
        ("deepseek-v3.2", "b200", "0.19.0", "fp8", "fp8_e4m3"),
        ("deepseek-v3.2", "h200", "0.33.0", "fp8", "fp8_ds_mla"),
        # layers/attention/mla_attention.py: the one backend of compute capability 12
        ("deepseek-v3.2", "rtx-pro-6000", "0.23.0", None, "bf16"),
        ("deepseek-v3.2", "rtx-pro-6000", "0.24.0", None, "fp8_ds_mla"),
        ("deepseek-v3.2", "b200", "0.33.0", None, "bf16"),
        # models/config.py: GlmMoeDsaForCausalLM on compute capability 10
        ("glm-5", "h200", "0.19.1", None, "bf16"),
        ("glm-5", "b200", "0.31.0", None, "bf16"),
        ("glm-5", "b200", "0.32.0", None, "fp8_e4m3"),
        ("glm-5", "h200", "0.33.0", None, "bf16"),
        ("glm-5", "b200", "0.33.0", "bf16", "bf16"),
    ],
)
def test_sparse_latent_attention_keeps_what_the_release_s_source_says(
    model, card, release, asked, expected
):
    options = {"kv_cache_dtype": asked, "tensor_parallel_size": 8, "max_model_len": 512}
    found = resolved(model, card, release, **options)
    assert found.options.kv_cache_dtype == expected


@pytest.mark.parametrize(
    ("card", "release", "asked", "tokens"),
    [
        # engine/arg_utils.py: raised for the 32 * 78 tokens of a video, where the default is less
        ("l40s", "0.25.1", None, 2496),
        ("l40s", "0.21.0", None, 2048),
        ("h100", "0.25.1", None, 8192),
        ("l40s", "0.25.1", 1024, 1024),
    ],
)
def test_a_step_of_gemma_4_takes_a_whole_video(card, release, asked, tokens):
    options = {"max_num_batched_tokens": asked, "max_model_len": 512}
    found = resolved("gemma4-26b-a4b", card, release, max_num_seqs=64, **options)
    assert found.options.max_num_batched_tokens == tokens


def test_quantisation_is_echoed_and_leaves_the_compute_dtype():
    options = resolved(quantization="fp8").options
    assert (options.quantization, options.dtype) == ("fp8", "bf16")
    assert resolved().options.quantization is None


@pytest.mark.parametrize(
    ("version", "model", "caches"),
    [
        # config/model.py, is_prefix_caching_supported of 0.25.1 and 0.26.0
        ("0.25.1", "qwen3.5-27b", False),
        ("0.26.0", "qwen3.5-27b", True),
        ("0.25.1", "llama3.1-8b", True),
    ],
)
def test_recurrent_layers_cache_prefixes_from_0_26_on(version, model, caches):
    assert resolved(model, version=version).options.enable_prefix_caching is caches


def test_the_engine_core_is_asynchronous_from_0_14_on():
    found = [resolved(version=version).options.async_scheduling for version in ("0.13.0", "0.14.0")]
    assert found == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enforce_eager": True, "cuda_graph_bytes": 1}, "captures no CUDA graphs"),
        ({"max_lora_rank": 64}, "says nothing without --enable-lora"),
        ({"max_model_len": 131_073}, "greater than the derived max_model_len 131072"),
        ({"pipeline_parallel_size": 33}, "32 layers cannot fill 33 pipeline stages"),
        ({"max_num_seqs": 101, "max_num_batched_tokens": 100}, "101 exceeds"),
        ({"tensor_parallel_size": 16, "decode_context_parallel_size": 4}, "the 2 replicas"),
        ({"decode_context_parallel_size": 2}, "the 1 replicas"),
    ],
)
def test_contradictions_are_refused_just_beyond_the_edge(options, message):
    with pytest.raises(InputError, match=message):
        resolved(**options)


def test_attention_heads_are_split_evenly_even_where_kv_heads_could_be_copied():
    """Qwen3-14B has 40 query heads and 8 KV heads: 16 ranks could hold a copy of half a KV head
    each, but not 2.5 query heads (vLLM's verify_with_parallel_config)."""
    with pytest.raises(InputError, match="40 attention heads"):
        resolved("qwen3-14b", tensor_parallel_size=16)


def test_groups_that_share_an_output_are_split_evenly():
    """DeepSeek-V4-Flash has 64 heads in 8 groups: 16 ranks would have no group each, by whose
    number vLLM divides (models/deepseek_v4/attention.py, n_local_groups)."""
    message = r"8 groups of heads .* tp=16; choose one of \[1, 2, 4, 8\]"
    with pytest.raises(InputError, match=message):
        resolved("deepseek-v4-flash", "b300", tensor_parallel_size=16)
    with pytest.raises(
        InputError, match=r"64 attention heads .* tp=3; choose one of \[1, 2, 4, 8\]"
    ):
        resolved("deepseek-v4-flash", "b300", tensor_parallel_size=3)
    assert resolved("deepseek-v4-pro", "b300", tensor_parallel_size=16)


@pytest.mark.parametrize(
    "options",
    [
        {"enforce_eager": True, "cuda_graph_bytes": 0},
        {"enforce_eager": False, "cuda_graph_bytes": 1},
        {"max_lora_rank": 64, "enable_lora": True},
        {"max_lora_rank": EngineOptions().max_lora_rank},
        {"max_model_len": 131_072},
        {"pipeline_parallel_size": 32},
        {"tensor_parallel_size": 16, "decode_context_parallel_size": 2},
        {"tensor_parallel_size": 32, "decode_context_parallel_size": 4},
    ],
)
def test_what_lies_on_the_edge_is_taken(options):
    found = resolved(**options).options
    assert {name: getattr(found, name) for name in options} == options


# --- ranks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "ep"),
    [
        ({"tensor_parallel_size": 4, "data_parallel_size": 2}, 1),
        ({"tensor_parallel_size": 4, "data_parallel_size": 2, "enable_expert_parallel": True}, 8),
        ({"tensor_parallel_size": 4, "enable_expert_parallel": True}, 4),
        ({"data_parallel_size": 4, "enable_expert_parallel": True}, 4),
    ],
)
def test_experts_are_dealt_over_the_ranks_of_all_replicas(options, ep):
    """vLLM's docs, expert parallel deployment: EP_SIZE = TP_SIZE x DP_SIZE."""
    engine = get_engine("vllm")
    found = engine.resolve(
        Deployment(find_model("mixtral-8x7b"), find_accelerator("h200"), EngineOptions(**options))
    )
    assert engine.rank(found).ep == ep


# --- rules by release and card ----------------------------------------------------------------


def card_of(gib, name="X100"):
    card = find_accelerator("h100")
    memory = card.memory.model_copy(update={"value": gib * GIB})
    return card.model_copy(update={"name": name, "memory": memory})


@pytest.mark.parametrize(
    ("gib", "name", "expected"),
    [
        (69, "X100", "small"),
        (70, "X100", "large"),
        (80, "NVIDIA A100-SXM4-80GB", "small"),  # not an A100, whatever its memory
        (159, "X100", "large"),
        (160, "X100", "huge"),
        (160, "A100", "huge"),
    ],
)
def test_cards_are_classed_at_70_and_160_gib(gib, name, expected):
    """vLLM's EngineArgs.get_batch_defaults: device memory >= 70 GiB and no "a100" in the name."""
    assert card_class(card_of(gib, name)) == expected


def test_the_longest_prefix_names_the_generation():
    """An L40S is no L4, an A100 no A10; a card of no known name is unknown."""
    named = {name: architecture(card_of(80, name)) for name in ("A10", "A100", "L4", "rtx4090")}
    assert named == {"A10": "ampere", "A100": "ampere", "L4": "ada", "rtx4090": "ada"}
    assert architecture(card_of(80, "SomethingElse")) == "unknown"


@pytest.mark.parametrize(
    ("gpu", "version", "is_v0"),
    [
        ("h100", "0.7.3", True),
        ("h100", "0.8.0", False),
        ("t4", "0.8.0", True),  # compute capability 7.5: V0 until it was removed in 0.11
        ("t4", "0.10.2", True),
        ("t4", "0.11.0", False),
        ("v100", "0.10.2", True),
    ],
)
def test_cards_before_ampere_kept_the_old_engine_until_0_11(gpu, version, is_v0):
    rules, model = Rules.of(version), find_model("llama2-7b")
    assert rules.is_v0(model, find_accelerator(gpu)) is is_v0


def test_an_entry_holds_from_its_own_release_on():
    entries = [{"since": "0.1", "value": 1}, {"since": "0.20", "value": 2}]
    found = [entry_at(entries, release)["value"] for release in ((0, 19, 9), (0, 20), (0, 20, 1))]
    assert found == [1, 2, 2]


@pytest.mark.parametrize(
    ("version", "gpu", "weights", "has"),
    [
        # get_min_capability of quantization/fp8.py: 89 in 0.4.3, 80 to 0.13.0, 75 from 0.14.1 on
        ("0.4.3", "a100", "fp8", False),
        ("0.4.3", "l4", "fp8", True),
        ("0.13.0", "a100", "fp8", True),
        ("0.13.0", "t4", "fp8", False),
        ("0.14.1", "t4", "fp8", True),
        ("", "v100", "fp8", False),
        # ... and of awq.py: 75; of gptq.py: 60
        ("", "v100", "awq", False),
        ("0.13.0", "t4", "awq", True),
        ("", "v100", "gptq", True),
        ("", "mi300x", "fp8", True),
    ],
)
def test_a_format_of_weights_needs_a_card_that_has_it(version, gpu, weights, has):
    if has:
        assert resolved(gpu=gpu, version=version, quantization=weights)
        return
    with pytest.raises(InputError, match=f"has no {weights} weights"):
        resolved(gpu=gpu, version=version, quantization=weights)


@pytest.mark.parametrize(
    ("version", "name"),
    [("0.19.0", "nvfp4"), ("0.24.0", "int4_per_token_head"), ("0.11.0", "fp8_ds_mla")],
)
def test_a_kv_format_that_the_release_lacks_is_refused(version, name):
    """CacheDType of 0.19.0, 0.24.0 and 0.11.0; the next release that was read has each."""
    model = "deepseek-v3.2" if name == "fp8_ds_mla" else "llama3.1-8b"
    with pytest.raises(InputError, match=f"vLLM {version} has no KV cache dtype '{name}'"):
        plan(model, "b200", engine_version=version, kv_cache_dtype=name)


@pytest.mark.parametrize(
    ("version", "name", "bits"),
    [("0.20.2", "nvfp4", 4), ("0.25.1", "int4_per_token_head", 4), ("0.10.2", "bfloat16", 16)],
)
def test_a_kv_format_that_the_release_has_is_planned(version, name, bits):
    found = plan("llama3.1-8b", "b200", engine_version=version, kv_cache_dtype=name)
    assert found.kv_cache.bytes_per_token >= 32 * 2 * 1024 * bits // 8
    assert found.kv_cache.bytes_per_token < 1.2 * 32 * 2 * 1024 * bits // 8


@pytest.mark.parametrize(
    ("model", "version", "gpu", "kv", "block"),
    [
        # to 0.17.1 (platforms/cuda.py, check_and_update_config): FlashMLA, CUTLASS, the indexer
        ("deepseek-v3", "0.13.0", "h200", "auto", 64),
        ("deepseek-v3", "0.13.0", "b200", "auto", 128),
        ("deepseek-v3.2", "0.13.0", "b200", "auto", 64),
        # since 0.18.1 what the first backend that takes the cache prefers: FlashAttention 16,
        # FlashMLA 64 (in fp8), FlashInfer 32, Triton 16; an indexer's keys 64
        ("deepseek-v3", "0.19.1", "h200", "auto", 16),
        ("deepseek-v3", "0.19.1", "h200", "fp8", 64),
        ("deepseek-v3", "0.33.0", "b200", "auto", 32),
        ("deepseek-v3", "0.33.0", "b200", "fp8", 32),
        ("deepseek-v3", "0.33.0", "rtx-pro-6000", "auto", 16),
        ("deepseek-v3.2", "0.33.0", "h200", "auto", 64),
        ("deepseek-v3.2", "0.33.0", "b200", "auto", 64),
        ("llama3.1-8b", "0.33.0", "h200", "fp8", 16),
    ],
)
def test_blocks_of_latent_attention_by_release_and_card(model, version, gpu, kv, block):
    found = plan(
        model, gpu, engine_version=version, kv_cache_dtype=kv, tensor_parallel_size=8
    ).kv_cache
    assert found.block_size == block


def shared(tp, dcp, kv="auto"):
    return {
        "tensor_parallel_size": tp,
        "decode_context_parallel_size": dcp,
        "kv_cache_dtype": kv,
    }


@pytest.mark.parametrize(
    ("model", "gpu", "options", "said"),
    [
        # models/gpt_oss.py: num_key_value_heads // tp_size is 0, and then a divisor
        ("gpt-oss-20b", "h100", {"tensor_parallel_size": 16}, "copies none of the 8 KV heads"),
        # mamba_mixer2.py: num_groups must equal 1
        ("nemotron-h-8b", "h100", {"tensor_parallel_size": 16}, "8 groups of heads"),
        ("qwen3.5-27b", "h100", {"tensor_parallel_size": 24}, "16 groups of heads"),
        # mla/indexer.py: pages of 64 keys
        ("deepseek-v3.2", "h100", {"block_size": 32}, "no blocks of 32 tokens .*multiple of 64"),
        ("glm-5", "b200", {"block_size": 16}, "no blocks of 16 tokens .*multiple of 64"),
        # mla/flashmla_sparse.py: "requires an fp8_ds_mla kv-cache", "num_heads <", padded heads
        ("deepseek-v3.2", "h100", shared(8, 2), "in fp8_ds_mla alone, and the KV cache is bf16"),
        ("deepseek-v3.2", "h100", shared(4, 2, "fp8"), "fewer than 32 heads .* 32 of 2 ranks"),
        ("deepseek-v3.2", "h100", shared(8, 8, "fp8"), "64 on all that share, .* 16 of 8 ranks"),
        # kv_cache_interface.py: "DCP not support sliding window."; deepseek_v4/sparse_mla.py: [256]
        ("deepseek-v4-flash", "h200", shared(4, 2), "cannot share the windows"),
        ("gemma4-e2b", "h100", shared(4, 2), "cannot share the windows of gemma4-e2b"),
        ("deepseek-v4-flash", "h200", {"block_size": 128}, "blocks of 128 tokens.*choose 256"),
        # gemma3n.py has no SupportsPP; attention.py, validate_kv_sharing_target: 15 to 34 read
        # what 13 (windows) and 14 (full attention) keep, and stages are 18 and 17 layers
        ("gemma3n-e4b", "h100", {"pipeline_parallel_size": 2}, "does not cut gemma3n-e4b"),
        ("gemma4-e2b", "h100", {"pipeline_parallel_size": 2}, "on stage 1 .* of layer 1[34],"),
    ],
)
def test_a_start_that_stops_in_the_models_class_is_refused(model, gpu, options, said):
    with pytest.raises(InputError, match=said):
        resolved(model, gpu, **options)


def test_what_those_take_is_not_refused():
    assert resolved("gpt-oss-20b", tensor_parallel_size=8).options.tensor_parallel_size == 8
    assert resolved("granite-4.0-h-small", tensor_parallel_size=16)  # one group: every rank's own
    assert resolved("deepseek-v3.2", "h100", block_size=128).options.block_size == 128
    assert resolved("deepseek-v3.2", "h100", **shared(8, 4, "fp8")).options.block_size == 64
    assert resolved("deepseek-v4-flash", "h200", block_size=256)
    full = {"disable_hybrid_kv_cache_manager": True}  # windows charged and shared as full attention
    assert resolved("gemma4-e2b", **shared(4, 2), **full)
    assert resolved("gemma4-e4b", pipeline_parallel_size=2)  # 24 to 41 read 22 and 23, as stage 1
    # to 0.17 the engine set 64 itself (platforms/cuda.py, check_and_update_config)
    assert resolved("deepseek-v3.2", "h100", "0.17.1", block_size=32)
