"""Parameters, weight bytes and their shards against published counts and engines' logs."""

import csv
import itertools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.catalog.models import find_model
from kvsim.errors import InputError, UnknownNameError
from kvsim.memory.rank import Rank
from kvsim.memory.tensors import (
    active_parameter_count,
    draft_families,
    matmul_flops_per_token,
    parameter_count,
    tensor_families,
)
from kvsim.memory.weights import (
    decode_read_bytes,
    rank_weight_bytes,
    weight_bytes,
    weight_storage,
)
from kvsim.readers.huggingface.config import spec_from_json_file
from kvsim.specs.attention import (
    CompressedLatentAttention,
    CrossAttention,
    FullAttention,
    LatentAttention,
    RecurrentState,
    SlidingAttention,
)
from kvsim.specs.model import DenseMlp, FamilyFormat, LayerGroup, ModelSpec, MoeMlp
from kvsim.units import GIB


def attention(heads=32, kv_heads=8, dim=128, **more):
    return FullAttention(heads=heads, kv_heads=kv_heads, key_dim=dim, value_dim=dim, **more)


def decoder(layers, hidden, vocab, mlp, cache, **more):
    group = LayerGroup(name="full", layers=tuple(range(layers)), caches=(cache,), mlp=mlp)
    more.setdefault("max_position_embeddings", 131_072)
    return ModelSpec(
        name="test", hidden_size=hidden, vocab_size=vocab, layer_groups=(group,), **more
    )


def drafting(name):
    """Parameters of a model's draft layers by family."""
    sizes = Counter()
    for family in draft_families(find_model(name)):
        sizes[family.name] += family.parameters
    return sizes


def test_deepseek_v3_drafts_with_fourteen_billion_parameters():
    """DeepSeek-V3's README_WEIGHTS: 11.5 B of its own, 0.9 B of embedding and as much of head; the
    README: 671 B, and 14 B of multi-token prediction."""
    sizes = drafting("deepseek-v3")
    assert round(sizes.total() / 1e9) == 13  # 11.5 + 0.9 + 0.9
    tables = sizes.pop("embedding"), sizes.pop("output_head")
    assert [round(size / 1e9, 1) for size in tables] == [0.9, 0.9]
    assert sizes.total() / 1e9 == pytest.approx(11.5, abs=0.12)  # the joint is 0.1 of it


def test_qwen3_5_drafts_with_one_layer_of_full_attention():
    """By hand: 256 experts of 3 * 2,048 * 512, attention of 16 gated query heads and 2 KV heads of
    256, and the joint of 2 * 2,048 * 2,048 (vLLM's qwen3_5_mtp.py)."""
    sizes = drafting("qwen3.5-35b-a3b")
    assert sizes["experts"] == 256 * 3 * 2048 * 512
    assert sizes["other"] == 2 * 2048 * 2048
    assert sizes["attention"] + sizes["attention_output"] == 2048 * 256 * (2 * 16 + 2 * 2 + 16)
    assert not {"embedding", "output_head"} & set(sizes)


def test_what_only_drafts_is_in_the_file_and_not_on_the_card():
    """A file that is as large as both parts: the engine holds one of them."""
    model = find_model("deepseek-v3")
    loaded = weight_bytes(model)
    storage = weight_storage(model)
    draft = sum(storage.bytes_of(family, family.parameters) for family in draft_families(model))
    assert draft > 13e9
    on_disk = model.model_copy(update={"weight_bytes_on_disk": loaded + round(draft)})
    assert weight_bytes(on_disk) == pytest.approx(loaded, abs=1)
    alone = on_disk.model_copy(update={"draft": None})
    assert weight_bytes(alone) == loaded + round(draft)


def test_learned_positions_are_a_table_of_vectors():
    """GPT-2's wpe is 1,024 x 768 (openai-community/gpt2)."""
    sizes = {family.name: family.parameters for family in tensor_families(find_model("gpt2"))}
    assert sizes["position"] == 1024 * 768


def stored(**formats):
    return tuple(FamilyFormat(family=name, format=word) for name, word in formats.items())


def dense(width, **more):
    return DenseMlp(intermediate_size=width, **more)


