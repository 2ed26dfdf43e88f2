"""The committed scores of times: none may get worse unnoticed."""

import csv

import pytest
import time_scores
from time_scores import Score

KNOWN = time_scores.TARGET


def row(median, **changes):
    known = {"kind": "k", "fitted": False, "latency": "ttft", "runs": 9, "mean": 4.0}
    known |= {"median": median, "p90": 9.0, "sign": -1.0, "inside": 90.0, "width": 2.0}
    return Score(**known | changes)


def test_a_score_that_is_a_tenth_worse_is_noticed(tmp_path):
    known = tmp_path / "known.csv"
    known.write_text(time_scores.table_of([row(5.0)]), "utf-8")
    assert time_scores.worse([row(5.5)], known) == []
    assert time_scores.worse([row(1.0)], known) == []
    (found,) = time_scores.worse([row(5.7)], known)
    assert found == "k, ttft: median error 5.7 %, was 5.0 %"
    assert time_scores.worse([row(50.0, fitted=True)], known) == []  # of other runs


def test_both_columns_and_every_engine_are_scored():
    with KNOWN.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    kinds = {each["kind"] for each in rows}
    assert {f"campaigns, {name}" for name in ("vllm", "sglang", "tensorrt-llm")} < kinds
    assert {each["fitted"] for each in rows} == {"True", "False"}


@pytest.mark.slow
def test_no_score_got_worse(kvsim_data):
    found = time_scores.scores(kvsim_data, time_scores.EVERY)
    assert time_scores.worse(found, KNOWN) == []


def test_the_page_shows_the_committed_scores():
    page = (KNOWN.parent.parent / "docs/accuracy.md").read_text("utf-8")
    shown = page.split("<!-- scores -->\n")[1].split("\n<!-- end of scores -->")[0]
    assert shown.strip() == time_scores.markdown(KNOWN)
