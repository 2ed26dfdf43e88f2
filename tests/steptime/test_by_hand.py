"""One step of a tiny model, every term worked out by hand from the formula that the docs state.

The model: 2 layers, hidden size 256, vocabulary 1,000; per layer 4 query heads and 2 KV heads of
64 elements, and a gated MLP of width 512. Its GEMMs, in parameters per layer::

    q 256 * 4 * 64 = 65,536    k and v 2 * 256 * 2 * 64 = 65,536    o 65,536
    gate, up, down 3 * 256 * 512 = 393,216                          together 589,824

so a token costs ``2 * 2 * 589,824 = 2,359,296`` FLOPs in the layers and a sequence
``2 * 256 * 1000 = 512,000`` in the head. The rates are round numbers, so that a wrong factor shows.
"""

import math

import pytest

from kvsim.catalog.accelerators import find_accelerator
from kvsim.engines import get_engine
from kvsim.engines.base import Deployment
from kvsim.memory.rank import Rank
from kvsim.memory.tensors import matmul_flops_per_token
from kvsim.specs.attention import FullAttention, RecurrentState, SlidingAttention
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import ExpertRates, GemmRates, Interconnect, Link, StepCoefficients
from kvsim.specs.model import DenseMlp, LayerGroup, ModelSpec, MoeMlp
from kvsim.specs.precision import kv_format, weight_format
from kvsim.steptime.defaults import architecture_of, class_coefficients
from kvsim.steptime.kv_reads import KVReadCurve, prefill_pairs
from kvsim.steptime.model import StepCost, StepLoad, StepTimeModel
from kvsim.steptime.rank_work import ExpertWork, RankWork
from kvsim.steptime.rates import expert_rates, links_of
from kvsim.steptime.terms import (
    collective_seconds,
    compute_seconds,
    head_seconds,
    kv_seconds,
    nearest_link,
    prefill_attention_seconds,
    tile_factor,
    weight_seconds,
)

CACHE = FullAttention(heads=4, kv_heads=2, key_dim=64, value_dim=64)
BODY_FLOPS, HEAD_FLOPS = 2_359_296, 512_000
LINK = Link(seconds=3e-6, bytes_per_s=1e9)


def tiny(mlp=None, layers=2, caches=(CACHE,)):
    group = LayerGroup(
        name="all",
        layers=tuple(range(layers)),
        caches=caches,
        mlp=mlp or DenseMlp(intermediate_size=512),
    )
    return ModelSpec(
        name="tiny",
        hidden_size=256,
        vocab_size=1000,
        max_position_embeddings=4096,
        layer_groups=(group,),
    )


RATES = {
    "engine": "none",
    "source": "by hand",
    "date": "2026-11-29",
    "weight_bytes_per_s": 1e9,
    "flops_per_s": 1e10,
    "kv_bytes_per_s": 2e9,
    "attention_flops_per_s": 4e9,
    "layer_seconds": 5e-5,
    "host_seconds": 7e-4,
    "sequence_seconds": 2e-5,
    "norm": 2.0,
    "head_seconds": 1e-6,
    "mixed_kv_factor": 3.0,
    "mixed_head_seconds": 4e-6,
    "attention_token_seconds": 1e-7,
    "token_factors": {10: 1.0, 40: 2.0},
    "collectives": {2: LINK},
}


def steps(model=None, card="h100", rates=(), **options):
    coefficients = StepCoefficients(**{**RATES, **dict(rates)})
    deployment = Deployment(model or tiny(), find_accelerator(card), EngineOptions(**options))
    return StepTimeModel.from_deployment(deployment, coefficients)


