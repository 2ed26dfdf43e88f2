"""Plan and simulator answer the same question alike: who fits, what is wasted, what is read."""

from math import inf

import plan_equals_simulation as law
import pytest

import kvsim
from kvsim.catalog.models import model_names
from kvsim.engines import engine_names
from kvsim.errors import InputError, KVSimError
from kvsim.memory.rank import Rank
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.assemble import make_clock, make_scheduler
from kvsim.simulator.prepare import Setup, prepare
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.request import Request
from kvsim.simulator.scenario import Scenario
from kvsim.steptime.kv_reads import KVReadCurve
from tests.support.needs import examples

# Every kind of cache and of pool is in it: the rest of the catalogue repeats them (--slow).
TELLING = (
    "deepseek-v3.2",
    "deepseek-v4-flash",
    "deepseek-v4.1-flash",
    "gemma3-27b",
    "gemma4-26b-a4b",
    "glm-5.2",
    "glm-5.3-flash",
    "gpt-oss-20b",
    "llama2-7b",
    "llama3.2-11b-vision",
    "llama4-scout",
    "minimax-m3",
    "nemotron-h-8b",
    "qwen3-next-80b-a3b",
    "whisper-large-v3",
)


@pytest.mark.parametrize("engine", engine_names())
def test_a_simulation_holds_as_many_requests_as_the_plan_says(engine):
    found = [law.compared(m, engine, n) for m in TELLING for n in law.DEGREES]

    assert [pair for pair in found if not pair.refused and not pair.is_equal] == []
    assert [pair for pair in found if pair.refused.startswith("!")] == []
    assert sum(not pair.refused for pair in found) >= 10


@pytest.mark.slow
def test_the_whole_catalogue_holds_as_many_requests_as_planned():
    found = list(law.pairs(model_names()))

    assert [pair for pair in found if not pair.refused and not pair.is_equal] == []
    assert [pair for pair in found if pair.refused.startswith("!")] == []
    assert sum(not pair.refused for pair in found) >= 600


@pytest.mark.parametrize("engine", engine_names())
def test_the_allocator_itself_admits_as_many(engine):
    for model in TELLING:
        flags = law.options_of(model, engine, 1)
        tokens = flags["max_model_len"] - law.SHORT
        try:
            answer = kvsim.plan(model, law.GPU, engine=engine, context_len=tokens, **flags)
            setup = prepare(law.scenario(model, engine, flags, 1))
        except KVSimError:
            continue
        wanted = min(law.planned(answer, tokens), 300)
        admitted = law.admitted_at_once(setup, tokens, min(wanted + 3, 300))
        assert admitted == wanted, (model, engine)


@pytest.mark.parametrize("engine", engine_names())
@pytest.mark.parametrize("model", ["gpt-oss-20b", "gemma3-27b", "nemotron-h-8b", "llama2-7b"])
def test_the_tables_of_one_plan_agree(model, engine):
    answer = kvsim.plan(model, law.GPU, engine=engine, max_model_len=4096, context_len=4096)
    longest = answer.concurrency[-1]

    assert longest.context_len == 4096
    assert answer.contiguous_vs_paged.paged_requests == longest.requests
    assert answer.retention[0].policy == "full"
    assert answer.retention[0].requests == longest.requests
    used = longest.requests * longest.sequence_bytes
    assert used <= sum(pool.num_blocks * pool.block_bytes for pool in answer.pools)


# ---- memory that is held and not used ---------------------------------------------------------


@pytest.mark.parametrize("engine", ["sglang", "llama.cpp", "transformers"])
@pytest.mark.parametrize("model", ["gpt-oss-20b", "gemma3-27b", "nemotron-h-8b", "llama3.1-8b"])
def test_blocks_of_one_token_waste_nothing(model, engine):
    question = Scenario(
        name="ones",
        model=model,
        accelerator="h100",
        engine={"name": engine, "max_model_len": 8192, "max_num_seqs": 24},
        workload={
            "arrivals": {"kind": "poisson", "rate": 20},
            "lengths": {
                "prompt": {"kind": "uniform", "low": 10, "high": 3000},
                "output": {"kind": "uniform", "low": 1, "high": 400},
            },
            "requests": examples(60),
        },
    )
    waste = kvsim.simulate(question).summary["kv_cache"]["waste"]

    assert waste["internal"] == 0
    assert waste["token_states"] > 0
    assert sum(waste.values()) == pytest.approx(1)


