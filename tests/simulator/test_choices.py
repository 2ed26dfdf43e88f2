"""The keys of a scenario that choose a policy: what they read, write, make and refuse."""

import copy
import pickle

import pytest
import yaml

import kvsim
from kvsim.registry import PolicyName
from kvsim.simulator.allocators.addresses import FirstFit
from kvsim.simulator.allocators.idle import LRU
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.assemble import make_scheduler
from kvsim.simulator.prepare import prepare
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.scenario import MemorySpec, SchedulerSpec
from kvsim.simulator.schedulers.queues import SortedQueue
from kvsim.simulator.schedulers.vllm_v1 import VLLMv1
from kvsim.specs.yaml_files import data_folder

KEYS = {
    "allocators": (MemorySpec, "allocator"),
    "evictions": (MemorySpec, "eviction"),
    "placements": (MemorySpec, "placement"),
    "schedulers": (SchedulerSpec, "policy"),
    "admissions": (SchedulerSpec, "admission"),
}
SHORT = {"workload.requests": 20}


class Wide(Paged):
    """Paged, with some blocks that nobody gets."""

    @classmethod
    def from_setup(cls, setup, *, kept: int = 0):
        return cls(setup.num_blocks - kept, setup.curve)


class Counted(LRU):
    def __init__(self, k):
        super().__init__()
        if k < 1:
            raise kvsim.InputError(f"k = {k}: should be at least 1", where="eviction")
        self.k = k


class Aligned(FirstFit):
    def __init__(self, size, *, slots=8):
        super().__init__(size)
        self.slots = slots


class Eager(VLLMv1):
    def __init__(self, *parts, boost=1.0):
        super().__init__(*parts)
        self.boost = boost


class Longest(SortedQueue):
    def __init__(self, sign=-1):
        super().__init__()
        self.sign = sign

    def key(self, request):
        return self.sign * request.prompt_tokens


@pytest.fixture
def mine(families):
    """Register one policy in each family."""
    kvsim.register("allocators", "wide", Wide)
    kvsim.register("evictions", "counted", Counted)
    kvsim.register("placements", "aligned", Aligned)
    kvsim.register("schedulers", "eager", Eager)
    kvsim.register("admissions", "longest", Longest)
    return families


def scheduler_of(overrides):
    setup = prepare(kvsim.load_scenario("peer-w", SHORT | overrides))
    return make_scheduler(setup, Recorder())


# --- reading and writing ----------------------------------------------------------------------


@pytest.mark.parametrize("family", KEYS)
def test_every_key_reads_the_names_of_its_family_and_its_default_is_one_of_them(mine, family):
    spec, key = KEYS[family]
    assert getattr(spec(), key) in mine[family]
    for name in mine[family].keys() - {"counted"}:  # which needs its k
        assert getattr(spec(**{key: name}), key) == name
        assert getattr(spec(**{key: {"name": name}}), key) == name


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("eager", "eager"),
        ({"name": "eager"}, "eager"),
        ({"name": "eager", "boost": 2.5}, {"name": "eager", "boost": 2.5}),
    ],
)
def test_a_choice_is_written_as_short_as_it_can_be_and_read_again(mine, tmp_path, given, written):
    scenario = kvsim.load_scenario("peer-w", {"scheduler.policy": given})
    text = scenario.to_yaml()
    assert yaml.safe_load(text)["scheduler"]["policy"] == written
    (tmp_path / "again.yaml").write_text(text)
    again = kvsim.load_scenario(tmp_path / "again.yaml")
    assert again.scheduler == scenario.scheduler
    assert again.to_yaml() == text


def test_scenarios_that_differ_in_a_parameter_differ(mine):
    one, two = (
        kvsim.load_scenario("peer-w", {"scheduler.policy": {"name": "eager", "boost": boost}})
        for boost in (1, 2)
    )
    assert str(one.scheduler.policy) == str(two.scheduler.policy) == "eager"
    assert one.scheduler.policy != two.scheduler.policy
    assert one.scheduler.policy != "eager" != one.scheduler.policy
    assert one.scheduler != two.scheduler


def test_a_parameter_is_a_key_of_its_own(mine):
    scenario = kvsim.load_scenario("peer-w", {"memory.eviction": {"name": "counted", "k": 1}})
    changed = kvsim.with_overrides(scenario, {"memory.eviction.k": 7})
    assert changed.memory.eviction.parameters == {"k": 7}
    assert scenario.memory.eviction.parameters == {"k": 1}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda name: pickle.loads(pickle.dumps(name))])
