"""Plans at their edges: one block, one request, one pool that runs out first, absurd flags."""

import re

import pytest

from kvsim import plan
from kvsim.errors import InputError


def test_a_block_longer_than_any_request_is_answered_at_once_and_in_true_bytes():
    """One block of a million tokens of Llama-2-7B is 524,288 * 10**6 bytes = 488.28 GiB."""
    answer = plan("llama2-7b", "a100", block_size=1_000_000)
    assert not answer.fits
    assert "needs 488.28 GiB" in answer.verdict
    assert plan("llama2-7b", "a100", block_size=10**15).fragmentation.worst_share > 0.99


@pytest.mark.parametrize(
    ("model", "gpu", "engine"),
    [("deepseek-v3", "l4", "vllm"), ("command-r", "t4", "sglang"), ("llama3.1-405b", "t4", "vllm")],
)
def test_what_needs_several_changes_is_offered_them(model, gpu, engine):
    answer = plan(model, gpu, engine=engine)
    assert not answer.fits
    assert answer.suggestions
    words = answer.suggestions[0].flag.split()
    options = {
        name.removeprefix("--").replace("-", "_"): _value(value)
        for name, value in zip(words[::2], words[1::2], strict=True)
    }
    assert len(options) > 1
    assert plan(model, gpu, engine=engine, **options).fits


def _value(text):
    try:
        return int(text)
    except ValueError:
        return float(text) if text[0].isdigit() else text


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        ("gemma3-27b", "sglang"),  # the full pool runs out, the window pool idles
        ("qwen3.5-27b", "sglang"),  # the states take half of the bytes
        ("jamba-v0.1", "tensorrt-llm"),  # states of a whole batch are set aside first
        ("gemma3-27b", "tensorrt-llm"),
        ("gemma3-27b", "vllm"),
        ("llama3.1-8b", "sglang"),
    ],
)
def test_requests_of_the_longest_length_are_those_of_the_steady_regime(model, engine):
    """Pools cannot lend to each other: sglang#26248 shows full 1.00 beside swa 0.06."""
    answer = plan(model, "h200", engine=engine)
    longest = answer.concurrency[-1]
    steady = answer.capacity_tokens.steady / answer.kv_cache.max_model_len
    assert longest.context_len == answer.kv_cache.max_model_len
    assert steady * 0.99 - 1 < longest.requests <= steady * 1.01


def test_a_pool_of_windows_limits_short_requests_too():
    """TensorRT-LLM cuts the bytes for max_model_len: a window pool holds so many windows."""
    answer = plan("gemma3-27b", "h200", engine="tensorrt-llm", context_len=1024)
    longest = answer.concurrency[-1].requests
    assert next(c for c in answer.concurrency if c.context_len == 1024).requests == longest


def test_context_ranks_share_the_tokens_of_a_latent_cache():
    """DeepSeek-V3: 61 layers * 576 * 2 = 70,272 bytes per token, an eighth on each of 8 ranks."""
    options = {"tensor_parallel_size": 8, "decode_context_parallel_size": 8}
    assert plan("deepseek-v3", "h200", **options).kv_cache.bytes_per_token == 70_272 // 8


def test_experts_are_dealt_over_the_replicas_too():
    """vLLM's expert-parallel ranks are tp * dp: 128 experts over 2 * 4 are 16 per rank."""
    options = {"tensor_parallel_size": 2, "enable_expert_parallel": True}
    one, four = (
        plan("qwen3-30b-a3b", "h100", data_parallel_size=dp, **options).memory.weights_bytes
        for dp in (1, 4)
    )
    experts = 48 * 128 * 3 * 2048 * 768 * 2  # layers, experts, matrices, hidden, width, bytes
    assert one - four == pytest.approx(experts * (1 / 2 - 1 / 8), rel=1e-6)


@pytest.mark.parametrize(("blocks", "fits"), [(256, False), (257, True), (258, True)])
def test_exactly_one_longest_request_is_enough(blocks, fits):
    """4,096 tokens in blocks of 16 are 256, and vLLM withholds its null block."""
    assert plan("llama2-7b", "a100", num_gpu_blocks_override=blocks).fits is fits


