"""Recurrent states that are kept for later prompts: where chunks end, and what is found again.

What vLLM itself does in hundreds of workloads stands beside this in ``tests/engine_oracle``.
"""

from __future__ import annotations

import pytest

from kvsim import compare, simulate, with_overrides
from kvsim.errors import InputError
from kvsim.simulator.allocators.states import States
from kvsim.simulator.prepare import prepare
from kvsim.simulator.request import Request
from kvsim.simulator.scenario import Scenario

SPARSE, SAVING = States(4, 0, is_sparse=True), States(4, 1, is_sparse=True)
LONGEST = 100


def chunks(states: States, prompt: int, budget: int, *, start: int = 0, junction: int = 0) -> list:
    """Ends of a prompt's chunks, in steps of so many tokens."""
    request, ends = Request(0, 0.0, prompt, 5), []
    while start < prompt:
        most = min(budget, prompt - start)
        start += states.chunk(request, start, most, junction, budget)
        ends.append(start)
    return ends


# ---- where chunks end -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "prompt", "budget", "ends"),
    [
        (SPARSE, 19, LONGEST, [16, 19]),  # the last state that another prompt can begin with
        (SAVING, 19, LONGEST, [19]),  # ... left behind by the only chunk
        (SPARSE, 16, LONGEST, [12, 16]),  # the last token is always computed
        (SAVING, 16, LONGEST, [16]),
        (SPARSE, 3, LONGEST, [3]),  # no block is full
        (SPARSE, 19, 6, [4, 8, 12, 16, 19]),  # whole blocks
        (SAVING, 19, 9, [8, 16, 19]),  # too short a rest to leave one behind
        (SAVING, 22, 9, [8, 16, 22]),
        (SPARSE, 10, 3, [3, 4, 7, 8, 10]),  # a block that no step computes whole
    ],
)
def test_chunks_end_where_a_state_is_kept(
    states: States, prompt: int, budget: int, ends: list[int]
) -> None:
    """By hand, from ``_mamba_block_aligned_split`` of vLLM 0.33."""
    assert chunks(states, prompt, budget) == ends


def test_a_chunk_stops_where_prefixes_part() -> None:
    """Attention knows 8 tokens and no state does: one is made there for those to come."""
    assert chunks(SAVING, 19, LONGEST, junction=8) == [8, 19]
    assert chunks(SAVING, 19, LONGEST, start=8, junction=8) == [19]


def test_a_step_with_less_than_a_block_left_computes_nothing_of_a_prompt() -> None:
    request = Request(0, 0.0, 19, 5)
    assert SPARSE.chunk(request, 0, 3, 0, LONGEST) == 0
    assert SPARSE.chunk(request, 16, 2, 0, LONGEST) == 0  # 18 is no end of a block
    assert SPARSE.chunk(request, 16, 3, 0, LONGEST) == 3


def test_who_was_preempted_computes_its_output_in_chunks_but_for_the_newest_token() -> None:
    request = Request(0, 0.0, 6, 9)
    request.prefill_tokens = 6 + 5
    assert SPARSE.chunk(request, 0, 11, 0, LONGEST) == 8
    assert SPARSE.chunk(request, 10, 1, 0, LONGEST) == 1


@pytest.mark.parametrize(
    ("states", "start", "end", "beside"),
    [
        (SAVING, 0, 19, 1),
        (SAVING, 8, 19, 1),
        (SAVING, 12, 19, 1),
        (SAVING, 16, 19, 0),  # the state that it begins with is the one to keep
        (SAVING, 0, 16, 0),  # not the last chunk
        (SPARSE, 0, 19, 0),  # these kernels leave none
        (States(4, 1, is_sparse=False), 0, 16, 1),  # one of every chunk
    ],
)
def test_a_last_chunk_leaves_a_state_in_a_block_of_its_own(
    states: States, start: int, end: int, beside: int
) -> None:
    assert states.beside(Request(0, 0.0, 19, 5), start, end) == beside


# ---- scenarios --------------------------------------------------------------------------

