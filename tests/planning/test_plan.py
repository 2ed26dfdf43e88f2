"""The planner: known answers, laws, round trips, and what it says when nothing fits."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim import (
    EngineOptions,
    InputError,
    Plan,
    UnsupportedError,
    find_accelerator,
    find_model,
    plan,
    plan_engines,
)
from kvsim.engines import Deployment, get_engine
from kvsim.planning.decode import batch_sizes
from kvsim.planning.formula import explain
from kvsim.planning.sizing import COMMON_CONTEXTS, context_lengths, size
from kvsim.specs.precision import kv_format
from kvsim.specs.yaml_files import data_folder
from kvsim.units import GIB, KIB

PROFILES = Path(__file__).resolve().parents[2] / "hardware_profiles"
LLAMA2_BYTES_PER_TOKEN = 524_288  # 32 layers * 32 heads * (128 + 128) * 2 bytes


@pytest.fixture(scope="module")
def llama2():
    return plan("llama2-7b", "a100")


# --- known answers -------------------------------------------------------------------------


def test_llama2_7b_takes_512_kib_a_token_in_fp16(llama2):
    assert llama2.kv_cache.bytes_per_token == LLAMA2_BYTES_PER_TOKEN == 512 * KIB
    assert llama2.kv_cache.block_size == 16
    assert llama2.kv_cache.bytes_per_block == 16 * LLAMA2_BYTES_PER_TOKEN


def test_llama2_7b_has_the_published_parameter_count(llama2):
    """Touvron et al. 2023 call it 7B; the checkpoint's tensors hold 6,738,415,616."""
    assert llama2.model.parameters == 6_738_415_616


def test_a_paged_sequence_of_half_the_length_takes_half_the_contiguous_slot(llama2):
    row = llama2.contiguous_vs_paged
    assert (row.context_len, llama2.kv_cache.max_model_len) == (2048, 4096)
    assert row.contiguous_bytes == 4096 * LLAMA2_BYTES_PER_TOKEN
    assert row.paged_bytes == 2048 * LLAMA2_BYTES_PER_TOKEN
    assert row.paged_requests in (2 * row.contiguous_requests, 2 * row.contiguous_requests + 1)


def test_half_a_block_is_wasted_on_average(llama2):
    """Lengths 2,033 to 2,048 leave 15, 14, ... 0 slots of a 16-token block: 7.5 on average."""
    waste = llama2.fragmentation
    assert waste.expected_bytes == 7.5 * LLAMA2_BYTES_PER_TOKEN
    assert waste.worst_bytes == 15 * LLAMA2_BYTES_PER_TOKEN


def test_the_ridge_point_is_flops_over_bandwidth(llama2):
    """A100-SXM4-80GB datasheet: 312 TFLOP/s in fp16 over 2,039 GB/s."""
    assert llama2.decode.ridge_point == pytest.approx(312e12 / 2039e9, rel=1e-9)
    assert llama2.decode.bound_by == "bandwidth"


def test_decode_of_one_sequence_does_about_one_flop_a_byte(llama2):
    """Two FLOPs per weight of two bytes, and the KV cache adds bytes and few FLOPs."""
    alone = llama2.decode.batches[0]
    assert alone.batch == 1
    assert 0.9 < alone.arithmetic_intensity <= 1.0


@pytest.mark.parametrize(
    ("model", "bytes_per_token"),
    [
        ("llama3.1-8b", 131_072),  # 32 * 8 * 256 * 2
        ("llama3.1-70b", 327_680),  # 80 * 8 * 256 * 2
        ("deepseek-v3", 70_272),  # 61 * (512 + 64) * 2, DeepSeek-V3 report
        ("gpt-oss-20b", 49_152),  # 24 * 8 * 128 * 2
    ],
)
def test_formula_and_footprint_agree(model, bytes_per_token):
    spec = find_model(model)
    answer = explain(spec, kv_format("bf16"))
    results = [
        int(kind.formula.split(" = ")[1].split()[0].replace(",", "")) for kind in answer.kinds
    ]
    assert answer.bytes_per_token == bytes_per_token == sum(results)


def test_explanation_of_llama2_is_the_sum_that_a_person_would_write():
    (kind,) = explain(find_model("llama2-7b"), kv_format("fp16")).kinds
    assert (
        kind.formula == "32 layers x 32 KV heads x (128 + 128) x 2 bytes = 524,288 bytes per token"
    )


