"""Llama 3.2 Vision: what each engine gives layers that keep an image and none of the text.

The 11B has 32 layers of 8 KV heads of 128 for the text and 8 for an image of 6,404 tokens; K and V
of one token in one layer are 4,096 bytes in 16 bits.
"""

import plan_equals_simulation as law
import pytest

import kvsim
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.errors import InputError, UnsupportedError
from kvsim.memory.growth import Growth
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import GIB

SMALL, LARGE = "llama3.2-11b-vision", "llama3.2-90b-vision"
LAYER = 8 * (128 + 128) * 2
IMAGE = 6404


def resolved(engine, version="", model=SMALL, gpu="h100-sxm5-80gb", **options):
    chosen = get_engine(engine, version)
    asked = Deployment(find_model(model), find_accelerator(gpu), EngineOptions(**options))
    return chosen, chosen.resolve(asked)


def capacity(kv_bytes, *args, **options):
    engine, deployment = resolved(*args, **options)
    return engine.capacity(deployment, int(kv_bytes))


# --- vLLM: releases -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.6.2", "0.6.6.post1", "0.7.3", "0.8.5", "0.9.2", "0.10.2"])
def test_vllm_serves_it_by_its_old_core(version):
    """Releases whose registry.py has the class; mllama.py is SupportsV0Only from 0.8 on."""
    engine, deployment = resolved("vllm", version)
    assert engine.rules.is_v0(deployment.model, deployment.accelerator)
    # ``_set_default_args_v0``: 256 on every card. No chunked prefill, so that a batch has room for
    # a whole prompt; no prefix caching (check_no_caching_or_swa_for_blockmgr_encdec).
    options = deployment.options
    assert (options.max_num_seqs, options.max_num_batched_tokens) == (256, 131_072)
    assert options.enable_prefix_caching is False


@pytest.mark.parametrize("version", ["0.5.5", "0.6.1", "0.11.0", "0.19.0", ""])
def test_other_releases_are_refused_with_those_that_do(version):
    with pytest.raises(UnsupportedError) as refused:
        resolved("vllm", version)
    assert str(refused.value) == (
        f"vLLM {version or '0.33.0'} does not serve {SMALL}: its cross-attention layers are in"
        " 0.6.2 to 0.10.2; choose --engine-version 0.10.2 or --engine sglang"
    )


def test_a_short_batch_has_room_for_an_image():
    """``_MULTIMODAL_MODEL_MAX_NUM_BATCHED_TOKENS`` (0.8.5, config.py)."""
    _, deployment = resolved("vllm", "0.8.5", max_model_len=4096)
    assert deployment.options.max_num_batched_tokens == 5120


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"enable_prefix_caching": True}, "--enable-prefix-caching: "),
        ({"enable_lora": True}, "--enable-lora: "),
        ({"pipeline_parallel_size": 2}, "--pipeline-parallel-size: "),
        ({"kv_cache_dtype": "fp8"}, "--kv-cache-dtype: .* choose auto"),
        (
            {"max_model_len": 8192, "max_num_batched_tokens": 4096},
            "4096 is below --max-model-len 8192.* choose at least 8192",
        ),
    ],
)
def test_what_the_old_core_has_not_beside_an_encoder_is_refused(flags, said):
    """worker/utils.py (assert_enc_dec_mr_supported_scenario), SchedulerConfig._verify_args."""
    with pytest.raises(InputError, match=said):
        resolved("vllm", "0.10.2", **flags)


# --- vLLM: blocks -------------------------------------------------------------------------------


def test_a_block_has_a_page_of_every_layer():
    """``get_cache_block_size``: all 40 layers; vllm#12126 logs 1,638 of them in 4 GiB of swap."""
    held = capacity(14.65 * GIB, "vllm", "0.7.0", max_model_len=65_536)
    assert held.bytes_per_block == 40 * 16 * LAYER == 2_621_440
    assert 4 * GIB // held.bytes_per_block == 1638
    # The log: 14.65 GiB reserved, 6,001 blocks; a hundredth of a GiB is four of them.
    assert held.num_blocks == pytest.approx(6001, abs=2)
    # executor_base.py: num_gpu_blocks * block_size / max_model_len, images left out.
    assert held.max_concurrency == held.num_blocks * 16 / 65_536
    assert held.logged_tokens == held.num_blocks * 16


def test_a_sequence_draws_its_own_blocks_and_its_images():
    """core/block_manager.py: can_allocate adds ceil(6,404 / 16) blocks of the encoder's."""
    pools = capacity(10 * GIB, "vllm", "0.10.2", max_model_len=8192).pools
    assert [group.growth for group in pools.main.groups] == [Growth.full(16), Growth.constant(401)]
    assert [group.layers for group in pools.main.groups] == [40, 40]
    assert pools.main.blocks_at(2048) == 128 + 401
    assert pools.requests(2048) == 4096 // (128 + 401) == 7


