"""vLLM's pages and groups at the edges where off-by-one errors hide."""

from collections import Counter

import pytest

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.engines.vllm.groups import pack_groups
from kvsim.engines.vllm.layout import layout_of
from kvsim.engines.vllm.pages import (
    LayerPage,
    PageSpec,
    Reserve,
    _compressed_page,
    _page,
    _unfolded_page,
    align_to_states,
    layer_pages,
)
from kvsim.engines.vllm.rules import Rules
from kvsim.errors import InputError, UnsupportedError
from kvsim.specs.attention import CompressedLatentAttention, Entry, RecurrentState
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.model import LayerGroup

NEWEST = Rules.of(get_engine("vllm").version)


@pytest.mark.parametrize(("in_flight", "pages"), [(0, 2), (1, 3), (16, 3), (17, 4)])
def test_a_window_is_charged_what_it_sees_before_the_newest_token(in_flight, pages):
    """vLLM: ceil(min(window - 1 + in flight, length) / block) + 1; 17 - 1 fill one block."""
    spec = PageSpec("window", block_size=16, page_bytes=1, span=17)
    assert spec.admission_pages(1000, Reserve(in_flight)) == pages


@pytest.mark.parametrize(("context", "pages"), [(1, 1), (16, 1), (17, 2), (33, 2), (1000, 2)])
def test_a_window_that_straddles_blocks_holds_one_more_of_them(context, pages):
    """16 tokens before the newest may start inside a block: two of 16 are touched."""
    spec = PageSpec("window", block_size=16, page_bytes=1, span=17)
    assert spec.growth(1000, Reserve()).blocks_at(context) == pages


@pytest.mark.parametrize(("windows", "sizes"), [(5, [5, 5]), (6, [4, 4, 4])])
def test_groups_take_the_larger_bucket_only_below_one_and_a_half_times(windows, sizes):
    """vLLM: the largest bucket's size when max < 1.5 x min; 6 of 4 is exactly 1.5."""
    full = [LayerPage(i, "full", PageSpec("full", 16, 64)) for i in range(4)]
    spec = PageSpec("window", 16, 64, span=128)
    groups = pack_groups([*full, *(LayerPage(4 + i, "window", spec) for i in range(windows))])
    assert [len(group.members) + group.padding_layers for group in groups] == sizes


@pytest.mark.parametrize(
    ("kind", "span", "admitted", "held"),
    [
        ("full", 0, 63, 63),  # 1,000 tokens in blocks of 16
        ("window", 100, 9, 8),  # (100 - 1 + 20) / 16 and one more; 99 / 16 and one more
        ("unfolded", 100, 9, 8),
        ("chunk", 100, 8, 7),  # (100 + 20) / 16; 100 / 16
        ("state", 2, 2, 1),  # a second one beside it only in the step that opens a block
        ("fixed", 100, 7, 7),
        ("ring", 16, 1, 1),
    ],
)
def test_pages_of_every_kind(kind, span, admitted, held):
    """The module's table, with 20 tokens in flight."""
    spec = PageSpec(kind, block_size=16, page_bytes=1, span=span)
    reserve = Reserve(in_flight_tokens=20)
    assert spec.admission_pages(1000, reserve) == admitted
    assert spec.growth(1000, reserve).blocks_at(1000) == held


def test_a_checkpoint_is_charged_and_not_held():
    """vLLM's MambaSpec: 2 + num_prefill_checkpoint_blocks; a running request keeps one."""
    spec = PageSpec("state", block_size=16, page_bytes=1, span=2, checkpoints=1)
    assert spec.admission_pages(1000, Reserve()) == 3
    assert spec.growth(1000, Reserve()).blocks_at(1000) == 1


def test_states_of_every_block_are_charged_and_two_are_held():
    """vLLM's MambaSpec in mode "all"; its manager frees all but the last token's."""
    spec = PageSpec("state", block_size=16, page_bytes=1, span=2, is_per_block=True)
    assert [spec.admission_pages(length, Reserve()) for length in (16, 17, 1000)] == [1, 2, 63]
    assert spec.growth(1000, Reserve()).blocks_at(1000) == 2


def test_a_short_sequence_is_charged_its_own_tokens():
    """min(window - 1 + in flight, length): 10 tokens take one block of 16, and one more."""
    for kind, pages in (("window", 2), ("chunk", 1)):
        spec = PageSpec(kind, block_size=16, page_bytes=1, span=100)
        assert spec.admission_pages(10, Reserve(20)) == pages


def test_context_ranks_share_the_tokens_of_full_layers():
    """1,000 tokens over 8 ranks are 125 each: 8 blocks of 16."""
    spec = PageSpec("full", block_size=16, page_bytes=1)
    assert spec.admission_pages(1000, Reserve(0, context_ranks=8)) == 8
    growth = spec.growth(1000, Reserve(0, context_ranks=8))
    assert [growth.blocks_at(tokens) for tokens in (128, 129, 1000)] == [1, 2, 8]


