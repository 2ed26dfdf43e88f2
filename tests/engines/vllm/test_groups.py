"""How layers are packed into groups, on a few layers that can be counted by hand."""

import pytest

from kvsim.engines.vllm.groups import (
    PageGroup,
    bytes_per_block,
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


WIDE = PageSpec("window", 64, 100, 128)
FOLDED = PageSpec("full", 256, 30)


def test_a_layer_of_two_pages_keeps_pages_as_they_are():
    """DeepSeek-V4 in a release that has a group for each kind, of pages of its own sizes."""
    mixed = [LayerPage(0, "v4", WIDE), LayerPage(0, "v4", FOLDED), LayerPage(1, "v4", WIDE)]
    groups = pack_groups(mixed, packs_mixed=False)
    assert [group.members for group in groups] == [(mixed[0], mixed[2]), (mixed[1],)]
    assert [group.spec.page_bytes for group in groups] == [100, 30]
    assert bytes_per_block(groups) == 200
    assert bytes_per_block(groups, [1]) == 100


@pytest.mark.parametrize(
    ("folded_bytes", "expected"),
    [
        # a block need hold one window, and does not hold two
        (30, [[0], [1], [2], [3], [0]]),
        # two windows fit beside 250 bytes: groups of two
        (250, [[0, 2], [1, 3], [0]]),
        # all four fit
        (400, [[0, 1, 2, 3], [0]]),
    ],
)
def test_windows_are_cut_to_what_the_widest_other_group_holds(folded_bytes, expected):
    """vLLM 0.33's _get_packed_kv_cache_groups, where no bucket mixes page sizes."""
    mixed = [LayerPage(layer, "v4", WIDE) for layer in range(4)]
    mixed.append(LayerPage(0, "v4", FOLDED._replace(page_bytes=folded_bytes)))
    assert members(pack_groups(mixed)) == expected


def test_patterns_of_two_page_sizes_set_the_size_of_all_groups():
    """vLLM 0.33's _get_packed_kv_cache_groups: 5 windows beside a pattern that repeats twice.

    Groups of 2 repeats pad 5 by 1, groups of 3 pad 5 and 2 by 1 each, and groups of 5 pad 2 by 3.
    """
    pattern = [PageSpec("unfolded", 4, size, 8) for size in (90, 20)]
    mixed = [LayerPage(layer, "v4", WIDE) for layer in range(5)]
    mixed += [LayerPage(layer, "v4", spec) for layer in (1, 3) for spec in pattern]
    groups = pack_groups(mixed)
    assert members(groups) == [[0, 3], [1, 4], [2], [1, 1, 3, 3]]
    assert [group.block_bytes() for group in groups] == [200, 200, 100, 220]
    assert not any(group.padding_layers for group in groups)


def test_as_many_windows_as_a_pattern_repeats_are_one_group():
    """vLLM 0.33's _approximate_gcd tries every size up to the largest: three, which pads none."""
    pattern = [PageSpec("unfolded", 4, size, 8) for size in (90, 20)]
    mixed = [LayerPage(layer, "v4", WIDE) for layer in range(3)]
    mixed += [LayerPage(layer, "v4", spec) for layer in (0, 1, 2) for spec in pattern]
    assert members(pack_groups(mixed)) == [[0, 1, 2], [0, 0, 1, 1, 2, 2]]


def test_states_and_rings_are_cut_to_what_fits_beside_a_pattern():
    """vLLM 0.33's _get_packed_kv_cache_groups: latents and keys of 2 layers, 7 states, 2 rings.

    Groups of 3 repeats pad 7, 2 and 2 by 4, those of 2 by 1 alone: the pattern is whole, and the
    states go into four groups of two. Where a block of 2 * (64 + 4) bytes holds one state of 100
    alone, there are seven.
    """
    latent, key = PageSpec("full", 16, 64), PageSpec("full", 16, 4)
    ring = PageSpec("ring", 4, 8, 4)
    for state_bytes, expected in ((64, [2, 2, 2, 1]), (100, [1] * 7)):
        state = PageSpec("state", 16, state_bytes, 2)
        mixed = [LayerPage(layer, "kda", state) for layer in range(7)]
        mixed += [LayerPage(layer, "mla", spec) for layer in (7, 8) for spec in (latent, key, ring)]
        groups = pack_groups(mixed)
        assert [len(group.members) for group in groups] == [*expected, 4, 2]
        assert bytes_per_block(groups) == 136


def test_a_block_is_a_multiple_of_what_its_pages_are_read_by():
    wide = LayerPage(0, "wide", FULL._replace(stride_bytes=48))
    narrow = LayerPage(1, "narrow", FULL._replace(page_bytes=32, stride_bytes=5))
    groups = pack_groups([wide, narrow])
    assert bytes_per_block(groups) == 240  # 64 + 32, in multiples of 48 and of 5


def test_encoder_pages_beside_a_layers_own_are_no_second_page():
    """Whisper: one layer's self-attention and what it keeps of the encoder unify."""
    fixed = PageSpec("fixed", 16, 32, span=1500)
    groups = pack_groups([LayerPage(0, "self", FULL), LayerPage(0, "cross", fixed)])
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