def test_a_decode_step_of_ten_sequences():
    """Weights: 1,179,648 in the layers, 1,024 * 256 in the head (vLLM pads the vocabulary to a
    multiple of 64), 5 * 256 norms, 2 bytes each; the embedding is looked up."""
    cost = steps().cost(StepLoad(tokens=10, sequences=10, kv_read_bytes=4e6))

    assert cost.host_seconds == 7e-4
    assert cost.layer_seconds == pytest.approx(2 * 5e-5)
    read = 2 * (1_179_648 + 1024 * 256 + 5 * 256)
    assert cost.weight_seconds == pytest.approx(read / 1e9)
    compute = 10 * (BODY_FLOPS + HEAD_FLOPS) / 1e10
    assert cost.compute_seconds == pytest.approx(compute)
    assert cost.roofline_seconds == pytest.approx(math.hypot(cost.weight_seconds, compute))
    assert cost.kv_seconds == pytest.approx(4e6 / 2e9 + 10 * (2 * 2) * 1e-6)
    assert cost.prefill_attention_seconds == 0
    assert cost.collective_seconds == 0
    assert cost.sequence_seconds == pytest.approx(10 * 2e-5)


def test_a_step_that_prefills_twenty_tokens_beside_one_decode():
    """21 tokens, 2 sequences: half way from 10 to 40 in log2 would be 20; 19 of the 21 tokens are
    more than one a sequence, each with 4 query heads in 2 layers, and a pair costs
    2 * 4 * (64 + 64) FLOPs a layer."""
    pairs = prefill_pairs(tiny(), 0, 20)
    load = StepLoad(tokens=21, sequences=2, kv_read_bytes=1e6, prefill_pairs=pairs)
    cost = steps().cost(load)

    assert pairs == 210
    attention = 210 * 2 * (2 * 4 * 128) / 4e9 + 19 * (2 * 4) * 1e-7
    assert cost.prefill_attention_seconds == pytest.approx(attention)
    assert cost.kv_seconds == pytest.approx(3 * 1e6 / 2e9 + 2 * (2 * 2) * 5e-6)
    tile = 1 + math.log2(2.1) / 2
    compute = tile * (21 * BODY_FLOPS + 2 * HEAD_FLOPS) / 1e10
    assert cost.compute_seconds == pytest.approx(compute)


def test_two_ranks_halve_the_heads_and_meet_twice_a_layer():
    """A message is 10 tokens of 256 elements of 2 bytes; four all-reduces in two layers."""
    cost = steps(tensor_parallel_size=2).cost(StepLoad(10, 10))

    assert cost.collective_seconds == pytest.approx(4 * (3e-6 + 10 * 512 / 1e9))
    assert cost.compute_seconds == pytest.approx(10 * (BODY_FLOPS + HEAD_FLOPS) / 2 / 1e10)
    assert cost.kv_seconds == pytest.approx(10 * (2 * 1) * 1e-6)


def test_two_stages_halve_what_sequences_share_and_pass_one_message_on():
    one, two = (
        steps(pipeline_parallel_size=stages).cost(StepLoad(14, 4, prefill_pairs=55.0))
        for stages in (1, 2)
    )

    assert two.collective_seconds == pytest.approx(3e-6 + 14 * 512 / 1e9)
    for term in ("compute_seconds", "kv_seconds", "prefill_attention_seconds"):
        assert getattr(two, term) == pytest.approx(getattr(one, term) / 2)
    for term in ("host_seconds", "layer_seconds", "weight_seconds", "sequence_seconds"):
        assert getattr(two, term) == getattr(one, term)


def test_a_step_of_no_sequence_still_divides_by_one_stage():
    bare = steps(pipeline_parallel_size=4).cost(StepLoad(tokens=8, sequences=0))
    assert bare.compute_seconds == pytest.approx(8 * BODY_FLOPS / 1e10)


def test_four_stages_pass_three_messages_on():
    cost = steps(tiny(layers=4), pipeline_parallel_size=4).cost(StepLoad(10, 10))
    assert cost.collective_seconds == pytest.approx(3 * (3e-6 + 10 * 512 / 1e9))


