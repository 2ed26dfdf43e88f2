"""vLLM's budget: defaults by card and release, terms, overrides, and the tightest rank."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.catalog.accelerators import describe_accelerators, find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.engines.vllm.loading import loaded_weight_bytes
from kvsim.engines.vllm.overheads import activation_bytes, profiled_step
from kvsim.engines.vllm.rules import Rules, architecture, card_class, kernel_class
from kvsim.errors import InputError, UnsupportedError
from kvsim.memory.rank import Rank
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import GIB

LLAMA = "llama3.1-8b"


def resolved(model=LLAMA, gpu="h100", version="0.19.0", **options):
    engine = get_engine("vllm", version)
    question = Deployment(find_model(model), find_accelerator(gpu), EngineOptions(**options))
    return engine, engine.resolve(question)


def budget_of(*args, **options):
    engine, deployment = resolved(*args, **options)
    return engine.budget(deployment)


def test_the_terms_add_up_to_what_was_requested():
    budget = budget_of(gpu_memory_utilization=0.95)
    assert budget.budget_bytes == math.ceil(0.95 * budget.total_bytes)
    taken = budget.weights_bytes + budget.activation_bytes + budget.non_torch_bytes
    assert budget.kv_cache_bytes == budget.budget_bytes - taken
    assert not budget.cuda_graph_in_budget


def test_graphs_enter_the_budget_in_0_21():
    # The log: "CUDA graph memory profiling is enabled (default since v0.21.0)"
    before, after = budget_of(version="0.20.0"), budget_of(version="0.21.0")
    assert before.cuda_graph_bytes == after.cuda_graph_bytes > 0
    assert before.kv_cache_bytes - after.kv_cache_bytes == after.cuda_graph_bytes
    assert budget_of(version="0.21.0", enforce_eager=True).cuda_graph_bytes == 0


def test_the_activation_peak_fell_in_0_17():
    # Qwen3-14B on H100: 5.64 GiB in 0.16.0, 2.23 in 0.17.0 (llm-d-planner#205)
    peaks = [budget_of("qwen3-14b", version=v).activation_bytes / GIB for v in ("0.16", "0.17")]
    assert peaks == pytest.approx([5.64, 2.23], abs=0.03)


def test_the_peak_does_not_change_with_tensor_parallelism():
    # V008/V016 and V013/V020/V021 of the reference table: 1.89 and 2.21 GiB at TP 1, 2, 4
    peaks = {budget_of(tensor_parallel_size=tp).activation_bytes for tp in (1, 2, 4)}
    assert len(peaks) == 1


def test_a_few_sequences_leave_the_forward_pass_as_the_peak():
    engine, deployment = resolved(max_num_seqs=8)
    step = profiled_step(deployment, engine.rank(deployment), engine.rules)
    assert activation_bytes(step, "sortless") == activation_bytes(step, "sorting")
    # 8,192 tokens * 3 * 14,336 * 2 bytes, and a few residual streams of 64 MiB
    assert 0.65 < engine.budget(deployment).activation_bytes / GIB < 1.1


@pytest.mark.parametrize("tp", [1, 2])
def test_bitsandbytes_unpacks_a_matrix_beside_the_widest_layer(tp):
    """The MLP's 4,096 x 14,336 in two bytes, of which each rank has its part."""
    steps = []
    for options in ({}, {"quantization": "bitsandbytes"}):
        engine, deployment = resolved(tensor_parallel_size=tp, **options)
        steps.append(profiled_step(deployment, engine.rank(deployment), engine.rules))
    plain, packed = steps
    assert packed.width_bytes - plain.width_bytes == 4096 * 14336 * 2 // tp
    assert packed._replace(width_bytes=plain.width_bytes) == plain


def test_flashinfers_sampler_sorts_nothing():
    slow, quick = budget_of(version="0.11.2"), budget_of(version="0.11.2", flashinfer_sampler=True)
    assert slow.activation_bytes > 2 * quick.activation_bytes
    assert budget_of(version="0.19.0") == budget_of(version="0.19.0", flashinfer_sampler=True)


@pytest.mark.parametrize(
    ("gpu", "version", "seqs", "tokens"),
    [
        ("h100", "0.33.0", 1024, 8192),
        ("h200", "0.33.0", 1024, 8192),
        ("a100", "0.33.0", 256, 2048),
        ("l4", "0.33.0", 256, 2048),
        ("b200", "0.33.0", 1024, 16384),
        ("h100", "0.8.1", 256, 8192),
        ("h100", "0.6.3", 256, 131072),
    ],
)
def test_batch_defaults_follow_the_card_and_the_release(gpu, version, seqs, tokens):
    model = "llama2-7b" if version == "0.6.3" else LLAMA
    _, deployment = resolved(model, gpu, version)
    options = deployment.options
    expected = 4096 if model == "llama2-7b" else tokens  # V0 takes a whole prompt at once
    assert (options.max_num_seqs, options.max_num_batched_tokens) == (seqs, expected)