def test_a_window_shows_in_the_explanation():
    answer = explain(find_model("gpt-oss-20b"), kv_format("bf16"), context=131_072)
    assert answer.context_bytes == 12 * 131_072 * 2048 + 12 * 128 * 2048
    assert answer.all_full_bytes == 24 * 131_072 * 2048
    assert "50% less" in answer.takeaway
    assert answer.takeaway.startswith("Steady regime")


# --- the JSON ------------------------------------------------------------------------------

JSON_KEYS = {
    "model": {"name", "parameters"},
    "accelerator": {"name", "memory_bytes"},
    "engine": {"name", "version"},
    "parallelism": {"tp", "pp", "dp"},
    "memory": {
        "total_bytes",
        "budget_bytes",
        "weights_bytes",
        "activation_bytes",
        "non_torch_bytes",
        "cuda_graph_bytes",
        "kv_cache_bytes",
    },
    "kv_cache": {
        "dtype",
        "bytes_per_token",
        "block_size",
        "bytes_per_block",
        "num_blocks",
        "capacity_tokens",
        "max_model_len",
        "max_concurrency",
    },
    "capacity_tokens": {"admission", "steady", "all_full"},
    "decode": {"arithmetic_intensity", "ridge_point", "bound_by", "batches"},
}


def test_json_has_every_key_of_schema_1(llama2):
    content = llama2.to_dict()
    assert content["schema_version"] == "1"
    for part, keys in JSON_KEYS.items():
        assert keys <= set(content[part]), part
    assert content["fits"] is True
    assert isinstance(content["warnings"], list)
    assert isinstance(content["suggestions"], list)
    assert isinstance(content["provenance"], dict)


@pytest.mark.parametrize(
    ("model", "gpu", "options"),
    [
        ("llama2-7b", "a100", {}),
        ("gpt-oss-20b", "h100", {"tensor_parallel_size": 2}),
        ("llama3.1-70b", "h100", {}),  # does not fit: it carries suggestions
        ("deepseek-v3", "h200", {"tensor_parallel_size": 8, "kv_cache_dtype": "fp8"}),
    ],
)
def test_a_plan_survives_json(model, gpu, options):
    answer = plan(model, gpu, **options)
    assert Plan.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer


def test_paths_are_taken_as_the_words_that_they_spell(llama2, tmp_path):
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "torch_dtype": "float16",
        "tie_word_embeddings": False,
    }
    model = tmp_path / "config.json"
    model.write_text(json.dumps(config))
    card = tmp_path / "mine.yaml"
    card.write_text((PROFILES / "a100-sxm4-80gb.yaml").read_text("utf-8"))

    planned = plan(model, card)

    assert planned.kv_cache.num_blocks == llama2.kv_cache.num_blocks
    assert planned.accelerator.name == llama2.accelerator.name


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema_version": "0"}, "schema_version"),
        ({"memory": {}}, "plan.memory"),
        ({"novelty": 1}, "novelty"),
    ],
)
def test_another_schema_is_refused(llama2, change, complaint):
    with pytest.raises(InputError, match=complaint):
        Plan.from_dict(llama2.to_dict() | change)


# --- laws ----------------------------------------------------------------------------------

CARDS = ("a100", "h100", "l4", "l40s", "h200", "rtx4090")
MODELS = ("llama2-7b", "llama3.1-8b", "gpt-oss-20b", "gemma3-12b", "qwen3.5-27b")


@settings(max_examples=25)
@given(
    model=st.sampled_from(MODELS),
    card=st.sampled_from(CARDS),
    tp=st.sampled_from((1, 2, 4)),
    share=st.floats(0.3, 1.0),
)
def test_laws_of_every_plan(model, card, tp, share):
    sizing = size(
        get_engine("vllm"),
        Deployment(
            find_model(model),
            find_accelerator(card),
            EngineOptions(tensor_parallel_size=tp, gpu_memory_utilization=share),
        ),
    )
    budget, capacity = sizing.budget, sizing.capacity
    terms = budget.weights_bytes + budget.activation_bytes + budget.non_torch_bytes
    assert capacity.num_blocks * capacity.bytes_per_block <= max(0, budget.kv_cache_bytes)
    assert terms + max(0, budget.kv_cache_bytes) <= max(budget.total_bytes, terms)
    assert capacity.all_full_tokens <= capacity.steady_tokens
    lengths = context_lengths(2048, capacity.max_model_len)
    requests = [sizing.requests(length) for length in lengths]
    assert requests == sorted(requests, reverse=True)


