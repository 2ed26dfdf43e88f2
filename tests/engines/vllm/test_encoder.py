"""What the profiled encoder takes: hand counts of the towers' tensors, and logs of Gemma 3."""

import pytest

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.engines.vllm.encoder import EncoderProfile, encoder_profile
from kvsim.memory.rank import Rank
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import GIB


def profile(model, gpu="l40s", version="0.19.0", rank=None, **options):
    engine = get_engine("vllm", version)
    question = Deployment(find_model(model), find_accelerator(gpu), EngineOptions(**options))
    return encoder_profile(engine.resolve(question), rank or Rank(), engine.rules, element=2)


def test_qwens_tower_on_its_largest_image():
    """Qwen3.5-9B, qwen3_vl.py of 0.19: 16,384 tokens are 65,536 patches of 3 * 2 * 16 * 16 numbers.

    In the attention of a block live its input, its norm, Q K V, Q and K once more, both rotated,
    what attention gives and its projection; the positions live beside.
    """
    patches = 16_384 * 4
    stream = patches * 1152 * 2
    pixels = patches * 1536 * 2
    output = 16_384 * 4096 * 2
    tensors = [pixels, stream, stream, stream, 3 * stream, 2 * stream, 2 * stream, stream, stream]
    assert profile("qwen3.5-9b") == EncoderProfile(sum(tensors), pixels + output)
    assert sum(tensors) == 1.875 * GIB


def test_two_ranks_split_heads_and_the_first_stage_encodes():
    """Input, norm, projection and positions are whole; Q K V, Q and K twice, context are halves."""
    patches = 16_384 * 4
    halves = profile("qwen3.5-9b", rank=Rank(tp=2))
    assert halves.peak_bytes == patches * (1536 + (3 + 1 + 8 / 2) * 1152) * 2
    assert profile("qwen3.5-9b", rank=Rank(pp=2, stage=1)) == EncoderProfile(0, 0)


def test_tapped_layers_are_kept_beside_the_output():
    """Qwen3-VL-8B taps three layers, each as wide as the decoder."""
    plain, tapped = profile("qwen3.5-9b"), profile("qwen3-vl-8b")
    assert tapped.held_bytes - plain.held_bytes == 3 * 16_384 * 4096 * 2
    assert tapped.peak_bytes - plain.peak_bytes == 3 * 16_384 * 4096 * 2


@pytest.mark.parametrize(
    ("options", "images"),
    [
        ({}, 8),  # 2,048 tokens of 256 an image
        ({"max_num_batched_tokens": 8192}, 32),
        ({"max_num_batched_tokens": 8192, "max_num_seqs": 1, "max_model_len": 1024}, 4),
        ({"max_num_batched_tokens": 128, "max_num_seqs": 128}, 1),
    ],
)
def test_as_many_images_as_a_step_encodes(options, images):
    """Gemma 3's 896 x 896 pixels; in an MLP the input, the sum, the norm, and 4,304 twice."""
    found = profile("gemma3-12b", version="0.19.0", **options)
    pixels = images * 3 * 896 * 896 * 2
    assert found.held_bytes == pixels + images * 256 * 3840 * 2
    assert found.peak_bytes == pixels + images * 4096 * (3 * 1152 + 2 * 4304) * 2


@pytest.mark.parametrize(("length", "pairs"), [(8192, 1), (40_000, 2), (128_000, 7)])
def test_qwen2_5_takes_as_long_a_video_as_fits_to_14_frames(length, pairs):
    found = profile("qwen2.5-vl-7b", max_model_len=length)
    assert found.held_bytes == pairs * 16_384 * (4 * 1176 + 3584) * 2


@pytest.mark.parametrize(
    ("version", "tokens", "widths"),
    [
        # input, norm, positions; Q K V, copies, joined (2), fp32 in and out (8), 16 bits (2)
        ("0.11.0", 12_288, 3 + 3 + 3 + 2 + 8 + 2),
        ("0.11.2", 12_288, 3 + 3 + 8 + 2),
        # the MLP's is more since then: input, sum, norm, positions, 4,304 twice
        ("0.12.0", 12_288, 4 + 2 * 4304 / 1152),
        ("0.14.1", 12_288, 4 + 2 * 4304 / 1152),
        # attention's again: input, norm, positions, projection; Q K V, joined, rotated, context
        ("0.15.1", 16_384, 4 + 3 + 2 + 2 + 1),
    ],
)
def test_qwen3_vl_by_release(version, tokens, widths):
    """A video until 0.15: 24,576 frames of 32 x 32 pixels, a token for two; then an image."""
    found = profile("qwen3-vl-8b", version=version)
    patches = tokens * 4
    tapped = 3 * tokens * 4096
    assert found.peak_bytes == (patches * (1536 + widths * 1152) + tapped) * 2
    assert found.held_bytes == (patches * 1536 + 4 * tokens * 4096) * 2


def test_v0_takes_one_image_and_keeps_what_it_embedded():
    """As row V043: a T4, where 0.9.2 runs V0, and steps of 16,384 tokens."""
    options = {"max_model_len": 128_000, "max_num_batched_tokens": 16_384, "max_num_seqs": 1}
    found = profile("qwen2.5-vl-7b", gpu="t4", version="0.9.2", **options)
    assert found.held_bytes == 16_384 * (4 * 1176 + 3584 + 3584) * 2


@pytest.mark.parametrize(
    ("model", "version", "gpu"),
    [
        ("gemma3-12b", "0.9.2", "l40s"),
        ("mistral-small-3.2-24b", "0.19.0", "l40s"),
        ("qwen3-14b", "0.19.0", "l40s"),
    ],
)
def test_what_is_not_counted(model, version, gpu):
    assert profile(model, gpu=gpu, version=version) is None


@pytest.mark.parametrize(("model", "printed_gib"), [("gemma3-12b", 3.94), ("gemma3-27b", 3.99)])
def test_gemma_3s_peak_is_what_logs_print(model, printed_gib):
    """Rows V001 and V002: the sampler's peak, with the pixels and outputs of 32 images held."""
    engine = get_engine("vllm", "0.19.0")
    options = EngineOptions(max_model_len=8192, max_num_batched_tokens=8192, max_num_seqs=1024)
    question = Deployment(find_model(model), find_accelerator("h100"), options)
    budget = engine.budget(engine.resolve(question))
    assert budget.activation_bytes / GIB == pytest.approx(printed_gib, abs=0.01)
