"""Light imports as a tested promise: what a fresh interpreter loads, in a subprocess."""

import re
import subprocess
import sys

import pytest

HEAVY = {"pandas", "torch", "streamlit", "plotly", "simpy", "scipy", "pyarrow"}
# What answers in a blink; docs/design.md says what pydantic would cost it.
LIGHT = HEAVY | {"numpy", "rich", "pydantic", "pydantic_core"}


# What a simulation needs for a trace, a file or a picture alone, and numpy.ma, which numpy's own
# quantile brings.
FOR_OTHERS = {
    "kvsim.workload.traces", "kvsim.workload.replay", "kvsim.workload.servegen",
    "kvsim.results.outputs", "kvsim.runs.compare", "kvsim.figures", "kvsim.calibrate",
    "kvsim.search", "kvsim.studies", "numpy.ma", "tarfile", "gzip", "rich",
}  # fmt: skip


def loaded(*arguments):
    """Top-level modules that ``python ARGUMENTS`` imports."""
    return {name.split(".")[0] for name in modules(*arguments)}


def modules(*arguments):
    """Modules that ``python ARGUMENTS`` imports."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    names = re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s*(\S+)$", done.stderr, re.MULTILINE)
    assert "kvsim" in names, "the import table was not understood"
    return set(names)


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["-c", "import kvsim"], HEAVY | {"numpy", "rich", "click", "yaml", "pydantic"}),
        (["-c", "import kvsim; kvsim.register"], HEAVY | {"rich", "click"}),
        (["-m", "kvsim", "--help"], HEAVY | {"numpy", "rich", "yaml", "pydantic"}),
        (["-m", "kvsim", "plan", "--model", "llama2-7b", "--gpu", "a100"], LIGHT),
        (["-m", "kvsim", "explain", "llama2-7b"], LIGHT),
        (["-m", "kvsim", "gpus"], LIGHT),
        (["-m", "kvsim", "scenarios"], HEAVY | {"rich"}),
    ],
    ids=[
        "import kvsim",
        "kvsim.register",
        "kvsim --help",
        "kvsim plan",
        "kvsim explain",
        "kvsim gpus",
        "kvsim scenarios",
    ],
)
def test_what_is_not_needed_is_not_loaded(arguments, unwanted):
    assert sorted(loaded(*arguments) & unwanted) == []


def test_a_simulation_loads_what_it_simulates():
    ten = ("peer-w", "--set", "workload.requests=10")
    found = modules("-m", "kvsim", "simulate", *ten)
    assert "kvsim.simulator.replica" in found
    unwanted = FOR_OTHERS | (HEAVY - {"simpy"})
    assert sorted(found & unwanted) == []


def test_the_probe_sees_a_heavy_import():
    assert "numpy" in loaded("-c", "import kvsim, numpy")