def test_a_copy_of_a_name_keeps_its_parameters(copied):
    name = PolicyName("eager", {"boost": 2})
    assert copied(name) == name
    assert copied(name).parameters == {"boost": 2}


# --- what is made ---------------------------------------------------------------------------


def test_every_family_gets_its_parameters(mine):
    scheduler = scheduler_of(
        {
            "memory.allocator": {"name": "wide", "kept": 100},
            "scheduler.policy": {"name": "eager", "boost": 2},
            "scheduler.admission": {"name": "longest", "sign": 1},
        }
    )
    assert isinstance(scheduler, Eager)
    assert (scheduler.boost, scheduler.waiting.sign) == (2, 1)
    assert isinstance(scheduler.allocator, Wide)
    assert scheduler.allocator.total_blocks == 3700 - 1 - 100  # vLLM's null block, and kept


def test_eviction_and_placement_get_theirs_through_their_allocator(mine):
    found = scheduler_of(
        {"memory.allocator": "prefix", "memory.eviction": {"name": "counted", "k": 3}}
    )
    assert found.allocator._idle.k == 3
    for allocator in ("reserve-max", "grow"):
        placed = {
            "memory.allocator": allocator,
            "memory.placement": {"name": "aligned", "slots": 4},
        }
        assert scheduler_of(placed).allocator._space.slots == 4


def test_left_out_parameters_are_the_policy_s_own(mine):
    scheduler = scheduler_of({"memory.allocator": "wide", "scheduler.policy": "eager"})
    assert (scheduler.boost, scheduler.allocator.total_blocks) == (1.0, 3700 - 1)


def test_a_policy_without_a_difference_makes_none(mine):
    plain = kvsim.load_scenario("preemption-edge", {"workload.requests": 60})
    mine_too = kvsim.with_overrides(
        plain, {"memory.allocator": "wide", "scheduler.policy": {"name": "eager", "boost": 3}}
    )
    assert kvsim.simulate(mine_too).summary == kvsim.simulate(plain).summary


def test_variants_and_replications_find_them(mine):
    scenario = kvsim.load_scenario("peer-w", SHORT)
    vary = {"memory.allocator": ["paged", "wide", {"name": "wide", "kept": 3000}]}
    found = kvsim.compare(scenario, vary, replications=2)
    sizes = [variant.runs.first.setup.scenario.memory.allocator for variant in found.variants]
    assert sizes == ["paged", "wide", PolicyName("wide", {"kept": 3000})]


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "given", "said"),
    [
        ("memory.eviction", "cuonted", "memory.eviction = 'cuonted': should be one of 'lru', "),
        ("memory.eviction", "cuonted", "'lfu' or 'counted'; nearest valid: counted"),
        ("memory.eviction", 3, "memory.eviction = 3: should be one of 'lru'"),
        ("memory.eviction", None, "memory.eviction = None: should be one of 'lru'"),
        ("memory.eviction", ["lru"], "memory.eviction = ['lru']: should be one of 'lru'"),
        ("memory.eviction", {}, "the key 'memory.eviction.name' is missing, and it is empty"),
        ("memory.eviction", {"kk": 3}, "is missing, and no eviction policy alone has 'kk'"),
        ("memory.eviction", {"name": "x"}, "memory.eviction.name = 'x': should be one of 'lru'"),
        (
            "memory.eviction",
            "counted",
            "memory.eviction: counted needs the parameter 'k'; it has k",
        ),
        ("memory.eviction", "counted", "write {name: counted, k: ...}"),
        (
            "scheduler.policy",
            {"name": "eager", "bost": 3},
            "scheduler.policy: eager has no parameter 'bost'; it has boost",
        ),
        (
            "memory.allocator",
            {"name": "prefix", "eviction": "lru"},
            "memory.allocator: prefix has no parameter 'eviction'; it has none",
        ),
        ("memory.placement.slts", 3, "the key 'memory.placement.name' is missing"),
    ],
)
def test_an_impossible_choice_is_one_line(mine, key, given, said):
    with pytest.raises(kvsim.InputError) as refused:
        kvsim.load_scenario("peer-w", {key: given})
    assert str(refused.value).startswith(f"override {key}={given}: ")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("  eviction: cuonted\n", "line 12: memory.eviction = 'cuonted'"),
        ("  eviction:\n    name: counted\n    j: 2\n", "line 14: memory.eviction: counted has no"),
        ("  eviction:\n    name: cuonted\n", "line 13: memory.eviction.name = 'cuonted'"),
    ],
)
def test_a_choice_in_a_file_is_refused_with_its_line(mine, tmp_path, lines, said):
    text = (data_folder("scenarios") / "peer-w.yaml").read_text()
    before, _ = text.split("memory: ")
    (tmp_path / "bad.yaml").write_text(f"{before}memory:\n{lines}")
    with pytest.raises(kvsim.InputError) as refused:
        kvsim.load_scenario(tmp_path / "bad.yaml")
    assert str(refused.value).startswith(str(tmp_path))
    assert said in str(refused.value)