def test_stages_send_over_the_link_between_two():
    """Whatever is known of larger groups."""
    slow = Link(seconds=1.0, bytes_per_s=1.0)
    links = {"collectives": {2: LINK, 3: slow, 4: slow}}
    cost = steps(tiny(layers=4), rates=links, pipeline_parallel_size=4).cost(StepLoad(10, 10))
    assert cost.collective_seconds == pytest.approx(3 * (3e-6 + 10 * 512 / 1e9))


def test_ranks_and_stages_without_a_known_link_take_no_time_on_it():
    bare = steps(rates={"collectives": {}}, tensor_parallel_size=2, pipeline_parallel_size=2)
    assert bare.cost(StepLoad(10, 10)).collective_seconds == 0


# --- what a model asks of a rank --------------------------------------------------------------


def test_the_work_of_a_rank():
    work = RankWork.from_model(tiny(), Rank(tp=2))

    assert work == RankWork(
        layers=2,
        expert_layers=0,
        body_flops=BODY_FLOPS / 2,
        experts=(),
        head_flops=HEAD_FLOPS / 2,
        pair_flops=2 * (2 * 4 * 128) / 2,
        query_heads=2 * 4 / 2,
        kv_heads=2 * 1,
        message_bytes=512.0,
        elementwise_bytes=2 * (16 * 256 + 4 * 4 * 64 / 2 + 6 * 512 / 2),
    )


def test_a_tied_head_multiplies_like_one_of_its_own():
    """1,000 words of 256 elements, on the last stage alone."""
    tied = tiny().model_copy(update={"tie_embeddings": True})
    assert matmul_flops_per_token(tied) == BODY_FLOPS + HEAD_FLOPS
    assert matmul_flops_per_token(tied, Rank(pp=2, stage=0)) == BODY_FLOPS / 2
    assert matmul_flops_per_token(tied, Rank(pp=2, stage=1)) == BODY_FLOPS / 2 + HEAD_FLOPS
    assert RankWork.from_model(tied).body_flops == BODY_FLOPS


def test_only_the_last_stage_has_the_head():
    first, last = (RankWork.from_model(tiny(), Rank(pp=2, stage=stage)) for stage in (0, 1))

    assert (first.head_flops, last.head_flops) == (0, HEAD_FLOPS)
    assert first.body_flops == last.body_flops == BODY_FLOPS / 2
    assert (first.layers, first.query_heads, first.kv_heads) == (1, 4, 2)


def test_a_token_passes_through_its_own_experts():
    """Two of eight experts of 3 * 256 * 64 parameters in each of two layers, over two ranks."""
    model = tiny(MoeMlp(experts=8, experts_per_token=2, intermediate_size=64))
    work = RankWork.from_model(model, Rank(tp=2))

    assert work.expert_layers == 2
    assert work.experts == (ExpertWork(2 * (2 * 2 * 3 * 256 * 64) / 2, 2, 8),)
    router, attention = 8 * 256, 3 * 65_536
    assert work.body_flops == 2 * 2 * (attention + router) / 2


def test_a_stage_computes_its_own_layers_experts():
    """Two layers with experts on two stages: one each."""
    model = tiny(MoeMlp(experts=8, experts_per_token=2, intermediate_size=64))
    for stage in (0, 1):
        work = RankWork.from_model(model, Rank(pp=2, stage=stage))
        assert work.expert_layers == 1
        assert work.experts == (ExpertWork(2 * (2 * 3 * 256 * 64), 2, 8),)


def test_an_expert_layers_cost_is_spread_over_all_layers():
    moe = MoeMlp(experts=8, experts_per_token=2, intermediate_size=64)
    dense = LayerGroup(
        name="dense", layers=(0, 1, 2), caches=(CACHE,), mlp=DenseMlp(intermediate_size=64)
    )
    sparse = LayerGroup(name="sparse", layers=(3,), caches=(CACHE,), mlp=moe)
    model = tiny().model_copy(update={"layer_groups": (dense, sparse)})
    own = ExpertRates(seconds=8e-5, bytes_per_s=1e9, flops_per_s=1e10)
    found = steps(model, rates={"experts": {"bf16": own}})
    assert found.layer_seconds == pytest.approx(5e-5 + 8e-5 / 4)