LLAMA2_7B = decoder(32, 4096, 32_000, dense(11_008), attention(kv_heads=32))
LLAMA31_8B = decoder(32, 4096, 128_256, dense(14_336), attention())
MIXTRAL_8X7B = decoder(
    32,
    4096,
    32_000,
    MoeMlp(experts=8, experts_per_token=2, intermediate_size=14_336),
    attention(),
)
GRANITE_8B = decoder(40, 4096, 49_155, dense(12_800), attention(), tie_embeddings=True)


class TestParameterCounts:
    def test_llama2_7b_is_the_published_count_to_the_last_parameter(self):
        # Hub metadata of meta-llama/Llama-2-7b-hf: 6,738,415,616 in bf16.
        assert parameter_count(LLAMA2_7B) == 6_738_415_616

    def test_llama31_8b_is_the_published_count_to_the_last_parameter(self):
        # Hub metadata of meta-llama/Llama-3.1-8B: 8,030,261,248.
        assert parameter_count(LLAMA31_8B) == 8_030_261_248

    def test_mixtral_total_and_active(self):
        # Hub metadata: 46,702,792,704; the paper (arXiv 2401.04088) says 13 B active.
        assert parameter_count(MIXTRAL_8X7B) == 46_702_792_704
        assert active_parameter_count(MIXTRAL_8X7B) / 1e9 == pytest.approx(12.88, abs=0.005)

    def test_tied_embeddings_count_once(self):
        tied = LLAMA31_8B.model_copy(update={"tie_embeddings": True})
        assert parameter_count(LLAMA31_8B) - parameter_count(tied) == 128_256 * 4096

    def test_latent_attention_of_deepseek_v3(self):
        # One layer of V3 by the shapes in its model card's code: q 7168x1536 and
        # 1536x128x192, kv 7168x576 and 512x128x256, o 128x128x7168.
        cache = LatentAttention(
            heads=128, kv_lora_rank=512, rope_dim=64, nope_dim=128, value_dim=128, q_lora_rank=1536
        )
        model = decoder(1, 7168, 64, None, cache)
        count = sum(f.parameters for f in tensor_families(model) if f.name == "attention")
        assert count == 11_010_048 + 37_748_736 + 4_128_768 + 16_777_216
        output = next(f for f in tensor_families(model) if f.name == "attention_output")
        assert output.parameters == 117_440_512

    def test_sparse_indexer_adds_its_three_projections(self):
        plain = LatentAttention(
            heads=128, kv_lora_rank=512, rope_dim=64, nope_dim=128, value_dim=128, q_lora_rank=1536
        )
        sparse = plain.model_copy(update={"indexer_dim": 128, "indexer_heads": 64})
        without = parameter_count(decoder(1, 7168, 64, None, plain))
        added = parameter_count(decoder(1, 7168, 64, None, sparse)) - without
        assert added == 1536 * 64 * 128 + 7168 * 128 + 7168 * 64

    @pytest.mark.parametrize(("ratio", "compressed"), [(0, 0), (128, 2 * 7168 * 512), (4, None)])
    def test_compressed_attention_of_deepseek_v4_pro(self, ratio, compressed):
        # By the layers of vLLM 0.33, models/deepseek_v4/attention.py and compressor.py. Only a
        # ratio of 4 has an indexer, with a compressor of its own; both are twice as wide there.
        # Its wo_b joins 16 groups of 1024, where DeepSeek-V4-Flash's joins 8.
        indexer = {"indexer_dim": 128, "indexer_heads": 64} if ratio == 4 else {}
        cache = CompressedLatentAttention(
            heads=128, head_dim=512, rope_dim=64, window=128, ratio=ratio, q_lora_rank=1536,
            output_lora_rank=1024, output_groups=16, **indexer
        )  # fmt: skip
        if compressed is None:
            wkv_wgate = 7168 * 4 * 512 + 7168 * 4 * 128
            compressed = wkv_wgate + 1536 * 64 * 128 + 7168 * 64  # + wq_b + weights_proj
        fused_wqa_wkv, wq_b = 7168 * (1536 + 512), 1536 * 128 * 512
        wo_a, wo_b = (128 * 512 // 16) * (16 * 1024), 16 * 1024 * 7168
        model = decoder(1, 7168, 64, None, cache)
        names = ("attention", "attention_output")
        count = sum(f.parameters for f in tensor_families(model) if f.name in names)
        assert count == fused_wqa_wkv + wq_b + wo_a + wo_b + compressed

    def test_deepseek_v4_pro(self, kvsim_data):
        # By the layers of vLLM 0.33, models/deepseek_v4: 1,573.0e9 parameters, of which 84e6 are
        # hyper-connections, which are not counted.
        config = kvsim_data / "reference/configs/deepseek-ai--DeepSeek-V4-Pro/config.json"
        count = parameter_count(spec_from_json_file(config))
        assert count / 1e9 == pytest.approx(1573.0, rel=1e-4)

    def test_cross_attention_and_recurrent_layers_count(self):
        cross = CrossAttention(heads=4, kv_heads=4, key_dim=8, value_dim=8, encoder_tokens=10)
        own = attention(4, 4, 8)
        group = LayerGroup(name="decoder", layers=(0,), caches=(own, cross), mlp=None)
        state = RecurrentState(
            flavour="mamba2", conv_elements=1, recurrent_elements=1, parameters=777
        )
        mamba = LayerGroup(name="mamba2", layers=(1,), caches=(state,), mlp=None)
        model = ModelSpec(
            name="t",
            hidden_size=32,
            vocab_size=64,
            max_position_embeddings=8,
            layer_groups=(group, mamba),
            tie_embeddings=True,
        )
        norms = 2 * 32 + 32 + 32  # two blocks, one block, the final one
        assert parameter_count(model) == 64 * 32 + 2 * 4 * 32 * 32 + 777 + norms

    def test_flops_are_two_a_parameter_of_every_matrix(self):
        tables = 2 * 32_000 * 4096
        norms = (2 * 32 + 1) * 4096
        matrices = parameter_count(LLAMA2_7B) - tables - norms
        assert matmul_flops_per_token(LLAMA2_7B) == 2 * (matrices + tables / 2)

    def test_active_parameters_of_gpt_oss(self):
        # Its model card (arXiv 2508.10925, table 1) counts no embedding: 3.61 B and 5.13 B.
        table = 201_088 * 2880
        for name, card_billions in (("gpt-oss-20b", 3.61), ("gpt-oss-120b", 5.13)):
            active = active_parameter_count(find_model(name)) - table
            assert active / 1e9 == pytest.approx(card_billions, rel=0.005)

    def test_model_facts(self, kvsim_data):
        """Published parameter counts, 1 % apart at most, where confidence is high."""
        with (kvsim_data / "reference" / "model_facts.csv").open() as file:
            published = {
                row["name"]: float(row["params_billion"])
                for row in csv.DictReader(file)
                if row["confidence"] == "high" and row["params_billion"]
            }
        assert len(published) > 40
        ours = {name: parameter_count(find_model(name)) / 1e9 for name in published}
        apart = {name for name in published if ours[name] != pytest.approx(published[name], 0.01)}
        assert apart == set(DISPUTED)

    def test_falcon_7b_is_published_with_its_tied_head_counted_twice(self):
        untied = find_model("falcon-7b").model_copy(update={"tie_embeddings": False})
        assert parameter_count(untied) / 1e9 == pytest.approx(7.22, rel=0.001)


DISPUTED = {
    "qwen3.5-27b": "27 is marked approximate; its layers and vision tower make 27.35",
    "falcon-7b": "7.22 counts the tied head a second time",
}


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({}, 0),
        ({"shared_intermediate_size": 96}, 3 * 64 * 96),
        ({"bias": True}, 8 * (2 * 32 + 64)),  # gate and up of each expert, and down
        ({"bias": True, "gated": False}, 8 * (32 + 64) - 8 * 64 * 32),
        ({"latent_size": 16}, 2 * 64 * 16 - 8 * 3 * (64 - 16) * 32),
        (
            {"latent_size": 16, "shared_intermediate_size": 96},
            2 * 64 * 16 - 8 * 3 * (64 - 16) * 32 + 3 * 64 * 96,  # shared ones keep the full width
        ),
    ],
)
def test_the_matrices_of_a_mixture(changes, more):
    """Eight gated experts of 32 in a width of 64, and their router."""
    shape = {"experts": 8, "experts_per_token": 2, "intermediate_size": 32} | changes
    cache = attention(heads=4, kv_heads=4, dim=16)
    model = decoder(1, 64, 100, MoeMlp(**shape), cache)
    names = ("experts", "shared_experts", "latent", "router")
    found = {f.name: f.parameters for f in tensor_families(model) if f.name in names}
    assert sum(found.values()) == 8 * 3 * 64 * 32 + 8 * 64 + more
    assert ("shared_experts" in found) == ("shared_intermediate_size" in changes)


