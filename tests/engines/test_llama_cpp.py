"""llama.cpp's accounting: MiB against logs, cells against its own rule, and laws.

Rows "L..." are start-up logs of public threads; their thread is named beside each number.
"""

import re
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.engines import get_engine
from kvsim.engines.base import Deployment
from kvsim.engines.llama_cpp import LlamaCpp
from kvsim.engines.llama_cpp.cells import split_layers
from kvsim.errors import InputError, UnsupportedError
from kvsim.specs.attention import (
    CrossAttention,
    FullAttention,
    RecurrentState,
    SlidingAttention,
)
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import GIB, MIB
from tests.support import engine_parts
from tests.support.engine_parts import (
    card,
    latent,
    observed_rows,
    regimes_in_order,
)

CARD = card(24)
model_of = partial(engine_parts.model_of, vocab=128256)
resolved = partial(engine_parts.resolved, accelerator=CARD)


def full(key, value=None, heads=1, kind=FullAttention, **more):
    """A cache of one wide KV head: the log's n_embd_k_gqa and n_embd_v_gqa."""
    return kind(heads=heads, kv_heads=1, key_dim=key, value_dim=value or key, **more)


def mib(version, model, **options):
    engine = LlamaCpp(version)
    return engine.kv_mib(resolved(engine, model, **options))


@pytest.mark.parametrize(
    ("version", "heads", "context", "cache_type", "flash_attention", "expected"),
    [
        # ikawrakow/ik_llama.cpp#258: "c^KV (q8_0): 1166.62 MiB, kv^T: not used"
        ("ik-mla3", 128, 32768, "q8_0", True, (1166.625, 0)),
        # #245: "c^KV (f16): 137.25 MiB, kv^T: not used", -mla 2
        ("ik-mla2", 128, 2048, "f16", True, (137.25, 0)),
        # #616 (Kimi-K2, 64 heads): "c^KV (f16): 34.31 MiB, kv^T (f16): 30.50 MiB", -mla 1
        ("ik-mla1", 64, 512, "f16", False, (34.3125, 30.5)),
        # #616: "K (f16): 732.00 MiB, V (f16): 488.00 MiB", -mla 0 expands every head
        ("ik-mla0", 64, 512, "f16", False, (732.0, 488.0)),
        # #394: "K (f16): 1098.00 MiB, V (f16): 976.00 MiB", mainline after #12801
        ("b5200", 128, 16384, "f16", True, (1098.0, 976.0)),
        # ggml-org/llama.cpp#19067 drops V: 61 layers * 576 values * 2 bytes * 16,384
        ("master", 128, 16384, "f16", True, (1098.0, 0)),
    ],
)
def test_every_way_of_keeping_mla_has_its_size(
    version, heads, context, cache_type, flash_attention, expected
):
    sizes = mib(
        version,
        model_of((61, latent(heads))),
        max_model_len=context,
        kv_cache_dtype=cache_type,
        flash_attention=flash_attention,
    )
    assert sizes == pytest.approx(expected, abs=0.005)


def test_legacy_deepseek_cache_is_71_times_the_latent():
    # 24,576 + 16,384 values per layer against 576 (published tables, section 11)
    legacy = sum(mib("b4000", model_of((61, latent(128))), max_model_len=4096))
    latest = sum(mib("master", model_of((61, latent(128))), max_model_len=4096))
    assert legacy / latest == pytest.approx(40960 / 576)


def test_keys_and_values_may_have_formats_of_their_own():
    # ikawrakow/ik_llama.cpp#103: "K (iq4_nl): 18.00 MiB, V (f16): 64.00 MiB"
    model = model_of((32, full(1024)))
    options = {"max_model_len": 1024, "kv_cache_dtype": "iq4_nl", "flash_attention": False}
    assert mib("ik", model, **options) == (18.0, 64.0)