# --- formats ----------------------------------------------------------------------------------


def test_a_narrow_kv_cache_is_read_at_its_own_rate():
    """A speed-up of 1.5 over bf16 with half the bytes is 0.75 of the bytes a second."""
    narrow = steps(rates={"fp8_kv_speedup": 1.5}, kv_cache_dtype="fp8")
    assert 1 / narrow.kv_seconds_per_byte == pytest.approx(2e9 * 0.75)
    wide = steps(rates={"fp8_kv_speedup": 1.5})
    assert 1 / wide.kv_seconds_per_byte == pytest.approx(2e9)


def test_narrow_weights_are_read_and_multiplied_at_their_own_rates():
    own = GemmRates(seconds=1e-5, bytes_per_s=0.75e9, flops_per_s=1.25e10, token_factors={8: 3.0})
    narrow, wide = (steps(rates={"gemms": {"fp8": own}}, quantization=n) for n in ("fp8", None))
    assert narrow.gemms == own
    assert narrow.layer_seconds == pytest.approx(6e-5)
    assert (wide.gemms.bytes_per_s, wide.gemms.flops_per_s, wide.layer_seconds) == (1e9, 1e10, 5e-5)
    # 8 tokens in tiles that cost thrice: at another count of tokens for bf16
    ratio = [each.cost(StepLoad(8, 8)).compute_seconds for each in (narrow, wide)]
    assert ratio[0] / ratio[1] == pytest.approx(3.0 / 1.25)


def test_a_format_takes_its_own_rates_before_those_of_what_it_computes_in():
    of = {
        name: GemmRates(seconds=0.0, bytes_per_s=1e9, flops_per_s=rate)
        for name, rate in {"fp8": 2e10, "fp8_block": 3e10, "fp4": 4e10}.items()
    }
    formats = {"fp8": 2e10, "fp8_block": 3e10, "fp8_block_e8m0": 3e10, "mxfp8": 2e10, "nvfp4": 4e10}
    for name, rate in formats.items():
        card = "b200" if name == "nvfp4" else "h100"
        assert steps(card=card, rates={"gemms": of}, quantization=name).gemms.flops_per_s == rate
    del of["fp4"]  # nobody timed it: 8 bits' stand in
    assert steps(card="b200", rates={"gemms": of}, quantization="nvfp4").gemms == of["fp8"]


def test_narrow_weights_compute_at_the_wide_rate_where_the_card_has_no_narrow_one():
    """A100's datasheet has no fp8; weights are read as fp8's all the same."""
    own = {"fp8": GemmRates(seconds=1e-5, bytes_per_s=0.75e9, flops_per_s=1.25e10)}
    narrow = steps(card="a100", rates={"gemms": own}, quantization="fp8")
    assert (narrow.gemms.flops_per_s, narrow.gemms.bytes_per_s) == (1e10, 0.75e9)
    assert narrow.layer_seconds == 5e-5


def test_a_format_that_is_widened_has_rates_of_its_own_where_a_profile_says_them():
    own = GemmRates(seconds=2e-5, bytes_per_s=3e8, flops_per_s=7e9)
    assert steps(rates={"gemms": {"awq": own}}, quantization="awq").gemms == own


def test_weights_that_nobody_timed_are_read_at_nine_tenths_and_multiplied_1_6_times_as_fast():
    narrow = steps(quantization="fp8").gemms
    assert (narrow.bytes_per_s, narrow.flops_per_s) == pytest.approx((0.9e9, 1.6e10))
    widened = steps(quantization="awq").gemms
    assert (widened.bytes_per_s, widened.flops_per_s) == pytest.approx((0.9e9, 1e10))


