"""vLLM's pages and groups at the edges where off-by-one errors hide."""

import pytest

from kvsim.engines.vllm.groups import pack_groups
from kvsim.engines.vllm.pages import LayerPage, PageSpec, Reserve


@pytest.mark.parametrize(("in_flight", "pages"), [(0, 2), (1, 3), (16, 3), (17, 4)])
def test_a_window_is_charged_what_it_sees_before_the_newest_token(in_flight, pages):
    """vLLM: ceil(min(window - 1 + in flight, length) / block) + 1; 17 - 1 fill one block."""
    spec = PageSpec("window", block_size=16, page_bytes=1, span=17)
    assert spec.admission_pages(1000, Reserve(in_flight)) == pages


@pytest.mark.parametrize(("context", "pages"), [(1, 1), (16, 1), (17, 2), (33, 2), (1000, 2)])
def test_a_window_that_straddles_blocks_holds_one_more_of_them(context, pages):
    """16 tokens before the newest may start inside a block: two of 16 are touched."""
    spec = PageSpec("window", block_size=16, page_bytes=1, span=17)
    assert spec.growth(Reserve()).blocks_at(context) == pages


@pytest.mark.parametrize(("windows", "sizes"), [(5, [5, 5]), (6, [4, 4, 4])])
def test_groups_take_the_larger_bucket_only_below_one_and_a_half_times(windows, sizes):
    """vLLM: the largest bucket's size when max < 1.5 x min; 6 of 4 is exactly 1.5."""
    full = [LayerPage(i, "full", PageSpec("full", 16, 64)) for i in range(4)]
    spec = PageSpec("window", 16, 64, span=128)
    groups = pack_groups([*full, *(LayerPage(4 + i, "window", spec) for i in range(windows))])
    assert [len(group.members) + group.padding_layers for group in groups] == sizes
