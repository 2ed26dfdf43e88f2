"""A machine that lacks something reads why tests are skipped, each reason on one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDY = (
    "tests/calibrate/test_study.py",
    "tests/browser/test_learn_page.py",
    "tests/workload/traces/test_published.py",
    "kvsim/calibrate/twin",
)


@pytest.fixture
def bare(tmp_path):
    """Return a function that runs pytest as a machine would that has nothing but Python."""
    stub = 'raise ModuleNotFoundError("No module named \'torch\'", name="torch")\n'
    (tmp_path / "torch.py").write_text(stub)
    (tmp_path / "bin").mkdir()
    given = {name: value for name, value in os.environ.items() if not name.startswith("KVSIM")}

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words],
            env=given | {"PYTHONPATH": str(tmp_path), "PATH": str(tmp_path / "bin")},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def skips(done):
    """The report's lines: the reason, and how many tests it skipped."""
    assert done.returncode == 0, done.stdout + done.stderr
    lines = re.findall(r"^SKIPPED \[(\d+)\] \S+ (.*)$", done.stdout, re.MULTILINE)
    assert len(lines) == len({reason for _, reason in lines}), "a reason is told twice"
    return {reason: int(count) for count, reason in lines}


def test_each_need_is_told_once_and_nothing_vanishes(bare):
    told = skips(bare(*NEEDY))
    counts = {
        need: next((count for reason, count in told.items() if need in reason), 0)
        for need in ("torch", "chromium", "KVSIM_DATA")
    }
    made_of_torch = [
        path
        for path in (ROOT / "kvsim" / "calibrate" / "twin").rglob("*.py")
        if re.search(r"^(import|from) torch\b", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert counts["torch"] > len(made_of_torch) > 2
    assert counts["chromium"] == 4
    assert counts["KVSIM_DATA"] > 50
    assert len(told) == 3


def test_slow_tests_are_left_out_unless_they_are_asked_for(bare):
    words = ("tests/figures/test_simulation_reports.py", "-k", "Latencies")
    (reason,) = skips(bare(*words))
    assert "pytest --slow" in reason
    assert skips(bare(*words, "--slow")) == {}
