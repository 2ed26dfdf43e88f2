"""KV bytes from first principles, on shapes small enough to check by hand.

Sources: the scaling book (jax-ml/scaling-book), the papers named at each test, and the
arithmetic itself. GiB is 2**30.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.memory.footprint import (
    all_full_bytes,
    bytes_per_token,
    fixed_bytes,
    layer_caches,
    sequence_bytes,
)
from kvsim.memory.rank import Rank
from kvsim.specs.attention import (
    ChunkedAttention,
    CompressedLatentAttention,
    CrossAttention,
    FullAttention,
    LatentAttention,
    RecurrentState,
    SlidingAttention,
    heads_per_rank,
)
from kvsim.specs.model import LayerGroup, ModelSpec
from kvsim.specs.precision import KV_FORMATS, kv_format
from kvsim.units import GIB

FP16, INT8, FP8 = kv_format("fp16"), kv_format("int8"), kv_format("fp8")
MLA = {"kv_lora_rank": 512, "rope_dim": 64, "nope_dim": 128, "value_dim": 128}


def model(*groups):
    """A model of groups ``(layers, cache)`` or ``(layers, cache, shares_kv_with)``."""
    built, first = [], 0
    for count, cache, *shared in groups:
        built.append(
            LayerGroup(
                name=f"{cache.kind}-{first}",
                layers=tuple(range(first, first + count)),
                caches=(cache,),
                shares_kv_with=shared[0] if shared else None,
            )
        )
        first += count
    return ModelSpec(
        name="test",
        hidden_size=1024,
        vocab_size=1000,
        max_position_embeddings=2**20,
        layer_groups=tuple(built),
    )


def gqa(heads, kv_heads, dim=128, kind=FullAttention, **more):
    return kind(heads=heads, kv_heads=kv_heads, key_dim=dim, value_dim=dim, **more)


# --- known answers ---


def test_llama2_7b_is_half_a_mebibyte_a_token():
    """2 * 32 layers * 32 heads * 128 * 2 bytes."""
    assert bytes_per_token(model((32, gqa(32, 32))), FP16) == 524_288 == 2**19


def test_the_scaling_books_llama3_70b_in_int8():
    """Chapter "All the Transformer Math": 2 * 80 * 8 * 128 * 1 = 163,840 bytes per token.

    Its 32 sequences of 8,192 tokens are exactly 40 GiB; the book prints 41.9e9 because it
    rounds 163,840 to 160e3 first.
    """
    llama = model((80, gqa(64, 8)))
    assert bytes_per_token(llama, INT8) == 163_840
    assert 32 * sequence_bytes(llama, INT8, 8192) == 42_949_672_960 == 40 * GIB
    assert pytest.approx(41.9e9, rel=2e-3) == 32 * 8192 * 160e3


def test_gpt3_175b_takes_megabytes_a_token_not_kilobytes():
    """A claim of 20 KB is common: 2 * 96 * 96 * 128 * 2 bytes is 4.5 MiB."""
    assert bytes_per_token(model((96, gqa(96, 96))), FP16) == 4_718_592 == 4.5 * 2**20


@pytest.mark.parametrize(
    ("heads", "kv_heads", "elements"),
    [
        (128, 128, 2 * 128 * 128),  # MHA: 2 n_h d_h
        (128, 8, 2 * 8 * 128),  # GQA: 2 n_g d_h
        (128, 1, 2 * 128),  # MQA: 2 d_h
    ],
)
def test_deepseek_v2_table_1_elements_a_token_a_layer(heads, kv_heads, elements):
    """arXiv 2405.04434, Table 1, with d_h = 128 and 10 layers."""
    assert bytes_per_token(model((10, gqa(heads, kv_heads))), INT8) == elements * 10


def test_mla_equals_gqa_with_two_and_a_quarter_groups():
    """arXiv 2405.04434, Table 1: d_c + d_h^R = 4 d_h + d_h / 2 = 9/2 d_h = 2 * 2.25 d_h."""
    latent = model((10, LatentAttention(heads=128, **MLA)))
    assert bytes_per_token(latent, INT8) == 10 * (512 + 64) == 10 * 2 * 2.25 * 128


@pytest.mark.parametrize(
    ("dtype", "entry_bytes"),
    [("bf16", 1152), ("fp8", 576), ("fp8_ds_mla", 656), ("nvfp4_ds_mla", 352)],
)
def test_the_mla_entry_in_vllms_layouts(dtype, entry_bytes):
    """vLLM's MLA cache specs: 656 = 512 fp8 + 4 fp32 scales + 64 bf16."""
    latent = model((1, LatentAttention(heads=128, **MLA)))
    assert bytes_per_token(latent, kv_format(dtype)) == entry_bytes