def test_a_dense_block_has_a_bias_where_it_says_so():
    """Up and gate of 32, and down of 64."""
    cache = attention(heads=4, kv_heads=4, dim=16)
    plain, biased = (
        parameter_count(decoder(1, 64, 100, dense(32, bias=bias), cache)) for bias in (False, True)
    )
    assert biased - plain == 2 * 32 + 64


def test_a_family_that_layers_store_differently_is_cut_by_format():
    """Layers 0 and 2 in fp8, 1 and 3 in the model's dtype."""
    cache = attention(heads=4, kv_heads=4, dim=16)
    spared = FamilyFormat(family="mlp", format=None, layers=(1, 3))
    model = decoder(4, 64, 100, dense(32), cache, quantization="fp8", family_formats=(spared,))
    cut = [(f.layers, f.parameters) for f in tensor_families(model) if f.name == "mlp"]
    assert cut == [((0, 2), 2 * 3 * 64 * 32), ((1, 3), 2 * 3 * 64 * 32)]
    storage = weight_storage(model)
    kept = [storage.format_of(f).name for f in tensor_families(model) if f.name == "mlp"]
    assert kept == ["fp8", "bf16"]


class TestFormats:
    def test_only_matrices_inside_layers_are_quantised(self):
        saved = weight_bytes(LLAMA31_8B) - weight_bytes(LLAMA31_8B, quantization="fp8")
        outside = 2 * 128_256 * 4096 + (2 * 32 + 1) * 4096
        assert saved == parameter_count(LLAMA31_8B) - outside

    def test_ggml_mixtures_quantise_the_tables_too(self):
        # llama.cpp prints 4.58 GiB (4.89 bits per weight) for this model's Q4_K_M.
        size_gib = weight_bytes(LLAMA31_8B, quantization="q4_k_m") / GIB
        assert size_gib == pytest.approx(4.58, rel=0.015)

    def test_a_family_left_plain_keeps_the_models_dtype(self):
        """Attention of Llama-3.1-8B: 32 layers of 4096 * (2 * 4096 + 2 * 1024) parameters."""
        packed = LLAMA31_8B.model_copy(update={"quantization": "fp8"})
        spared = packed.model_copy(update={"family_formats": stored(attention=None)})
        more = weight_bytes(spared) - weight_bytes(packed)
        assert more == 32 * 4096 * (4096 + 2 * 1024)  # 16 bits for 8; the output stays fp8
        wide = weight_bytes(spared, dtype="fp32") - weight_bytes(packed, dtype="fp32")
        assert wide == 3 * more

    def test_each_family_may_have_a_format_of_its_own(self):
        """A head of nvfp4 (4.5 bits for 16) and an output projection of fp8 (8 for 16)."""
        formats = stored(output_head="nvfp4", attention_output="fp8")
        mixed = LLAMA31_8B.model_copy(update={"family_formats": formats})
        saved = weight_bytes(LLAMA31_8B) - weight_bytes(mixed)
        assert saved == 128_256 * 4096 * (16 - 4.5) / 8 + 32 * 4096 * 4096

    def test_one_token_reads_each_family_in_its_own_format(self):
        formats = stored(output_head="nvfp4")
        mixed = LLAMA31_8B.model_copy(update={"family_formats": formats})
        less = decode_read_bytes(LLAMA31_8B, 1) - decode_read_bytes(mixed, 1)
        assert less == 128_256 * 4096 * (16 - 4.5) / 8

    def test_a_family_that_does_not_exist_is_refused(self):
        with pytest.raises(InputError, match="atention"):
            FamilyFormat(family="atention", format=None)

    def test_another_format_at_load_ignores_what_the_checkpoint_spared(self):
        model = find_model("gpt-oss-20b")
        everything = model.model_copy(update={"family_formats": ()})
        assert weight_bytes(model) != weight_bytes(everything)
        assert weight_bytes(model, quantization="fp8") == weight_bytes(
            everything, quantization="fp8"
        )

    def test_size_on_disk_is_kept_exactly_until_overridden(self):
        known = LLAMA31_8B.model_copy(update={"weight_bytes_on_disk": 16_060_522_497})
        assert weight_bytes(known) == 16_060_522_497
        assert weight_bytes(known, dtype="fp32") == weight_bytes(LLAMA31_8B, dtype="fp32")
        half = rank_weight_bytes(known, Rank(tp=2)) / rank_weight_bytes(known, Rank())
        assert half == pytest.approx(0.5, rel=1e-4)

    def test_unknown_words_name_the_nearest(self):
        with pytest.raises(UnknownNameError, match="fp8"):
            weight_bytes(LLAMA2_7B, quantization="fp9")