def test_each_device_holds_its_layers():
    # ollama/ollama#3158: Mixtral at 16,000 tokens: ROCm0=1062.50, ROCm1=937.50
    engine = LlamaCpp("b2400")
    model = model_of((32, full(1024)))
    deployment = resolved(engine, model, max_model_len=16000, pipeline_parallel_size=2)
    devices = [sum(engine.kv_mib(deployment, device=device)) for device in (0, 1)]
    assert devices == [1062.5, 937.5]
    assert sum(engine.kv_mib(deployment)) == 2000.0


@given(layers=st.integers(1, 100), devices=st.integers(1, 8))
def test_splitting_layers_loses_none(layers, devices):
    if devices > layers:
        with pytest.raises(InputError, match="cannot be split"):
            split_layers(layers, devices, 0)
        return
    parts = [layer for device in range(devices) for layer in split_layers(layers, devices, device)]
    assert parts == list(range(layers))


GEMMA_3_27B = model_of(
    (10, full(2048, heads=32)),
    (52, full(2048, heads=32, kind=SlidingAttention, window=1024)),
    vocab=262208,
    hidden=5376,
)


def test_window_layers_get_cells_for_the_window_and_one_micro_batch():
    # pad256(min(131072, 1024 * 1 + 512)) = 1536 cells in 52 layers, 131,072 in 10
    key, value = mib("master", GEMMA_3_27B, max_num_seqs=1)
    assert key == value == 2048 * 2 * (10 * 131072 + 52 * 1536) / MIB


def test_unified_windows_grow_with_the_slots_and_streams_multiply():
    options = {"max_num_seqs": 4, "max_model_len": 32768}
    unified, _ = mib("master", GEMMA_3_27B, kv_unified=True, **options)
    streams, _ = mib("master", GEMMA_3_27B, kv_unified=False, **options)
    # pad256(4 * 1024 + 512) = 4608 cells once; or 4 streams of 32,768 and 1,536
    assert unified == 2048 * 2 * (10 * 32768 + 52 * 4608) / MIB
    assert streams == 2048 * 2 * 4 * (10 * 32768 + 52 * 1536) / MIB


@pytest.mark.parametrize("version", ["ik", "b5000"])
def test_builds_without_a_window_cache_keep_everything(version):
    # ikawrakow/ik_llama.cpp#539: "K (f16): 31744.00 MiB, V (f16): 31744.00 MiB"
    sizes = mib(version, GEMMA_3_27B, max_model_len=131072, flash_attention=False)
    assert sizes == (31744.0, 31744.0)
    assert mib("master", GEMMA_3_27B, max_model_len=131072, swa_full=True) == sizes


def test_transposed_values_are_as_wide_as_the_widest_layer():
    model = model_of((2, full(512)), (2, full(1024, kind=SlidingAttention, window=4096)))
    options = {"max_model_len": 256, "max_num_seqs": 1}
    _, plain = mib("master", model, flash_attention=True, **options)
    _, padded = mib("master", model, flash_attention=False, **options)
    assert (plain, padded) == (256 * 2 * 3072 / MIB, 256 * 2 * 4096 / MIB)


@pytest.mark.parametrize(
    ("model", "context", "printed_mib", "tolerance"),
    [
        # ikawrakow/ik_llama.cpp#103: Llama-3.1-8B at 1,024, CUDA0=266.50
        (model_of((32, full(1024, heads=32))), 1024, 266.50, 0.001),
        # #539, no flash attention: Qwen3-32B at 40,960, CPU=5252.01 (scores 5,120)
        (model_of((64, full(1024, heads=64)), vocab=151936, hidden=5120), 40960, 5252.01, 0.01),
        # #539: Gemma-3-27B at 131,072, CPU=8743.51 (scores 8,192)
        (GEMMA_3_27B, 131072, 8743.51, 0.01),
    ],
)
def test_compute_buffer_is_logits_or_scores(model, context, printed_mib, tolerance):
    engine = LlamaCpp("ik")
    deployment = resolved(engine, model, max_model_len=context, flash_attention=False)
    computed = engine.compute_buffer_bytes(deployment) / MIB
    assert computed == pytest.approx(printed_mib, rel=tolerance)