def test_the_sparse_indexer_adds_132_bytes_a_token():
    """DeepSeek-V3.2: 128 fp8 elements and one fp32 scale."""
    sparse = LatentAttention(heads=128, indexer_dim=128, indexer_heads=64, **MLA)
    assert bytes_per_token(model((61, sparse)), kv_format("bf16")) == 61 * (1152 + 132)


@pytest.mark.parametrize(
    ("dtype", "bytes_per_element"),
    [
        ("fp32", 4),
        ("bf16", 2),
        ("fp8_e5m2", 1),
        ("int4", 0.5),
        ("int8_per_token_head", 1.03125),  # (128 + 4) / 128
        ("int4_per_token_head", 0.53125),
        ("nvfp4", 0.5625),  # d/2 + d/16
        ("q8_0", 34 / 32),
        ("q5_1", 24 / 32),
        ("q5_0", 22 / 32),
        ("q4_1", 20 / 32),
        ("q4_0", 18 / 32),
        ("iq4_nl", 18 / 32),
    ],
)
def test_bytes_an_element_with_scales_at_head_dim_128(dtype, bytes_per_element):
    """vLLM's cache specs and ggml's block layouts."""
    one_head = model((1, gqa(1, 1)))
    assert bytes_per_token(one_head, kv_format(dtype)) == 2 * 128 * bytes_per_element


def test_gemma3_27b_steady_and_all_full_at_131072():
    """10 full and 52 sliding layers (window 1,024), 16 KV heads of 128: 10.4 and 62 GiB."""
    gemma = model((10, gqa(32, 16)), (52, gqa(32, 16, kind=SlidingAttention, window=1024)))
    state_bytes = 16 * 256 * 2
    assert sequence_bytes(gemma, FP16, 131_072) == state_bytes * (10 * 131_072 + 52 * 1024)
    assert sequence_bytes(gemma, FP16, 131_072) / GIB == pytest.approx(10.4, abs=0.01)
    assert all_full_bytes(gemma, FP16, 131_072) == 62 * GIB


def test_a_window_saves_nothing_until_it_fills():
    layer = gqa(8, 8, kind=SlidingAttention, window=100)
    windowed = model((1, layer))
    at = {context: sequence_bytes(windowed, FP16, context) for context in (99, 100, 101, 10_000)}
    assert at[99] < at[100] == at[101] == at[10_000]


def test_a_chunk_is_a_cap():
    scout = model((36, gqa(40, 8, kind=ChunkedAttention, chunk=8192)), (12, gqa(40, 8)))
    token_layer_bytes = 8 * 256 * 2
    expected = token_layer_bytes * (36 * 8192 + 12 * 131_072)
    assert sequence_bytes(scout, FP16, 131_072) == expected
    assert expected / GIB == pytest.approx(7.125)  # Llama-4-Scout: 7.13 GiB


def test_a_recurrent_state_has_one_size():
    """Qwen3.5-27B: 3,207,168 bytes per layer, 48 layers, 0.14 GiB per sequence."""
    state = RecurrentState(
        flavour="gated_delta_net", conv_elements=30_720, recurrent_elements=786_432, parameters=0
    )
    linear = model((48, state))
    assert fixed_bytes(linear) == sequence_bytes(linear, FP16, 1) == 48 * 3_207_168
    assert bytes_per_token(linear, FP16) == 0
    assert fixed_bytes(linear) / GIB == pytest.approx(0.1434, abs=1e-4)


def test_cross_attention_is_sized_once_by_the_encoder():
    whisper = model((32, gqa(20, 20, 64, kind=CrossAttention, encoder_tokens=1500)))
    assert bytes_per_token(whisper, FP16) == 0
    once = 32 * 1500 * 20 * 128 * 2
    assert sequence_bytes(whisper, FP16, 1) == sequence_bytes(whisper, FP16, 448) == once
    assert all_full_bytes(whisper, FP16, 448) == once


def test_shared_layers_own_nothing():
    """Gemma 3n: the last layers read the K and V of earlier ones."""
    full = gqa(8, 2, 256)
    own, shared = model((20, full)), model((20, full), (10, full, "full-0"))
    assert bytes_per_token(shared, FP16) == bytes_per_token(own, FP16)
    assert shared.num_layers == 30


def test_compressed_latents_keep_a_state_every_ratio_tokens():
    v4 = CompressedLatentAttention(heads=64, head_dim=512, rope_dim=64, window=128, ratio=4)
    assert v4.states(1000) == 128 + 250
    assert v4.state_bytes(FP8) == 584  # 448 fp8 + 64 bf16 + 8 bytes of scales


