"""Step time: known answers, laws, and what a step is said to wait for."""

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim import plan
from kvsim.catalog.accelerators import accelerator_names, find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import get_engine
from kvsim.engines.base import Deployment
from kvsim.memory.rank import Rank
from kvsim.simulator.prepare import prepare
from kvsim.simulator.scenario import EngineSpec, Scenario
from kvsim.specs.attention import ChunkedAttention, FullAttention, SlidingAttention
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import ExpertRates, GemmRates, HostCost, Link, StepCoefficients
from kvsim.specs.model import DenseMlp, LayerGroup, ModelSpec
from kvsim.specs.precision import kv_format
from kvsim.steptime.defaults import (
    EFFICIENCIES,
    architecture_of,
    class_coefficients,
)
from kvsim.steptime.hosts import host_cost
from kvsim.steptime.kv_reads import KVReadCurve, prefill_pairs
from kvsim.steptime.model import ConstantStepTime, StepCost, StepLoad, StepTimeModel
from kvsim.steptime.terms import (
    collective_seconds,
    expert_padding,
    nearest_link,
    roofline_seconds,
    tile_factor,
)
from kvsim.workload.spec import parse_workload

BF16 = kv_format("bf16")
MEASURED = {
    "ampere": ("a100",),
    "hopper": ("h100", "h200"),
    "blackwell": ("b200", "b300", "rtx-pro-6000"),
    "ada": ("l40s", "rtx4090"),
}
seconds = st.floats(1e-9, 10.0)


AS_BF16 = GemmRates(seconds=0.0, bytes_per_s=8.1e11, flops_per_s=1.97e14)


def rates(**changes):
    plain = {
        "engine": "none",
        "source": "test",
        "date": "2026-11-21",
        "weight_bytes_per_s": 8.1e11,
        "flops_per_s": 1.97e14,
        "kv_bytes_per_s": 8.1e11,
        "attention_flops_per_s": 1e14,
        "layer_seconds": 0.0,
        "norm": 6.0,
    }
    return StepCoefficients(**{**plain, **changes})


def steps_of(model, card="h100", coefficients=None, *, engine=None, **options):
    spec = find_model(model) if isinstance(model, str) else model
    deployment = Deployment(spec, find_accelerator(card), EngineOptions(**options))
    return StepTimeModel.from_deployment(deployment, coefficients, engine=engine)


def decoder(*caches):
    """Make a tiny model with one layer for each cache."""
    groups = tuple(
        LayerGroup(
            name=f"g{index}",
            layers=(index,),
            caches=(cache,),
            mlp=DenseMlp(intermediate_size=512),
        )
        for index, cache in enumerate(caches)
    )
    return ModelSpec(
        name="tiny",
        hidden_size=256,
        vocab_size=1000,
        max_position_embeddings=4096,
        layer_groups=groups,
    )


# --- known answers -------------------------------------------------------------------------------


def test_the_scaling_books_decode_step_takes_17_ms():
    # The scaling book, "All About Transformer Inference": LLaMA-3-70B in int8 on 8 chips of
    # 8.1e11 bytes/s, 32 sequences of 8,192 tokens: (70e9 weights + 41.9e9 KV) / 6.48e12.
    model = find_model("llama3-70b")
    steps = steps_of(
        model,
        "tpu-v5e",
        rates(gemms={"int8": AS_BF16}, fp8_kv_speedup=2.0, norm=50.0),
        tensor_parallel_size=8,
        quantization="int8",
        kv_cache_dtype="int8",
    )
    reads = KVReadCurve.from_model(model, kv_format("int8"), Rank(tp=8))
    kv_bytes = 32 * reads.bytes_at(8192)
    assert kv_bytes * 8 == 42_949_672_960  # 32 * 8192 * 163,840: the book rounds to 41.9e9

    cost = steps.cost(StepLoad(tokens=32, sequences=32, kv_read_bytes=kv_bytes))

    assert cost.seconds == pytest.approx(17e-3, rel=0.05)
    assert cost.bound_by == "bandwidth"