@settings(max_examples=15)
@given(
    model=st.sampled_from(("llama2-7b", "llama3.1-8b", "gpt-oss-20b")),
    shares=st.tuples(st.floats(0.3, 1.0), st.floats(0.3, 1.0)).map(sorted),
)
def test_more_memory_never_gives_fewer_blocks(model, shares):
    less, more = (
        plan(model, "a100", gpu_memory_utilization=share).kv_cache.num_blocks for share in shares
    )
    assert less <= more


@pytest.mark.parametrize("model", MODELS)
def test_fp8_never_gives_fewer_tokens(model):
    wide = plan(model, "h100")
    narrow = plan(model, "h100", kv_cache_dtype="fp8")
    assert narrow.capacity_tokens.steady >= wide.capacity_tokens.steady
    assert narrow.kv_cache.bytes_per_token <= wide.kv_cache.bytes_per_token


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_tensor_parallelism_splits_the_bytes_of_a_token(degree):
    whole = plan("llama3.1-8b", "h100")
    split = plan("llama3.1-8b", "h100", tensor_parallel_size=degree)
    assert split.kv_cache.bytes_per_token * degree == whole.kv_cache.bytes_per_token
    assert sum(kind.bytes_per_token for kind in split.kv_kinds) == split.kv_cache.bytes_per_token


def test_pipeline_stages_share_the_bytes_of_a_token():
    """Llama-3.1-70B at TP4: 81,920, 40,960 and 20,480 bytes per token with 1, 2 and 4 stages."""
    split = [
        plan("llama3.1-70b", "h100", tensor_parallel_size=4, pipeline_parallel_size=stages)
        for stages in (1, 2, 4)
    ]
    assert [answer.kv_cache.bytes_per_token for answer in split] == [81_920, 40_960, 20_480]
    for answer in split:
        kinds = sum(kind.bytes_per_token for kind in answer.kv_kinds)
        assert kinds == answer.kv_cache.bytes_per_token


def test_a_bigger_batch_takes_longer_and_yields_more(llama2):
    batches = llama2.decode.batches
    assert [each.batch for each in batches] == batch_sizes(llama2.decode.batch)
    steps = [each.step_seconds for each in batches]
    rates = [each.tokens_per_s for each in batches]
    assert steps == sorted(steps)
    assert rates == sorted(rates)
    assert all(each.tokens_per_s == each.batch / each.step_seconds for each in batches)


@given(largest=st.integers(1, 5000))
def test_batch_sizes_end_at_the_largest_and_double(largest):
    sizes = batch_sizes(largest)
    assert sizes[0] == 1
    assert sizes[-1] == largest
    assert sizes == sorted(set(sizes))
    assert all(b <= 2 * a for a, b in itertools.pairwise(sizes))


@given(context=st.integers(1, 300_000), longest=st.integers(1, 300_000))
def test_context_lengths_are_sorted_and_hold_both_ends(context, longest):
    context = min(context, longest)
    lengths = context_lengths(context, longest)
    assert lengths == sorted(set(lengths))
    assert {context, longest} <= set(lengths) <= {context, longest, *COMMON_CONTEXTS}


# --- when it does not fit ------------------------------------------------------------------


def test_weights_that_exceed_the_card_are_named():
    answer = plan("llama3.1-70b", "h100")
    assert not answer.fits
    assert answer.verdict.startswith("DOES NOT FIT")
    assert "the weights take" in answer.verdict
    assert answer.memory.kv_cache_bytes < 0


def test_the_suggested_length_is_the_longest_that_fits():
    answer = plan("llama3.1-8b", "l4")
    longest = answer.suggestions[0].max_model_len
    assert plan("llama3.1-8b", "l4", max_model_len=longest).fits
    one_block_more = longest + answer.kv_cache.block_size
    assert not plan("llama3.1-8b", "l4", max_model_len=one_block_more).fits


def test_a_plan_that_is_told_so_suggests_nothing():
    """And is the same plan otherwise."""
    asked = {"model": "llama3.1-70b", "gpu": "h100"}
    answer = plan(**asked)
    assert answer.suggestions
    assert plan(**asked, suggests=False) == replace(answer, suggestions=())


def test_a_plan_that_fits_suggests_nothing(llama2):
    assert llama2.fits
    assert llama2.suggestions == ()


