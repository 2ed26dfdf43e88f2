"""Every shipped scenario runs and keeps the laws; every impossible one is refused in one line."""

import re
from itertools import chain
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml

from kvsim import InputError, Scenario, load_scenario, scenario_names, simulate
from kvsim.simulator.loading import allocator_names, with_overrides
from kvsim.simulator.schedulers import SCHEDULERS
from kvsim.specs.yaml_files import data_folder
from kvsim.workload.arrivals import Arrivals
from kvsim.workload.distributions import RealDistribution
from kvsim.workload.prefix import Prefix
from kvsim.workload.traces import FORMATS

SHIPPED = scenario_names()
PEER_W = (data_folder("scenarios") / "peer-w.yaml").read_text(encoding="utf-8")


# --- what is shipped -----------------------------------------------------------------------


def test_the_scenarios_that_were_promised_are_there():
    assert len(SHIPPED) >= 10
    assert {
        "agent-loop", "azure-conversation", "chat-day-peak", "long-context-summarisation",
        "mooncake-prefix-reuse", "pagedattention-orca", "peer-w",
    } <= set(SHIPPED)  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_a_scenario_asks_one_question_and_the_readme_lists_it(name):
    question = load_scenario(name).question
    assert question.count("?") == 1
    assert question.endswith("?")
    assert question in (data_folder("scenarios") / "README.md").read_text(encoding="utf-8")


def shown(language):
    """The first block of that language in the scenarios' README."""
    text = (data_folder("scenarios") / "README.md").read_text(encoding="utf-8")
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]


def test_the_scenario_that_the_readme_shows_runs(tmp_path):
    (tmp_path / "mine.yaml").write_text(shown("yaml"))
    scenario = load_scenario(tmp_path / "mine.yaml", overrides={"workload.requests": 50})
    groups = {"engine", "workload", "memory", "scheduler", "step_time", "slo", "run"}
    assert groups <= set(yaml.safe_load(shown("yaml")))
    assert simulate(scenario).summary["completed"] == 50


def test_the_trace_that_the_readme_shows_is_read(tmp_path):
    (tmp_path / "mine.jsonl").write_text(shown("json"))
    trace = {"trace": {"file": "mine.jsonl"}}
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"model": "llama3.1-8b", "accelerator": "h100", "workload": trace})
    )
    overrides = {"memory.allocator": "prefix"}
    summary = simulate(load_scenario(tmp_path / "mine.yaml", overrides=overrides)).summary
    assert summary["completed"] == 2
    assert summary["prefix_cache"]["hits"] == 32  # blocks 7 and 8 of 16 tokens


def test_the_readme_knows_every_kind_and_format():
    text = (data_folder("scenarios") / "README.md").read_text(encoding="utf-8")
    unions = (get_args(get_args(union)[0]) for union in (Arrivals, RealDistribution, Prefix))
    kinds = [get_args(kind.model_fields["kind"].annotation)[0] for kind in chain(*unions)]
    assert len(kinds) == len(set(kinds)) + 2, "gamma and weibull are arrivals and lengths"
    assert [word for word in (*kinds, *FORMATS) if f"`{word}`" not in text] == []


@pytest.fixture(scope="module", params=SHIPPED)
def result(request):
    """One short run of each scenario, without warm-up so that laws are exact."""
    short = {"workload.requests": 120, "run.warmup_fraction": 0}
    return simulate(load_scenario(request.param, short))


def test_every_request_is_accounted_for(result):
    summary = result.summary
    assert summary["completed"] + summary["rejected"] == 120
    assert summary["unfinished"] == summary["failed"] == 0
    assert summary["completed"] > 100


def test_moments_come_in_order(result):
    columns = result.columns
    done = ~np.isnan(columns["finish_seconds"])
    moments = ["arrival_seconds", "scheduled_seconds", "first_token_seconds", "finish_seconds"]
    lives = np.array([columns[name][done] for name in moments])
    assert (np.diff(lives, axis=0) >= 0).all()


