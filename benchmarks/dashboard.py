"""First paint and rerun times of the dashboard, in seconds: ``python benchmarks/dashboard.py``.

With a browser (playwright and a Chromium): from opening the address to charts on the screen,
and from a click to charts on the screen. Always: the script's own run, without a browser, as
Streamlit's AppTest runs it.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts")]

from dashboard_browser import launched, missing, registered, served, settle  # noqa: E402

REPEATS = 5


def seconds(work: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def script_times() -> None:
    """Print first run and rerun of every page's script."""
    from streamlit.testing.v1 import AppTest

    print(f"{'script':10} {'first run':>10} {'rerun':>10}   seconds, median of {REPEATS} reruns")
    for name in registered():
        app = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
        app.switch_page(f"views/{name}.py")
        first = seconds(app.run)
        again = median(seconds(app.run) for _ in range(REPEATS))
        print(f"{name:10} {first:10.3f} {again:10.3f}")


def browser_times() -> None:
    """Print first paint of every page, and a rerun of the plan page after a click."""
    with served() as address, launched() as browser:
        print(f"\n{'browser':10} {'cold':>10} {'warm':>10}   seconds to all charts drawn")
        for name, path in registered().items():
            open_page = partial(_open, browser, f"{address}/{path}")
            cold, warm = seconds(open_page), seconds(open_page)
            print(f"{name:10} {cold:10.3f} {warm:10.3f}")
        page = browser.new_page()
        page.goto(address)
        settle(page)
        more = page.get_by_role("spinbutton", name="tensor_parallel_size")
        times = []
        for tp in ("2", "4", "8", "1"):
            start = time.perf_counter()
            more.fill(tp)
            more.press("Enter")
            settle(page)
            times.append(time.perf_counter() - start)
        print(f"\nplan again, another tp: {median(times):.3f} s, of which 0.150 s is waiting")


def _open(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    page.get_by_role("heading", level=1).wait_for()
    settle(page)
    page.close()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    script_times()
    lack = missing()
    if lack:
        print(f"\nno browser times: {lack}")
    else:
        browser_times()