def test_more_kv_cache_than_memory_does_not_fit():
    answer = plan("llama2-7b", "a100", kv_cache_memory_bytes=900 * GIB)
    assert not answer.fits
    assert "900.00 GiB" in answer.verdict
    (offer,) = (each for each in answer.suggestions if "kv-cache-memory-bytes" in each.flag)
    assert offer.kv_cache_bytes + answer.memory.weights_bytes < answer.memory.total_bytes


def test_decreed_kv_bytes_are_taken_at_their_word():
    answer = plan("llama2-7b", "a100", kv_cache_memory_bytes=20 * GIB)
    assert answer.memory.kv_cache_bytes == 20 * GIB
    assert answer.kv_cache.num_blocks == 20 * GIB // (16 * LLAMA2_BYTES_PER_TOKEN)


# --- warnings ------------------------------------------------------------------------------


def warned(answer, words):
    return any(words in warning for warning in answer.warnings)


@pytest.mark.parametrize(
    ("asked", "others"),
    [
        ("h100", "the others are H100-NVL-94GB, H100-PCIE-80GB"),
        ("NVIDIA H100 80GB HBM3", None),  # the driver's own name for one of them
        ("h100-80gb", "the other is H100-PCIE-80GB"),
        ("a100-sxm", "the other is A100-SXM4-40GB"),
        ("h200", None),
    ],
)
def test_an_alias_is_explained_where_it_fits_other_cards_too(asked, others):
    said = [text for text in plan("llama2-7b", asked).warnings if "is taken as" in text]
    assert len(said) == (others is not None)
    assert others is None or others in said[0]


def test_the_alias_a100_is_explained(llama2):
    assert warned(llama2, "'a100' is taken as A100-SXM4-80GB")
    assert warned(llama2, "A100-SXM4-40GB")
    assert not warned(plan("llama2-7b", "A100-SXM4-80GB"), "is taken as")
    file = data_folder("hardware_profiles") / "a100-sxm4-80gb.yaml"
    assert not warned(plan("llama2-7b", str(file)), "is taken as")  # one card, whatever its name


def test_replicated_heads_are_counted():
    """Llama-3.1-70B has 8 KV heads: at TP16 every head lives on two ranks."""
    answer = plan("llama3.1-70b", "h100", tensor_parallel_size=16)
    assert warned(answer, "8 KV heads over tp=16: each is kept on 2 ranks, so 50%")
    assert not warned(plan("llama3.1-70b", "h100", tensor_parallel_size=8), "KV heads over")


def test_a_replicated_latent_cache_is_named():
    answer = plan("deepseek-v3", "h200", tensor_parallel_size=8)
    assert warned(answer, "8 copies of the same bytes")


def test_weight_formats_do_not_set_the_kv_format():
    answer = plan("deepseek-v3", "h200", tensor_parallel_size=8)
    assert answer.kv_cache.dtype == "bf16"
    assert warned(answer, "a weight format never sets the KV format")


def test_a_small_max_num_seqs_limits_before_memory_does():
    answer = plan("llama2-7b", "a100", max_num_seqs=4)
    assert warned(answer, "max_num_seqs = 4 limits before memory does")
    assert max(row.running for row in answer.concurrency) == 4
    asked = f"{int(answer.kv_cache.max_concurrency)} requests of 4,096 tokens would fit"
    assert warned(answer, asked)


def test_a_max_num_seqs_that_only_short_requests_reach_says_so():
    answer = plan("llama2-7b", "a100", max_num_seqs=64)
    assert answer.kv_cache.max_concurrency < 64
    assert warned(answer, "max_num_seqs = 64 limits short requests before memory does: 118")


def test_one_replica_of_several_is_named():
    answer = plan("llama2-7b", "a100", data_parallel_size=4)
    assert warned(answer, "one of 4 replicas")
    assert not warned(plan("llama2-7b", "a100"), "replicas")


def test_large_blocks_of_a_hybrid_are_warned_of():
    answer = plan("qwen3.5-27b", "h100", tensor_parallel_size=2)
    assert answer.fragmentation.expected_share > 0.05
    assert warned(answer, "holds no token of it")


# --- retention, engines, input ---------------------------------------------------------------


def test_retention_policies_stand_beside_full():
    answer = plan("llama2-7b", "a100", retention="window:1024")
    full, window = answer.retention
    assert (full.policy, window.policy) == ("full", "window:1024")
    assert window.sequence_bytes * 4 == full.sequence_bytes == 4096 * LLAMA2_BYTES_PER_TOKEN


