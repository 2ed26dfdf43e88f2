"""``kvsim plan --report``: one HTML page with everything inside."""

import builtins
import json
import re
import sys
from html.parser import HTMLParser

import pytest

pytest.importorskip("plotly", reason="the dashboard's extra is not installed")

import kvsim
from kvsim import figures
from kvsim.cli import main

ASK = ("plan", "--model", "llama2-7b", "--gpu", "a100")


def run(*arguments):
    with pytest.raises(SystemExit) as done:
        main(arguments)
    return done.value.code


class Outside(HTMLParser):
    """Whatever a page would fetch, and the text of its headings."""

    def __init__(self):
        super().__init__()
        self.fetched, self.headings, self._in = [], [], ""

    def handle_starttag(self, tag, attributes):
        self._in = tag
        self.fetched += [(tag, key, value) for key, value in attributes if key in ("src", "href")]

    def handle_data(self, data):
        if self._in in ("h1", "h2") and data.strip():
            self.headings.append(data.strip())


def parsed(page):
    parser = Outside()
    parser.feed(re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    return parser


def test_the_page_needs_nothing_from_outside(tmp_path, capsys):
    file = tmp_path / "report.html"
    assert run(*ASK, "--report", str(file)) == 0
    page = file.read_text("utf-8")
    assert parsed(page).fetched == []
    assert not re.search(r"<script[^>]+src=", page)
    assert "@import" not in page[:3000]
    assert str(file) in capsys.readouterr().err


def test_the_page_holds_the_plan(tmp_path):
    file = tmp_path / "report.html"
    run(*ASK, "--tp", "2", "--report", str(file))
    page, plan = file.read_text("utf-8"), kvsim.plan("llama2-7b", "a100", tensor_parallel_size=2)
    headings = parsed(page).headings
    assert headings[0] == "llama2-7b on A100-SXM4-80GB"
    for title in (
        "The answer",
        "Where the memory goes",
        "How sure the KV size is",
        "Launch",
        "Where the numbers come from",
    ):
        assert title in headings
    assert plan.verdict in page
    assert plan.command in page
    assert f"{plan.kv_cache.bytes_per_token:,}" in page
    assert "kvsim plan --model llama2-7b --gpu a100" in page
    assert "--tensor-parallel-size 2" in page


def test_several_engines_stand_side_by_side(tmp_path):
    file = tmp_path / "report.html"
    run("plan", "--model", "gpt-oss-20b", "--gpu", "h100", "--engine", "all", "--report", str(file))
    headings = parsed(file.read_text("utf-8")).headings
    assert "Side by side" in headings


def test_what_does_not_fit_comes_with_suggestions():
    page = figures.plan_report([kvsim.plan("llama3-70b", "a100")])
    assert "What would make it fit (each re-planned)" in parsed(page).headings
    assert "--quantization fp8" in page


def test_json_on_stdout_stays_json(tmp_path, capsys):
    run(*ASK, "--format", "json", "--report", str(tmp_path / "report.html"))
    assert json.loads(capsys.readouterr().out)["model"]["name"] == "llama2-7b"


def test_a_folder_that_is_not_there_is_one_line(tmp_path, capsys):
    assert run(*ASK, "--report", str(tmp_path / "no" / "report.html")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--report: cannot write" in line


def test_without_plotly_the_extra_is_named(tmp_path, capsys, monkeypatch):
    real_import = builtins.__import__

    def no_plotly(name, *rest, **more):
        if name.split(".")[0] == "plotly":
            raise ModuleNotFoundError(name)
        return real_import(name, *rest, **more)

    for name in [name for name in sys.modules if name.split(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", no_plotly)
    assert run(*ASK, "--report", str(tmp_path / "report.html")) == 2
    assert "pip install 'kvsim[dashboard]'" in capsys.readouterr().err


def test_a_hostile_name_is_text():
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    model = kvsim.find_model("llama2-7b").model_copy(update={"name": hostile})
    page = figures.plan_report([kvsim.plan(model, "a100")], command=hostile)
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page


def test_light_and_dark_are_the_readers_choice():
    page = figures.html_page("Two", [figures.Table("t", "One", [{"a": 1, "b": "x"}])])
    assert "prefers-color-scheme: dark" in page
    assert "<script" not in page, "a page without charts carries no script"
    assert '<td class="number">1</td><td>x</td>' in page
