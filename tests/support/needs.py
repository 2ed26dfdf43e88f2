"""What some tests need of the machine, and the one line that skips them where it is lacking.

pytest's report (``-rs``) folds skips of one reason that were raised at one place. All are raised
here, so that a newcomer reads one line for torch, one for the browser, and so on.
"""

import os
from pathlib import Path

import pytest

SLOW_RUN = False  # conftest.py sets it from --slow


def need(name):
    """Skip the test, or the module that is being imported, where `name` is lacking."""
    reason = REASON_WITHOUT[name]()
    if reason:
        pytest.skip(reason, allow_module_level=True)


def examples(most):
    """How many examples hypothesis draws: all with --slow, a third of them in a quick run."""
    return most if SLOW_RUN else -(-most // 3)


def _without_torch():
    try:
        import torch  # noqa: F401 - only asked for
    except ModuleNotFoundError:
        return "torch is not installed (a CPU build will do: CONTRIBUTING.md)"
    return ""


def _without_browser():
    import dashboard_browser

    return dashboard_browser.missing()


def _without_data():
    folder = os.environ.get("KVSIM_DATA")
    if not folder:
        return "KVSIM_DATA is unset: these tests read observed logs and traces (CONTRIBUTING.md)"
    return "" if (Path(folder) / "reference").is_dir() else f"{folder} has no reference/ folder"


def _in_a_quick_run():
    return "" if SLOW_RUN else "slow: `pytest --slow` runs these, too"


def _outside_ci():
    known = "KVSIM_SETUP_LINES" in os.environ
    return "" if known else "for CI alone: `.ci/run` says which of the README's set-up lines it ran"


REASON_WITHOUT = {
    "torch": _without_torch,
    "browser": _without_browser,
    "data": _without_data,
    "slow": _in_a_quick_run,
    "ci": _outside_ci,
}
OF_FIXTURE = {"torch": ("torch",), "driver": ("browser", "slow"), "kvsim_data": ("data",)}