QUESTION = {
    "name": "talks",
    "model": "qwen3.5-9b",
    "accelerator": "h100",
    "engine": {"max_model_len": 8192},
    "workload": {
        "arrivals": {"kind": "poisson", "rate": 1.0},
        "lengths": {
            "prompt": {"kind": "fixed", "tokens": 600},
            "output": {"kind": "fixed", "tokens": 60},
        },
        "prefix": {"kind": "groups", "groups": 4, "tokens": 3000},
        "requests": 300,
    },
}


def talks(keys: dict[str, object] | None = None) -> Scenario:
    """Requests that begin with one of four prompts of 3,000 tokens."""
    return with_overrides(Scenario(**QUESTION), keys or {})


def test_a_shared_prefix_is_found_once_its_state_was_kept() -> None:
    """Five blocks of 576 of it: the first of a group computes them, the second makes the state."""
    cache = simulate(talks()).summary["prefix_cache"]
    assert cache["hits"] == (300 - 2 * 4) * 5 * 576


def test_a_state_fills_its_block() -> None:
    """Of states and attention in blocks of 576 tokens, only attention leaves some of them idle."""
    keys = {
        "workload.prefix": {"kind": "none"},
        "workload.requests": 1,
        "workload.lengths.prompt": {"kind": "fixed", "tokens": 577},
    }
    groups = prepare(talks(keys)).pools.main.groups
    assert sum(group.growth.is_state for group in groups) == 3
    waste = simulate(talks(keys)).summary["kv_cache"]["waste"]
    held = waste["token_states"] + waste["internal"] + waste["reserved"]
    # two blocks of attention and a state in each of three groups, or 5 of 2,880 slots; of the
    # second block of attention 1 to 60 of 576 are filled
    assert waste["internal"] / held == pytest.approx(0.19, abs=0.02)