def test_llama_2_7b_reads_half_a_mebibyte_a_token_of_context():
    reads = KVReadCurve.from_model(find_model("llama2-7b"), kv_format("fp16"))

    assert reads.bytes_at(1) == reads.slope_at(1) == 524_288
    assert reads.bytes_at(4096) == 4096 * 524_288


def test_a_window_bends_the_read_curve_and_the_full_layer_goes_on():
    full = FullAttention(heads=4, kv_heads=2, key_dim=64, value_dim=64)
    window = SlidingAttention(heads=4, kv_heads=2, key_dim=64, value_dim=64, window=100)
    token_bytes = 2 * (64 + 64) * 2

    reads = KVReadCurve.from_model(decoder(full, window), BF16)

    assert reads.breakpoints == (100,)
    assert reads.bytes_at(100) == 200 * token_bytes
    assert reads.bytes_at(1000) == 1100 * token_bytes
    assert (reads.slope_at(100), reads.slope_at(101)) == (2 * token_bytes, token_bytes)


def test_mla_reads_one_latent_on_every_rank():
    # DeepSeek-V2, table 1: (512 + 64) elements per token per layer, 60 layers, bf16.
    model = find_model("deepseek-v2")

    for tp in (1, 8):
        assert KVReadCurve.from_model(model, BF16, Rank(tp=tp)).bytes_at(10) == 10 * 576 * 2 * 60


def test_causal_pairs_are_counted_by_hand():
    full = FullAttention(heads=1, kv_heads=1, key_dim=64, value_dim=64)
    window = SlidingAttention(heads=1, kv_heads=1, key_dim=64, value_dim=64, window=3)
    chunks = ChunkedAttention(heads=1, kv_heads=1, key_dim=64, value_dim=64, chunk=4)

    assert prefill_pairs(decoder(full), 0, 4) == 1 + 2 + 3 + 4
    assert prefill_pairs(decoder(full), 4, 2) == 5 + 6
    assert prefill_pairs(decoder(window), 0, 5) == 1 + 2 + 3 + 3 + 3
    assert prefill_pairs(decoder(chunks), 0, 6) == 1 + 2 + 3 + 4 + 1 + 2
    assert prefill_pairs(decoder(full, window), 0, 5) == (15 + 12) / 2
    assert full.pair_flops == 4 * 64


def test_a_prefill_costs_the_same_in_chunks_as_at_once():
    for name in ("llama3-8b", "gemma2-9b", "llama4-scout"):
        model = find_model(name)
        whole = prefill_pairs(model, 0, 10_000)
        parts = sum(prefill_pairs(model, start, 2000) for start in range(0, 10_000, 2000))
        assert parts == pytest.approx(whole, rel=1e-12)


def test_the_p_norm_of_equal_arms_is_known():
    assert roofline_seconds(2.0, 2.0, 2.0) == pytest.approx(math.sqrt(8))
    assert roofline_seconds(0.0, 0.0, 2.0) == 0.0


def test_an_all_reduce_changes_its_algorithm_at_8_mib():
    link = Link(
        seconds=5e-6,
        bytes_per_s=1e11,
        large_from_bytes=8 * 2**20,
        large_seconds=40e-6,
        large_bytes_per_s=2e11,
    )

    assert collective_seconds(2, 1e6, link) == pytest.approx(2 * (5e-6 + 1e-5))
    assert collective_seconds(2, 1e8, link) == pytest.approx(2 * (40e-6 + 5e-4))


def test_the_nearest_known_degree_stands_in():
    links = {2: Link(seconds=1, bytes_per_s=1), 8: Link(seconds=8, bytes_per_s=1)}

    assert nearest_link(links, 16).seconds == 8
    assert nearest_link(links, 4).seconds == 1
    assert nearest_link({}, 4) is None


# --- laws ----------------------------------------------------------------------------------------


@given(seconds, seconds, st.floats(1.0, 30.0))
def test_the_p_norm_lies_between_the_larger_arm_and_the_sum(weight, compute, norm):
    joined = roofline_seconds(weight, compute, norm)

    assert max(weight, compute) * (1 - 1e-12) <= joined <= (weight + compute) * (1 + 1e-12)


