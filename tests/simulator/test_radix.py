"""SGLang's radix cache: its tree by hand, and its laws in whole runs.

What the engine itself found, kept and evicted is in tests/engine_oracle.
"""

import pytest

import kvsim
from kvsim.simulator.allocators.radix import Radix
from kvsim.simulator.allocators.radix_tree import RadixTree, key_of
from kvsim.simulator.allocators.runs import PrefixRuns
from kvsim.simulator.arrival_queue import arrival_queue
from kvsim.simulator.assemble import make_clock, make_scheduler
from kvsim.simulator.loading import load_scenario
from kvsim.simulator.prepare import prepare
from kvsim.simulator.replica import Replica, run_replica
from kvsim.workload.spec import build_workload
from kvsim.workload.streams import Streams
from tests.support.parts import Log, watch_laws

# --- keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(7))
def test_a_key_is_cut_where_it_is_said(count):
    ids = [4, 5, 6, 9, 10, 2]
    head, tail = key_of(ids).head(count), key_of(ids).tail(count)
    assert [each for run in head.runs for each in run] == ids[:count]
    assert [each for run in tail.runs for each in run] == ids[count:]
    assert (head.length, tail.length) == (count, 6 - count)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([1, 2, 3], [1, 2, 3], 3),
        ([1, 2, 3], [1, 2, 3, 4], 3),
        ([1, 2, 7, 8], [1, 2, 7, 9], 3),
        ([5, 1, 2], [5, 1, 3], 2),
        (range(-1, -9, -1), range(-1, -4, -1), 3),
        (range(-1, -9, -1), [-1, 0], 1),
        ([1], [2], 0),
    ],
)
def test_two_keys_have_in_common_what_both_begin_with(one, other, same):
    assert key_of(one).common(key_of(other)) == key_of(other).common(key_of(one)) == same


# --- the tree ------------------------------------------------------------------------------


def tree_of(*prefixes):
    tree = RadixTree()
    for ids in prefixes:
        tree.insert(key_of(ids))
    return tree


def parts_of(tree):
    return sorted([each for run in node.key.runs for each in run] for node in tree.nodes())


def test_prefixes_part_where_they_differ():
    """The example at the end of the engine's own radix_cache.py, parted as it prints it."""
    tree = tree_of([1, 2, 3], [1, 2, 3], [1, 2, 4, 5], [1, 2, 4, 5, 6, 7], [8, 9, 10, 11, 12])
    assert parts_of(tree) == [[1, 2], [3], [4, 5], [6, 7], [8, 9, 10, 11, 12]]
    assert tree.match(key_of([1, 2, 3, 13, 14])).depth == 3
    assert tree.evictable == 12


def test_a_match_ends_a_node_where_it_ends():
    tree = tree_of([1, 2, 3, 4])
    assert tree.match(key_of([1, 2, 9])).depth == 2
    assert parts_of(tree) == [[1, 2], [3, 4]]


def test_a_locked_path_stays_and_the_leaf_below_it_can_go():
    tree = tree_of([1, 2, 3, 4])
    path = tree.match(key_of([1, 2]))
    tree.lock(path)
    assert (tree.locked, tree.evictable) == (2, 2)
    (leaf,) = tree.leaves()
    assert tree.drop(leaf) is path
    assert list(tree.leaves()) == []
    tree.unlock(path)
    assert list(tree.leaves()) == [path]


# --- whole runs ----------------------------------------------------------------------------

TALKS = {
    "engine.name": "sglang",
    "engine.enable_prefix_caching": True,
    "engine.block_size": 16,
    "engine.num_gpu_blocks_override": 400,
    "engine.max_model_len": 4096,
    "workload.requests": 80,
    "workload.arrivals.rate": 30,
    "workload.lengths.prompt": {"kind": "lognormal", "mean": 300, "cv": 1.0, "max": 1500},
    "workload.lengths.output": {"kind": "lognormal", "mean": 120, "cv": 1.0, "max": 600},
    "workload.prefix": {"kind": "groups", "groups": 3, "tokens": 200},
}


def memory_of(overrides):
    return make_scheduler(prepare(load_scenario("peer-w", overrides)), Log()).allocator


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"engine.block_size": 1, "engine.num_gpu_blocks_override": 6400},
        {"workload.samples": 2},
        {"scheduler.preemption": "swap"},
        {"scheduler.admission": "shortest-first"},
        {"engine.max_num_batched_tokens": 64},
        {"workload.prefix": {"kind": "none"}},
        {"memory.eviction": "lfu"},
        {"memory.eviction": "fifo"},
    ],
)
def test_every_law_holds_and_prefixes_are_found(more):
    eager = {"scheduler.policy": {"name": "sglang", "conservativeness": 0.1}}
    setup = prepare(load_scenario("peer-w", TALKS | eager | more))
    log = Log()
    scheduler = make_scheduler(setup, log)
    assert isinstance(scheduler.allocator, Radix)
    watch_laws(scheduler, log)
    workload = build_workload(setup.scenario.workload, setup.scenario.folder)
    arrivals = arrival_queue(workload, Streams(3), log)
    run_replica(Replica(scheduler, make_clock(setup), arrivals, log))
    assert not scheduler.running
    assert log.preempted
    if "workload.prefix" not in more:
        assert log.hit_tokens > 1000


@pytest.mark.parametrize("seed", range(3))
def test_pages_of_parallel_samples_are_evicted_before_they_are_taken(seed):
    """Each sample has a copy of its prompt's last page; nothing is free and cached at once."""
    more = {
        "engine.num_gpu_blocks_override": 200,
        "engine.block_size": 64,
        "workload.samples": 4,
        "workload.lengths.prompt": {"kind": "lognormal", "mean": 600, "cv": 0.8, "max": 2000},
        "workload.prefix": {"kind": "groups", "groups": 4, "tokens": 400},
    }
    result = kvsim.simulate(
        load_scenario("peer-w", TALKS | {"scheduler.policy": "sglang"} | more), seed=seed
    )
    free = result.memory["free"].to_numpy()
    assert free.min() >= 0
    assert free.min() < free.max()


def test_the_tree_is_that_of_the_scheduler_and_not_of_the_engine():
    assert type(memory_of(TALKS)) is Radix
    assert type(memory_of(TALKS | {"scheduler.policy": "vllm-v1"})) is PrefixRuns
    assert type(memory_of(TALKS | {"engine.name": "vllm", "scheduler.policy": "sglang"})) is Radix


def test_an_order_of_eviction_that_the_tree_does_not_know_is_refused(families):
    kvsim.register("evictions", "mine", families["evictions"]["lru"])
    with pytest.raises(kvsim.InputError, match="the radix cache evicts by lru, lfu, fifo, and not"):
        memory_of(TALKS | {"memory.eviction": "mine"})


def test_a_hybrid_model_is_refused():
    windows = {"model": "gemma3-1b", "engine.num_gpu_blocks_override": 4000}
    with pytest.raises(kvsim.InputError, match="full attention in every layer"):
        memory_of(TALKS | windows)


def test_the_pool_adds_up():
    result = kvsim.simulate(load_scenario("peer-w", TALKS))
    waste = result.summary["kv_cache"]["waste"]
    assert waste["cached"] > 0.05
    assert sum(waste.values()) == pytest.approx(1, abs=1e-9)
    assert (result.memory.drop(columns="start_seconds") >= 0).all(axis=None)