# ---- bytes that are read ----------------------------------------------------------------------


def simulated_step_seconds(setup: Setup, batch: int, context: int) -> float:
    """Seconds of one decode step of so many sequences, the token to come being number `context`."""
    decoding = make_scheduler(setup, Recorder()).batch
    for row in range(batch):
        request = Request(row, 0.0, context, 2)
        request.computed_tokens, request.generated_tokens = context - 1, 1
        decoding.join(request)
    return make_clock(setup).decode_run(decoding, 1, inf)[1]


@pytest.mark.parametrize("engine", engine_names())
@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("llama3.1-8b", {}),
        ("deepseek-v2-lite", {}),
        ("gpt-oss-20b", {"tensor_parallel_size": 2}),
        ("deepseek-v3.2", {"tensor_parallel_size": 8, "decode_context_parallel_size": 4}),
        ("gemma3-27b", {}),
    ],
)
def test_plan_and_simulator_charge_the_same_reads(model, engine, flags):
    question = Scenario(
        name="reads",
        model=model,
        accelerator=law.GPU,
        engine={"name": engine, "max_model_len": 4096, **flags},
        workload={
            "arrivals": {"kind": "at_once"},
            "lengths": {
                "prompt": {"kind": "fixed", "tokens": 8},
                "output": {"kind": "fixed", "tokens": 8},
            },
            "requests": 1,
        },
    )
    try:
        answer = kvsim.plan(model, law.GPU, engine=engine, max_model_len=4096, **flags)
    except KVSimError:  # a flag that the engine lacks
        with pytest.raises(KVSimError):
            prepare(question)
        return
    setup = prepare(question)

    context = answer.decode.context_len
    for row in answer.decode.batches[:5]:
        simulated = simulated_step_seconds(setup, row.batch, context)
        assert simulated == pytest.approx(row.step_seconds, rel=1e-9)


# ---- what does not fit ------------------------------------------------------------------------


def fits_or_says(blocks: int) -> tuple[bool, str]:
    """Llama-3.1-8B with 4,096 tokens in so many blocks: whether it fits, and the verdict."""
    answer = kvsim.plan("llama3.1-8b", "h100", max_model_len=4096, num_gpu_blocks_override=blocks)
    return answer.fits, answer.verdict


def in_blocks(blocks: int) -> Scenario:
    """The same question to the simulator."""
    return kvsim.with_overrides(
        kvsim.load_scenario("peer-w"),
        {
            "model": "llama3.1-8b",
            "gpu": "h100",
            "max_model_len": 4096,
            "num_gpu_blocks_override": blocks,
            "workload.requests": 10,
        },
    )


def test_vllms_null_block_is_withheld_from_both():
    # vLLM 0.33 takes block 0 away before its start-up check (v1/core/block_pool.py: null_block)
    assert fits_or_says(257)[0]
    assert prepare(in_blocks(257)).num_blocks == 256

    fits, verdict = fits_or_says(256)
    assert not fits
    assert "needs 0.500 GiB of KV cache and there is 0.498 GiB" in verdict
    with pytest.raises(InputError) as refused:
        prepare(in_blocks(256))
    assert verdict in str(refused.value)


def test_a_pool_that_is_not_the_plans_is_a_warning_with_both_numbers():
    question = kvsim.with_overrides(kvsim.load_scenario("peer-w"), {"gpu": "l4"})
    planned = kvsim.plan(question.model, "l4", max_model_len=question.engine.max_model_len)

    (warning,) = prepare(question).warnings

    assert "3,700" in warning
    assert f"{planned.kv_cache.num_blocks:,}" in warning