def test_a_page_grows_by_whole_blocks_or_is_padded():
    """vLLM's unify_kv_cache_spec_page_size: more tokens a block where the page is a multiple."""
    spec = PageSpec("full", block_size=16, page_bytes=100)
    assert spec.with_page(300) == PageSpec("full", 48, 300)
    assert spec.with_page(250) == PageSpec("full", 16, 250)
    state = PageSpec("state", 16, 100, span=1)
    assert state.with_page(300) == PageSpec("state", 16, 300, span=1)


def deployed(model, gpu="h200", version="", **options):
    engine = get_engine("vllm", version)
    question = Deployment(find_model(model), find_accelerator(gpu), EngineOptions(**options))
    return engine.resolve(question)


def test_the_pages_of_deepseek_v4():
    """Entries of 584 and 132 bytes, pages in multiples of 576, by hand:

    64 * 584 = 37,376 fill 65 of them, 64 * 132 = 8,448 fill 15, and the two entries of 256 tokens
    folded by 128 fill 3. 43 layers have windows of 128, 21 fold by 4 with an indexer, 20 by 128.

    What is yet to be folded (vLLM 0.33, models/deepseek_v4/compressor.py): 4 tokens of 8,192
    bytes, or 8 of 4,096, fill 57 and 4 of 2,048 fill 15; folds of 4 look back on 8 tokens.
    """
    pages = layer_pages(deployed("deepseek-v4-flash", tensor_parallel_size=8), NEWEST)
    assert [page.layer for page in pages] == sorted(page.layer for page in pages)
    assert Counter(page.spec for page in pages) == {
        PageSpec("window", 64, 65 * 576, 128): 43,
        PageSpec("full", 256, 65 * 576): 21,
        PageSpec("full", 256, 15 * 576): 21,
        PageSpec("full", 256, 3 * 576): 20,
        PageSpec("unfolded", 4, 57 * 576, 8): 21,
        PageSpec("unfolded", 4, 15 * 576, 8): 21,
        PageSpec("unfolded", 8, 57 * 576, 128): 20,
    }


@pytest.mark.parametrize(
    ("version", "block_bytes"),
    [
        # full layers' pages, two groups of windows, and compressors' in pages of the same sizes
        ("0.20.2", [1_002_240, 823_680, 786_240, 967_680, 748_800]),
        ("0.26.0", [1_002_240, 823_680, 786_240, 967_680, 748_800]),
        # ... in pages as they are
        ("0.28.0", [1_002_240, 823_680, 786_240, 870_912, 656_640]),
    ],
)
def test_older_releases_group_deepseek_v4_in_tuples(version, block_bytes):
    """The groups of each release's own get_kv_cache_groups (v1/core/kv_cache_utils.py)."""
    engine = get_engine("vllm", version)
    deployment = deployed("deepseek-v4-flash", version=version, tensor_parallel_size=8)
    groups = layout_of(deployment, engine.rules).groups
    assert [(group.spec.kind, len(group.members)) for group in groups] == [
        ("full", 62),
        ("window", 22),
        ("window", 21),
        ("unfolded", 42),
        ("unfolded", 20),
    ]
    assert [group.block_bytes() for group in groups] == block_bytes


def test_a_compressor_of_another_ratio_is_refused():
    """vLLM 0.33, compressor.py: ``assert compress_ratio in [4, 128]``."""
    shape = {"heads": 64, "head_dim": 512, "rope_dim": 64, "window": 128}
    (entry,) = CompressedLatentAttention(**shape, ratio=16).unfolded
    assert entry == Entry("unfolded", 4096, "window", 16)
    with pytest.raises(UnsupportedError, match="looks back on 16 tokens: vLLM's fold 4 or 128"):
        _unfolded_page(entry)


def test_the_pages_of_glm_5_2():
    """Latents of 656 bytes in all 78 layers, index keys of 132 in the 21 that have an indexer."""
    fp8 = {"kv_cache_dtype": "fp8"}
    pages = layer_pages(deployed("glm-5.2", tensor_parallel_size=8, **fp8), NEWEST)
    assert Counter(page.spec for page in pages) == {
        PageSpec("full", 64, 64 * 656): 78,
        PageSpec("full", 64, 64 * 132): 21,
    }
    (group,) = pack_groups(list(pages))
    assert group.block_bytes() == 64 * 53_940


