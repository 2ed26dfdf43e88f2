"""``kvsim sweep`` as it is typed: the answer in every format, and what is said beside it."""

import csv
import io
import json

import pytest

from kvsim.cli.sweep import _progress_words
from kvsim.search.sweep.answer import PointAnswer
from kvsim.search.sweep.runner import Progress

SPACE = """\
scenario: peer-w
set: {workload.requests: 30}
vary:
  model: [llama3.1-70b, llama3.1-8b]
  workload.arrivals.rate: [2, 8]
seeds: 2
"""
DOES_NOT_FIT = "model: llama3.1-70b on H100-SXM5-80GB: DOES NOT FIT"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A space's file, and a folder with all of its runs."""
    from kvsim import sweep

    folder = tmp_path_factory.mktemp("sweep")
    (folder / "space.yaml").write_text(SPACE)
    sweep(folder / "space.yaml", folder / "out", jobs=1)
    return folder / "space.yaml", folder / "out"


def test_the_table_has_a_row_a_point_and_what_failed(run_kvsim, done):
    code, out, err = run_kvsim("sweep", done[0], "-o", done[1], "--best", "max:output_throughput")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "peer-w: 4 points, 4 of 8 runs finished, max:output_throughput first"
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["llama3.1-8b", "8"],
        ["llama3.1-8b", "2"],
        ["llama3.1-70b", "2"],
        ["llama3.1-70b", "8"],
    ]
    assert "4 of 8 runs failed" in out
    assert DOES_NOT_FIT in " ".join(out.split())
    assert err.splitlines() == [
        "kvsim: 8 of 8 runs are done (8 of them before), 4 failed",
        f"wrote {next(done[1].glob('results.*')).name} to {done[1]}",
    ]


def test_json_holds_points_best_and_failures(run_kvsim, done):
    words = ("--best", "min:p99_ttft_ms", "--format", "json")
    code, out, _ = run_kvsim("sweep", done[0], "-o", done[1], *words)
    answer = json.loads(out)
    assert code == 0
    assert answer["runs"] == {"asked": 8, "finished": 4, "failed": 4, "unfinished": 0}
    assert answer["best"] == min(
        answer["points"], key=lambda point: point["p99_ttft_ms"] or float("inf")
    )
    ((failure,),) = [answer["failures"]]
    assert failure["runs"] == 4
    assert failure["reason"].startswith(DOES_NOT_FIT)


def test_csv_is_one_table(run_kvsim, done):
    code, out, _ = run_kvsim("sweep", done[0], "-o", done[1], "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [(row["model"], row["workload.arrivals.rate"], row["runs"]) for row in rows] == [
        ("llama3.1-70b", "2", "0"),
        ("llama3.1-70b", "8", "0"),
        ("llama3.1-8b", "2", "2"),
        ("llama3.1-8b", "8", "2"),
    ]


def test_markdown_is_a_page(run_kvsim, done):
    code, out, _ = run_kvsim("sweep", done[0], "-o", done[1], "--format", "markdown")
    assert code == 0
    assert out.startswith("## peer-w: 4 points, 4 of 8 runs finished\n\n| model | rate | ")
    assert f"| 4 | {DOES_NOT_FIT}" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--best", "p99_ttft_ms"), "write min: or max:"),
        (("--best", "min:p99_ttf_ms"), "nearest valid: p99_ttft_ms"),
        (("--jobs", "0"), "'0' is not a whole number"),
        (("--jobs", "2", "--scheduler", "tcp://a:1"), "leave jobs or scheduler out"),
        (("--format", "xml"), "'xml' is not one of"),
    ],
)
def test_a_flag_that_means_nothing_is_one_line(run_kvsim, done, words, said):
    code, out, err = run_kvsim("sweep", done[0], "-o", done[1], *words)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert said in line


def test_a_space_that_is_not_there_is_one_line(run_kvsim, tmp_path):
    code, _, err = run_kvsim("sweep", tmp_path / "none.yaml", "-o", tmp_path / "out")
    assert (code, err) == (2, f"kvsim: {tmp_path}/none.yaml: no such file\n")


def test_many_points_are_cut_in_a_table_and_whole_in_csv(run_kvsim, tmp_path):
    rates = ", ".join(map(str, range(1, 52)))
    path = tmp_path / "space.yaml"
    path.write_text(
        "scenario: peer-w\nset: {workload.requests: 2}\n"
        f"vary: {{workload.arrivals.rate: [{rates}]}}\n"
    )
    _, out, _ = run_kvsim("sweep", path, "-o", tmp_path / "out", "--jobs", 1)
    assert "and 11 more: --format csv, or the results" in out
    _, out, _ = run_kvsim("sweep", path, "-o", tmp_path / "out", "--format", "csv")
    assert len(out.splitlines()) == 52


def test_a_latency_of_a_saturated_run_says_so(run_kvsim, tmp_path):
    path = tmp_path / "space.yaml"
    overload = "set: {workload.requests: 3000, workload.arrivals.rate: 500}\n"
    path.write_text(f"scenario: peer-w\n{overload}vary: {{tp: [1]}}\nseeds: 1\n")
    code, out, _ = run_kvsim("sweep", path, "-o", tmp_path / "out", "--jobs", "1")
    assert code == 0
    (row,) = [line.split() for line in out.splitlines() if "1/1" in line]
    assert row.count("saturated") == 2  # p99 TTFT, and the runs
    assert "Every time has its band" in " ".join(out.split())


def test_progress_says_how_far_how_fast_and_what_is_best():
    point = PointAnswer({"tp": 2, "gpu": "h100"}, {}, finished=1, failed=0, saturated=0, asked=1)
    now = Progress(done=60, runs=7260, failed=2, repeated=40, best=(point, 31.25))
    said = "60 of 7,260 runs; 2 failed; 2 a second, 1:00:00 left; best 2, h100: 31.25"
    assert _progress_words(now, seconds=10.0) == said


def test_before_the_first_run_there_is_no_rate():
    now = Progress(done=40, runs=50, failed=0, repeated=40, best=None)
    assert _progress_words(now, seconds=1.0) == "40 of 50 runs"
