"""SGLang's accounting: pools against logs, the budget rule, and laws.

Rows "S..." are start-up logs of public threads; their thread is named beside each number.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.catalog.accelerators import find_accelerator
from kvsim.engines import get_engine
from kvsim.engines.base import Deployment
from kvsim.engines.sglang import SGLang
from kvsim.errors import InputError, UnsupportedError
from kvsim.specs.attention import (
    RecurrentState,
    SlidingAttention,
)
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.model import DenseMlp
from kvsim.units import GIB
from tests.support.engine_parts import (
    MIXED,
    capacities_of_print,
    card,
    full,
    latent,
    model_of,
    observed_rows,
    regimes_in_order,
    resolved,
)

QWEN_7B = model_of(
    (28, full(28, 4, 128)), hidden=3584, mlp=DenseMlp(intermediate_size=18944), vocab=152064
)
QWEN_OMNI_30B = model_of((48, full(32, 4, 128)))
MIMO_V2_FLASH = model_of(
    (9, full(64, 4, 192, 128)),
    (39, full(64, 8, 192, 128, kind=SlidingAttention, window=128)),
)
DEEPSEEK_V32 = model_of(
    (
        61,
        latent(128, indexer_dim=128, indexer_heads=64),
    )
)
# Qwen3.5-397B-A17B: 15 of 60 layers are full; conv (2 * 16 + 64) * 128 * 3 taps.
QWEN_35_MOE = model_of(
    (15, full(32, 2, 256)),
    (
        45,
        RecurrentState(
            flavour="gated_delta_net",
            conv_elements=12288 * 3,
            recurrent_elements=64 * 128 * 128,
            parameters=0,
        ),
    ),
)


@pytest.mark.parametrize(
    ("version", "model", "options", "kv_gib", "rounding", "tokens", "cell"),
    [
        # S010, jerryzsj/my-deepseek-r1: K and V 2.82 GB each
        ("0.4.2", QWEN_7B, {}, 5.64, 0.01, 105531, 57344),
        # S016, sgl-project/sglang#15909: K and V 23.92 GB each, TP4
        ("0.5.6", QWEN_OMNI_30B, {"tensor_parallel_size": 4}, 47.84, 0.01, 2090351, 24576),
        # S003, sgl-project/sglang#11309: 61 layers of 656 + 132 bytes
        ("0.5.4", DEEPSEEK_V32, {"kv_cache_dtype": "fp8"}, 43.67, 0.005, 975424, 48068),
        # S004, the same before the indexer was counted
        ("0.5.3", DEEPSEEK_V32, {"kv_cache_dtype": "fp8"}, 54.52, 0.005, 1462784, 40016),
    ],
)
def test_tokens_of_printed_bytes(version, model, options, kv_gib, rounding, tokens, cell):
    engine = SGLang(version)
    deployment = resolved(engine, model, **options)
    least, most = capacities_of_print(engine, deployment, kv_gib, rounding)
    assert least.bytes_per_token == cell
    assert least.logged_tokens <= tokens <= most.logged_tokens
    exact = engine.capacity(deployment, tokens * cell)
    assert exact.logged_tokens == tokens  # and a whole number of pages


def test_sparse_attention_has_pages_of_64_and_prefers_fp8_on_blackwell():
    for name in ("B200-SXM-180GB", "GB200", "GB300"):
        options = resolved(SGLang(), DEEPSEEK_V32, card(178, name)).options
        assert (options.block_size, options.kv_cache_dtype) == (64, "fp8_ds_mla")
    for other in (card(79, "H100"), card(121, "GB10")):  # GB10 lacks the data centre's kernels
        assert resolved(SGLang(), DEEPSEEK_V32, other).options.kv_cache_dtype == "bf16"


def test_attention_data_parallelism_divides_the_heads_ranks():
    # S003 runs TP8 with DP8 attention; a GQA model then keeps all its heads on each rank.
    engine = SGLang()
    options = {"tensor_parallel_size": 8, "data_parallel_size": 8}
    split = engine.capacity(resolved(engine, QWEN_OMNI_30B, **options), GIB)
    whole = engine.capacity(resolved(engine, QWEN_OMNI_30B, **options, enable_dp_attention=True), 1)
    assert (split.bytes_per_token, whole.bytes_per_token) == (24576, 4 * 24576)


def test_hybrid_pools_share_the_bytes_by_the_ratio():
    # S002, sgl-project/sglang#18039 (TP4): full_layer_tokens=375360 swa_layer_tokens=300288,
    # the window pool printed as K 8.38 and V 5.59 GB (one page more than its tokens).
    engine = SGLang("0.5.8")
    deployment = resolved(engine, MIMO_V2_FLASH, tensor_parallel_size=4, block_size=64)
    full_cell, window_cell = 9 * 320 * 2, 39 * 2 * 320 * 2
    kv_bytes = round(375360 * (full_cell + 0.8 * window_cell))
    sizes = engine.sizes(deployment, kv_bytes)
    assert (sizes.full_tokens, sizes.window_tokens) == (375360, 300288)
    window_gib = (sizes.window_tokens + 64) * window_cell / GIB
    assert (round(window_gib * 192 / 320, 2), round(window_gib * 128 / 320, 2)) == (8.38, 5.59)


def test_wrong_ratio_starves_a_pool():
    # sgl-project/sglang#26248: full usage 1.00 while the window pool stands at 0.06
    engine = SGLang()
    setup = {"tensor_parallel_size": 4, "max_model_len": 32768}
    capacities = [
        engine.capacity(resolved(engine, MIMO_V2_FLASH, swa_full_tokens_ratio=ratio, **setup), GIB)
        for ratio in (0.02, 0.8)
    ]
    assert capacities[0].max_concurrency > 3 * capacities[1].max_concurrency
    short = {"tensor_parallel_size": 4, "max_model_len": 128}
    starved = engine.capacity(
        resolved(engine, MIMO_V2_FLASH, swa_full_tokens_ratio=0.02, **short), GIB
    )
    assert starved.admission_tokens < 0.03 * starved.logged_tokens


def test_without_hybrid_memory_windows_are_charged_in_full():
    engine = SGLang()
    deployment = resolved(
        engine, MIMO_V2_FLASH, tensor_parallel_size=4, disable_hybrid_kv_cache_manager=True
    )
    capacity = engine.capacity(deployment, 55680 * 1000)
    assert capacity.logged_tokens == 1000
    assert capacity.all_full_tokens == capacity.steady_tokens


def test_recurrent_states_take_their_own_pool():
    # S015, kvcache-ai/ktransformers#1870 (TP2): "mamba cache 82: conv 0.13 GB, ssm 7.29 GB"
    # (one slot more than it counts), K and V 4.15 GB each, 580,364 tokens.
    engine = SGLang("0.5.9")
    deployment = resolved(engine, QWEN_35_MOE, tensor_parallel_size=2)
    state = 45 * (12288 * 3 * 2 + 64 * 128 * 128 * 4) // 2
    least, most = ((4.15 + d) * 2 * GIB + 82 * state for d in (-0.005, 0.005))
    cuts = [engine.sizes(deployment, round(size)) for size in (least, most)]
    assert [cut.states for cut in cuts] == [82, 82]
    tokens = [cut.full_tokens for cut in cuts]
    assert tokens[0] <= 580364 <= tokens[1]
    assert round(83 * 45 * 64 * 128 * 128 * 4 / 2 / GIB, 2) == 7.29
    assert round(83 * 45 * 12288 * 3 * 2 / 2 / GIB, 2) == 0.13


def test_running_limit_is_clamped_and_honours_states_and_the_user():
    engine = SGLang()
    dense = resolved(engine, QWEN_7B)
    assert engine.running_limit(dense, 105531 * 57344) == 2048  # S010 prints it with one spare
    assert engine.running_limit(dense, 1000 * 57344) == 500
    assert engine.running_limit(resolved(engine, QWEN_7B, max_model_len=100), 40 * GIB) == 4096
    assert engine.running_limit(resolved(engine, QWEN_7B, max_num_seqs=16), 40 * GIB) == 16
    hybrid = resolved(engine, QWEN_35_MOE, tensor_parallel_size=2)
    bytes_of_82 = round(8.3 * GIB) + 82 * 45 * (12288 * 3 * 2 + 64 * 128 * 128 * 4) // 2
    assert engine.running_limit(hybrid, bytes_of_82) == 82 // 3
    uncached = resolved(engine, QWEN_35_MOE, tensor_parallel_size=2, enable_prefix_caching=False)
    assert engine.running_limit(uncached, bytes_of_82) == 82


def test_the_rest_is_what_the_fraction_leaves():
    # S010: 8.37 - 22.76 * (1 - 0.88) = 5.64, exact. Its context and load overhead are this
    # engine's data, so that here only the rule and the weights are put to the test.
    engine = SGLang("0.4.2")
    budget = engine.budget(resolved(engine, QWEN_7B, card(23.69)))
    free_before = 22.76 * GIB
    overhead = budget.non_torch_bytes - (23.69 - 22.76) * GIB
    free_after = free_before - budget.weights_bytes - overhead
    assert budget.kv_cache_bytes == pytest.approx(free_after - free_before * 0.12, abs=2)
    assert budget.kv_cache_bytes / GIB == pytest.approx(5.64, abs=0.02)


@pytest.mark.parametrize(("gpu", "free_gib"), [("h100", 78.68), ("rtx3090", 22.76)])
def test_what_a_card_has_free_before_the_load(gpu, free_gib):
    """Rows V001 to V008, and S010: 78.68 of 79.19 GiB, and 22.76 of 23.69."""
    engine, accelerator = SGLang(), find_accelerator(gpu)
    budget = engine.budget(resolved(engine, QWEN_7B, accelerator))
    overhead = round(0.2 * GIB)  # what loading adds to the weights
    free = budget.total_bytes - (budget.non_torch_bytes - overhead)
    assert free / GIB == pytest.approx(free_gib, abs=0.01)


def test_terms_add_up_to_the_budget():
    engine = SGLang()
    budget = engine.budget(resolved(engine, QWEN_7B))
    terms = budget.weights_bytes + budget.activation_bytes + budget.non_torch_bytes
    assert terms + budget.kv_cache_bytes == budget.budget_bytes


@pytest.mark.parametrize(
    ("version", "gib", "options", "fraction"),
    [
        ("0.4.2", 23.69, {}, 0.88),
        ("0.4.2", 79.1, {"tensor_parallel_size": 8}, 0.81),
        # 512 + 1.5 * 8192 + 1024 / 8 + 2 * 256 = 13,440 MiB of 81,920
        ("0.5.3", 80.0, {}, 0.836),
        # 512 + 1.5 * 2048 + 128 + 2 * 24 = 3,760 MiB of 24,576
        ("0.5.3", 24.0, {}, 0.847),
        # 512 + 1.5 * 2048 + 128 + 512 = 4,224 < 10,240 MiB of 81,920
        ("0.5.3", 80.0, {"max_num_batched_tokens": 2048}, 0.875),
        ("0.5.3", 24.0, {"enforce_eager": True}, 0.849),
    ],
)
def test_default_fraction(version, gib, options, fraction):
    deployment = resolved(SGLang(version), QWEN_OMNI_30B, card(gib), **options)
    assert deployment.options.gpu_memory_utilization == fraction


def test_dp_attention_reserves_more_and_copies_the_attention_weights():
    engine = SGLang()
    plain = resolved(engine, DEEPSEEK_V32, card(141), tensor_parallel_size=8)
    parallel = resolved(
        engine,
        DEEPSEEK_V32,
        card(141),
        **{"tensor_parallel_size": 8, "data_parallel_size": 8, "enable_dp_attention": True},
    )
    assert parallel.options.gpu_memory_utilization < plain.options.gpu_memory_utilization
    assert engine.budget(parallel).weights_bytes > engine.budget(plain).weights_bytes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv_cache_memory_bytes": 1}, "set --max-total-tokens"),
        ({"max_total_tokens": 9, "num_gpu_blocks_override": 9}, "leave one of the two out"),
        ({"swa_full": True}, "--disable-hybrid-swa-memory"),
        ({"flash_attention": True}, "--chunked-prefill-size"),
        ({"kv_cache_dtype": "q8_0"}, "SGLang has no q8_0"),
        ({"tensor_parallel_size": 3}, "cannot be split over tp=3"),
        (
            {"tensor_parallel_size": 4, "data_parallel_size": 3, "enable_dp_attention": True},
            "divides the tensor-parallel size",
        ),
        ({"tensor_parallel_size": 4, "decode_context_parallel_size": 3}, "choose a divisor"),
        ({"pipeline_parallel_size": 49}, "does not divide"),
    ],
)
def test_refuses_what_it_does_not_have(options, words):
    with pytest.raises(InputError, match=f"(?i){re.escape(words)}"):
        resolved(SGLang(), QWEN_OMNI_30B, **options)


def test_a_model_without_tokens_is_refused():
    state = RecurrentState(flavour="mamba2", conv_elements=1, recurrent_elements=1, parameters=0)
    engine = SGLang()
    with pytest.raises(UnsupportedError, match="no layer of this rank keeps tokens"):
        engine.capacity(resolved(engine, model_of((2, state))), GIB)


@pytest.mark.parametrize("version", ["0.3", "0.6.0", "latest"])
def test_unknown_versions_are_refused(version):
    with pytest.raises(InputError, match=r"0\.4 to 0\.5\.23"):
        SGLang(version)


def test_command_says_what_was_set_in_its_own_words():
    options = EngineOptions(
        tensor_parallel_size=2,
        gpu_memory_utilization=0.8,
        enforce_eager=True,
        enable_prefix_caching=False,
    )
    line = get_engine("sglang").command(Deployment(QWEN_7B, card(80), options))
    assert line == (
        "python -m sglang.launch_server --model-path model --tp-size 2"
        " --mem-fraction-static 0.8 --disable-cuda-graph --disable-radix-cache"
    )


OPTIONS = st.builds(
    dict,
    max_model_len=st.integers(1, 60000),
    block_size=st.sampled_from([1, 16, 64]),
    tensor_parallel_size=st.sampled_from([1, 2, 4, 8, 16]),
    swa_full_tokens_ratio=st.floats(0.05, 1.5),
)


@given(model=MIXED, options=OPTIONS, kv_bytes=st.integers(0, 8 * GIB))
def test_pools_never_exceed_the_bytes(model, options, kv_bytes):
    engine, page = SGLang(), options["block_size"]
    deployment = resolved(engine, model, **options)
    pools = engine.capacity(deployment, kv_bytes).pools
    assert pools.total_bytes <= kv_bytes
    assert pools.main.num_blocks == engine.sizes(deployment, kv_bytes).full_tokens // page
    for pool in pools:
        (group,) = pool.groups
        assert pool.block_bytes == group.layers * group.page_bytes


@given(model=MIXED, options=OPTIONS, kv_bytes=st.integers(0, 8 * GIB), more=st.integers(0, GIB))
def test_regimes_are_ordered_and_grow_with_bytes(model, options, kv_bytes, more):
    engine = SGLang()
    deployment = resolved(engine, model, **options)
    small, large = regimes_in_order(engine, deployment, kv_bytes, more)
    assert small.logged_tokens <= large.logged_tokens


@given(model=MIXED, options=OPTIONS, kv_bytes=st.integers(0, 8 * GIB))
def test_a_smaller_dtype_never_holds_less(model, options, kv_bytes):
    engine = SGLang()
    tokens = [
        engine.capacity(resolved(engine, model, kv_cache_dtype=name, **options), kv_bytes)
        for name in ("fp32", "bf16", "fp8")
    ]
    assert [c.logged_tokens for c in tokens] == sorted(c.logged_tokens for c in tokens)


@given(model=MIXED, options=OPTIONS, context=st.integers(1, 60000))
def test_a_sequence_holds_whole_pages_of_what_it_keeps(model, options, context):
    engine = SGLang()
    deployment = resolved(engine, model, **options)
    capacity, page = engine.capacity(deployment, GIB), options["block_size"]
    held = capacity.pools.sequence_bytes(context)
    assert held <= capacity.pools.sequence_bytes(context + 1)
    assert held <= (context + page) * capacity.bytes_per_token


def test_every_consistent_row_is_exact(kvsim_data):
    """Each row's own bytes per token, laid over its own bytes, give its tokens."""
    rows = observed_rows(kvsim_data, "sglang")
    assert rows
    for row in rows:
        assert _row_is_exact(row), row["id"]


def _row_is_exact(row):
    tokens, cell = int(row["kv_tokens"]), int(row["expected_bytes_per_token_per_gpu"])
    engine = SGLang()
    model = model_of((1, full(1, 1, cell - cell // 2, cell // 2)))
    page = 64 if tokens % 64 == 0 else 1
    deployment = resolved(engine, model, kv_cache_dtype="fp8", block_size=page)
    printed = float(row["kv_gib"] or 0) or float(row["kv_k_gib"]) + float(row["kv_v_gib"])
    least, most = capacities_of_print(engine, deployment, printed, 0.01 + page * cell / GIB)
    return least.logged_tokens <= tokens <= most.logged_tokens