def test_budget_terms_add_up_and_follow_the_fullest_card():
    engine = LlamaCpp()
    deployment = resolved(engine, model_of((32, full(1024))), max_model_len=8192)
    budget = engine.budget(deployment)
    spent = budget.weights_bytes + budget.activation_bytes + budget.non_torch_bytes
    assert budget.kv_cache_bytes == 24 * GIB - spent
    halves = resolved(engine, deployment.model, max_model_len=8192, pipeline_parallel_size=2)
    assert engine.budget(halves).kv_cache_bytes > budget.kv_cache_bytes


def test_defaults_follow_the_build():
    model = model_of((32, full(1024)))
    new, old = resolved(LlamaCpp(), model).options, resolved(LlamaCpp("b4000"), model).options
    assert (new.max_model_len, new.max_num_seqs, new.kv_unified) == (131072, 4, True)
    assert (old.max_model_len, old.max_num_seqs, old.kv_unified) == (4096, 1, True)
    explicit = resolved(LlamaCpp(), model, max_num_seqs=4).options
    assert explicit.kv_unified is False  # -np given: one stream per slot


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpu_memory_utilization": 0.9}, "-c asks for"),
        ({"tensor_parallel_size": 2}, "splits by layers"),
        ({"block_size": 16}, "contiguous"),
        ({"kv_cache_dtype": "fp8"}, "has no fp8_e4m3 cache; choose f32, f16"),
        ({"kv_cache_dtype_v": "q8_0", "flash_attention": False}, "-fa on"),
        ({"enforce_eager": True}, "--cache-type-k"),
        ({"pipeline_parallel_size": 33}, "at most 32"),
    ],
)
def test_what_it_does_not_have_is_refused_with_its_own_word(options, words):
    with pytest.raises(InputError, match=re.escape(words)):
        resolved(LlamaCpp(), model_of((32, full(1024))), **options)


def test_quantised_cache_needs_heads_of_whole_blocks():
    with pytest.raises(InputError, match="do not divide the head size 80"):
        resolved(LlamaCpp(), model_of((32, full(80))), kv_cache_dtype="q8_0")


def test_old_build_has_no_streams():
    with pytest.raises(InputError, match="one cache for all slots"):
        resolved(LlamaCpp("b5000"), model_of((2, full(64))), kv_unified=False)


@pytest.mark.parametrize("version", ["ik-mla4", "0.3.1", "bee"])
def test_unknown_versions_are_refused(version):
    with pytest.raises(InputError, match="write master"):
        LlamaCpp(version)


def test_cross_attention_is_refused_by_name():
    attention = CrossAttention(heads=2, kv_heads=2, key_dim=64, value_dim=64, encoder_tokens=1500)
    cross = model_of((2, attention))
    with pytest.raises(UnsupportedError, match="cross-attention cache of model"):
        resolved(LlamaCpp(), cross)


def test_recurrent_states_are_f32_and_paid_for_every_slot():
    state = RecurrentState(
        flavour="mamba2", conv_elements=1000, recurrent_elements=4000, parameters=0
    )
    model = model_of((4, full(64)), (4, state))
    engine = LlamaCpp()
    deployment = resolved(engine, model, max_num_seqs=2, kv_unified=True, max_model_len=256)
    states = 2 * 4 * (1000 + 4000) * 4
    cells = 256 * 4 * 128 * 2
    assert engine.capacity(deployment, states + cells).logged_tokens == 256
    assert engine.capacity(deployment, states + cells - 1).logged_tokens == 0


def test_command_counts_all_slots_in_c():
    deployment = Deployment(
        model_of((2, full(64))),
        CARD,
        EngineOptions(max_model_len=4096, max_num_seqs=3, kv_cache_dtype="q8_0"),
    )
    line = get_engine("llama.cpp").command(deployment)
    assert line == "llama-server -m model.gguf -ngl 999 -c 12288 -np 3 --cache-type-k q8_0"