class TestStages:
    def test_a_tied_head_lies_on_both_ends(self):
        first = rank_weight_bytes(GRANITE_8B, Rank(pp=4, stage=0))
        middle = rank_weight_bytes(GRANITE_8B, Rank(pp=4, stage=1))
        last = rank_weight_bytes(GRANITE_8B, Rank(pp=4, stage=3))
        table = math.ceil(49_155 / 64) * 64 * 4096 * 2
        assert first - middle == table
        assert last - middle == table + 2 * 4096  # the final norm

    def test_expert_parallelism_deals_out_whole_experts(self):
        alone = rank_weight_bytes(MIXTRAL_8X7B, Rank())
        experts = 32 * 8 * 3 * 4096 * 14_336 * 2
        assert alone - rank_weight_bytes(MIXTRAL_8X7B, Rank(ep=8)) == experts * 7 // 8

    def test_heads_that_do_not_divide_are_refused(self):
        with pytest.raises(InputError, match="tp=3"):
            rank_weight_bytes(LLAMA31_8B, Rank(tp=3))


class TestDecodeReads:
    def test_a_dense_model_reads_all_but_the_embedding(self):
        table = 32_000 * 4096 * 2
        assert decode_read_bytes(LLAMA2_7B, 1) == weight_bytes(LLAMA2_7B) - table
        assert decode_read_bytes(LLAMA2_7B, 64) == decode_read_bytes(LLAMA2_7B, 1)

    def test_a_tied_table_is_read_as_the_head(self):
        tied = LLAMA2_7B.model_copy(update={"tie_embeddings": True})
        assert decode_read_bytes(tied, 1) == decode_read_bytes(LLAMA2_7B, 1)

    def test_one_token_reads_exactly_its_experts(self):
        one = decode_read_bytes(MIXTRAL_8X7B, 1)
        assert one == pytest.approx(
            2 * (active_parameter_count(MIXTRAL_8X7B) - 32_000 * 4096), rel=1e-12
        )

    def test_expected_distinct_experts_by_enumeration(self):
        """Two tokens, two experts each of three: count all 9 draws by hand."""
        model = decoder(
            1,
            64,
            64,
            MoeMlp(experts=3, experts_per_token=2, intermediate_size=64),
            attention(1, 1, 64),
        )
        pairs = [{0, 1}, {0, 2}, {1, 2}]
        distinct = sum(len(a | b) for a in pairs for b in pairs) / 9
        expert_bytes = 3 * 64 * 64 * 2
        other = decode_read_bytes(model, 1) - 2 * expert_bytes
        assert decode_read_bytes(model, 2) == pytest.approx(other + distinct * expert_bytes)