def test_the_pool_is_conserved(result):
    parts = result.memory.drop(columns="start_seconds").to_numpy()
    assert (parts >= -1e-9).all()
    assert parts.sum(axis=1) == pytest.approx(result.setup.pool_slots)
    assert sum(result.summary["kv_cache"]["waste"].values()) == pytest.approx(1)


def test_tokens_are_conserved(result):
    """A decode step gives each of its sequences a token, and each prefill gives one."""
    columns, samples = result.columns, result.setup.scenario.workload.samples
    done = ~np.isnan(columns["finish_seconds"])
    decoded = result.totals.gap_tokens.sum()
    asked = samples * (columns["output_tokens"][done] - 1).sum()
    assert asked - samples * result.summary["preemptions"] <= decoded <= asked


def test_littles_law_of_decoding(result):
    """All waits between tokens add up to the time from each first token to its last."""
    columns, samples = result.columns, result.setup.scenario.workload.samples
    done = columns["rejected"] == 0
    spent = (columns["finish_seconds"] - columns["first_token_seconds"])[done].sum()
    totals = result.totals
    waits = (totals.gap_seconds * totals.gap_tokens).sum()
    if result.summary["preemptions"] or result.setup.scenario.scheduler.policy == "static":
        # Preempted requests, and members of a closed batch, also wait without decoding.
        assert 0 < waits < samples * spent
        return
    assert waits == pytest.approx(samples * spent, rel=1e-9)
    if result.setup.scenario.scheduler.policy != "vllm-v0":  # whose decoding stalls
        assert totals.sequence_seconds == pytest.approx(samples * spent, rel=1e-9)


# --- overrides -----------------------------------------------------------------------------


def test_overrides_are_the_same_in_the_file_and_after(tmp_path):
    changes = {"workload.arrivals.rate": 20, "memory.allocator": "prefix", "run.seed": 3}
    before = load_scenario("peer-w", changes)
    after = with_overrides(load_scenario("peer-w"), changes)
    assert before == after
    assert after.workload.arrivals.rate == 20
    assert after.run.seed == 3


def test_overrides_are_not_changed_by_later_ones():
    arrivals = {"kind": "poisson", "rate": 1}
    load_scenario("peer-w", {"workload.arrivals": arrivals, "workload.arrivals.rate": 2})
    assert arrivals == {"kind": "poisson", "rate": 1}


def test_a_resolved_scenario_is_a_scenario(tmp_path):
    """What summary.json says was asked can be asked again, and gives the same answer."""
    from kvsim.results.outputs import resolved_scenario

    first = load_scenario("preemption-edge", {"workload.requests": 50})
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(resolved_scenario(first)))
    again = load_scenario(path)
    assert resolved_scenario(again) == resolved_scenario(first)
    assert simulate(again).summary == simulate(first).summary


# --- the page --------------------------------------------------------------------------------


