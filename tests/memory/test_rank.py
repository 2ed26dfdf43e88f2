"""A rank: what it refuses, how its layers tile a model, and that the parts add up to the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.errors import InputError
from kvsim.memory.footprint import (
    all_full_bytes,
    bytes_per_token,
    fixed_bytes,
    layer_caches,
    sequence_bytes,
)
from kvsim.memory.rank import Rank
from kvsim.memory.retention import SelectiveHeads, retention_bytes
from kvsim.memory.weights import decode_read_bytes, rank_weight_bytes
from kvsim.specs.attention import FullAttention
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.model import DenseMlp, LayerGroup, ModelSpec
from kvsim.specs.precision import kv_format
from kvsim.steptime.kv_reads import KVReadCurve
from kvsim.steptime.rank_work import RankWork

BF16 = kv_format("bf16")
# Dense, tied, windowed beside full, latent with experts, and states beside attention.
MODELS = ("llama2-7b", "qwen2.5-0.5b", "gpt-oss-20b", "deepseek-v2", "jamba-v0.1")


def decoder(layers: int, heads: int = 8, kv_heads: int = 8) -> ModelSpec:
    cache = FullAttention(heads=heads, kv_heads=kv_heads, key_dim=16, value_dim=16)
    mlp = DenseMlp(intermediate_size=64)
    group = LayerGroup(name="full", layers=tuple(range(layers)), caches=(cache,), mlp=mlp)
    return ModelSpec(
        name="test",
        hidden_size=64,
        vocab_size=64,
        max_position_embeddings=64,
        layer_groups=(group,),
    )


def stages(pp: int, tp: int = 1) -> list[Rank]:
    return [Rank(tp=tp, pp=pp, stage=stage) for stage in range(pp)]


@pytest.mark.parametrize("name", ["tp", "pp", "ep", "dcp", "attention_tp"])
@pytest.mark.parametrize("degree", [0, -3])
def test_a_degree_below_one_is_refused(name, degree):
    with pytest.raises(InputError, match=f"{name}={degree} .*choose {name}=1 or more"):
        Rank(**{name: degree})


@pytest.mark.parametrize(("stage", "nearest"), [(4, 3), (9, 3), (-1, 0)])
def test_a_stage_outside_the_pipeline_is_refused_with_the_nearest(stage, nearest):
    with pytest.raises(InputError, match=f"stage {stage} .* 4 stages.*choose stage {nearest}"):
        Rank(pp=4, stage=stage)


def test_more_stages_than_layers_are_refused():
    assert Rank(pp=8, stage=7).layers_of(decoder(8)) == range(7, 8)
    with pytest.raises(InputError, match=r"pp=9 .* 8 layers.*choose pp from 1 to 8"):
        Rank(pp=9).layers_of(decoder(8))


# vLLM 0.19, get_pp_indices; its own test of uneven partitions has (3, 2), (4, 3), (5, 3).
@pytest.mark.parametrize(
    ("layers", "pp", "bounds"),
    [
        (8, 1, [(0, 8)]),
        (8, 2, [(0, 4), (4, 8)]),
        (3, 2, [(0, 2), (2, 3)]),
        (4, 3, [(0, 1), (1, 3), (3, 4)]),
        (5, 3, [(0, 2), (2, 4), (4, 5)]),
        (7, 4, [(0, 2), (2, 4), (4, 6), (6, 7)]),
        (6, 4, [(0, 1), (1, 3), (3, 5), (5, 6)]),
    ],
)
def test_the_last_stage_has_the_fewest_layers(layers, pp, bounds):
    dealt = [rank.layers_of(decoder(layers)) for rank in stages(pp)]
    assert [(each.start, each.stop) for each in dealt] == bounds


@given(layers=st.integers(1, 100), data=st.data())
def test_the_stages_tile_the_model(layers, data):
    pp = data.draw(st.integers(1, layers))
    model = decoder(layers)
    dealt = [rank.layers_of(model) for rank in stages(pp)]
    assert [layer for each in dealt for layer in each] == list(range(layers))
    sizes = [len(each) for each in dealt]
    assert min(sizes) == sizes[-1] >= max(sizes) - 1
    odd = range(1, layers, 2)
    assert sum(rank.count_of(model, odd) for rank in stages(pp)) == len(odd)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pp", [2, 3, 4])
def test_the_kv_of_all_stages_is_that_of_the_model(name, pp):
    model = find_model(name)
    for measure in (
        lambda rank: bytes_per_token(model, BF16, rank),
        lambda rank: sequence_bytes(model, BF16, 5000, rank),
        lambda rank: all_full_bytes(model, BF16, 5000, rank),
        lambda rank: fixed_bytes(model, rank),
        lambda rank: retention_bytes(model, BF16, 5000, SelectiveHeads(0.5), rank),
        lambda rank: KVReadCurve.from_model(model, BF16, rank).bytes_at(100_000),
        lambda rank: sum(count for count, _ in layer_caches(model, rank)),
    ):
        assert sum(map(measure, stages(pp))) == measure(Rank())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pp", [2, 3, 4])
def test_the_work_of_all_stages_is_that_of_the_model(name, pp):
    """The head is read and multiplied by on the last stage alone, also where it is tied."""
    model = find_model(name)
    for tokens in (1, 16):
        read = sum(decode_read_bytes(model, tokens, rank) for rank in stages(pp))
        assert read == pytest.approx(decode_read_bytes(model, tokens), rel=1e-12)
    works = [RankWork.from_model(model, rank) for rank in stages(pp)]
    whole = RankWork.from_model(model)._asdict()
    flops = [sum(each.flops for each in work.experts) for work in works]
    assert sum(flops) == pytest.approx(sum(each.flops for each in whole["experts"]), rel=1e-12)
    for field in set(whole) - {"message_bytes", "experts"}:
        total = sum(getattr(work, field) for work in works)
        assert total == pytest.approx(whole[field], rel=1e-12), field


def test_heads_split_and_then_replicate():
    """8 KV heads of 16 + 16 elements in bf16: 64 bytes a head, in one layer."""
    model = decoder(1, heads=64, kv_heads=8)
    held = {tp: bytes_per_token(model, BF16, Rank(tp=tp)) for tp in (1, 2, 8, 16, 64)}
    assert held == {1: 8 * 64, 2: 4 * 64, 8: 64, 16: 64, 64: 64}
    with pytest.raises(InputError, match="8 KV heads cannot be split over tp=3"):
        bytes_per_token(model, BF16, Rank(tp=3))


def test_ranks_that_share_the_attention_can_be_fewer():
    """Attention: 64 x (2 x 8 + 2 x 8) x 16 weights of 2 bytes; the MLP is split all the same."""
    model = decoder(1)
    whole_attention = rank_weight_bytes(model, Rank(tp=8, attention_tp=1))
    attention_bytes = 64 * 32 * 16 * 2
    split = rank_weight_bytes(model, Rank(tp=8))
    assert whole_attention - split == attention_bytes * 7 // 8
    assert Rank(tp=8).attention_ranks == 8
    assert Rank(tp=8, attention_tp=2).attention_ranks == 2


def test_an_engine_may_deal_the_layers_otherwise():
    """Mixtral on two cards of llama.cpp has 17 and 15 layers (ollama/ollama#3158)."""
    engine, model = get_engine("llama.cpp"), find_model("mixtral-8x7b")
    options = EngineOptions(pipeline_parallel_size=2)
    deployment = engine.resolve(Deployment(model, find_accelerator("h100"), options))
    ranks = [engine.rank(deployment, stage) for stage in (0, 1)]
    assert [rank.layers_of(model) for rank in ranks] == [range(17), range(17, 32)]
    layer_bytes = rank_weight_bytes(model, Rank(pp=32, stage=1))
    first, last = (engine.rank_budget(deployment, rank).weights_bytes for rank in ranks)
    assert first - last == 2 * layer_bytes - 2 * model.hidden_size  # the last has the final norm
    kept = [bytes_per_token(model, BF16, rank) for rank in ranks]
    assert kept[0] * 15 == kept[1] * 17
