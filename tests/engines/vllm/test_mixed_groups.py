"""How layers of several pages are grouped, on a few layers that can be counted by hand."""

import pytest

from kvsim.engines.vllm.groups import bytes_per_block
from kvsim.engines.vllm.mixed_groups import pack_mixed, pack_tuples, slot_bytes, tuple_bytes
from kvsim.engines.vllm.pages import LayerPage, PageSpec
from kvsim.errors import UnsupportedError


def members(groups):
    return [[page.layer for page in group.members] for group in groups]


WIDE = PageSpec("window", 64, 100, 128)
FOLDED = PageSpec("full", 256, 30)


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
    assert members(pack_mixed(mixed)) == expected


def test_patterns_of_two_page_sizes_set_the_size_of_all_groups():
    """vLLM 0.33's _get_packed_kv_cache_groups: 5 windows beside a pattern that repeats twice.

    Groups of 2 repeats pad 5 by 1, groups of 3 pad 5 and 2 by 1 each, and groups of 5 pad 2 by 3.
    """
    pattern = [PageSpec("unfolded", 4, size, 8) for size in (90, 20)]
    mixed = [LayerPage(layer, "v4", WIDE) for layer in range(5)]
    mixed += [LayerPage(layer, "v4", spec) for layer in (1, 3) for spec in pattern]
    groups = pack_mixed(mixed)
    assert members(groups) == [[0, 3], [1, 4], [2], [1, 1, 3, 3]]
    assert [group.block_bytes() for group in groups] == [200, 200, 100, 220]
    assert not any(group.padding_layers for group in groups)


def test_as_many_windows_as_a_pattern_repeats_are_one_group():
    """vLLM 0.33's _approximate_gcd tries every size up to the largest: three, which pads none."""
    pattern = [PageSpec("unfolded", 4, size, 8) for size in (90, 20)]
    mixed = [LayerPage(layer, "v4", WIDE) for layer in range(3)]
    mixed += [LayerPage(layer, "v4", spec) for layer in (0, 1, 2) for spec in pattern]
    assert members(pack_mixed(mixed)) == [[0, 1, 2], [0, 0, 1, 1, 2, 2]]


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
        groups = pack_mixed(mixed)
        assert [len(group.members) for group in groups] == [*expected, 4, 2]
        assert bytes_per_block(groups) == 136


KEY = PageSpec("full", 256, 25)
ENTRY = PageSpec("full", 256, 100)


def in_tuples():
    """Three layers of entries and keys, two windows beside each of them, and two compressors."""
    pages = [LayerPage(layer, "v4", WIDE._replace(page_bytes=90)) for layer in range(6)]
    pages += [LayerPage(layer, "v4", spec) for layer in (0, 2, 4) for spec in (ENTRY, KEY)]
    pattern = [PageSpec("unfolded", 4, size, 8) for size in (80, 20)]
    return pages + [LayerPage(layer, "v4", spec) for layer in (0, 2) for spec in pattern]


def test_windows_grow_to_the_pages_of_full_layers_and_are_cut_as_they_repeat():
    """vLLM 0.20 to 0.28, _get_kv_cache_groups_uniform_groups: 3, 6 and 2 repeats.

    Groups of 3 pad 6 by none and 2 by 1; those of 6 would pad 3 by 3 and 2 by 4.
    """
    groups = pack_tuples(in_tuples(), pads=True)
    assert members(groups) == [[0, 0, 2, 2, 4, 4], [0, 2, 4], [1, 3, 5], [0, 0, 2, 2]]
    sizes = [[page.spec.page_bytes for page in group.members] for group in groups]
    assert sizes == [[100, 25] * 3, [100] * 3, [100] * 3, [100, 25] * 2]


def test_later_pages_stay_as_they_are():
    """vLLM 0.27.1 and 0.28.0, the same function: windows of 90, compressors of 80 and 20."""
    groups = pack_tuples(in_tuples(), pads=False)
    assert members(groups) == [[0, 0, 2, 2, 4, 4], [0, 2, 4], [1, 3, 5], [0, 0, 2, 2]]
    assert [group.block_bytes() for group in groups] == [375, 270, 270, 200]
    assert (bytes_per_block(groups), tuple_bytes(groups)) == (375, 375)
    larger = [LayerPage(0, "v4", WIDE), LayerPage(0, "v4", KEY)]
    assert [group.block_bytes() for group in pack_tuples(larger, pads=False)] == [25, 100]


def test_a_block_of_tuples_has_a_page_of_each_size_for_each_layer_of_the_longest_group():
    """vLLM 0.20, _get_kv_cache_config_deepseek_v4: (100 + 25) times three."""
    groups = pack_tuples(in_tuples(), pads=True)
    assert tuple_bytes(groups) == 375
    assert tuple_bytes(groups, [1, 3]) == 125 * 2  # two windows, and no full layer
    assert tuple_bytes(groups, [0, 1]) == 125


def test_a_block_of_slots_has_the_most_pages_of_each_size():
    """vLLM 0.23, _bucket_layers_by_page_size: three pages of 100, and two or three of 25."""
    groups = pack_tuples(in_tuples(), pads=True)
    assert slot_bytes(groups) == 3 * 100 + 3 * 25
    assert slot_bytes(groups, [1, 3]) == 200
    assert slot_bytes(groups, [0, 1, 2]) == 2 * 100 + 2 * 25


@pytest.mark.parametrize(
    "pages",
    [
        # no full layer has a page that holds a window
        [LayerPage(0, "v4", WIDE), LayerPage(0, "v4", KEY)],
        # two compressors of one size and one of the other
        [*in_tuples(), LayerPage(5, "v4", PageSpec("unfolded", 4, 80, 8))],
        # no full layer at all
        [LayerPage(0, "v4", WIDE), LayerPage(0, "v4", PageSpec("unfolded", 4, 80, 8))],
    ],
)
def test_what_the_engine_stops_at_is_refused(pages):
    """vLLM 0.20, _get_kv_cache_groups_uniform_groups and group_and_unify_...: its assertions."""
    with pytest.raises(UnsupportedError, match=r"0\.20 to 0\.28 have no groups .* 0\.29 or newer"):
        pack_tuples(pages, pads=True)