def test_the_page_names_every_scheduler_with_what_it_mimics_and_every_allocator():
    page = (Path(__file__).resolve().parents[2] / "docs" / "simulator.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    mimicked = {row[0].strip("| `"): row[2].removesuffix(" |") for row in rows if len(row) == 3}
    for name, scheduler in SCHEDULERS.items():
        assert mimicked[name] == scheduler.mimics
    listed = {word.strip("| `") for row in rows if len(row) == 2 for word in row[0].split(", ")}
    assert set(allocator_names()) <= listed


# --- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rate: 4", "rat: 4", "line 6: unknown key 'workload.arrivals.rat'; nearest valid: rate"),
        ("rate: 4", "rate: 0", "line 6: workload.arrivals.rate = 0: should be greater than 0"),
        ("rate: 4", "rate: .nan", "line 6: workload.arrivals.rate = nan: should be a finite"),
        ("rate: 4", "rate: .inf", "line 6: workload.arrivals.rate = inf: should be a finite"),
        ("rate: 4", "rate: -1", "line 6: workload.arrivals.rate = -1: should be greater than 0"),
        ("tokens: 512", "tokens: 0", "line 8: workload.lengths.prompt.tokens = 0"),
        ("poisson", "poison", "line 6: workload.arrivals.kind = 'poison': should be one of"),
        ("model: llama3.1-8b", "modle: llama3.1-8b", "line 2: unknown key 'modle'"),
        ("model: llama3.1-8b\n", "", "the key 'model' is missing"),
        ("  requests: 10000\n", "", "line 5: workload: the workload never ends"),
        ("num_blocks: 3700", "num_blocks: 0", "line 11: memory.num_blocks = 0"),
        ("allocator: paged", "allocator: pages", "line 11: memory.allocator = 'pages'"),
        ("max_num_seqs: 256", "max_num_seq: 256", "unknown key 'engine.max_num_seq'"),
        ("workload:", "workload: &w", "line 5: anchors"),
    ],
)
def test_an_impossible_file_is_refused_with_line_and_key(tmp_path, old, new, words):
    path = tmp_path / "bad.yaml"
    assert old in PEER_W
    path.write_text(PEER_W.replace(old, new, 1))
    with pytest.raises(InputError) as refused:
        load_scenario(path)
    assert str(refused.value).startswith(str(path))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"workload.arrivals.rate": 0}, "override workload.arrivals.rate=0: "),
        ({"workload.arrivals.rate": float("nan")}, "should be a finite number"),
        ({"memory.allocatr": "paged"}, "nearest valid: allocator"),
        ({"slo.ttft_ms": -5}, "override slo.ttft_ms=-5: "),
        ({"run.warmup_fraction": 1}, "should be less than 1"),
        ({"step_time.seconds": float("inf")}, "should be a finite number"),
        ({"engine": 3}, "override engine=3: "),
        ({"model.size": 3}, "model is 'llama3.1-8b', so it has no key 'size'"),
    ],
)
def test_an_impossible_override_is_refused_by_name(overrides, words):
    with pytest.raises(InputError, match=words):
        load_scenario("peer-w", overrides)
    with pytest.raises(InputError, match=words):
        with_overrides(load_scenario("peer-w"), overrides)


def test_an_unknown_scenario_lists_the_near_ones():
    with pytest.raises(InputError, match="did you mean peer-w"):
        load_scenario("peer-x")


@pytest.mark.parametrize("value", [64, 600])
def test_lengths_that_never_fit_are_refused_with_their_line(value):
    scenario = load_scenario("peer-w", {"engine.max_model_len": value})
    with pytest.raises(InputError) as refused:
        simulate(scenario)
    assert "line 8: workload.lengths.prompt: every request has at least 512 prompt" in str(
        refused.value
    )


def test_lengths_that_just_fit_are_served():
    short = {"engine.max_model_len": 640, "workload.requests": 10}
    assert simulate(load_scenario("peer-w", short)).summary["completed"] == 10


TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:{:02d}.0000000,{},{}\n"


def traced(tmp_path, text, **changes) -> Scenario:
    (tmp_path / "trace.csv").write_text(text)
    workload = {"trace": {"file": str(tmp_path / "trace.csv")}}
    return load_scenario("peer-w", {"workload": workload, **changes})


def test_long_requests_of_a_trace_are_rejected_with_a_count(tmp_path):
    rows = [ROW.format(at, 20_000 if at % 3 == 0 else 100, 10) for at in range(9)]
    summary = simulate(traced(tmp_path, TRACE + "".join(rows))).summary
    assert (summary["completed"], summary["rejected"]) == (6, 3)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("", "trace.csv"),
        (ROW.format(5, 10, 10) + ROW.format(3, 10, 10), "trace.csv:3: TIMESTAMP|trace.csv:3"),
        (ROW.format(5, -10, 10), "trace.csv:2"),
    ],
    ids=["empty", "times that go back", "a negative prompt"],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path, rows, words):
    with pytest.raises(InputError, match=words):
        simulate(traced(tmp_path, TRACE + rows))


def test_malformed_rows_of_a_trace_are_noted_with_their_lines(tmp_path):
    text = TRACE + ROW.format(1, 10, 10) + "nonsense\n" + ROW.format(2, 10, 10)
    result = simulate(traced(tmp_path, text))
    assert result.summary["completed"] == 2
    assert any("line 3" in note for note in result.recording.notes)


def test_a_name_too_long_for_any_file_is_an_unknown_scenario():
    with pytest.raises(InputError, match="unknown scenario"):
        load_scenario("a" * 400)
