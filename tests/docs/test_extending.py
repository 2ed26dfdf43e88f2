"""docs/extending.md is run: its policies are registered, installed, simulated and held to laws."""

import os
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import kvsim
from kvsim.registry import PolicyName
from kvsim.simulator.schedulers import SchedulerLimits
from kvsim.workload.content import SegmentContent
from tests.support.parts import Case, Given, Pool, simulated, table

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
EVICTION, SCHEDULER, USE, LAWS = PYTHON
(SCENARIO,) = (yaml.safe_load(text) for language, text in BLOCKS if language == "yaml")
(PROJECT,) = (tomllib.loads(text) for language, text in BLOCKS if language == "toml")

SMALL = {
    "workload.requests": 300,
    "memory.allocator": "prefix",
    "memory.num_blocks": 3000,
    "run.warmup_fraction": 0,
}


def run(block):
    """Run one block by itself, as a module of its own."""
    namespace = {"__name__": "my_policies"}
    exec(compile(block, "docs/extending.md", "exec"), namespace)
    return namespace


@pytest.fixture
def registered(families):
    """Both policies of the page."""
    run(EVICTION)
    run(SCHEDULER)
    return families


def summary(**changes):
    """Summary of a small run of coding agents, under pressure."""
    keys = {"eviction": "memory.eviction", "policy": "scheduler.policy"}
    asked = {keys[key]: value for key, value in changes.items()}
    return kvsim.simulate(kvsim.load_scenario("agent-loop", SMALL | asked)).summary


# --- what the page shows ----------------------------------------------------------------------


@pytest.mark.parametrize("block", [EVICTION, SCHEDULER])
def test_a_policy_takes_no_more_than_a_screen(block):
    assert len([line for line in block.splitlines() if line.strip()]) <= 45


def test_the_blocks_run_in_their_order(registered, capsys):
    run(USE)
    hits = [line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert len(hits) == 6
    assert len(set(hits[::2])) == 3, "three orders of eviction, three counts of hits"


def test_the_last_block_holds_the_laws(registered):
    run(LAWS)


def test_the_scenario_of_the_page_is_one(registered, tmp_path):
    flat = {
        f"{part}.{key}": value for part, keys in SCENARIO.items() for key, value in keys.items()
    }
    scenario = kvsim.load_scenario("agent-loop", flat)
    assert scenario.memory.eviction == PolicyName("segmented", {"uses": 4})
    (tmp_path / "again.yaml").write_text(scenario.to_yaml())
    assert kvsim.load_scenario(tmp_path / "again.yaml").memory == scenario.memory


def test_the_table_lists_every_family_with_its_key_and_its_base(registered):
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)\.(\w+)` \| `(\w+)`, `([\w/.]+)`", PAGE, re.MULTILINE)
    assert [row[0] for row in rows] == sorted(registered, key=[row[0] for row in rows].index)
    defaults = kvsim.Scenario.model_fields
    for family, part, key, base, file in rows:
        default = getattr(defaults[part].default, key)
        assert default in registered[family]
        assert f"class {base}" in (ROOT / file).read_text("utf-8")
        assert f"`{registered[family].group}`" in PAGE


# --- what the policies do ---------------------------------------------------------------------


def test_the_eviction_policy_makes_a_difference(registered):
    found = [summary(eviction=order) for order in ("lru", "segmented")]
    assert len({each["prefix_cache"]["hits"] for each in found}) == 2
    assert {each["completed"] for each in found} == {300}
    for each in found:
        assert 0 < each["prefix_cache"]["hits"] < each["prefix_cache"]["queries"]


def test_all_blocks_alike_are_evicted_alike(registered):
    """Whether all are used often enough or none is, the order is that of their last use."""
    ones, never = ({"name": "segmented", "uses": uses} for uses in (1, 10**9))
    assert summary(eviction=ones) == summary(eviction=never)


def test_without_its_limit_the_scheduler_is_orca(registered):
    limitless = summary(policy={"name": "gentle", "prompts": 10**6})
    assert limitless == summary(policy="orca")
    assert limitless != summary(policy="gentle")


def test_no_step_prefills_more_prompts_than_asked(registered):
    rows = table([0.0] * 9, [16] * 9, [5] * 9)
    for prompts in (1, 2, 9):
        scheduler = PolicyName("gentle", {"prompts": prompts})
        case = Case(scheduler, Pool("paged", 500), SchedulerLimits(20, 64, 200))
        times = [at for _, at, _ in simulated(case, Given([rows])).admissions]
        assert max(map(times.count, times)) == prompts
        assert all(before <= after for before, after in pairwise(times))


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("allocator", ["paged", "prefix", "reserve-oracle", "virtual"])
def test_the_laws_hold_after_every_event(registered, allocator, preemption):
    """`simulated` calls `check()` after each; the pool is too small, so that some give way."""
    streams = [row % 3 for row in range(30)]
    content = SegmentContent([0] * 30, [12] * 30, streams)
    rows = table([0.001 * row for row in range(30)], [24] * 30, [21] * 30, content=content)
    limits = SchedulerLimits(8, 64, 200, preemption=preemption)
    pool = Pool(allocator, 30, eviction=PolicyName("segmented", {"uses": 2}))
    log = simulated(Case(PolicyName("gentle", {"prompts": 2}), pool, limits), Given([rows]))
    assert {row for row, _, _ in log.admissions} == set(range(30))
    assert bool(log.preemptions) == (allocator != "reserve-oracle"), "who grows gives way"


def test_what_the_policy_refuses_is_one_line(registered):
    with pytest.raises(kvsim.InputError) as refused:
        summary(eviction={"name": "segmented", "uses": 0})
    assert str(refused.value) == (
        "override memory.eviction={'name': 'segmented', 'uses': 0}: uses = 0: should be at least 1"
    )


# --- installed --------------------------------------------------------------------------------


def test_the_project_of_the_page_installs_both(tmp_path):
    """As pip would lay it down: the module, and the table as a distribution's entry points."""
    (tmp_path / "my_policies.py").write_text(EVICTION + SCHEDULER)
    project = PROJECT["project"]
    info = tmp_path / "my_policies-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, offers in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in offers.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    settings = {**SMALL, "memory.eviction": "{name: segmented, uses: 4}"}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "kvsim", "simulate", "agent-loop", *words]
    done = subprocess.run(
        [*command, "--set", "scheduler.policy=gentle"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "scheduler: gentle, as Orca, with a limit on the prompts of a step" in done.stdout