@pytest.mark.parametrize("text", [32, 64])
def test_four_fifths_of_it_is_waste_where_the_text_is_short(text):
    """79.6 % of Llama-3.2-11B-Vision's, where all layers share a pool (Jenga, arXiv 2503.18292)."""
    used = text * 32 * LAYER + IMAGE * 8 * LAYER
    pools = capacity(10 * GIB, "vllm", "0.10.2", max_model_len=8192).pools
    assert 1 - used / pools.sequence_bytes(text) == pytest.approx(0.796, abs=0.003)


def test_ranks_split_both_tables_by_heads():
    held = capacity(10 * GIB, "vllm", "0.10.2", LARGE, tensor_parallel_size=8, max_model_len=8192)
    assert held.bytes_per_block == 100 * 16 * LAYER // 8


# --- vLLM: the budget ---------------------------------------------------------------------------


def test_the_start_up_profile_computes_an_image_for_every_sequence():
    """vllm#12126, H100: 36.63 GiB for 128 images, 19.86 GiB of weights, 6,001 blocks."""
    flags = {"max_model_len": 65_536, "max_num_seqs": 128, "enforce_eager": True}
    engine, deployment = resolved("vllm", "0.7.0", **flags)
    budget = engine.budget(deployment)
    assert budget.activation_bytes == pytest.approx(36.63 * GIB, rel=1e-3)
    assert budget.weights_bytes == pytest.approx(19.86 * GIB, rel=5e-3)
    blocks = engine.capacity(deployment, budget.kv_cache_bytes).num_blocks
    assert blocks == pytest.approx(6001, rel=5e-3)
    assert "128 images at once" in dict(budget.provenance)["activation"]


def test_the_default_of_sequences_does_not_start_and_sixteen_do():
    """vllm#8879: "max_num_seqs=16 [...] the default setting max_num_seqs=256 won't work"."""
    refused = kvsim.plan(SMALL, "h100-sxm5-80gb", engine_version="0.10.2")
    assert not refused.fits
    assert any("--max-num-seqs" in each.flag for each in refused.suggestions)
    assert kvsim.plan(SMALL, "h100-sxm5-80gb", engine_version="0.10.2", max_num_seqs=16).fits


def test_few_images_take_less_than_a_whole_prompt():
    """Then it is what a Llama of the same widths takes for as many tokens."""
    engine, few = resolved("vllm", "0.10.2", max_num_seqs=1)
    _, none = resolved("vllm", "0.10.2", model="llama3.1-8b", max_num_batched_tokens=131_072)
    assert dict(engine.budget(few).provenance)["activation"].startswith("fitted")
    assert engine.budget(few).activation_bytes == engine.budget(none).activation_bytes


@pytest.mark.parametrize(("version", "captures"), [("0.7.3", False), ("0.8.5", True)])
def test_graphs_are_captured_from_0_8_on(version, captures):
    """MODEL_NOT_SUPPORT_CUDA_GRAPH (0.7.3, config.py) has mllama."""
    engine, deployment = resolved("vllm", version, max_num_seqs=16)
    assert bool(engine.budget(deployment).cuda_graph_bytes) is captures


# --- the others ---------------------------------------------------------------------------------


def test_transformers_keeps_an_image_in_cross_layers_alone():
    pools = capacity(10 * GIB, "transformers", max_model_len=8192).pools
    assert pools.sequence_bytes(1000) == 1000 * 32 * LAYER + IMAGE * 8 * LAYER


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("4.44", "transformers 4.44 has no llama3.2-11b-vision: choose --engine-version 4.45"),
        ("5.0-static", "a StaticCache has one length for all layers.* --engine-version 5.0"),
    ],
)
def test_transformers_before_it_and_with_a_static_cache_are_refused(version, said):
    with pytest.raises(UnsupportedError, match=said):
        resolved("transformers", version)
    assert resolved("transformers", "4.45")


@pytest.mark.parametrize("engine", ["llama.cpp", "tensorrt-llm"])
def test_where_nothing_is_known_it_is_refused_by_name(engine):
    said = f"{engine} sizes the cross-attention cache of {SMALL}"
    with pytest.raises(UnsupportedError, match=said):
        resolved(engine)


# --- plan and simulation ------------------------------------------------------------------------


@pytest.mark.parametrize(("engine", "version"), [("vllm", "0.10.2"), ("vllm", "0.6.6.post1")])
@pytest.mark.parametrize(("model", "devices"), [(SMALL, 1), (SMALL, 2), (LARGE, 4)])
def test_a_simulation_holds_as_many_as_planned(engine, version, model, devices):
    flags = {"tensor_parallel_size": devices, "max_model_len": 16_384, "max_num_seqs": 64}
    answer = kvsim.plan(
        model, law.GPU, engine=engine, engine_version=version, context_len=16_383, **flags
    )
    planned = law.planned(answer, 16_383)
    asked = law.scenario(model, engine, flags, planned + 3)
    held = law.peak_residents(kvsim.with_overrides(asked, {"engine.version": version}))
    assert 64 > held == planned > 1