heads_and_tp = st.sampled_from(list(itertools.product((8, 16), (1, 2, 8), (1, 2, 4, 8))))
mlps = st.one_of(
    st.none(),
    st.builds(DenseMlp, intermediate_size=st.integers(1, 40), gated=st.booleans()),
    st.builds(
        MoeMlp,
        experts=st.integers(2, 9),
        experts_per_token=st.just(1),
        intermediate_size=st.integers(1, 40),
        shared_intermediate_size=st.integers(0, 9),
    ),
)


@st.composite
def models(draw):
    heads, kv_heads, tp = draw(heads_and_tp)
    shape = {"heads": heads, "kv_heads": kv_heads, "key_dim": 4, "value_dim": 6}
    layers = draw(st.integers(2, 9))
    cut = draw(st.integers(1, layers - 1))
    groups = (
        LayerGroup(
            name="full",
            layers=tuple(range(cut)),
            caches=(FullAttention(**shape, bias=draw(st.booleans())),),
            mlp=draw(mlps),
        ),
        LayerGroup(
            name="sliding",
            layers=tuple(range(cut, layers)),
            caches=(SlidingAttention(**shape, window=5),),
            mlp=draw(mlps),
        ),
    )
    model = ModelSpec(
        name="drawn",
        hidden_size=draw(st.integers(1, 50)),
        vocab_size=64 * draw(st.integers(1, 4)),
        position_embeddings=draw(st.integers(0, 9)),
        max_position_embeddings=64,
        tie_embeddings=draw(st.booleans()),
        layer_groups=groups,
        other_parameters=draw(st.integers(0, 99)),
        quantization=draw(st.sampled_from([None, "fp8", "awq", "mxfp4", "q4_k_m"])),
    )
    return model, tp, draw(st.integers(1, layers))