def test_engines_stand_side_by_side():
    comparison = plan_engines("llama3.1-8b", "h100")
    assert [answer.engine.name for answer in comparison.plans] == [
        "vllm",
        "sglang",
        "tensorrt-llm",
        "llama.cpp",
        "transformers",
    ]
    assert {answer.kv_cache.bytes_per_token for answer in comparison.plans} == {131_072}


def test_an_engine_that_cannot_says_why():
    comparison = plan_engines("llama3.1-8b", "h100", swa_full=True)
    assert [answer.engine.name for answer in comparison.plans] == ["llama.cpp"]
    assert all("no option like --swa-full" in reason for _, reason in comparison.refused)


def test_no_engine_at_all_is_an_error():
    with pytest.raises(UnsupportedError, match=r"vllm: .*; sglang: "):
        plan_engines("llama3.1-8b", "h100", swa_full=True, enable_dp_attention=True)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tensor_parallel_size": 7}, "tp=7"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size"),
        ({"max_model_len": -1}, "max_model_len"),
        ({"max_model_len": 10**16}, "absurd"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({"gpu_memory_utilization": float("nan")}, "gpu_memory_utilization"),
        ({"max_model_length": 4096}, "did you mean max_model_len"),
        ({"context_len": 0}, "context_len"),
        ({"context_len": 5000}, "5,000 tokens exceed max_model_len, 4,096"),
        ({"engine": "vlm"}, "did you mean vllm"),
        ({"kv_cache_dtype": "fp7"}, "fp8"),
        ({"retention": "windows:3"}, "not a retention policy"),
    ],
)
def test_bad_input_is_one_clear_line(options, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        plan("llama2-7b", "a100", **options)
    assert "\n" not in str(caught.value)


def test_unknown_names_come_with_their_neighbours():
    with pytest.raises(InputError, match="did you mean llama2-7b"):
        plan("llama2-7bb", "a100")
    with pytest.raises(InputError, match=r"did you mean .*a100"):
        plan("llama2-7b", "a1000")


@pytest.mark.parametrize("model", ["deepseek-v3", "llama3.1-405b"])
def test_an_engine_without_tensor_parallelism_is_offered_a_pipeline(model):
    answer = plan(model, "h200", engine="llama.cpp")
    assert not answer.fits
    assert any("--pipeline-parallel-size" in each.flag for each in answer.suggestions)


def test_an_expanded_latent_cache_is_warned_of():
    """transformers keeps 128 heads * (192 + 128) elements of DeepSeek-V3, not 576."""
    answer = plan("deepseek-v3", "h200", engine="transformers")
    assert answer.kv_cache.bytes_per_token == 61 * 128 * (192 + 128) * 2
    assert warned(answer, "71.11 times")


def flagged(suggestion):
    """The options that a suggestion's flags stand for."""
    words = suggestion.flag.split()
    pairs = zip(words[::2], words[1::2], strict=True)
    return {name.strip("-").replace("-", "_"): value for name, value in pairs}


def test_the_utilisation_offered_is_the_smallest_that_fits():
    asked = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "engine": "vllm"}
    answer = plan("minimax-m2", "h100-nvl", gpu_memory_utilization=0.7, **asked)
    (offered,) = [s for s in answer.suggestions if s.flag.startswith("--gpu-memory-utilization")]
    share = float(flagged(offered)["gpu_memory_utilization"])
    assert 0.7 < share < 0.8
    assert plan("minimax-m2", "h100-nvl", gpu_memory_utilization=share, **asked).fits
    less = round(share - 0.001, 3)
    assert not plan("minimax-m2", "h100-nvl", gpu_memory_utilization=less, **asked).fits


def test_where_no_length_is_short_enough_a_change_is_offered_with_the_length_it_allows():
    """109 B parameters on a card of 192 GiB: two hold them, and a quarter of ten million tokens."""
    answer = plan("llama4-scout", "mi300x", engine="vllm")
    assert not answer.fits
    (offered,) = [s for s in answer.suggestions if s.flag.startswith("--tensor-parallel-size 2 ")]
    length = int(flagged(offered)["max_model_len"])
    assert length == offered.max_model_len > 1e6
    longer = length + answer.kv_cache.block_size
    two = {"tensor_parallel_size": 2, "engine": "vllm"}
    assert plan("llama4-scout", "mi300x", max_model_len=length, **two).fits
    assert not plan("llama4-scout", "mi300x", max_model_len=longer, **two).fits
