"""``kvsim simulate --report`` and ``kvsim compare --report``: the dashboard's figures as a file."""

import re
import shlex
import subprocess
import sys
from html import unescape

import pytest

pytest.importorskip("plotly", reason="the dashboard's extra is not installed")

SMALL = ("preemption-edge", "--set", "workload.requests=60", "--seed", "4")
COMPARE = ("compare", *SMALL, "--vary", "memory.allocator=paged,reserve-max")


def kvsim(*words):
    return subprocess.run(
        [sys.executable, "-m", "kvsim", *words], capture_output=True, text=True, check=False
    )


def again(page):
    """The command that the page says gives it again."""
    return unescape(re.findall(r"<pre>(kvsim [^<]*)</pre>", page)[-1])


@pytest.mark.parametrize(
    ("words", "heading"),
    [
        (("simulate", *SMALL, "--enforce-eager"), "Where the pool&#x27;s slots go"),
        pytest.param(COMPARE, "Differences from paged", marks=pytest.mark.slow),
        pytest.param(("simulate", *SMALL[:-1], "0"), "Latencies", marks=pytest.mark.slow),
    ],
)
def test_a_report_stands_alone_and_names_its_command(tmp_path, words, heading):
    file = tmp_path / "report.html"
    done = kvsim(*words, "--report", str(file))
    assert done.returncode == 0, done.stderr
    page = file.read_text("utf-8")
    body = page.partition("<body>")[2]
    assert f"<h2>{heading}</h2>" in body
    assert 'src="' not in body
    assert "href=" not in body
    assert sorted(shlex.split(again(page))[1:]) == sorted(words)


def test_a_report_carries_the_pool_over_time(tmp_path):
    file = tmp_path / "report.html"
    done = kvsim("simulate", *SMALL, "--report", str(file))
    assert done.returncode == 0, done.stderr
    page = file.read_text("utf-8")
    assert "<h2>The pool over time</h2>" in page
    assert "figure-pool-film" in page
    assert "simulated time: " in page, "it can be scrubbed"


def test_no_button_of_a_report_sends_its_figures_anywhere(tmp_path):
    """plotly offers to upload a chart to its maker's server unless it is told not to."""
    file = tmp_path / "report.html"
    kvsim("simulate", *SMALL, "--report", str(file))
    body = file.read_text("utf-8").partition("<body>")[2]
    figures = body.count("Plotly.newPlot(")
    assert figures >= 5
    assert body.count('"showSendToCloud": false') == figures
    assert body.count('"sendChartToCloud"]') == figures


def test_a_report_that_cannot_be_written_is_one_line(tmp_path):
    done = kvsim("simulate", *SMALL, "--report", str(tmp_path / "no" / "report.html"))
    assert done.returncode != 0
    assert done.stderr.strip().count("\n") == 0
    assert "--report: cannot write" in done.stderr