@pytest.mark.parametrize(("version", "utilisation"), [("0.19.0", 0.9), ("0.20", 0.92), ("", 0.92)])
def test_the_default_utilisation_rose(version, utilisation):
    _, deployment = resolved(version=version)
    assert deployment.options.gpu_memory_utilization == utilisation


def test_turing_has_no_bfloat16():
    _, deployment = resolved(gpu="t4")
    assert (deployment.options.dtype, deployment.options.kv_cache_dtype) == ("fp16", "fp16")
    with pytest.raises(InputError, match="bfloat16"):
        resolved(gpu="t4", dtype="bfloat16")


def test_the_weights_dtype_never_sets_the_caches():
    # wrong_answers rows 5 and 12: fp8 weights, 16-bit KV
    for model in ("minimax-m2", "deepseek-v3"):
        _, deployment = resolved(model, "h200", "", tensor_parallel_size=8)
        assert deployment.options.kv_cache_dtype == "bf16"


def test_a_given_kv_size_bypasses_the_budget():
    budget = budget_of(kv_cache_memory_bytes=10 * GIB, gpu_memory_utilization=0.1)
    assert budget.kv_cache_bytes == 10 * GIB
    assert dict(budget.provenance)["kv_cache"] == "given: --kv-cache-memory-bytes"


@pytest.mark.parametrize("version", ["0.9.2", "0.10.0", "0.10.1"])
def test_releases_before_0_10_2_have_no_kv_size_in_bytes(version):
    """`engine/arg_utils.py`: the flag is there from 0.10.2 on."""
    with pytest.raises(InputError, match=r"came with 0\.10\.2; set --num-gpu-blocks-override"):
        budget_of(version=version, kv_cache_memory_bytes=10 * GIB)
    assert budget_of(version="0.10.2", kv_cache_memory_bytes=10 * GIB).kv_cache_bytes == 10 * GIB


def test_every_fitted_term_can_be_given_instead():
    given = {"activation_bytes": GIB, "non_torch_bytes": 2 * GIB, "cuda_graph_bytes": 3 * GIB}
    budget = budget_of(version="", **given)
    assert budget.kv_cache_bytes == budget.budget_bytes - budget.weights_bytes - 6 * GIB
    sources = dict(budget.provenance)
    assert {sources[name] for name in ("activation", "non_torch", "cuda_graph")} == {"given"}


TWO = {"tensor_parallel_size": 2}


@pytest.mark.parametrize(
    ("term", "part", "having", "lacking"),
    [
        ("weights", "LoRA buffers", {"enable_lora": True}, {}),
        # FlashInfer fuses all-reduces over NVSwitches; one card has none to fuse.
        ("non_torch", "all-reduce workspace", TWO, {}),
        ("non_torch", "all-reduce workspace", TWO, {**TWO, "gpu": "l4"}),
    ],
)
def test_a_term_names_the_parts_that_it_has_and_no_others(term, part, having, lacking):
    assert part in dict(budget_of(**having).provenance)[term]
    assert part not in dict(budget_of(**lacking).provenance)[term]


def test_the_plan_that_does_not_fit_says_how_much_is_missing():
    budget = budget_of("llama3.1-70b")
    assert budget.kv_cache_bytes < -60 * GIB
    assert budget.weights_bytes > budget.budget_bytes


def test_the_tightest_stage_is_the_one_with_the_fewest_blocks():
    engine, deployment = resolved("llama3.1-70b", "h100", pipeline_parallel_size=4)
    stages = [engine.rank_budget(deployment, engine.rank(deployment, stage)) for stage in range(4)]
    # Stages of 20 layers: the last has the head and the sampler, the first the embedding.
    assert engine.budget(deployment) == stages[3]
    assert stages[3].activation_bytes > stages[1].activation_bytes
    assert stages[3].kv_cache_bytes == min(stage.kv_cache_bytes for stage in stages)


def test_sharding_costs_nccls_buffers_and_flashinfers():
    # H100, 0.19.0: 0.25 GiB alone, 2.07 on two cards
    alone, paired = budget_of(), budget_of(tensor_parallel_size=2)
    assert (paired.non_torch_bytes - alone.non_torch_bytes) / GIB == pytest.approx(1.82, abs=0.02)