@given(st.lists(seconds, min_size=9, max_size=9))
def test_the_largest_share_is_what_binds(parts):
    cost = StepCost(*parts)
    shares = {
        "host": cost.host_seconds + cost.layer_seconds + cost.sequence_seconds,
        "bandwidth": cost.weight_seconds + cost.kv_seconds,
        "compute": cost.compute_seconds + cost.prefill_attention_seconds,
        "link": cost.collective_seconds,
    }

    assert shares[cost.bound_by] == max(shares.values())
    arms = cost.weight_seconds + cost.compute_seconds
    assert cost.seconds == pytest.approx(sum(parts) - arms)


@pytest.mark.parametrize("card", ["a100", "h100", "h200", "l40s", "rtx4090", "rtx-pro-6000", "a40"])
@pytest.mark.parametrize("model", ["llama3-8b", "llama2-13b", "mixtral-8x7b"])
def test_more_tokens_never_take_less_time(card, model):
    steps = steps_of(model, card)
    sizes = sorted({*range(1, 64), *range(64, 9000, 61)})

    decodes = [steps.seconds(StepLoad(tokens=size, sequences=size)) for size in sizes]
    prefills = [steps.seconds(StepLoad(tokens=size, sequences=1)) for size in sizes]

    for times in (decodes, prefills):
        assert times == sorted(times)
        assert times[-1] > 5 * times[0]


@given(st.integers(1, 512), st.floats(0, 1e11), st.floats(0, 1e11))
@settings(max_examples=50)
def test_kv_bytes_enter_linearly(sequences, some_bytes, more_bytes):
    steps = steps_of("llama3-8b")

    def at(kv_bytes):
        return steps.seconds(StepLoad(sequences, sequences, kv_bytes))

    expected = at(0.0) + steps.kv_seconds_per_byte * (some_bytes + more_bytes)
    assert at(some_bytes + more_bytes) == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 40_000), st.integers(1, 40_000))
@settings(max_examples=60)
def test_reading_grows_with_context(shorter, longer):
    shorter, longer = sorted((shorter, longer))
    for name in ("llama3-8b", "gemma2-9b", "gpt-oss-20b", "deepseek-v3"):
        reads = KVReadCurve.from_model(find_model(name), BF16)
        assert reads.bytes_at(shorter) <= reads.bytes_at(longer)


@given(st.integers(1, 20_000))
def test_the_tile_factor_stays_between_its_entries(tokens):
    factors = {16: 1.02, 128: 0.9, 1024: 1.1}

    assert 0.9 <= tile_factor(tokens, factors) <= 1.1


def test_sharding_shortens_a_step_and_adds_the_link():
    one, four = steps_of("llama3-8b"), steps_of("llama3-8b", tensor_parallel_size=4)
    load = StepLoad(tokens=64, sequences=64)

    assert one.cost(load).collective_seconds == 0
    assert four.cost(load).collective_seconds > 0
    assert four.cost(load).weight_seconds == pytest.approx(one.cost(load).weight_seconds / 4, 0.01)
    assert four.seconds(load) < one.seconds(load)


def test_pipeline_stages_share_arithmetic_but_not_the_reading_of_weights():
    one, two = steps_of("llama3-8b"), steps_of("llama3-8b", pipeline_parallel_size=2)
    load = StepLoad(tokens=512, sequences=512)

    assert two.cost(load).compute_seconds == pytest.approx(one.cost(load).compute_seconds / 2)
    assert two.cost(load).weight_seconds == one.cost(load).weight_seconds
    assert two.cost(load).collective_seconds > 0
    alone = StepLoad(tokens=1, sequences=1)
    assert two.cost(alone).compute_seconds == one.cost(alone).compute_seconds


def test_a_mixture_reads_the_experts_that_a_batch_touches():
    steps = steps_of("mixtral-8x7b")
    few, many = (steps.cost(StepLoad(n, n)).weight_seconds for n in (1, 64))

    # 2 of 8 experts, against all: 12.9e9 active parameters of 46.7e9
    assert few / many == pytest.approx(12.9 / 46.7, rel=0.05)


