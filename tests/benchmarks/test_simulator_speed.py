"""The speed table's command, on a few requests: each case runs on each engine that is here."""

import pytest
import simulator_speed
import speed_cases
from simulator_speed import CASES

from kvsim import simulate
from kvsim.workload.spec import build_workload
from kvsim.workload.streams import Streams

FEW = 40
DRAWN = [case for case in CASES if case.takes_a_size]


def test_every_case_has_a_row_with_its_engines_and_its_goal(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(speed_cases, "_DATA", tmp_path)
    monkeypatch.setattr(simulator_speed, "ORACLE_REQUESTS", 3)
    monkeypatch.setattr(simulator_speed, "dynosim", lambda: None)
    monkeypatch.setattr("sys.argv", ["simulator_speed.py", "--requests", str(FEW), "--repeat", "1"])
    simulator_speed.main()
    lines = capsys.readouterr().out.splitlines()
    for case in DRAWN:
        (line,) = (line for line in lines if line.startswith(f"| {case.name} |"))
        requests, preempted, ours, stepped, theirs, ratio, goal, became = line.split(" | ")[1:]
        assert int(requests) == FEW
        assert int(ours.replace(",", "")) > 0
        assert (stepped != "-") == case.steps_oracle
        assert (theirs, ratio, became.strip(" |")) == ("-", "-", "")
        assert float(goal) == case.goal
        summary = simulate(case.scenario_of(FEW, tmp_path)).summary
        assert preempted == f"{summary['preemptions'] / FEW:.1%}"
    assert sum(line.startswith("| `kvsim simulate peer-w` |") for line in lines) == 1
    assert sum(line.startswith("| seconds |") for line in lines) == 1


def table(scenario):
    (found,) = build_workload(scenario.workload).tables(Streams(scenario.run.seed))
    return found


def test_requests_written_to_a_file_are_those_that_are_drawn(tmp_path):
    (replayed,) = (case for case in DRAWN if case.name == "the same from a file")
    (drawn,) = (case for case in DRAWN if case.asked == replayed.asked.drawn)
    read = table(replayed.scenario_of(FEW, tmp_path))
    made = table(drawn.scenario_of(FEW, tmp_path))
    assert read.arrival_seconds == pytest.approx(made.arrival_seconds, abs=1e-6)
    assert read.prompt_tokens.tolist() == made.prompt_tokens.tolist()
    assert read.output_tokens.tolist() == made.output_tokens.tolist()
    ids = [read.content.block_ids(row, 512, 512) for row in range(FEW)]
    assert len({tuple(each) for each in ids}) == FEW


@pytest.mark.data
def test_requests_of_azure_are_written_whole(tmp_path, kvsim_data, monkeypatch):
    monkeypatch.setattr(speed_cases, "_DATA", kvsim_data)
    (case,) = (case for case in CASES if case.name.startswith("Azure"))
    lines = case.rival_file(0, tmp_path).read_text().splitlines()
    assert len(lines) == 19_366  # of the file's README
    assert '"input_length":374,"output_length":44,' in lines[0]  # its first row


@pytest.mark.parametrize(
    ("ratio", "goal", "even", "became"),
    [(2, 2, 1, "met"), (1.9, 2, 1, "missed"), (1, 2, 1, "missed"), (0.9, 2, 1, "lost")],
)
def test_what_became_of_a_goal(ratio, goal, even, became):
    assert simulator_speed.verdict(ratio, goal, even) == became
