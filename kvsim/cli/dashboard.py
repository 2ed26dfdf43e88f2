"""``kvsim dashboard``: the pages of ``app/``, served on this machine."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys

import click

from kvsim.errors import MissingExtraError

__all__ = ["command", "server_command"]

# What `.streamlit/config.toml` says for those who start it in the repository.
_SETTINGS = {
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",
    "client.toolbarMode": "minimal",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "20",
    "server.showEmailPrompt": "false",
    "theme.light.primaryColor": "#0072B2",
    "theme.dark.primaryColor": "#2F86C1",
}
_EVERY_ADDRESS = ("0.0.0.0", "::")  # listen on all of this machine's addresses


@click.command("dashboard")
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--browser/--no-browser", default=True, help="Open a browser window.")
def command(port: int, host: str, browser: bool) -> None:
    """Explore plans, simulations and how a KV cache works, in a browser.

    Nothing is fetched from outside, and nothing is sent there. Press Ctrl-C to stop.
    """
    with subprocess.Popen(server_command(port, host, browser=browser)) as server:
        # who ends this command ends the server, which would go on alone; nothing is to be written,
        # so a second Ctrl-C ends it like the first
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        try:
            code = server.wait()
        except KeyboardInterrupt:  # Ctrl-C reaches the server too
            code = server.wait()
    if code > 0:
        raise SystemExit(code)


def server_command(port: int, host: str, *, browser: bool) -> list[str]:
    """Return the command that serves the dashboard.

    Raises
    ------
    MissingExtraError
        Without streamlit or plotly.
    InputError
        When the installation lacks the pages.
    """
    for package in ("streamlit", "plotly"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "dashboard", "the dashboard")
    from kvsim.specs.yaml_files import data_folder

    settings = _SETTINGS | {
        # Told where it is, Streamlit does not ask a server outside what address it has.
        "browser.serverAddress": "localhost" if host in _EVERY_ADDRESS else host,
        "server.address": host,
        "server.port": str(port),
        "server.headless": str(not browser).lower(),
    }
    main = str(data_folder("app") / "main.py")
    flags = [f"--{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "streamlit", "run", main, *flags]
