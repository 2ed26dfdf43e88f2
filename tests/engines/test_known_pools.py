"""Every engine's pools for a model of the catalogue, each number worked by hand.

The bytes are given, so that what is tested is how they are laid out; what the bytes are is in
the tests of the budgets.
"""

import pytest

from kvsim import find_accelerator, find_model
from kvsim.engines import Deployment, get_engine
from kvsim.errors import UnsupportedError
from kvsim.memory.growth import Growth, Window
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import GIB


def pools_of(engine, model, kv_bytes, gpu="h100", **options):
    """The pools that an engine lays over so many bytes of the tightest rank."""
    asked = Deployment(find_model(model), find_accelerator(gpu), EngineOptions(**options))
    chosen = get_engine(engine)
    return chosen.capacity(chosen.resolve(asked), kv_bytes).pools


def sizes(pools):
    """What each pool is: its name, tokens and bytes of a block, blocks."""
    return [(pool.name, pool.block_size, pool.block_bytes, pool.num_blocks) for pool in pools]


def growths(pools):
    """How every group grows, in the engine's order."""
    return [group.growth for pool in pools for group in pool.groups]


def test_sglang_keeps_the_windows_of_gpt_oss_apart():
    """8 heads of 64, K and V in 16 bits, 12 layers of each kind: 24,576 bytes a token.

    A window token for every 0.8 of a full one: 10 GiB / (1.8 x 24,576) = 242,725.9 tokens.
    """
    pools = pools_of("sglang", "gpt-oss-20b", 10 * GIB, max_model_len=8192)
    token = 12 * 8 * (64 + 64) * 2
    # floor(0.8 * 242,725) = 194,180
    assert sizes(pools) == [("full", 1, token, 242_725), ("window", 1, token, 194_180)]
    assert growths(pools) == [Growth.full(1), Growth.capped(1, 128)]
    assert pools.requests(8192) == min(242_725 // 8192, 194_180 // 128) == 29
    assert pools.scarcest(8192).name == "full"
    # Short ones run out of windows: 1,896 would fit in the full pool.
    assert pools.requests(128) == min(242_725 // 128, 194_180 // 128) == 1517
    assert pools.scarcest(128).name == "window"
    assert pools.sequence_bytes(8192) == (8192 + 128) * token


def test_sglang_rounds_both_pools_down_to_pages():
    pools = pools_of("sglang", "gpt-oss-20b", 10 * GIB, max_model_len=8192, block_size=64)
    # 242,725 // 64 = 3,792 pages are 242,688 tokens; 0.8 of them 194,150, 3,033 pages
    assert [pool.num_blocks for pool in pools] == [3792, 3033]
    assert growths(pools) == [Growth.full(64), Growth.capped(64, 2)]
    assert pools.requests(65) == min(3792 // 2, 3033 // 2) == 1516


# Nemotron-H-8B: a convolution of 128 x 64 + 2 x 8 x 128 channels keeps 3 taps in 16 bits, and
# its state of 128 x 64 x 128 is in 32.
NEMOTRON_STATE = 24 * (3 * (128 * 64 + 2 * 8 * 128) * 2 + 128 * 64 * 128 * 4)
# 4 layers of 8 heads of 128 keep tokens.
NEMOTRON_TOKEN = 4 * 8 * (128 + 128) * 2


def test_sglang_keeps_recurrent_states_apart():
    """States get 0.9 bytes for every byte of tokens: 20 GiB x 0.9 / 1.9 holds 99.6 of them.

    Beside the radix cache a running request takes three, so 33 run (SGLang's
    ``max_mamba_cache_size`` over its ratio of running requests).
    """
    pools = pools_of("sglang", "nemotron-h-8b", 20 * GIB, max_model_len=8192)
    assert NEMOTRON_STATE == 102_137_856
    tokens = (20 * GIB - 99 * NEMOTRON_STATE) // NEMOTRON_TOKEN
    assert tokens == 693_554
    assert sizes(pools) == [("full", 1, NEMOTRON_TOKEN, tokens), ("states", 1, NEMOTRON_STATE, 99)]
    assert growths(pools) == [Growth.full(1), Growth.constant(3)]
    assert pools.requests(8192) == min(tokens // 8192, 99 // 3) == 33
    assert pools.sequence_bytes(1000) == 1000 * NEMOTRON_TOKEN + 3 * NEMOTRON_STATE

    alone = pools_of(
        "sglang", "nemotron-h-8b", 20 * GIB, max_model_len=8192, enable_prefix_caching=False
    )
    assert growths(alone) == [Growth.full(1), Growth.constant(1)]
    assert alone.requests(8192) == min(tokens // 8192, 99) == 84
    assert alone.requests(1000) == min(tokens // 1000, 99) == 99


def test_tensorrt_llm_sets_the_states_of_a_full_batch_aside():
    setup = {"max_model_len": 8192, "max_num_seqs": 16}
    pools = pools_of("tensorrt-llm", "nemotron-h-8b", 20 * GIB, **setup)
    blocks = (20 * GIB - 16 * NEMOTRON_STATE) // (32 * NEMOTRON_TOKEN)
    assert blocks == 37_843
    assert sizes(pools) == [
        ("full", 32, 32 * NEMOTRON_TOKEN, blocks),
        ("states", 1, NEMOTRON_STATE, 16),
    ]
    # 256 blocks each: 147 in tokens alone
    assert pools.requests(8192) == min(blocks // 256, 16) == 16
    assert pools.scarcest(8192).name == "states"


# Gemma-3-27B: 16 heads of 128 in 10 full layers and in 52 with a window of 1,024.
GEMMA_LAYER = 16 * (128 + 128) * 2
GEMMA_FULL, GEMMA_WINDOW = 10 * GEMMA_LAYER, 52 * GEMMA_LAYER


def test_transformers_has_one_heap():
    """Its unit is what 10 and 52 layers are whole numbers of: two, 16 KiB.

    8,192 tokens keep 67,584 units (5 x 8,192 + 26 x 1,024) and, while a full layer appends, its
    K once more: a quarter of a unit for each, 2,048. So 33 of 34 bytes are the heap's.
    """
    pools = pools_of("transformers", "gemma3-27b", 20 * GIB, gpu="h200", max_model_len=8192)
    units = 20 * 2**16 * 33 // 34
    assert units == 1_272_169
    assert sizes(pools) == [("heap", 1, 2 * GEMMA_LAYER, units)]
    groups = {group.layers: group for group in pools.main.groups}
    assert groups[10].growth == Growth.full(1, width=5)
    assert groups[52].growth == Growth.capped(1, 1024, width=26)
    assert pools.sequence_bytes(8192) == 8192 * GEMMA_FULL + 1024 * GEMMA_WINDOW
    assert pools.requests(8192) == units // 67_584 == 18
    assert pools.requests(1000) == units // 31_000 == 41


def test_tensorrt_llm_has_a_pool_for_every_window():
    """Each has the share that its window needs: 20 GiB hold 19.39 sequences of 8,192 tokens."""
    pools = pools_of("tensorrt-llm", "gemma3-27b", 20 * GIB, max_model_len=8192)
    need = 8192 * GEMMA_FULL + 1024 * GEMMA_WINDOW
    tokens = 20 * GIB * 8192 // need
    assert tokens == 158_875
    assert sizes(pools) == [
        ("full", 32, 32 * GEMMA_FULL, 4964),  # 158,875 // 32
        ("window 1024", 32, 32 * GEMMA_WINDOW, 620),  # an eighth, 19,859, // 32
    ]
    assert growths(pools) == [Growth.full(32), Growth.capped(32, 32)]
    assert pools.requests(8192) == min(4964 // 256, 620 // 32) == 19
    assert pools.requests(1000) == min(4964 // 32, 620 // 32) == 19
    assert pools.requests(100) == min(4964 // 4, 620 // 4) == 155


def test_llama_cpp_shares_cells_when_unified():
    """The window plane is pad256(4 x 1,024 + 512) cells; the rest is full ones in units of 256."""
    setup = {"max_model_len": 8192, "max_num_seqs": 4, "kv_unified": True}
    pools = pools_of("llama.cpp", "gemma3-27b", 20 * GIB, **setup)
    window = 4608
    full = (20 * GIB - window * GEMMA_WINDOW) // (256 * GEMMA_FULL) * 256
    assert full == 238_080
    assert sizes(pools) == [("full", 1, GEMMA_FULL, full), ("window", 1, GEMMA_WINDOW, window)]
    assert growths(pools) == [Growth.full(1), Growth.capped(1, 1024)]
    # -np sizes the windows, so they are what runs out: 29 would fit in the full plane.
    assert pools.requests(8192) == min(full // 8192, window // 1024) == 4
    assert pools.scarcest(8192).name == "window"


@pytest.mark.parametrize("tokens", [1, 1000, 8192])
def test_llama_cpp_hands_out_whole_slots_when_not(tokens):
    """A slot is 8,192 full cells and pad256(1,024 + 512) window cells, however short its text."""
    setup = {"max_model_len": 8192, "max_num_seqs": 4, "kv_unified": False}
    pools = pools_of("llama.cpp", "gemma3-27b", 20 * GIB, **setup)
    full, window = 8192 * GEMMA_FULL, 1536 * GEMMA_WINDOW
    slots = 20 * GIB // (full + window)
    assert slots == 16
    assert sizes(pools) == [("full", 8192, full, slots), ("window", 1536, window, slots)]
    assert pools.sequence_bytes(tokens) == full + window
    assert pools.requests(tokens) == slots


def test_vllm_keeps_what_whisper_heard_in_fixed_blocks():
    """32 layers of 20 heads of 64; 1,500 encoder tokens are 94 blocks of 16."""
    pools = pools_of("vllm", "whisper-large-v3", 10 * GIB)
    block = 32 * 16 * 20 * (64 + 64) * 2
    assert sizes(pools) == [("blocks", 16, block, 10 * GIB // block)]
    assert (pools.main.num_blocks, pools.main.given_blocks) == (4096, 4095)
    assert growths(pools) == [Growth.full(16), Growth.constant(94)]
    assert pools.requests(448) == 4095 // (28 + 94) == 33
    assert pools.requests(16) == 4095 // (1 + 94) == 43
    assert [pools.main.blocks_at(tokens) for tokens in (0, 16, 17)] == [94, 95, 96]


# An entry is 584 bytes, an indexer's key 132, and pages are multiples of 576: 64 of them make
# 37,440 and 8,640. 4 or 8 tokens that are yet to be folded make 32,832, the indexer's 8,640.
V4_SETUP = {"max_model_len": 8192, "tensor_parallel_size": 8, "max_num_batched_tokens": 8192}


def test_vllm_draws_four_block_sizes_of_deepseek_v4_from_one_pool():
    """64 tokens of a window, 256 of what is folded by 4 or 128, and 4 or 8 of what is to be.

    vLLM 0.33.0's own planner (v1/core/kv_cache_planning.py, _get_packed_kv_cache_groups; run on a
    CPU) has these five groups; a public log (vllm#52495) has the bytes of a block.
    """
    pools = pools_of("vllm", "deepseek-v4-flash", 10 * GIB, gpu="b300", **V4_SETUP)
    # 21 layers keep 64 entries and 64 indexer keys, 20 keep two entries.
    folded = 21 * (37_440 + 8_640) + 20 * 1_728
    beside = 22 * 37_440, 21 * 37_440, 21 * (32_832 + 8_640), 20 * 32_832
    assert beside == (823_680, 786_240, 870_912, 656_640)
    assert folded == max(folded, *beside) == 1_002_240
    assert sizes(pools) == [("blocks", 256, folded, 10_713)]
    # 127, 7 and 127 earlier tokens may begin inside a block of 64, 4 and 8; while it is computed,
    # a prompt holds up to its 8,192 tokens and a block more
    windows, by_4, by_128 = (
        Growth.moving(block, Window(span, False, 8192 // block + 1))
        for block, span in ((64, 128), (4, 8), (8, 128))
    )
    assert [windows.most_blocks, by_4.most_blocks, by_128.most_blocks] == [3, 3, 17]
    assert growths(pools) == [windows, windows, Growth.full(256), by_4, by_128]
    assert [pools.main.blocks_at(tokens) for tokens in (8, 64, 65, 256, 257)] == [
        2 * 1 + 1 + 2 + 1,
        2 * 1 + 1 + 3 + 8,
        2 * 2 + 1 + 3 + 9,
        2 * 3 + 1 + 3 + 17,
        2 * 3 + 2 + 3 + 17,
    ]
    last = 32 + 2 * 129 + 2049 + 1025  # whose prompt is computed, among those that decode
    assert pools.requests(8192) == 1 + (10_712 - last) // (26 + 32) == 127
    assert pools.main.curve.slots_per_block == 256


def v4_capacity(model, length, release="0.33.0"):
    """Blocks, tokens and concurrency of 40 GiB, with 16,384 tokens in flight from 0.26 on.

    Two batches of 8,192, for scheduling is asynchronous.
    """
    options = EngineOptions(**{**V4_SETUP, "max_model_len": length})
    engine = get_engine("vllm", release)
    asked = Deployment(find_model(model), find_accelerator("b300"), options)
    capacity = engine.capacity(engine.resolve(asked), 40 * GIB)
    return capacity.num_blocks, capacity.logged_tokens, round(capacity.max_concurrency, 9)


@pytest.mark.parametrize(
    ("length", "tokens", "concurrency"),
    [
        (1000, 103_260, 103.260240964),
        # 32 + 2 x (ceil(8,192 / 64) + 1) + ceil(8,192 / 4) + 1 + ceil(8,192 / 8) + 1 = 3,364
        (8192, 104_355, 12.738703924),
        (16_641, 105_678, 6.350474215),
        (100_001, 605_873, 6.05867383),
    ],
)
def test_vllm_admits_deepseek_v4_flash_as_its_own_planner_does(length, tokens, concurrency):
    """get_kv_cache_configs and get_kv_cache_capacity of vLLM 0.33.0, run on a CPU."""
    assert v4_capacity("deepseek-v4-flash", length) == (42_853, tokens, concurrency)


@pytest.mark.parametrize(
    ("length", "tokens", "concurrency"),
    [
        (1000, 72_069, 72.069879518),
        (8192, 72_834, 8.890903686),
        (16_641, 73_757, 4.43227623),
        (100_001, 422_865, 4.228615863),
    ],
)
def test_vllm_admits_deepseek_v4_pro_as_its_own_planner_does(
    length, tokens, concurrency, kvsim_data
):
    """As for Flash; 30 layers fold by 4 and 31 by 128, so a block holds 1,435,968 bytes."""
    config = kvsim_data / "reference/configs/deepseek-ai--DeepSeek-V4-Pro/config.json"
    assert 40 * GIB // 1_435_968 == 29_909
    assert v4_capacity(str(config), length) == (29_909, tokens, concurrency)


@pytest.mark.parametrize(
    ("release", "blocks", "tokens", "concurrency"),
    [
        # A page of each of three sizes for 22 layers: 22 x (37,440 + 8,640 + 1,728) = 1,051,776
        ("0.20.2", 40_835, 112_104, 13.684651475),
        ("0.22.1", 40_835, 112_104, 13.684651475),
        # 22 windows, 21 index keys and 20 states of 128: 1,039,680
        ("0.23.0", 41_310, 113_408, 13.84383378),
        ("0.25.1", 41_310, 113_408, 13.84383378),
        ("0.26.0", 41_310, 113_408, 13.84383378),
    ],
)
def test_older_vllm_admits_deepseek_v4_flash_as_its_own_planner_does(
    release, blocks, tokens, concurrency
):
    """get_kv_cache_configs of each release (v1/core/kv_cache_utils.py), run on a CPU."""
    assert (22 * (37_440 + 8_640 + 1_728), 22 * 37_440 + 21 * 8_640 + 20 * 1_728) == (
        1_051_776,
        1_039_680,
    )
    assert v4_capacity("deepseek-v4-flash", 8192, release) == (blocks, tokens, concurrency)


@pytest.mark.parametrize(
    ("release", "blocks", "tokens", "concurrency"),
    [
        ("0.20.2", 28_979, 848_339, 8.483313817),
        ("0.23.0", 29_149, 853_316, 8.533079625),
        # from here on, two batches are in flight
        ("0.26.0", 29_149, 454_109, 4.541050008),
    ],
)
def test_older_vllm_admits_deepseek_v4_pro_as_its_own_planner_does(
    release, blocks, tokens, concurrency
):
    """As for Flash, at 100,001 tokens."""
    assert v4_capacity("deepseek-v4-pro", 100_001, release) == (blocks, tokens, concurrency)


@pytest.mark.parametrize(
    ("release", "spare_bytes"),
    [
        # 3,364 blocks and the null block, of 1,051,776 bytes
        ("0.22.1", 1_051_776),
        # the same number of those bytes are asked for, where a block has 1,039,680 or 1,002,240
        ("0.26.0", 0),
        ("0.28.0", 0),
    ],
)
def test_older_vllm_starts_with_deepseek_v4_as_its_check_says(release, spare_bytes):
    """_max_memory_usage_bytes_from_groups of 0.20 to 0.28 counts a page of each size 22 times."""
    options = EngineOptions(**{**V4_SETUP, "max_model_len": 8192})
    engine = get_engine("vllm", release)
    asked = Deployment(find_model("deepseek-v4-flash"), find_accelerator("b300"), options)
    resolved = engine.resolve(asked)
    needed = 3364 * 1_051_776 + spare_bytes
    assert engine.capacity(resolved, needed).holds_one
    assert not engine.capacity(resolved, needed - 1).holds_one


def test_vllm_served_no_deepseek_v4_before_0_20():
    """model_executor/models of 0.19.1 has none."""
    with pytest.raises(UnsupportedError, match=r"0\.19\.1 has no .* choose release 0\.20 or newer"):
        v4_capacity("deepseek-v4-flash", 8192, "0.19.1")