def test_a_checkpoints_size_on_disk_does_not_hold_in_another_format():
    stored = tiny().model_copy(update={"weight_bytes_on_disk": 9_000_000})
    assert steps(stored).model.weight_bytes_on_disk == 9_000_000
    assert steps(stored, quantization="fp8").model.weight_bytes_on_disk is None
    other = steps(stored, dtype="float16").model
    assert (other.dtype, other.weight_bytes_on_disk) == ("fp16", None)
    assert steps(stored, dtype="bfloat16").model == stored


# --- the terms alone --------------------------------------------------------------------------


def test_a_term_that_is_not_given_takes_no_time():
    assert StepCost().seconds == 0
    assert set(StepCost().resource_seconds.values()) == {0}


def test_every_term_is_its_formula():
    assert weight_seconds(6.0, 4.0) == 1.5
    assert compute_seconds(6.0, 4.0) == 1.5
    assert kv_seconds(6.0, 4.0) == 1.5
    assert head_seconds(3.0, 5.0, 7.0) == 105.0
    assert prefill_attention_seconds(3.0, 5.0, 10.0) == 1.5


def test_a_link_changes_its_algorithm_at_its_size_not_below():
    link = Link(seconds=1.0, bytes_per_s=10.0, large_from_bytes=100, large_seconds=50.0)
    assert collective_seconds(3, 99.0, link) == pytest.approx(3 * 10.9)
    assert collective_seconds(3, 100.0, link) == pytest.approx(3 * 60.0)  # at the plain rate


def test_of_two_degrees_as_near_the_smaller_stands_in():
    links = {4: Link(seconds=4, bytes_per_s=1), 2: Link(seconds=2, bytes_per_s=1)}
    assert nearest_link(links, 3).seconds == 2


def test_the_tile_factor_is_level_outside_and_exact_at_its_entries():
    factors = {16: 1.5, 64: 2.0, 1024: 4.0}
    found = [tile_factor(tokens, factors) for tokens in (1, 15, 16, 32, 64, 256, 1024, 9999)]
    assert found == [1.5, 1.5, 1.5, 1.75, 2.0, 3.0, 4.0, 4.0]


# --- what attention reads ---------------------------------------------------------------------


def test_the_read_curve_of_full_attention_is_a_line_from_the_origin():
    """2 layers * 2 KV heads * (64 + 64) elements * 2 bytes = 1,024 bytes a token."""
    reads = KVReadCurve.from_model(tiny(), kv_format("bf16"))

    assert reads == KVReadCurve((), (1,), (1024,), (1024,))
    assert [reads.bytes_at(context) for context in (-1, 0, 1, 7)] == [0, 0, 1024, 7 * 1024]
    assert [reads.slope_at(context) for context in (0, 1, 99)] == [1024] * 3


def test_states_are_read_once_a_layer_and_split_over_the_attentions_ranks():
    """Three layers of 100 + 400 elements of 2 and 4 bytes: read and written, 3,600 bytes each."""
    state = RecurrentState(
        flavour="mamba2",
        conv_elements=100,
        recurrent_elements=400,
        conv_element_bytes=2,
        recurrent_element_bytes=4,
        parameters=0,
    )
    model = tiny(layers=3, caches=(state,))
    whole, half = (KVReadCurve.from_model(model, kv_format("bf16"), Rank(tp=n)) for n in (1, 2))
    assert whole.bytes_at(1) == whole.bytes_at(1000) == 3 * 2 * (100 * 2 + 400 * 4)
    assert half.bytes_at(1) == 3 * (100 * 2 + 400 * 4)


def test_a_window_of_one_token_is_full_from_the_start():
    """One layer, one KV head of 64 + 64 elements, 2 bytes: 256 bytes at any length."""
    window = SlidingAttention(heads=1, kv_heads=1, key_dim=64, value_dim=64, window=1)
    reads = KVReadCurve.from_model(tiny(layers=1, caches=(window,)), kv_format("bf16"))
    assert [reads.bytes_at(context) for context in (1, 2, 1000)] == [256, 256, 256]
    assert [reads.slope_at(context) for context in (1, 2, 1000)] == [0, 0, 0]


