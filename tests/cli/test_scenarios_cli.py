"""``kvsim scenarios``: the list, and the file of one."""

import csv
import io
import json

import pytest

from kvsim import describe_scenarios, load_scenario, scenario_names
from kvsim.specs.yaml_files import data_folder


def test_every_shipped_scenario_is_listed_with_its_question(run_kvsim, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run_kvsim("scenarios")
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    for name in scenario_names():
        assert f" {name} " in words
        assert load_scenario(name).question in words


def test_rows_in_json_and_csv_are_alike(run_kvsim):
    rows = json.loads(run_kvsim("scenarios", "--format", "json")[1])
    assert rows == describe_scenarios()
    assert list(csv.DictReader(io.StringIO(run_kvsim("scenarios", "--format", "csv")[1]))) == rows
    row = next(row for row in rows if row["name"] == "agent-loop")
    assert (row["model"], row["accelerator"], row["engine"]) == ("qwen3-8b", "a100-40gb", "vllm")
    assert row["load"] == "60 users, 900 in, 401 out, conversations, 2,000 requests"


def test_markdown_has_a_row_a_scenario(run_kvsim):
    out = run_kvsim("scenarios", "--format", "markdown")[1]
    assert "| peer-w | How fast is the simulator" in out
    assert "| peer-w | llama3.1-8b on h100 | poisson 4/s, 512 in, 128 out, 10,000" in out


@pytest.mark.parametrize("name", scenario_names())
def test_a_printed_scenario_is_its_file_and_asks_the_same(run_kvsim, tmp_path, name):
    code, out, err = run_kvsim("scenarios", name)
    assert (code, err) == (0, "")
    assert out == (data_folder("scenarios") / f"{name}.yaml").read_text("utf-8")
    (tmp_path / f"{name}.yaml").write_text(out)
    copy = load_scenario(tmp_path / f"{name}.yaml")
    assert copy.model_dump(exclude={"folder"}) == load_scenario(name).model_dump(exclude={"folder"})


def test_one_scenario_in_the_other_formats(run_kvsim):
    said = json.loads(run_kvsim("scenarios", "peer-w", "--format", "json")[1])
    assert said["workload"]["arrivals"] == {"kind": "poisson", "rate": 4}
    rows = csv.reader(io.StringIO(run_kvsim("scenarios", "peer-w", "--format", "csv")[1]))
    assert dict(rows)["workload.arrivals.rate"] == "4"
    out = run_kvsim("scenarios", "peer-w", "--format", "markdown")[1]
    assert out.startswith("## peer-w\n\n```yaml\nquestion: ")
    assert out.endswith("```\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("peer", "kvsim: unknown scenario 'peer'; did you mean peer-w?; `kvsim scenarios` lists"),
        ("", "kvsim: unknown scenario ''"),
        ("../scenarios/peer-w", "unknown scenario '../scenarios/peer-w'"),
        ("mine.yaml", "unknown scenario 'mine.yaml'"),
        ("ünbekannt\n", "unknown scenario 'ünbekannt\\n'"),
        ("a" * 5000, "unknown scenario 'aaa"),
    ],
)
def test_a_name_that_does_not_ship_is_refused(run_kvsim, name, said):
    code, out, err = run_kvsim("scenarios", name)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