def test_adapters_take_room_beside_the_weights():
    plain, adapted = budget_of(), budget_of(enable_lora=True, max_lora_rank=32)
    model = find_model(LLAMA)
    assert plain.weights_bytes == loaded_weight_bytes(model, Rank())
    # 32 layers of (8,192 + 2 * 5,120 + 8,192 + 3 * 18,432) and the vocabulary, rank 32, fp16
    rank_elements = 32 * 81920 + 2 * (128256 + 4096)
    assert adapted.weights_bytes - plain.weights_bytes == 32 * 2 * rank_elements
    early = budget_of(version="0.7.3", enable_lora=True)
    assert early.weights_bytes == plain.weights_bytes


@given(
    utilisation=st.floats(0.05, 1.0),
    seqs=st.integers(1, 2048),
    tokens=st.integers(2048, 32768),
)
def test_more_utilisation_or_fewer_sequences_never_leave_less(utilisation, seqs, tokens):
    options = {"max_num_batched_tokens": tokens}
    less = budget_of(gpu_memory_utilization=utilisation * 0.9, max_num_seqs=seqs, **options)
    more = budget_of(gpu_memory_utilization=utilisation, max_num_seqs=seqs, **options)
    fewer = budget_of(gpu_memory_utilization=utilisation, max_num_seqs=max(1, seqs // 2), **options)
    assert less.kv_cache_bytes <= more.kv_cache_bytes <= fewer.kv_cache_bytes
    assert more.kv_cache_bytes <= more.budget_bytes <= more.total_bytes


def test_versions_as_logs_print_them():
    for text, release in (
        ("0.8.5.post1", (0, 8, 5)),
        ("0.26.1rc1.dev608", (0, 26, 1)),
        ("0.10.x", (0, 10)),
        ("v0.19.0", (0, 19, 0)),
    ):
        assert Rules.of(text).release == release


def test_cards_are_classed_by_name_and_memory():
    named = {gpu: architecture(find_accelerator(gpu)) for gpu in ("t4", "a10g", "l4", "l40s")}
    assert named == {"t4": "turing", "a10g": "ampere", "l4": "ada", "l40s": "ada"}
    assert architecture(find_accelerator("mi300x")) == "rocm"
    assert card_class(find_accelerator("a100")) == "small"
    classes = {gpu: kernel_class(find_accelerator(gpu)) for gpu in ("b200", "gb10", "rtx5080")}
    assert classes == {"b200": "blackwell", "gb10": "workstation", "rtx5080": "workstation"}
    with pytest.raises(UnsupportedError, match=r"llama\.cpp"):
        architecture(find_accelerator("apple-m4-max-128gb"))


def test_every_shipped_card_that_vllm_runs_on_has_a_generation():
    cards = [row for row in describe_accelerators() if row["vendor"] in {"NVIDIA", "AMD"}]
    named = {row["name"]: architecture(find_accelerator(row["name"])) for row in cards}
    assert len(named) > 30
    assert {name for name, generation in named.items() if generation == "unknown"} == set()


def test_the_command_holds_what_was_set_and_nothing_else():
    engine = get_engine("vllm")
    options = EngineOptions(
        tensor_parallel_size=2,
        kv_cache_dtype="fp8",
        enable_prefix_caching=False,
        enforce_eager=True,
        activation_bytes=GIB,
    )
    deployment = Deployment(find_model(LLAMA), find_accelerator("h100"), options)
    assert engine.command(deployment) == (
        "vllm serve meta-llama/Llama-3.1-8B --tensor-parallel-size 2 --kv-cache-dtype fp8"
        " --enforce-eager --no-enable-prefix-caching"
    )


@pytest.mark.parametrize(
    ("size", "nearest"),
    [(7, "8"), (13, "16"), (20, "16 or 32"), (40, "32 or 48"), (2, "8"), (12, "16")],
)
def test_a_block_that_no_release_takes_is_refused_with_the_nearest(size, nearest):
    """``BlockSize`` of vLLM's cache.py: 1, 8, 16, 32, ..., 256; hybrids' are multiples of 16."""
    with pytest.raises(InputError, match=f"no blocks of {size} tokens; choose {nearest}$"):
        resolved(block_size=size)


@pytest.mark.parametrize("size", [1, 8, 16, 32, 64, 128, 256, 784])
def test_a_block_that_some_release_takes_is_taken(size):
    _, deployment = resolved(block_size=size)
    assert deployment.options.block_size == size