MODELS = st.builds(
    lambda fulls, windows, width, window: model_of(
        (fulls, full(32 * width)),
        *([(windows, full(32 * width, kind=SlidingAttention, window=window))] if windows else []),
    ),
    st.integers(1, 12),
    st.integers(0, 12),
    st.integers(1, 32),
    st.integers(1, 5000),
)
OPTIONS = st.builds(
    dict,
    max_model_len=st.integers(1, 60000),
    max_num_seqs=st.integers(1, 9),
    kv_unified=st.booleans(),
    flash_attention=st.booleans(),
    swa_full=st.booleans(),
)


@given(model=MODELS, options=OPTIONS, kv_bytes=st.integers(0, 2 * GIB))
def test_largest_context_fits_and_the_next_does_not(model, options, kv_bytes):
    engine = LlamaCpp()
    deployment = resolved(engine, model, **options)
    cells = engine.capacity(deployment, kv_bytes).logged_tokens
    streams = 1 if options["kv_unified"] else options["max_num_seqs"]
    if cells:
        fits = mib("master", model, **options | {"max_model_len": cells // streams})
        assert sum(fits) * MIB <= kv_bytes
    beyond = mib("master", model, **options | {"max_model_len": cells // streams + 1})
    assert sum(beyond) * MIB > kv_bytes


@given(model=MODELS, options=OPTIONS, kv_bytes=st.integers(0, 2 * GIB), more=st.integers(0, GIB))
def test_regimes_are_ordered_and_grow_with_bytes(model, options, kv_bytes, more):
    engine = LlamaCpp()
    deployment = resolved(engine, model, **options)
    small, large = regimes_in_order(engine, deployment, kv_bytes, more)
    assert small.logged_tokens <= large.logged_tokens


@given(model=MODELS, options=OPTIONS, kv_bytes=st.integers(0, 2 * GIB))
def test_a_smaller_cache_type_never_holds_less(model, options, kv_bytes):
    engine = LlamaCpp()
    capacities = [
        engine.capacity(resolved(engine, model, kv_cache_dtype=word, **options), kv_bytes)
        for word in ("f32", "f16", "q8_0", "q4_0")
    ]
    cells = [capacity.logged_tokens for capacity in capacities]
    assert cells == sorted(cells)


def row_widths(row):
    """Layers and widths of K and V that the row states, or the assumption it names."""
    assumed = dict(re.findall(r"(n_layer|n_embd_k?_?gqa)=(\d+)", row["assumed"]))
    width = row["n_embd_k_gqa"] or assumed.get("n_embd_gqa") or assumed.get("n_embd_k_gqa")
    layers = row["n_layer"] or assumed["n_layer"]
    return int(layers), int(width), int(row["n_embd_v_gqa"] or width)


def row_setup(row):
    """The version, the model and the options that a row's flags and detail describe."""
    layers, key, value = row_widths(row)
    mode = re.search(r"mla_attn=(\d)", row["other_flags"])
    if "mla" in row["model_family"] and mode:
        version, cache = f"ik-mla{mode[1]}", latent(key // 192)
    elif "mla" in row["model_family"] and key == 576:
        version, cache = "b5200", latent(128)
    else:
        version, cache = "ik" if "ik fork" in row["engine"] else "b2400", full(key, value)
    types = re.findall(r"(?:K|V|kv\^T) \((\w+)\)", row["kv_detail"])
    options = {
        "max_model_len": int(row["n_ctx"]),
        "kv_cache_dtype": types[0],
        "kv_cache_dtype_v": types[-1],
        "flash_attention": "flash_attn=1" in row["other_flags"],
    }
    return version, model_of((layers, cache)), options


def test_every_consistent_row_is_exact(kvsim_data):
    rows, wrong = observed_rows(kvsim_data, "llama"), []
    for row in rows:
        version, model, options = row_setup(row)
        sizes = mib(version, model, **options)
        printed = [float(size) for size in re.findall(r"([\d.]+) MiB", row["kv_detail"])]
        parts_agree = all(abs(a - b) < 0.01 for a, b in zip(sizes, printed, strict=False))
        if abs(sum(sizes) - float(row["kv_mib"])) >= 0.01 or not parts_agree:
            wrong.append((row["id"], sizes, row["kv_detail"]))
    assert rows
    assert not wrong