def test_blocks_are_raised_by_the_widest_token_not_the_widest_page():
    """A state of 10,000 bytes; 64 bytes a token in blocks of 16, and 100 in blocks of 8.

    10,000 / (16 * 100) is 6.25: 7 * 16 = 112 tokens, and a page of 11,200 bytes for the state.
    """
    state = LayerPage(0, "state", PageSpec("state", 16, 10_000, 1))
    narrow = LayerPage(1, "narrow", PageSpec("full", 16, 16 * 64))
    wide = LayerPage(2, "wide", PageSpec("full", 8, 8 * 100))
    aligned = align_to_states([state, narrow, wide], deployed("llama3-8b"), NEWEST)
    assert [page.spec for page in aligned] == [
        PageSpec("state", 112, 11_200, 1),
        PageSpec("full", 112, 112 * 64),
        PageSpec("full", 112, 112 * 100),
    ]
    larger = align_to_states([state, wide], deployed("llama3-8b", block_size=128), NEWEST)
    assert [page.spec.block_size for page in larger] == [128, 128]


def test_the_largest_state_decides_and_all_are_padded_to_it():
    """States of 10,000 and 5,000 bytes beside 100 a token: 7 * 16 tokens hold the larger."""
    pages = [
        LayerPage(0, "large", PageSpec("state", 16, 10_000, 1)),
        LayerPage(1, "small", PageSpec("state", 16, 5000, 1)),
        LayerPage(2, "full", PageSpec("full", 16, 1600)),
    ]
    aligned = align_to_states(pages, deployed("llama3-8b"), NEWEST)
    assert [(p.spec.block_size, p.spec.page_bytes) for p in aligned] == [(112, 11_200)] * 3


def test_pages_of_states_alone_or_of_attention_alone_stay_as_they_are():
    for spec in (PageSpec("state", 16, 10_000, 1), PageSpec("full", 16, 1024)):
        pages = [LayerPage(0, "only", spec)]
        assert align_to_states(pages, deployed("llama3-8b"), NEWEST) == pages


def test_a_state_that_ranks_cannot_split_is_refused():
    """Qwen3.5's 786,432 elements over 5 ranks."""
    state = RecurrentState(
        flavour="gated_delta_net", conv_elements=30720, recurrent_elements=786432, parameters=0
    )
    group = LayerGroup(name="states", layers=(0,), caches=(state,))
    model = find_model("llama3-8b").model_copy(update={"layer_groups": (group,)})
    engine = get_engine("vllm")
    found = Deployment(model, find_accelerator("h100"), EngineOptions(tensor_parallel_size=5))
    with pytest.raises(InputError, match="786432 elements cannot be split over tp=5"):
        layer_pages(engine.resolve(found), engine.rules)


@pytest.mark.parametrize(
    ("entry", "spec"),
    [
        (Entry("kv", 100), PageSpec("full", 16, 1600)),
        (Entry("kv", 100, "window", 33), PageSpec("window", 16, 1600, 33)),
        (Entry("kv", 100, "chunk", 33), PageSpec("chunk", 16, 1600, 33)),
        (Entry("indexer", 100, "folded", 3), PageSpec("full", 16, 600)),  # 16 / 3 is 6 keys
        (Entry("state", 100, "fixed", 1), PageSpec("state", 16, 100, 2)),
    ],
)
def test_an_entry_is_paged_by_how_long_it_is_kept(entry, spec):
    options = deployed("llama3-8b", enable_prefix_caching=True).options
    assert _page(entry, options) == spec


def test_entries_of_a_shared_vector_that_are_kept_otherwise_are_refused():
    with pytest.raises(UnsupportedError, match="a shared vector for every tokens is not known"):
        _compressed_page(Entry("shared", 584))


@pytest.mark.parametrize(("version", "blocks"), [("0.19.1", {1408}), ("0.20.0", {16})])
def test_a_stage_without_attention_aligns_no_states(version, blocks):
    """The last 14 of Nemotron Nano 9B's 56 layers: platforms/interface.py, which workers call."""
    engine = get_engine("vllm", version)
    options = EngineOptions(pipeline_parallel_size=4, enable_prefix_caching=True)
    asked = Deployment(find_model("nemotron-nano-9b-v2"), find_accelerator("h100"), options)
    pages = layer_pages(engine.resolve(asked), engine.rules)
    assert {page.spec.block_size for page in pages if page.layer < 42} >= {1408}
    assert {page.spec.block_size for page in pages if page.layer >= 42} == blocks


def test_a_window_that_no_context_outgrows_is_charged_as_one():
    """A block more than full attention's: engine/arg_utils.py hands it to all layers."""
    engine = get_engine("vllm")
    options = EngineOptions(max_model_len=8192)
    asked = Deployment(find_model("phi-4-mini"), find_accelerator("h100"), options)
    layout = layout_of(engine.resolve(asked), engine.rules)
    assert [layout.admission_blocks(length) for length in (8192, 1024)] == [513, 65]
