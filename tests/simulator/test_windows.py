"""Windows that move on, and prefixes that every group of layers knows; see also `engine_oracle`."""

from __future__ import annotations

import pytest

from kvsim import load_scenario, simulate
from kvsim.errors import InputError
from kvsim.memory.growth import Growth, Window
from kvsim.simulator.allocators.block_pool import Block, BlockPool
from kvsim.simulator.allocators.hits import Alike, alike, kept, longest_hit
from kvsim.simulator.allocators.tables import BlockTables
from kvsim.simulator.batch import decode_batch
from kvsim.simulator.request import Request
from kvsim.steptime.kv_reads import KVReadCurve

FULL = Growth.full(4)
WINDOW = Growth.moving(4, Window(8, is_chunk=False, admitted_blocks=9))
CHUNK = Growth.moving(4, Window(8, is_chunk=True, admitted_blocks=9))


def known(blocks: dict[Growth, set[int]]):
    """A cache that knows these blocks of each kind."""

    def look(kind: Alike, number: int) -> list[Block] | None:
        return [Block(0, number) for _ in kind.groups] if number in blocks[kind.growth] else None

    return look


# ---- what a prompt finds ---------------------------------------------------------------------


def test_a_window_needs_only_the_blocks_that_the_next_token_sees() -> None:
    """vLLM's own example: seven tokens before the next may lie in two blocks."""
    look = known({FULL: {0, 1, 2, 3, 4}, WINDOW: {3, 4}})
    hit = longest_hit(alike([FULL, WINDOW]), 23, 4, look)
    assert hit.tokens == 20
    assert sorted(hit.blocks[0]) == [0, 1, 2, 3, 4]
    assert sorted(hit.blocks[1]) == [3, 4]


def test_a_window_with_a_hole_is_found_further_ahead() -> None:
    """The full group's longer run is cut, and where it parts is remembered."""
    look = known({FULL: {0, 1, 2, 3, 4}, WINDOW: {0, 1, 2, 4}})
    hit = longest_hit(alike([FULL, WINDOW]), 23, 4, look)
    assert hit.tokens == 12
    assert hit.junction == 20
    assert sorted(hit.blocks[0]) == [0, 1, 2]


def test_a_chunk_needs_its_own_beginning_alone() -> None:
    """18 tokens: the chunk from 16 on; its first block is known."""
    hit = longest_hit(alike([FULL, CHUNK]), 21, 4, known({FULL: set(range(5)), CHUNK: {4}}))
    assert hit.tokens == 20
    assert sorted(hit.blocks[1]) == [4]
    none = longest_hit(alike([FULL, CHUNK]), 21, 4, known({FULL: set(range(5)), CHUNK: set()}))
    assert none.tokens == 16


@pytest.mark.parametrize(
    ("interval", "numbers"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7]),  # a window of two blocks before every block
        (0, [2, 3]),  # before token 16, the last aligned one before the prompt's last
        (16, [2, 3, 6, 7]),
    ],
)
def test_windows_keep_what_a_later_request_could_begin_with(
    interval: int | None, numbers: list[int]
) -> None:
    """A prompt of 19 tokens; ``reachable_block_mask`` of 0.33."""
    assert list(kept(WINDOW, range(8), 4, interval, (18, 0))) == numbers
    assert list(kept(FULL, range(8), 4, interval, (18, 0))) == list(range(8))


# ---- what is held ----------------------------------------------------------------------------


def test_a_prompt_holds_its_chunk_and_its_window() -> None:
    """Chunk after chunk of 16: what is behind goes when the next is scheduled, not before."""
    memory = BlockTables(100, [FULL, WINDOW])
    memory.batch = decode_batch(memory.growths, KVReadCurve((), (1,), (1,), (1,)))
    request = Request(0, 0.0, 48, 4)
    assert memory.allocate(request, 16) == 0
    assert 100 - memory.free_blocks == 4 + 4
    request.computed_tokens = 16
    assert memory.append_slots(request, 32)
    assert 100 - memory.free_blocks == 8 + 6  # tokens 9 to 31: blocks 2 to 7
    request.computed_tokens = 32
    memory.in_flight = {request: 16}  # planned while the second chunk is computed
    assert memory.append_slots(request, 48)
    assert 100 - memory.free_blocks == 12 + 10  # it still looks back from token 16
    request.computed_tokens = 48
    memory.check([(request, 48)])
    memory.free(request)
    assert memory.free_blocks == 100


