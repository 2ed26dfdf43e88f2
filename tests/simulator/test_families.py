"""`kvsim.register`, and entry points for real: policies of an installed distribution."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kvsim
from kvsim.simulator.allocators.addresses import FirstFit
from kvsim.simulator.allocators.idle import LRU, IdleBlocks
from kvsim.simulator.families import FAMILIES
from kvsim.simulator.schedulers.queues import FirstComeQueue, SortedQueue
from kvsim.simulator.schedulers.vllm_v1 import VLLMv1

ROOT = Path(__file__).resolve().parents[2]


class Mine(LRU):
    """Nothing new."""


def test_registering_hands_the_policy_back(families):
    assert kvsim.register("evictions", "mine", Mine) is Mine
    assert families["evictions"].find("mine") is Mine


def test_a_decorator_hands_it_back_too(families):
    @kvsim.register("placements", "low")
    class Low(FirstFit):
        """Nothing new."""

    assert families["placements"].find("low") is Low


def test_lists_of_names_hold_what_is_registered(families):
    kvsim.register("schedulers", "mine", type("Mine", (VLLMv1,), {}))
    assert kvsim.scheduler_names()[-1] == "mine"
    assert "mine" not in kvsim.allocator_names()


@pytest.mark.parametrize(
    ("family", "name", "policy", "said"),
    [
        ("eviction", "mine", Mine, "unknown family of policies 'eviction'; did you mean evictions"),
        ("evictions", "lru", Mine, "'lru' is taken, by kvsim.simulator.allocators.idle:LRU"),
        ("evictions", "mine", IdleBlocks, "it lacks __contains__, __len__, add, add_anonymous, "),
        ("admissions", "mine", SortedQueue, "it lacks key; derive it from"),
        ("admissions", "mine", dict, "it lacks arrivals_can_overtake, head, push and push_back"),
        ("schedulers", "mine", LRU, "derive it from kvsim.simulator.schedulers.base.Scheduler"),
        ("allocators", "mine", type("Mine", (LRU,), {}), "allocate, allocate_steps, "),
        ("placements", "mine", 3, "it is no class; derive one from kvsim.simulator.allocators"),
    ],
)
def test_what_cannot_be_registered_is_refused_at_once(families, family, name, policy, said):
    with pytest.raises(kvsim.InputError) as refused:
        kvsim.register(family, name, policy)
    assert said in str(refused.value)


def test_an_allocator_without_from_setup_is_refused(families):
    paged = families["allocators"]["paged"]
    with pytest.raises(kvsim.InputError, match="it lacks from_setup; derive it from"):
        kvsim.register("allocators", "mine", type("Mine", (paged,), {}))


VLLM_FLAGS = [
    "watermark",
    "max_num_active_seqs",
    "long_prefill_token_threshold_adaptive",
    "prefill_schedule_interval",
    "scheduler_reserve_full_isl",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_built_in_policies_have_no_parameters_of_their_own(family):
    """Theirs are keys of the scenario, such as `memory.page_bytes`; but for one engine's flags."""
    own = {name: list(FAMILIES[family].parameters(name)) for name in FAMILIES[family]}
    sglang = ["conservativeness", "ignore_eos", "scheduler_recv_interval"]
    flags = {"sglang": sglang, "vllm-v1": VLLM_FLAGS}
    assert {name: some for name, some in own.items() if some} == (
        flags if family == "schedulers" else {}
    )


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "allocators"])
def test_built_in_policies_are_what_is_asked_of_others(family):
    policies = FAMILIES[family]
    assert {policies._problem(policy) for policy in policies.values()} == {""}
    assert policies.group == f"kvsim.{family}"


def test_a_queue_need_not_be_sorted(families):
    kvsim.register("admissions", "in-turn", type("InTurn", (FirstComeQueue,), {}))


# --- entry points, in a process of their own --------------------------------------------------

MODULE = """
import nonsense
"""
INFO = {
    "METADATA": "Metadata-Version: 2.1\nName: my-policies\nVersion: 0.3\n",
    "entry_points.txt": """
[kvsim.evictions]
newest-first = my_policies:NewestFirst
broken = my_broken_policies:Broken

[kvsim.admissions]
longest-first = my_policies:LongestFirst
""",
}
POLICIES = '''
from kvsim.simulator.allocators.idle import LRU
from kvsim.simulator.schedulers.queues import SortedQueue


class NewestFirst(LRU):
    """Anonymous blocks first, then the cached ones that were freed last."""

    def __init__(self, spared: int = 0) -> None:
        super().__init__()
        self.spared = spared

    def add(self, block_id):
        super().add(block_id)
        self._order.move_to_end(block_id, last=len(self._order) <= self.spared)


class LongestFirst(SortedQueue):
    def key(self, request):
        return -request.prompt_tokens
'''


@pytest.fixture
def distribution(tmp_path):
    """Return a folder in which the distribution my-policies is installed."""
    info = tmp_path / "my_policies-0.3.dist-info"
    info.mkdir()
    for name, text in INFO.items():
        (info / name).write_text(text)
    (tmp_path / "my_policies.py").write_text(POLICIES)
    (tmp_path / "my_broken_policies.py").write_text(MODULE)
    return tmp_path


def kvsim_says(folder, *words):
    """Exit code, stdout and stderr of kvsim where a folder is on the path."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "kvsim", *words],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


PRESSED = (
    *("agent-loop", "--set", "workload.requests=60", "--set", "memory.allocator=prefix"),
    *("--set", "memory.num_blocks=1500", "--set", "engine.max_model_len=20480"),
    *("--set", "workload.prefix.max_context_tokens=20000"),
)


def test_a_scenario_asks_for_a_policy_that_a_distribution_offers(distribution):
    words = ("--set", "memory.eviction={name: newest-first, spared: 2}")
    code, out, err = kvsim_says(distribution, "simulate", *PRESSED, *words)
    assert (code, err) == (0, "")
    assert "60 requests" in out


def test_variants_may_be_policies_that_a_distribution_offers(distribution):
    vary = ("memory.eviction=lru,newest-first", "scheduler.admission=fcfs,longest-first")
    words = [word for each in vary for word in ("--vary", each)]
    code, out, err = kvsim_says(distribution, "compare", *PRESSED, *words)
    assert (code, err) == (0, "")
    assert "newest-first" in out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            "broken",
            "memory.eviction = 'broken': the eviction policy 'broken' of my-policies 0.3 cannot be"
            " loaded: ModuleNotFoundError: No module named 'nonsense'; mend"
            " my_broken_policies:Broken",
        ),
        ("newest", "should be one of 'lru', 'fifo', 'lfu', 'broken' or 'newest-first'; nearest"),
        ("{name: newest-first, spare: 2}", "newest-first has no parameter 'spare'; it has spared"),
    ],
)
def test_what_is_wrong_with_an_offer_is_one_line(distribution, asked, said):
    words = ("--set", f"memory.eviction={asked}")
    code, out, err = kvsim_says(distribution, "simulate", *PRESSED, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"kvsim: --set memory.eviction={asked}: ")
    assert said in err


def test_what_nobody_asks_for_is_not_even_imported(distribution):
    (distribution / "my_policies.py").write_text("raise SystemExit(9)")
    code, _, err = kvsim_says(distribution, "simulate", *PRESSED)
    assert (code, err) == (0, "")