# --- laws ---

caches = st.one_of(
    st.builds(gqa, st.just(64), st.sampled_from([1, 2, 8, 64]), st.sampled_from([64, 128])),
    st.builds(
        lambda window: gqa(64, 8, kind=SlidingAttention, window=window), st.integers(1, 5000)
    ),
    st.builds(lambda chunk: gqa(64, 8, kind=ChunkedAttention, chunk=chunk), st.integers(1, 5000)),
    st.just(LatentAttention(heads=64, **MLA)),
    st.builds(
        lambda size: RecurrentState(
            flavour="mamba2", conv_elements=size, recurrent_elements=size, parameters=0
        ),
        st.integers(1, 10**6),
    ),
)
models = st.lists(st.tuples(st.integers(1, 40), caches), min_size=1, max_size=4).map(
    lambda groups: model(*groups)
)
gqa_formats = st.sampled_from([fmt for fmt in KV_FORMATS.values() if fmt.rope_bits is None])


@given(model=models, fmt=gqa_formats, context=st.integers(1, 10**6), more=st.integers(0, 10**5))
def test_a_longer_context_never_takes_less(model, fmt, context, more):
    shorter, longer = (sequence_bytes(model, fmt, n) for n in (context, context + more))
    assert shorter <= longer <= shorter + more * bytes_per_token(model, fmt)


@given(model=models, fmt=gqa_formats, context=st.integers(1, 10**6))
def test_steady_never_exceeds_all_full(model, fmt, context):
    steady = sequence_bytes(model, fmt, context)
    full = all_full_bytes(model, fmt, context)
    assert fixed_bytes(model) <= steady <= full
    assert full == context * bytes_per_token(model, fmt) + fixed_bytes(model)


@given(model=models, context=st.integers(1, 10**6))
def test_a_wider_dtype_never_takes_less(model, context):
    sizes = [sequence_bytes(model, kv_format(n), context) for n in ("int4", "fp8", "bf16", "fp32")]
    assert sizes == sorted(sizes)


@given(model=models, fmt=gqa_formats, context=st.integers(1, 10**5))
@pytest.mark.parametrize("tp", [2, 4, 8, 16])
def test_tensor_parallelism_never_loses_a_byte(model, fmt, context, tp):
    """Ranks hold at least the whole; more where heads or latents are replicated."""
    whole, rank = (sequence_bytes(model, fmt, context, Rank(tp=n)) for n in (1, tp))
    assert whole <= tp * rank
    assert rank <= whole


@given(model=models, fmt=gqa_formats, context=st.integers(1, 10**5), data=st.data())
def test_pipeline_stages_add_up_to_the_model(model, fmt, context, data):
    cut = data.draw(st.integers(0, model.num_layers))
    dealt = [range(cut), range(cut, model.num_layers)]
    stages = [Rank(pp=2, stage=n, layers=layers) for n, layers in enumerate(dealt)]
    parts = [sequence_bytes(model, fmt, context, stage) for stage in stages]
    assert sum(parts) == sequence_bytes(model, fmt, context)
    per_token = [bytes_per_token(model, fmt, stage) for stage in stages]
    assert sum(per_token) == bytes_per_token(model, fmt)


@given(model=models)
def test_every_layer_is_counted_once(model):
    assert sum(count for count, _ in layer_caches(model)) == model.num_layers


@pytest.mark.parametrize(
    ("tp", "rank_bytes"),
    [(1, 8 * 512), (2, 4 * 512), (8, 512), (16, 512), (64, 512)],
)
def test_kv_heads_split_and_then_replicate(tp, rank_bytes):
    assert bytes_per_token(model((1, gqa(64, 8))), FP16, Rank(tp=tp)) == rank_bytes


def test_a_latent_is_replicated_on_every_rank():
    latent = model((61, LatentAttention(heads=128, **MLA)))
    for tp in (1, 8, 16):
        assert bytes_per_token(latent, kv_format("bf16"), Rank(tp=tp)) == 70_272


@pytest.mark.parametrize(("heads", "tp"), [(8, 3), (12, 8), (71, 2), (10, 4)])
def test_heads_that_cannot_be_split_are_refused_with_what_would_work(heads, tp):
    with pytest.raises(InputError) as error:
        heads_per_rank(heads, tp)
    text = str(error.value)
    assert f"{heads} KV heads cannot be split over tp={tp}" in text
    assert "choose tp from [1" in text