def test_fp8_is_faster_by_what_was_measured_not_by_half():
    h100 = find_accelerator("h100").coefficients
    plain = steps_of("llama3-8b")
    narrow = steps_of("llama3-8b", quantization="fp8", kv_cache_dtype="fp8")

    loads = [each.cost(StepLoad(1, 1)).weight_seconds for each in (plain, narrow)]
    assert 1.5 < loads[0] / loads[1] <= 2
    assert narrow.gemms == h100.gemms["fp8"]
    bytes_saved = plain.kv_seconds_per_byte / (narrow.kv_seconds_per_byte / 2)
    assert bytes_saved == pytest.approx(h100.fp8_kv_speedup)
    assert narrow.gemms.flops_per_s > plain.gemms.flops_per_s


def test_a_step_with_prefill_reads_kv_more_slowly_where_that_was_measured():
    steps = steps_of("llama3.1-8b", "rtx4090")
    factor = steps.coefficients.mixed_kv_factor
    bare = steps.cost(StepLoad(600, 33)).kv_seconds

    mixed = steps.cost(StepLoad(600, 33, kv_read_bytes=1e9)).kv_seconds - bare

    assert factor > 1.5
    assert mixed == pytest.approx(factor * steps.kv_seconds_per_byte * 1e9)


# --- layers with experts -------------------------------------------------------------------------


def expert_rates(**changes):
    """Coefficients whose experts have rates of their own."""
    known = {"seconds": 0.0, "bytes_per_s": 1e12, "flops_per_s": 1e14} | changes
    return rates(experts={"bf16": ExpertRates(**known)})


def test_a_layer_with_experts_costs_what_choosing_them_costs():
    # DeepSeek-V3: 61 layers, the first 3 of them dense
    load = StepLoad(tokens=8, sequences=8)
    for name, layers in (("deepseek-v3", 58), ("mixtral-8x7b", 32), ("llama3-8b", 0)):
        plain = steps_of(name, coefficients=expert_rates()).cost(load)
        costly = steps_of(name, coefficients=expert_rates(seconds=20e-6)).cost(load)

        assert costly.seconds - plain.seconds == pytest.approx(layers * 20e-6, abs=1e-12)


def test_experts_are_read_and_computed_at_rates_of_their_own():
    # Mixtral-8x7B: 2 of 8 experts of 3 * 4,096 * 14,336 parameters in each of 32 layers; 8,000
    # tokens touch all of them and give each 2,000 rows: 125 tiles of 16
    expert = 3 * 4096 * 14336
    load = StepLoad(tokens=8000, sequences=1)
    known, slow_read, slow = (
        steps_of("mixtral-8x7b", coefficients=expert_rates(**changes)).cost(load)
        for changes in ({}, {"bytes_per_s": 5e11}, {"flops_per_s": 5e13})
    )
    assert slow_read.weight_seconds - known.weight_seconds == pytest.approx(
        32 * 8 * expert * 2 / 1e12
    )
    assert slow.compute_seconds - known.compute_seconds == pytest.approx(
        2.0 * 32 * 2 * expert * 8000 / 1e14
    )
    dense = [
        steps_of("llama3-8b", coefficients=expert_rates(flops_per_s=rate)).seconds(load)
        for rate in (1e14, 5e13)
    ]
    assert dense[0] == dense[1]


@given(st.integers(1, 20_000), st.sampled_from([(1, 16), (2, 8), (8, 256), (10, 512)]))
def test_experts_compute_whole_tiles(tokens, shape):
    """No fewer rows than asked for, no more than 15 too many for each that is touched."""
    used, units = shape
    factor, rows = expert_padding(tokens, used, units), tokens * used
    touched = units * (1 - (1 - used / units) ** tokens)
    assert 1 - 1e-9 <= factor <= 1 + 16 * touched / rows


# --- where coefficients come from ----------------------------------------------------------------