@pytest.mark.parametrize(
    ("keys", "is_cached"),
    [
        ({}, True),
        ({"memory.allocator": "paged"}, False),
        ({"engine.enable_prefix_caching": False}, False),
        ({"scheduler.policy": "orca"}, False),
        ({"workload.samples": 2}, False),
        ({"model": "llama3.1-8b"}, True),
        ({"model": "llama3.1-8b", "engine.version": "0.6.2"}, False),
        ({"model": "llama3.1-8b", "workload.samples": 2}, True),
        ({"model": "gemma3-12b"}, True),
        ({"engine.version": "0.27.1"}, False),
        ({"memory.eviction": "lfu"}, False),
        (
            {"engine.tensor_parallel_size": 8, "engine.decode_context_parallel_size": 2},
            False,
        ),
        ({"scheduler.policy": "sarathi"}, False),
        ({"scheduler.policy": {"name": "vllm-v1", "watermark": 0.1}}, True),
        ({"engine.name": "sglang"}, False),  # its cache of states is not modelled
        ({"engine.name": "sglang", "model": "llama3.1-8b"}, True),
    ],
)
def test_prefixes_are_cached_by_default_as_the_engine_does(
    keys: dict[str, object], is_cached: bool
) -> None:
    """And what the pool is laid out for is what is simulated."""
    setup = prepare(talks(keys))
    assert (setup.scenario.memory.allocator == "prefix") == is_cached
    if setup.sizing.engine.name == "vllm":
        assert setup.deployment.options.enable_prefix_caching == is_cached
    assert setup.scenario.to_yaml() == talks(keys).to_yaml()  # a default is not said
    if "model" not in keys:
        assert any(group.growth.is_state for group in setup.pools.main.groups) == is_cached


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"scheduler.policy": "orca"}, "orca does not end chunks"),
        ({"memory.eviction": "lfu"}, "windows and recurrent states give their blocks back"),
        (
            {"engine.tensor_parallel_size": 8, "engine.decode_context_parallel_size": 2},
            "in blocks of one size, and these layers have 320, 640 tokens",
        ),
        ({"workload.samples": 2}, "one sample a request"),
        ({"engine.name": "sglang"}, "from 0.28 on, recurrent states"),
        ({"model": "nemotron-nano-9b-v2", "engine.version": "0.27.1"}, "from 0.28 on"),
    ],
)
def test_what_is_not_modelled_is_refused(keys: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        simulate(talks({"engine.enable_prefix_caching": True} | keys))
    assert len(str(caught.value).splitlines()) == 1


def test_less_than_a_block_of_a_step_is_no_room() -> None:
    """A queue that waits for the rest of a step is not kept out by memory."""
    keys = {"workload.arrivals": {"kind": "poisson", "rate": 200.0}}
    assert simulate(talks(keys)).summary["memory_limited"] < 0.05


def test_a_step_shorter_than_a_block_is_filled_and_what_is_short_is_memory() -> None:
    """512 tokens a step and blocks of 576: chunks are not cut, so a step with room has room."""
    keys = {
        "engine.num_gpu_blocks_override": 40,
        "engine.max_num_batched_tokens": 512,
        "workload.arrivals": {"kind": "poisson", "rate": 20.0},
        "workload.lengths.output": {"kind": "fixed", "tokens": 200},
        "workload.prefix": {"kind": "none"},
    }
    cached = simulate(talks(keys)).summary
    plain = simulate(talks(keys | {"engine.enable_prefix_caching": False})).summary
    assert cached["memory_limited"] > 0.5
    assert cached["memory_limited"] == pytest.approx(plain["memory_limited"], abs=0.25)


def test_what_the_plan_says_fits_is_served() -> None:
    """The longest request that an L4 holds, asynchronously: the plan's own suggestion."""
    keys = {
        "accelerator": "l4",
        "engine.max_model_len": 33_792,
        "engine.gpu_memory_utilization": 0.98,
        "workload.prefix": {"kind": "none"},
        "workload.requests": 2,
        "workload.arrivals": {"kind": "poisson", "rate": 0.001},
        "workload.lengths.prompt": {"kind": "fixed", "tokens": 33_782},
        "workload.lengths.output": {"kind": "fixed", "tokens": 10},
    }
    assert 1 <= prepare(talks(keys)).pools.requests(33_792) < 2
    assert simulate(talks(keys)).summary["rejected"] == 0


def test_who_comes_back_from_the_host_holds_its_newest_state_alone() -> None:
    """A victim of 2,900 tokens takes six blocks of attention and three states back, not twenty."""
    keys = {
        "engine.num_gpu_blocks_override": 32,
        "scheduler.preemption": "swap",
        "workload.prefix": {"kind": "none"},
        "workload.arrivals": {"kind": "closed_loop", "clients": 5},
        "workload.requests": 60,
        "workload.lengths.prompt": {"kind": "fixed", "tokens": 2600},
        "workload.lengths.output": {"kind": "fixed", "tokens": 700},
    }
    found = simulate(talks(keys)).summary
    assert found["preemptions"] > 5
    assert found["swapped_tokens"] > 5 * 2600
    # 31 blocks: three requests of 5 + 3 to 6 + 3 fit beside each other, where two of 20 do not
    assert found["mean_batch_size"] > 2


# ---- what is compared -------------------------------------------------------------------


def test_variants_say_what_sets_them_apart_though_nobody_varied_it() -> None:
    keys = {"workload.requests": 20}
    found = compare(talks(keys), {"scheduler.policy": ["vllm-v1", "orca"]})
    assert found.cautions()[:2] == [
        "prefixes are cached in vllm-v1, and not in the others: say engine.enable_prefix_caching"
        " for all",
        "a step is scheduled while another is computed in vllm-v1, and not in the others: say"
        " engine.async_scheduling for all",
    ]
    assert found.to_dict()["warnings"] == found.cautions()[:2]
    said = keys | {"engine.enable_prefix_caching": False, "engine.async_scheduling": False}
    found = compare(talks(said), {"scheduler.policy": ["vllm-v1", "orca"]})
    assert found.to_dict()["warnings"] == []
    found = compare(talks(keys), {"engine.enable_prefix_caching": [True, False]})
    assert found.to_dict()["warnings"] == []
