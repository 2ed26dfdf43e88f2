"""Numbers that papers print, reproduced; where a print disagrees with itself it is said.

Each test names its paper. Models come from the catalogue, so that a wrong entry shows here.
"""

import pytest

from kvsim.catalog.models import find_model
from kvsim.memory.footprint import bytes_per_token, sequence_bytes
from kvsim.memory.tensors import parameter_count
from kvsim.memory.weights import weight_bytes
from kvsim.specs.precision import kv_format
from kvsim.units import GIB

BF16, FP16 = kv_format("bf16"), kv_format("fp16")


# --- PagedAttention (Kwon et al., SOSP 2023, arXiv 2309.06180) ---

TABLE_1 = [
    # model, token bytes by hand, GB for KV as printed, slots as printed
    ("opt-13b", 40 * 5120 * 4, 12, 15_700),
    ("opt-66b", 64 * 9216 * 4, 21, 9_700),
    ("opt-175b", 96 * 12288 * 4, 264, 60_100),
]


@pytest.mark.parametrize(("name", "token_bytes", "printed_gb", "slots"), TABLE_1)
def test_pagedattention_table_1_slots_need_gib(name, token_bytes, printed_gb, slots):
    """Table 1, "Max. # KV cache slots", is KV memory over bytes per token, with GB meaning GiB.

    12 and 264 give 15.7K and 60.1K to the printed digit. 66B's 21 GB gives 9.56K, not 9.7K:
    the print rounded the memory (21.3 GiB gives 9.7K), so that row is held to 1.5 %.
    """
    found = bytes_per_token(find_model(name), FP16)
    assert found == token_bytes

    in_gib, in_gb = printed_gb * GIB / found, printed_gb * 1e9 / found
    rounded = name == "opt-66b"
    assert in_gib == pytest.approx(slots, rel=0.015 if rounded else 0.003)
    assert abs(in_gb / slots - 1) > 0.065  # decimal GB misses every row by 7-8 %
    if rounded:
        assert 21.3 * GIB / found == pytest.approx(slots, rel=0.003)


@pytest.mark.parametrize(
    ("name", "printed_gb"), [("opt-13b", 26), ("opt-66b", 132), ("opt-175b", 346)]
)
def test_pagedattention_table_1_parameter_sizes(name, printed_gb):
    """Table 1, "Parameter size", is in decimal GB, unlike the KV row of the same table.

    The print is 2 bytes times the model's name (13B, 66B) or 173B: held to 2 %.
    """
    size = weight_bytes(find_model(name))
    assert size / 1e9 == pytest.approx(printed_gb, rel=0.02)


def test_opt_13b_takes_800_kb_a_token_and_up_to_1_6_gb_a_request():
    """Section 3: "800 KB" (2 * 5120 * 40 * 2) a token, "up to 1.6 GB" for 2,048 tokens.

    The first is KiB, the second GiB or GB alike at two digits.
    """
    opt = find_model("opt-13b")
    assert bytes_per_token(opt, FP16) == 800 * 1024
    assert sequence_bytes(opt, FP16, 2048) == 1.5625 * GIB
    assert sequence_bytes(opt, FP16, 2048) / 1e9 == pytest.approx(1.678, abs=1e-3)


# --- DeepSeek-V2 (arXiv 2405.04434) ---


def test_deepseek_v2_saves_82_percent_at_equal_precision():
    """The abstract's "reduces the KV cache by 93.3%" holds only across precisions.

    At 16 bits both: 1 - 69,120/389,120 = 82.2 %. With the deployed model's KV in 6 bits,
    69,120 * 6/16 = 25,920 bytes, it is 93.34 %: the print compares those two.
    """
    token_bytes = bytes_per_token(find_model("deepseek-v2"), BF16)
    gqa_bytes = bytes_per_token(find_model("deepseek-llm-67b"), BF16)
    assert token_bytes == 60 * (512 + 64) * 2 == 69_120
    assert gqa_bytes == 95 * 2 * 8 * 128 * 2 == 389_120
    assert 1 - token_bytes / gqa_bytes == pytest.approx(0.822, abs=5e-4)
    assert 1 - token_bytes * 6 / 16 / gqa_bytes == pytest.approx(0.933, abs=5e-4)


def test_deepseek_v2_has_236b_parameters():
    assert parameter_count(find_model("deepseek-v2")) / 1e9 == pytest.approx(236, rel=0.005)


# --- Insights into DeepSeek-V3 (arXiv 2505.09343, ISCA 2025) ---


@pytest.mark.parametrize(
    ("name", "printed_kb", "multiplier"),
    [
        ("deepseek-v3", 70.272, 1),
        ("qwen2.5-72b", 327.680, 4.663),  # printed 4.66
        ("llama3.1-405b", 516.096, 7.344),  # printed 7.28, which its own column contradicts
    ],
)
def test_deepseek_v3_insights_table_1(name, printed_kb, multiplier):
    """Table 1, bf16 KV a token: decimal KB, exact; the last multiplier is a misprint.

    516.096 / 70.272 = 7.344, where the table prints 7.28.
    """
    token_bytes = bytes_per_token(find_model(name), BF16)
    assert token_bytes == round(printed_kb * 1000)
    base_bytes = bytes_per_token(find_model("deepseek-v3"), BF16)
    assert token_bytes / base_bytes == pytest.approx(multiplier, abs=5e-4)


# --- the scaling book (jax-ml/scaling-book) ---


def test_the_scaling_books_llama3_70b():
    """2 * 80 * 8 * 128 bytes in int8; 32 sequences of 8,192 tokens are exactly 40 GiB.

    The book prints 41.9e9, from 160 kB per token; its decode step on eight 16-GB chips of
    8.1e11 bytes/s reads 70e9 bytes of int8 weights and that cache: about 17 ms.
    """
    llama = find_model("llama3-70b")
    int8 = kv_format("int8")
    assert bytes_per_token(llama, int8) == 163_840
    cache_bytes = 32 * sequence_bytes(llama, int8, 8192)
    assert cache_bytes == 42_949_672_960 == 40 * GIB
    weights = weight_bytes(llama, quantization="int8")
    assert (weights + cache_bytes) / (8 * 8.1e11) == pytest.approx(17e-3, rel=0.05)


# --- Jenga (arXiv 2503.18292) and vLLM's own log ---


def test_gemma3_27b_pads_8_of_60_sliding_slots():
    """vLLM logs "Add 8 padding layers, may waste at most 15.38% KV cache memory": 8/52."""
    gemma = find_model("gemma3-27b")
    layers = {group.name: group.count for group in gemma.layer_groups}
    full, sliding = sorted(layers.values())
    assert (full, sliding) == (10, 52)
    padding = -sliding % full
    assert padding == 8
    assert padding / sliding == pytest.approx(0.1538, abs=5e-5)