def test_what_a_policy_refuses_is_placed_at_its_key(mine):
    asked = {"memory.allocator": "prefix", "memory.eviction": {"name": "counted", "k": 0}}
    with pytest.raises(kvsim.InputError) as refused:
        kvsim.simulate(kvsim.load_scenario("peer-w", SHORT | asked))
    assert str(refused.value) == (
        "override memory.eviction={'name': 'counted', 'k': 0}: k = 0: should be at least 1"
    )


def split_of(allocator, keys):
    scenario = kvsim.load_scenario("peer-w", keys | {"memory.allocator": allocator})
    return kvsim.simulate(scenario).kv_cache()["waste"]


class OneMore(Paged):
    """A block more for every request, said by `blocks_of` alone."""

    @classmethod
    def from_setup(cls, setup):
        return cls(setup.num_blocks, setup.curve)

    def blocks_of(self, request, tokens):
        return super().blocks_of(request, tokens) + 1

    def can_allocate(self, request):
        return self.blocks_of(request, request.final_tokens) <= self.total_blocks


@pytest.mark.parametrize("samples", [1, 2])
def test_an_allocator_that_holds_more_says_so_by_its_blocks(families, samples):
    """A block of 16 more a request is internal waste, for as long as it runs."""
    kvsim.register("allocators", "one-more", OneMore)
    keys = {"workload.requests": 20, "workload.samples": samples}
    waste = {name: split_of(name, keys) for name in ("paged", "one-more")}
    assert waste["one-more"]["token_states"] == waste["paged"]["token_states"]
    assert waste["one-more"]["internal"] > waste["paged"]["internal"]


class Unshared(Paged):
    """Samples that have all of their blocks to themselves."""

    samples_share = False

    @classmethod
    def from_setup(cls, setup):
        return cls(setup.num_blocks, setup.curve)

    def blocks_of(self, request, tokens):
        blocks = self.curve.blocks_at(tokens)
        return blocks if tokens < request.prompt_tokens else request.samples * blocks


def test_samples_that_share_nothing_fill_as_much_as_a_reservation_of_each(families):
    """A region of its own for every sample has as many token states, a block of its own too."""
    kvsim.register("allocators", "unshared", Unshared)
    keys = {"workload.requests": 20, "workload.samples": 4}
    names = ("paged", "unshared", "reserve-oracle")
    states = {name: split_of(name, keys)["token_states"] for name in names}
    assert states["unshared"] == pytest.approx(states["reserve-oracle"], rel=1e-9)
    assert states["paged"] < states["unshared"]


# --- a policy's parameters by dotted keys, and the engine's own policy ---------------------------


@pytest.mark.parametrize(
    ("keys", "policy", "parameters"),
    [
        ({"scheduler.policy.watermark": 0.05}, "vllm-v1", {"watermark": 0.05}),
        ({"scheduler.policy.conservativeness": 0.3}, "sglang", {"conservativeness": 0.3}),
        (
            {"scheduler.policy": "vllm-v1", "scheduler.policy.watermark": 0.1},
            "vllm-v1",
            {"watermark": 0.1},
        ),
        ({"engine.version": "0.7.3"}, "vllm-v0", {}),
        ({"engine.version": "0.8.0"}, "vllm-v1", {}),
        ({"engine.version": "0.7.3", "scheduler.policy": "orca"}, "orca", {}),
        ({"engine.name": "sglang"}, "sglang", {}),
    ],
)
def test_who_schedules(keys, policy, parameters):
    chosen = kvsim.load_scenario("peer-w", keys).scheduler.policy
    assert (str(chosen), chosen.parameters) == (policy, parameters)


def test_a_mapping_is_a_short_head_of_a_column():
    policies = [{"name": "vllm-v1"}, {"name": "vllm-v1", "watermark": 0.05}]
    found = kvsim.compare(kvsim.load_scenario("peer-w", SHORT), {"scheduler.policy": policies})
    assert [each.label for each in found.variants] == ["vllm-v1", "vllm-v1 watermark=0.05"]