@pytest.mark.parametrize("engine", ["sglang", "tensorrt-llm"])
def test_a_simulation_and_a_plan_take_the_host_costs_of_their_own_engine(engine):
    lengths = {"prompt": {"kind": "fixed", "tokens": 9}, "output": {"kind": "fixed", "tokens": 9}}
    scenario = Scenario(
        name="host",
        model="llama3-8b",
        accelerator="h100",
        engine=EngineSpec(name=engine, max_model_len=4096),
        workload=parse_workload(
            {"arrivals": {"kind": "at_once"}, "lengths": lengths, "requests": 1}
        ),
    )
    known = host_cost(get_engine(engine), is_async=False)

    assert prepare(scenario).step_time.host == known
    plain, own = (plan("llama3-8b", "h100", engine=name) for name in ("vllm", engine))
    assert plain.decode.batches[0].step_seconds != own.decode.batches[0].step_seconds


def test_a_card_without_measurements_is_marked_as_assumed():
    assumed, fitted = steps_of("llama3-8b", "l4"), steps_of("llama3-8b", "h100")

    assert assumed.provenance.startswith("assumed")
    assert "L4" in assumed.provenance
    assert fitted.provenance.startswith("fitted")


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_efficiencies_are_the_medians_of_the_measured_cards(name):
    cards = [find_accelerator(card) for card in MEASURED[name]]
    assert {architecture_of(card) for card in cards} == {name}
    fits = [(card, card.coefficients) for card in cards]
    known = EFFICIENCIES[name]
    shares = {
        known.bandwidth: [c.weight_bytes_per_s / a.bandwidth_bytes_per_s for a, c in fits],
        known.kv: [c.kv_bytes_per_s / a.bandwidth_bytes_per_s for a, c in fits],
        known.flops: [c.flops_per_s / a.flops_per_s("bf16") for a, c in fits],
        known.attention: [c.attention_flops_per_s / a.flops_per_s("bf16") for a, c in fits],
    }
    for share, values in shares.items():
        assert share == pytest.approx(statistics.median(values), abs=1e-3)
    layers, heads = ([getattr(c, f"{part}_seconds") for _, c in fits] for part in ("layer", "head"))
    assert known.layer_seconds == pytest.approx(statistics.median(layers), rel=0.01)
    assert known.head_seconds == pytest.approx(statistics.median(heads), abs=1e-9)


def test_every_accelerator_has_coefficients_within_its_datasheet():
    for card in map(find_accelerator, accelerator_names()):
        used = card.coefficients or class_coefficients(card)
        for rate in (used.weight_bytes_per_s, used.kv_bytes_per_s):
            assert 0.3 <= rate / card.bandwidth_bytes_per_s <= 1.0, card.name
        for rate in (used.flops_per_s, used.attention_flops_per_s):
            assert 0.3 <= rate / card.flops_per_s("bf16") <= 1.0, card.name


def test_an_engines_own_host_costs_replace_the_defaults():
    costs = {"sglang": HostCost(host_seconds=0.004, sequence_seconds=1e-5)}
    coefficients = rates(host_seconds=0.001, host_costs=costs)
    load = StepLoad(tokens=8, sequences=8)

    plain = steps_of("llama3-8b", coefficients=coefficients).cost(load)
    sglang = get_engine("sglang")
    other = steps_of("llama3-8b", coefficients=coefficients, engine=sglang).cost(load)

    assert (plain.host_seconds, plain.sequence_seconds) == (0.001, 0.0)
    assert (other.host_seconds, other.sequence_seconds) == (0.004, 8e-5)


def test_constant_step_time_is_constant():
    steps = ConstantStepTime(0.25)

    assert steps.seconds(StepLoad(1, 1)) == steps.seconds(StepLoad(9000, 99, 1e9)) == 0.25
    assert steps.kv_seconds_per_byte == 0
    assert steps.cost(StepLoad(1, 1)).bound_by == "host"


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
def test_the_provenance_names_the_host_cost_that_counts(engine: str) -> None:
    said = steps_of("llama3.1-8b", engine=get_engine(engine)).provenance
    costs = steps_of("llama3.1-8b", engine=get_engine(engine)).host
    assert said.endswith(f"; host: {costs.source}")
    assert said.count("host:") == 1
    assert "host:" not in steps_of("llama3.1-8b").provenance