def test_nameless_blocks_go_first_and_content_is_forgotten_when_it_is_taken() -> None:
    """And a second block of known content takes over."""
    pool = BlockPool(4, 1, nameless_first=True)
    pool.take(3)
    first, second = pool.name(0, 7), pool.name(0, 7)
    pool.give_back([first, second])
    pool.give_back_nameless(1)
    assert (pool.free, pool.cached) == (4, 2)
    pool.take(3)  # one that was never used, the nameless one, then the first
    assert pool.known(0, 7) is second
    pool.take(1)
    assert pool.known(0, 7) is None
    assert pool.evictions == 2


# ---- scenarios -------------------------------------------------------------------------------

TALKS = {
    "workload.requests": 300,
    "workload.prefix": {"kind": "groups", "groups": 4, "tokens": 1536},
    "engine.enable_prefix_caching": True,
}


def test_windows_find_a_shared_prefix() -> None:
    """Most of what is looked up is known: four system prompts, each longer than a window."""
    cache = simulate(load_scenario("gemma-window", TALKS)).summary["prefix_cache"]
    plain = simulate(load_scenario("gemma-window", TALKS | {"model": "llama3.1-8b"})).summary
    assert cache["hits"] == pytest.approx(plain["prefix_cache"]["hits"], rel=0.1)
    assert cache["hits"] > 300 * 1000


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"workload.samples": 2}, "one sample a request"),
        ({"memory.eviction": "lfu"}, "vLLM's order"),
        ({"engine.name": "sglang"}, "full attention in every layer, and under vLLM"),
    ],
)
def test_what_windows_cannot_share_is_refused(keys: dict[str, object], words: str) -> None:
    """In one line, with what to do."""
    with pytest.raises(InputError, match=words) as caught:
        simulate(load_scenario("gemma-window", TALKS | keys))
    assert len(str(caught.value).splitlines()) == 1


def test_who_comes_back_from_the_host_may_have_what_a_decode_gave_back() -> None:
    """The block is counted once: as the newcomer's."""
    keys = {
        "model": "gpt-oss-20b",
        "accelerator": "h200",
        "engine.max_model_len": 2048,
        "engine.num_gpu_blocks_override": 301,
        "engine.enable_prefix_caching": True,
        "scheduler.preemption": "swap",
        "workload.requests": 20,
        "workload.arrivals": {"kind": "closed_loop", "clients": 12},
        "workload.lengths.prompt": {"kind": "fixed", "tokens": 1024},
        "workload.lengths.output": {"kind": "fixed", "tokens": 600},
    }
    summary = simulate(load_scenario("peer-w", keys)).summary
    assert summary["preemptions"] > 0
    assert sum(summary["kv_cache"]["waste"].values()) == pytest.approx(1)


def test_what_a_prompt_left_behind_is_not_held_while_it_decodes() -> None:
    """Its window is what 4,000 steps hold on the average, beside the layers that keep all."""
    keys = {
        "model": "gpt-oss-20b",
        "accelerator": "h200",
        "engine.max_model_len": 16384,
        "engine.num_gpu_blocks_override": 4001,
        "engine.block_size": 16,
        "engine.max_num_batched_tokens": 16384,
        "step_time": {"kind": "constant", "seconds": 0.01},
        "workload.requests": 1,
        "workload.arrivals": {"kind": "at_once"},
        "workload.lengths.prompt": {"kind": "fixed", "tokens": 8000},
        "workload.lengths.output": {"kind": "fixed", "tokens": 4000},
    }
    result = simulate(load_scenario("peer-w", keys))
    full = (8000 + 12_000) / 2 / 16  # blocks, from the first token to the last
    window = 128 / 16 + 1
    assert result.summary["kv_cache"]["usage_mean"] == pytest.approx(
        (full + window) / 4000, rel=0.01
    )
