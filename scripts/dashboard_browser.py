"""The dashboard in a real browser: a server on a free port, Chromium, and what to wait for.

The browser tests, `screenshots.py` and `benchmarks/dashboard.py` share it. Chromium is
Debian's (``apt-get install chromium``), driven by playwright; nothing is downloaded.
"""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvsim.cli.dashboard import server_command

__all__ = [
    "ROOT",
    "chromium",
    "launched",
    "missing",
    "registered",
    "rest",
    "served",
    "settle",
    "watch",
]

ROOT = Path(__file__).resolve().parent.parent
PAGE_SECONDS = 60
PAUSE_SECONDS = 0.15  # a click takes a moment to become a run of the script
_PATIENCE_MS = 1000 * PAGE_SECONDS
# A run's progress and its Stop button, what the Cache page replays, what a cached call computes.
_UNDER_WAY = "[data-testid=stProgress], .st-key-stop-run, [data-testid=stSpinner]"
_DRAWN = """() => !document.querySelector('[data-stale="true"], [data-testid="stSkeleton"]')
    && [...document.querySelectorAll('[data-testid="stPlotlyChart"]')]
       .every(chart => chart.querySelector('.main-svg'))
    && [...document.querySelectorAll('[data-testid="stDataFrame"]')]
       .every(table => !table.checkVisibility() || table.querySelector('canvas'))"""
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
# Opened at /plan, Streamlit's page first asks whether the server lives below /plan/.
_BASE_PATH_PROBE = re.compile(r"/[a-z]+/_stcore/(health|host-config)$")


def registered() -> dict[str, str]:
    """Read the address of every page, below the server's, from `app/main.py`'s table.

    The first page opens at the server's own address.
    """
    tree = ast.parse((ROOT / "app" / "main.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PAGES":
            names = list(ast.literal_eval(node.value))
            return {name: name if at else "" for at, name in enumerate(names)}
    raise SystemExit("app/main.py has no PAGES")


def chromium() -> str | None:
    """Return the path of a Chromium, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def missing() -> str:
    """Say what a browser test lacks here, or nothing."""
    try:
        for package in ("playwright.sync_api", "streamlit", "plotly"):
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    return "" if chromium() else "there is no chromium on the PATH"


@contextmanager
def served() -> Iterator[str]:
    """Serve the dashboard on a free port of this machine; the value is its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = server_command(port, "127.0.0.1", browser=False)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_healthy(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=20)
            log.seek(0)
            sys.stderr.write(log.read() if process.returncode > 0 else "")


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PAGE_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5) as answer:
                if answer.read() == b"ok":
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise RuntimeError("the dashboard's server did not start")


@contextmanager
def launched() -> Iterator[Any]:
    """Start Chromium without a window; the value is playwright's browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def watch(page: Any, address: str) -> list[str]:
    """Collect what must not happen on a page: console errors, requests to another host."""
    troubles: list[str] = []

    def on_console(message: Any) -> None:
        where = message.location.get("url", "")
        if message.type == "error" and not _BASE_PATH_PROBE.search(where):
            troubles.append(f"console error: {message.text} ({where})")

    def on_request(request: Any) -> None:
        if not request.url.startswith((address, address.replace("http", "ws"), "data:", "blob:")):
            troubles.append(f"request to another host: {request.url}")

    page.on("console", on_console)
    page.on("request", on_request)
    page.on("pageerror", lambda error: troubles.append(f"script error: {error}"))
    return troubles


def settle(page: Any) -> None:
    """Wait until the answer is there: no run goes on, and what came of it is drawn."""
    rest(page)
    if page.query_selector(_UNDER_WAY):
        page.wait_for_selector(_UNDER_WAY, state="detached", timeout=_PATIENCE_MS)
        rest(page)


def rest(page: Any) -> None:
    """Wait until the script has ended, nothing is stale, and charts and tables are drawn.

    A simulation may still show its progress; `settle` waits for that too.
    """
    page.wait_for_timeout(1000 * PAUSE_SECONDS)
    page.wait_for_selector(
        "[data-testid=stApp][data-test-script-state=notRunning]", timeout=_PATIENCE_MS
    )
    page.wait_for_function(_DRAWN, timeout=_PATIENCE_MS)
