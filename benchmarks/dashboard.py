"""First paint and rerun times of the dashboard, in seconds: ``python benchmarks/dashboard.py``.

With a browser (playwright and a Chromium): from opening the address to charts on the screen,
and from a change to charts on the screen. Always: the script's own run, without a browser, as
Streamlit's AppTest runs it; there a page that simulates is timed until its answer is shown.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts")]

from dashboard_browser import (  # noqa: E402
    PAUSE_SECONDS,
    launched,
    missing,
    registered,
    served,
    settle,
)

REPEATS = 5
REQUESTS = (10_000, 9_999, 9_998, 9_997)  # another number each: nothing is remembered
DEGREES = (2, 4, 8, 1)


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
        first = seconds(partial(_answered, app))
        again = median(seconds(app.run) for _ in range(REPEATS))
        print(f"{name:10} {first:10.3f} {again:10.3f}")


def _answered(app: Any) -> None:
    """Run a page until no run of its goes on."""
    app.run()
    while any(button.key == "stop run" for button in app.button):
        time.sleep(0.05)
        app.run()


def browser_times() -> None:
    """Print first paint of every page, and the time from a change to its charts."""
    with served() as address, launched() as browser:
        print(f"\n{'browser':10} {'cold':>10} {'warm':>10}   seconds to all charts drawn")
        for name, path in registered().items():
            open_page = partial(_open, browser, f"{address}/{path}")
            cold, warm = seconds(open_page), seconds(open_page)
            print(f"{name:10} {cold:10.3f} {warm:10.3f}")
        print("\nfrom a change to all charts drawn, seconds")
        plan = _changes(browser, address, "tensor_parallel_size", DEGREES)
        print(f"{'plan, another degree':32} {plan:.3f}")
        run = _changes(browser, f"{address}/simulate?scenario=peer-w", "Requests", REQUESTS)
        print(f"{'simulate, 10,000 requests':32} {run:.3f}")
        print(f"{PAUSE_SECONDS:.2f} s of every browser time is the wait for a change to be noticed")


def _changes(browser: Any, address: str, label: str, values: Sequence[int]) -> float:
    """Median seconds from typing a number into a box to its charts."""
    page = browser.new_page()
    page.goto(address)
    page.get_by_role("heading", level=1).wait_for()
    settle(page)
    box = page.get_by_role("spinbutton", name=label, exact=True)

    def change(value: int) -> None:
        box.fill(str(value))
        box.press("Enter")
        settle(page)

    found = median(seconds(partial(change, value)) for value in values)
    page.close()
    return found


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