class TestLaws:
    @given(models())
    def test_sharding_never_loses_a_byte(self, drawn):
        model, tp, pp = drawn
        stages = [rank_weight_bytes(model, Rank(tp=tp, pp=pp, stage=s)) for s in range(pp)]
        assert tp * sum(stages) >= weight_bytes(model) - 1  # the whole is rounded, ranks are up

    @given(models())
    def test_a_pipeline_loses_and_adds_nothing_unless_the_head_is_tied(self, drawn):
        model, _, pp = drawn
        stages = [rank_weight_bytes(model, Rank(pp=pp, stage=s)) for s in range(pp)]
        twice = model.tie_embeddings and pp > 1
        table = model.vocab_size * model.hidden_size * 2 * twice
        if model.quantization == "q4_k_m":
            table = table * 4.85 / 16
        assert sum(stages) == pytest.approx(weight_bytes(model) + table, abs=pp + 1)

    @given(models())
    def test_bytes_grow_with_the_bits_of_a_format(self, drawn):
        model, tp, _ = drawn
        plain = model.model_copy(update={"quantization": None})
        sizes = [rank_weight_bytes(plain, Rank(tp=tp), dtype=d) for d in ("bf16", "fp32")]
        packed = [
            rank_weight_bytes(plain, Rank(tp=tp), quantization=q) for q in ("mxfp4", "nvfp4", "fp8")
        ]
        assert packed == sorted(packed)
        assert packed[-1] <= sizes[0] < sizes[1]

    @given(models(), st.integers(1, 300), st.integers(0, 300))
    def test_more_tokens_never_read_less_nor_more_than_all(self, drawn, tokens, more):
        model, tp, _ = drawn
        some = decode_read_bytes(model, tokens, Rank(tp=tp))
        many = decode_read_bytes(model, tokens + more, Rank(tp=tp))
        assert some <= many * (1 + 1e-12)
        assert many <= rank_weight_bytes(model, Rank(tp=tp)) * (1 + 1e-12)

    @given(models())
    def test_active_is_at_most_all(self, drawn):
        model, _, _ = drawn
        assert active_parameter_count(model) <= parameter_count(model)


class TestSparedMatrices:
    """A checkpoint of 8 bits that left 1,000 parameters in 16: a byte more for each of them."""

    def bytes_of(self, how, spared, **asked):
        changes = {"quantization": "fp8", "spared_parameters": spared}
        return how(find_model("llama3-8b").model_copy(update=changes), **asked)

    def more(self, how, **asked):
        return self.bytes_of(how, 1000, **asked) - self.bytes_of(how, 0, **asked)

    def test_they_keep_their_own_width(self):
        assert self.more(weight_bytes) == 1000
        assert self.more(weight_bytes, dtype="fp32") == 3000

    def test_ranks_and_stages_share_them(self):
        assert self.more(rank_weight_bytes) == 1000
        assert self.more(rank_weight_bytes, rank=Rank(tp=2, pp=2, stage=1)) == 250

    def test_another_format_applied_at_load_spares_nothing(self):
        assert self.more(weight_bytes, quantization="int8") == 0