def test_a_layout_ratio_stretches_what_is_read():
    reads = KVReadCurve.from_model(tiny(), kv_format("bf16"), layout_ratio=1.5)
    assert reads.bytes_at(10) == 15 * 1024


def test_a_model_without_attention_has_no_pairs():
    assert prefill_pairs(tiny(caches=()), 0, 100) == 0.0


# --- a card that nobody measured --------------------------------------------------------------


def card_with_link(bytes_per_s):
    link = Interconnect(name="test", bytes_per_s=bytes_per_s)
    return find_accelerator("h100").model_copy(update={"interconnect": link})


def test_an_unmeasured_card_takes_its_architectures_shares_of_its_datasheet():
    """Medians of H100 and H200, whose own profiles they are made of."""
    card = find_accelerator("h100-pcie")
    given = class_coefficients(card)
    measured = [find_accelerator(name) for name in ("h100", "h200")]

    def median(rate, sheet):
        return sum(rate(each.coefficients) / sheet(each) for each in measured) / 2

    bandwidth = median(lambda c: c.weight_bytes_per_s, lambda a: a.bandwidth_bytes_per_s)
    flops = median(lambda c: c.flops_per_s, lambda a: a.flops_per_s("bf16"))
    assert given.weight_bytes_per_s / card.bandwidth_bytes_per_s == pytest.approx(
        bandwidth, abs=1e-3
    )
    assert given.flops_per_s / card.flops_per_s("bf16") == pytest.approx(flops, abs=1e-3)
    # 63 and 69 % of what KV reads reach, on Vidur's H100 and A100
    assert given.elementwise_bytes_per_s == pytest.approx(0.65 * given.kv_bytes_per_s)
    # as in the profiles of measured cards without a measurement in fp8
    assert (given.gemms, given.fp8_kv_speedup) == ({}, 1.7)
    assert given.source == "medians of Hopper cards, within 11 % of nine in ten steps"


def test_a_card_of_no_measured_architecture_takes_all_measured_cards_medians():
    assert architecture_of(find_accelerator("v100")) == ""
    assert architecture_of(find_accelerator("mi300x")) == ""
    assert "all measured cards" in class_coefficients(find_accelerator("mi300x")).source
    assert architecture_of(find_accelerator("l4")) == "ada"


def test_an_engines_own_all_reduces_go_before_those_of_the_profile():
    profile = {2: Link(seconds=1e-5, bytes_per_s=1e9), 4: Link(seconds=2e-5, bytes_per_s=1e9)}
    own = {2: Link(seconds=7e-5, bytes_per_s=3e9)}
    known = steps(
        rates={"collectives": profile, "engine_collectives": {"sglang": own}}
    ).coefficients
    assert links_of(known, get_engine("sglang")) == {2: own[2], 4: profile[4]}
    assert links_of(known, get_engine("vllm")) == links_of(known, None) == profile


def test_an_engines_own_grouped_gemms_go_before_those_of_the_profile():
    """In the formats that were timed under it; all else is the profile's."""
    profile = {
        name: ExpertRates(seconds=0, bytes_per_s=1e9, flops_per_s=rate)
        for name, rate in (("bf16", 1e9), ("fp8", 3e9))
    }
    own = {"fp8": ExpertRates(seconds=1e-6, bytes_per_s=2e9, flops_per_s=7e9)}
    known = steps(rates={"experts": profile, "engine_experts": {"sglang": own}}).coefficients
    card = find_accelerator("h100")
    fp8, bf16 = weight_format("fp8"), weight_format("bf16")
    sglang, vllm = get_engine("sglang"), get_engine("vllm")
    assert expert_rates(known, fp8, card, sglang) == own["fp8"]
    assert expert_rates(known, bf16, card, sglang) == profile["bf16"]
    for engine in (vllm, None):
        assert expert_rates(known, fp8, card, engine) == profile["fp8"]
