"""The engine's own planning against kvsim's layout, where its sources are."""

import os
import subprocess
import sys

import pytest

from tests.engine_oracle.layout import is_same, main
from tests.engine_oracle.layout_known import CASES, read_known
from tests.engine_oracle.layout_ours import plan_here
from tests.engine_oracle.layout_stub import SOURCES

# One group, windows, latents, states beside attention, packed groups.
MODELS = [
    "llama3-8b",
    "gemma3-27b",
    "deepseek-v3",
    "nemotron-h-8b",
    "qwen3.5-9b",
    "deepseek-v4-flash",
]


def test_it_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.delenv(SOURCES, raising=False)
    assert main([]) == 2
    assert (
        capsys.readouterr().err
        == f"{SOURCES} is unset: name a folder that holds the package vllm\n"
    )


def test_it_says_that_a_folder_holds_no_engine(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv(SOURCES, str(tmp_path))
    assert main([]) == 2
    assert f"{tmp_path} holds no package vllm" in capsys.readouterr().err


KNOWN = read_known()


def test_the_table_has_every_case():
    assert tuple(KNOWN) == CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{CASES.index(case)}")
def test_layouts_are_those_that_the_engine_gave(case):
    here = plan_here(case)
    assert is_same(KNOWN[case], here), here


@pytest.mark.skipif(
    SOURCES not in os.environ, reason=f"{SOURCES} is unset: it names vLLM's sources"
)
@pytest.mark.parametrize("model", MODELS)
def test_all_layouts_agree(model):
    command = [sys.executable, "-m", "tests.engine_oracle.layout", model]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stdout