def test_the_arithmetic_of_a_step_is_split_over_the_ranks():
    """Weights and KV split as the FLOPs do, so that FLOPs per byte hardly change with tp."""
    one, two = (
        plan("llama2-7b", "a100", tensor_parallel_size=tp).decode.batches[0] for tp in (1, 2)
    )
    assert one.arithmetic_intensity == pytest.approx(two.arithmetic_intensity, rel=0.02)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers"])
@pytest.mark.parametrize("model", ["llama3.1-8b", "gemma3-27b", "gpt-oss-20b"])
def test_blocks_never_take_more_than_the_bytes_given(engine, model):
    answer = plan(model, "h200", engine=engine, max_model_len=8192).to_dict()
    memory, layout = answer["memory"], answer["kv_cache"]
    assert layout["num_blocks"] * layout["bytes_per_block"] <= memory["kv_cache_bytes"]


def test_graphs_that_are_off_take_no_memory():
    with pytest.raises(InputError, match="enforce-eager"):
        plan("llama3.1-8b", "h100", enforce_eager=True, cuda_graph_bytes=1 << 30)


def test_a_rank_for_adapters_that_are_off_is_refused():
    with pytest.raises(InputError, match="enable-lora"):
        plan("llama3.1-8b", "h100", max_lora_rank=64)


def test_an_absurd_number_of_replicas_is_refused():
    with pytest.raises(InputError, match="at most 65536"):
        plan("llama3.1-8b", "h100", data_parallel_size=10**12)


def test_a_pool_of_kilobytes_is_not_printed_as_no_gib():
    """OPT-125M keeps 36,864 bytes a token; of two blocks of 16 one is vLLM's null block."""
    flags = {"max_model_len": 64, "block_size": 16}
    answer = plan("opt-125m", "a100", num_gpu_blocks_override=2, **flags)
    assert "needs 2.25 MiB of KV cache and there is 576 KiB" in answer.verdict


def test_states_that_take_the_memory_are_named_and_fewer_seats_offered():
    """TensorRT-LLM sets a state aside for each of its 2,048 seats."""
    answer = plan("nemotron-nano-9b-v2", "h200", engine="tensorrt-llm", max_model_len=2048)
    assert not answer.fits
    assert needs_and_has(answer.verdict)[0] == "full"
    assert "the pool 'states' takes" in answer.verdict
    seats = next(each for each in answer.suggestions if "--max-num-seqs" in each.flag)
    fewer = plan(
        "nemotron-nano-9b-v2",
        "h200",
        engine="tensorrt-llm",
        max_model_len=2048,
        max_num_seqs=int(seats.flag.split()[-1]),
    )
    assert fewer.fits


def test_slots_that_llama_cpp_could_not_allocate_are_a_warning():
    flags = {"engine": "llama.cpp", "max_model_len": 8192}
    answer = plan("gemma3-12b", "h100", max_num_seqs=128, **flags)
    held = answer.concurrency[-1].requests
    assert any("-np 128 allocates" in said and f"{held} fit" in said for said in answer.warnings)
    fewer = plan("gemma3-12b", "h100", max_num_seqs=held, **flags)
    assert not any("allocates as many slots" in said for said in fewer.warnings)


def needs_and_has(verdict: str) -> tuple[str, str, str]:
    """The pool that a verdict names, what a request needs of it, and what there is."""
    found = re.search(
        r"needs (\S+ \S+) of KV cache in the pool '(.+?)' and there is (\S+ \S+?);", verdict
    )
    assert found, verdict
    return found[2], found[1], found[3]


def test_a_verdict_names_the_pool_that_is_too_small():
    # 3 slots of state a request, and room for 2: what all pools have together would be enough.
    states = plan(
        "granite-4.0-h-small", "a10g", engine="sglang", quantization="awq", max_model_len=4096
    )
    assert needs_and_has(states.verdict) == ("states", "0.43 GiB", "0.28 GiB")

    # The states of TensorRT-LLM's batch of 2,048 come first: no token has room.
    full = plan("nemotron-h-8b", "h100", engine="tensorrt-llm", max_model_len=4096)
    assert needs_and_has(full.verdict) == ("full", "0.06 GiB", "0.00 GiB")
    assert "the pool 'states' takes 194.81 GiB" in full.verdict
