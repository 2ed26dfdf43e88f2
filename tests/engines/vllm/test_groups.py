"""How layers are packed into groups, on a few layers that can be counted by hand."""

import pytest

from kvsim.engines.vllm.groups import (
    PageGroup,
    bytes_per_block,
    is_unifiable,
    pack_groups,
    promote_to_full,
    require_one_group,
)
from kvsim.engines.vllm.pages import LayerPage, PageSpec
from kvsim.errors import UnsupportedError

FULL = PageSpec("full", 16, 64)
WINDOW = PageSpec("window", 16, 64, span=128)
CHUNK = PageSpec("chunk", 16, 64, span=128)
STATE = PageSpec("state", 16, 64, span=1)
UNFOLDED = PageSpec("unfolded", 16, 64, span=8)


def pages(*specs):
    return [LayerPage(layer, spec.kind, spec) for layer, spec in enumerate(specs)]


def members(groups):
    return [[page.layer for page in group.members] for group in groups]


def test_a_lone_layer_is_a_group():
    (group,) = pack_groups(pages(FULL))
    assert (group.spec, group.name, group.padding_layers) == (FULL, "full", 0)


def test_pages_of_several_sizes_that_keep_the_same_tokens_are_one_group():
    """vLLM's UniformTypeKVCacheSpecs: a latent and its indexer's keys; a block is their sum."""
    (group,) = pack_groups(pages(FULL, FULL._replace(page_bytes=36)))
    assert group.block_bytes() == 100
    assert group.block_bytes([1]) == 36
    assert group.spec == FULL
    assert group.name == "full"


def test_a_group_is_named_by_the_layer_groups_it_holds_once_each():
    named = tuple(LayerPage(layer, name, FULL) for layer, name in enumerate("aba"))
    assert PageGroup(named).name == "a+b"


@pytest.mark.parametrize(
    ("full", "windows", "expected"),
    [
        # one of each: a layer a group
        (1, 1, [[0], [1]]),
        # 2 and 5: 5 is more than 1.5 times 2, so groups of two, dealt out in turn
        (2, 5, [[0, 1], [2, 5], [3, 6], [4]]),
        # 4 and 5: less than 1.5 times, so groups of five and one slot of padding
        (4, 5, [[0, 1, 2, 3], [4, 5, 6, 7, 8]]),
    ],
)
def test_layers_are_dealt_into_groups(full, windows, expected):
    """vLLM's _get_kv_cache_groups_uniform_page_size, release 0.19."""
    groups = pack_groups(pages(*[FULL] * full, *[WINDOW] * windows))
    assert members(groups) == expected
    width = max(map(len, expected))
    assert [group.padding_layers for group in groups] == [width - len(each) for each in expected]


def test_the_smaller_page_takes_more_tokens():
    groups = pack_groups(pages(FULL, WINDOW._replace(page_bytes=32)))
    assert [group.spec.page_bytes for group in groups] == [64, 64]
    assert [group.spec.block_size for group in groups] == [16, 32]


def test_a_block_is_a_multiple_of_what_its_pages_are_read_by():
    wide = LayerPage(0, "wide", FULL._replace(stride_bytes=48))
    narrow = LayerPage(1, "narrow", FULL._replace(page_bytes=32, stride_bytes=5))
    groups = pack_groups([wide, narrow])
    assert bytes_per_block(groups) == 240  # 64 + 32, in multiples of 48 and of 5


def test_a_layer_of_two_pages_of_two_kinds_is_not_made_equal():
    """DeepSeek-V4's: a window and folded states, where a latent and its keys are one kind."""
    assert is_unifiable(pages(FULL, WINDOW))
    assert is_unifiable([LayerPage(0, "v3", FULL), LayerPage(0, "v3", FULL)])
    small = FULL._replace(page_bytes=36)
    assert not is_unifiable([LayerPage(0, "v4", small), LayerPage(0, "v4", WINDOW)])
    # Falcon-H1's layers keep a state and attention, in pages of one size.
    both = [LayerPage(0, "h1", FULL), LayerPage(0, "h1", STATE)]
    assert is_unifiable(both)
    assert members(pack_groups(both)) == [[0], [0]]


def test_encoder_pages_beside_a_layers_own_are_no_second_page():
    """Whisper: one layer's self-attention and what it keeps of the encoder unify."""
    fixed = PageSpec("fixed", 16, 32, span=1500)
    both = [LayerPage(0, "self", FULL), LayerPage(0, "cross", fixed)]
    assert is_unifiable(both)
    groups = pack_groups(both)
    assert [group.spec.page_bytes for group in groups] == [64, 64]


def test_windows_and_chunks_become_full_and_states_do_not():
    promoted = promote_to_full(pages(FULL, WINDOW, CHUNK, STATE, UNFOLDED))
    assert [page.spec for page in promoted] == [FULL, FULL, FULL, STATE, UNFOLDED]


def test_one_group_takes_one_kind():
    require_one_group(pages(FULL, FULL), "--flag")
    with pytest.raises(UnsupportedError, match="--flag: recurrent"):
        require_one_group(pages(FULL, STATE), "--flag")
    with pytest.raises(UnsupportedError, match="--flag: how a compressor's tokens join"):
        require_one_group(pages(FULL, UNFOLDED), "--flag")
