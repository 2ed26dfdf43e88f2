"""Shared fixtures: where the big reference files lie, and how hypothesis runs."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# Which parts of a counterexample do not matter is not worth the minutes that it takes to find out.
PHASES = [phase for phase in Phase if phase is not Phase.explain]
settings.register_profile("local", deadline=None, phases=PHASES)
settings.register_profile(
    "ci",
    deadline=None,
    phases=PHASES,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# A shell starts what it puts in the background with Ctrl-C ignored, and so it would be here and
# in every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def kvsim_data() -> Path:
    """Return the folder that holds ``reference/`` and ``traces/``."""
    return Path(os.environ["KVSIM_DATA"]).resolve()


@pytest.fixture(scope="session")
def torch():
    """Return the module torch."""
    import torch as module

    return module


@pytest.fixture
def families():
    """Return the families of policies; what a test registers is forgotten after it."""
    from kvsim.simulator.families import FAMILIES

    before = {name: dict(policies) for name, policies in FAMILIES.items()}
    yield FAMILIES
    for name, policies in FAMILIES.items():
        policies.clear()
        policies.update(before[name])


@pytest.fixture
def run_kvsim(capsys):
    """Return a function that runs kvsim in this process: (exit code, stdout, stderr)."""
    from kvsim.cli import main

    def run(*words):
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return run