def test_a_file_that_is_edited_while_it_runs_keeps_its_warnings(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(kvsim.load_scenario("peer-w").to_yaml(), "utf-8")
    setup, later = prepare(kvsim.load_scenario(file)), prepare(kvsim.load_scenario(file))
    (before,) = setup.warnings
    assert before.startswith("mine.yaml, line ")
    file.write_text("model: [half a li", "utf-8")
    (after,) = later.warnings
    assert after.partition(" states ")[2] == before.partition(" states ")[2] != ""


def test_weights_that_do_not_fit_are_refused_however_large_the_pool_is_said_to_be():
    question = kvsim.with_overrides(
        kvsim.load_scenario("peer-w"), {"model": "llama3.1-70b", "gpu": "l4"}
    )
    with pytest.raises(InputError, match="DOES NOT FIT") as refused:
        prepare(question)
    assert "0.00 GiB beside the weights" in str(refused.value)


@pytest.mark.parametrize("model", ["nemotron-h-8b", "whisper-large-v3", "gemma3-27b", "llama2-7b"])
def test_contiguous_regions_pay_for_states_and_what_the_encoder_left(model):
    """Reserve the longest sequence: as many as the plan's contiguous row says, but for rounding."""
    flags = law.options_of(model, "vllm", 1)
    answer = kvsim.plan(model, law.GPU, **flags)
    planned = min(answer.contiguous_vs_paged.contiguous_requests, law.SEATS)
    question = law.scenario(model, "vllm", flags, planned + 5)
    keys = {"memory.allocator": "reserve-max", "scheduler.policy": "orca"}
    held = law.peak_residents(kvsim.with_overrides(question, keys))
    assert held == pytest.approx(planned, abs=1, rel=0.01)


def test_an_allocator_that_knows_one_pool_is_refused_where_there_are_several(families):
    class Own(Paged):
        @classmethod
        def from_setup(cls, setup):
            return cls(setup.num_blocks, setup.curve)

    kvsim.register("allocators", "own", Own)
    flags = law.options_of("gpt-oss-20b", "sglang", 1)
    question = law.scenario("gpt-oss-20b", "sglang", flags, 3)
    own = kvsim.with_overrides(question, {"memory.allocator": "own"})
    with pytest.raises(InputError, match="2 apart: full, window"):
        kvsim.simulate(own)
    assert kvsim.simulate(kvsim.with_overrides(own, {"engine.name": "vllm"})).summary["completed"]


def test_mla_expanded_into_heads_is_moved_and_reserved_as_it_lies():
    # 27 layers of 16 heads, keys of 192 and values of 128 elements in 16 bits.
    token = 27 * 16 * (192 + 128) * 2
    flags = {"max_model_len": 4096}
    setup = prepare(law.scenario("deepseek-v2-lite", "transformers", flags, 1))
    assert setup.token_bytes == token

    asked = kvsim.with_overrides(setup.scenario, {"memory.allocator": "reserve-max"})
    assert prepare(asked).pool_slots == setup.pools.given_bytes // token


def test_ranks_of_decode_context_parallelism_share_a_sequences_blocks():
    # DeepSeek-V3.2 in vLLM: a block of 64 tokens on each of four ranks, 4,096 tokens in 16 of them.
    flags = {"max_model_len": 4096, "tensor_parallel_size": 8, "decode_context_parallel_size": 4}
    flags["kv_cache_dtype"] = "fp8"  # the one format that its kernels join between ranks
    main = prepare(law.scenario("deepseek-v3.2", "vllm", flags, 1)).pools.main

    assert (main.block_size, main.blocks_at(4096), main.blocks_at(4097)) == (64, 16, 17)


def test_a_rank_with_a_whole_attention_reads_all_of_it():
    # Each of eight data-parallel ranks of SGLang has the whole attention, its states among it.
    flags = {
        "max_model_len": 4096,
        "tensor_parallel_size": 8,
        "data_parallel_size": 8,
        "enable_dp_attention": True,
    }
    setup = prepare(law.scenario("qwen3-next-80b-a3b", "sglang", flags, 1))
    whole = KVReadCurve.from_model(setup.deployment.model, setup.kv, Rank())

    assert setup.sizing.read_curve == whole
    # 12 layers of two heads of 256; 36 states of fp32 matrices and 16-bit taps, read and written
    state = 32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2
    assert whole.bytes_at(1000) == 12 * 2 * (256 + 256) * 2 * 1000 + 36 * 2 * state == 179_109_888
