"""What holds on every page: its pictures can be kept, and its command lines run."""

import json
import shlex
import subprocess
import sys
import time

import pytest

from kvsim.cli import cli, main
from tests.support.app_pages import charts, checked, commands, open_page

pytest.importorskip("plotly", reason="the dashboard's extra is not installed")
from app.parts import fleets

SIZE = {
    "model": "llama3.1-8b",
    "rate": 20.0,
    "prompt": 1000,
    "output": 100,
    "spread": 0,
    "ttft": 1000.0,
    "tpot": 50.0,
    "e2el": 0.0,
    "percentile": "p99",
    "kv": "fp8",
    "requests": 200,
    "seed": 3,
}
VISITS = {
    "plan": {"gpu": "a100,l4", "tp": 2, "max_model_len": 4096, "enforce_eager": 1, "kv": "fp8"},
    "simulate": {"requests": 60, "rate": 5, "allocator": "reserve-pow2", "ttft": 900, "plan": 1},
    "compare": {"requests": 40, "runs": 2, "allocators": "paged,reserve-max", "blocks": "8,16"},
    "cache": {"refs": 2000, "policy": "lru,belady", "tp": 2, "kv": "fp8"},
    "size": {**SIZE, "gpu": "H100-SXM5-80GB", "tp": "1,2"},
    "calibrate": {"gpu": "L40S,V100-SXM2-32GB"},
} | {f"learn {step}": {"lesson": step} for step in range(1, 7)}
# What needs a device, or another program.
NOT_HERE = ("kvsim calibrate", "kvsim validate --device", "vllm serve")


def visited(name):
    """A page once its run is over, however slow the machine is."""
    app = open_page(name.split()[0], **VISITS[name])
    while any(button.key == "stop run" for button in app.button):
        time.sleep(0.2)
        checked(app.run())
    return app


def lines_of(app):
    return [line for block in commands(app) for line in block.splitlines()]


@pytest.mark.parametrize("name", VISITS)
def test_every_picture_and_table_can_be_kept_and_is_described(name):
    app = visited(name)
    drawn, tables = app.get("plotly_chart"), app.dataframe
    kept = [button.proto.id for button in app.get("download_button")]
    for form in ("csv", "json", "html"):
        count = sum(f"-{form}-" in each for each in kept)
        assert count == len(drawn) + len(tables) > 0, form
    assert all(chart.proto.alt for chart in drawn)
    assert all(len(chart.proto.spec) < 400_000 for chart in drawn)


@pytest.mark.parametrize("name", ["simulate", "compare", "size"])
def test_what_simulates_offers_its_scenario(name):
    kept = [button.proto.id for button in visited(name).get("download_button")]
    assert any(each.endswith("Scenario, YAML") for each in kept)


@pytest.mark.parametrize("name", VISITS)
def test_every_line_of_a_page_runs(name, tmp_path, monkeypatch):
    (tmp_path / "kvsim-size.yaml").write_text(fleets.demand(SIZE).scenario.to_yaml())
    monkeypatch.chdir(tmp_path)
    lines = [line for line in lines_of(visited(name)) if not line.startswith(NOT_HERE)]
    assert lines
    for line in lines:
        program, *words = shlex.split(line)
        if program == "python":
            done = subprocess.run([sys.executable, *words], capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (0, b""), line
            assert done.stdout
        else:
            with pytest.raises(SystemExit) as done:
                main(words)
            refused = "bert-base-uncased" in words  # that is what the lesson shows
            assert done.value.code == (2 if refused else 0), line


@pytest.mark.parametrize("line", ["kvsim calibrate", "kvsim validate"])
def test_what_needs_a_device_is_at_least_understood(line):
    (shown,) = [each for each in lines_of(visited("calibrate")) if each.startswith(line)]
    _, name, *words = shlex.split(shown)
    command = cli.get_command(None, name)
    command.make_context(name, words)  # raises for an option that is not there


def test_the_size_pages_line_prints_the_pages_table(tmp_path, monkeypatch):
    (tmp_path / "kvsim-size.yaml").write_text(fleets.demand(SIZE).scenario.to_yaml())
    monkeypatch.chdir(tmp_path)
    app = visited("size")
    line = shlex.split(lines_of(app)[0])
    command = [sys.executable, "-m", *line, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    table = app.dataframe[0].value
    found = json.loads(done.stdout)["fleets"]
    assert [
        (each["accelerator"], each["tensor_parallel_size"], f"{each['sustained_per_replica']:.3g}")
        for each in found
    ] == [
        (card, degree, f"{rate:.3g}")
        for card, degree, rate in table[["card", "TP", "requests/s per replica"]].itertuples(
            index=False
        )
    ]
    assert charts(app)
