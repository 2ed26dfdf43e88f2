"""``kvsim dashboard``: what it would serve, and what it says where it cannot."""

import importlib.util
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kvsim.cli import main
from kvsim.cli.dashboard import server_command
from kvsim.errors import MissingExtraError

ROOT = Path(__file__).resolve().parents[2]


def settings(command):
    return dict(word[2:].split("=", 1) for word in command if word.startswith("--"))


@pytest.fixture
def command():
    pytest.importorskip("streamlit", reason="the dashboard's extra is not installed")
    return server_command(8123, "127.0.0.1", browser=False)


def test_it_serves_the_apps_entry_on_this_machine_only(command):
    assert command[:4] == [sys.executable, "-m", "streamlit", "run"]
    assert Path(command[4]) == ROOT / "app" / "main.py"
    given = settings(command)
    assert (given["server.address"], given["server.port"]) == ("127.0.0.1", "8123")
    assert given["server.headless"] == "true"


def test_nothing_is_sent_anywhere(command):
    assert settings(command)["browser.gatherUsageStats"] == "false"
    assert settings(command)["server.showEmailPrompt"] == "false"


def test_it_says_the_same_as_the_repositorys_settings(command):
    """Someone who runs ``streamlit run app/main.py`` gets the same dashboard."""
    content = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text("utf-8"))
    given = settings(command)
    for key, value in _flat(content):
        assert given[key] == (str(value).lower() if isinstance(value, bool) else str(value)), key


def _flat(content, prefix=""):
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


ASKING_IS_NOTED = """
import sys
from streamlit import net_util
def asked(url, timeout=5):
    print("ASKED", url, flush=True)
net_util._make_blocking_http_get = asked
from streamlit.web.cli import main
main(sys.argv[1:])
"""


def until_it_serves(process, port):
    """Read the server's lines up to the one with its address, whatever it says around it."""
    said = []
    for line in process.stdout:
        said.append(line)
        if f":{port}" in line:
            return said
    raise AssertionError(f"it ended before it served: {said}")


@pytest.mark.parametrize("host", [None, "127.0.0.1", "0.0.0.0"])
def test_starting_it_asks_nobody_outside(host):
    """Streamlit looks its outside address up on the web, unless it is told where it is."""
    pytest.importorskip("streamlit", reason="the dashboard's extra is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    by_hand = ["run", "app/main.py", f"--server.port={port}"]  # as the README says
    words = server_command(port, host, browser=False)[3:] if host else by_hand
    process = subprocess.Popen(
        [sys.executable, "-c", ASKING_IS_NOTED, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        said = until_it_serves(process, port)
    finally:
        process.terminate()
        said += process.communicate(timeout=60)[0].splitlines()
    assert not [line for line in said if "ASKED" in line]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals to send")
def test_ending_the_command_ends_the_server():
    """A supervisor knows the command's process only."""
    pytest.importorskip("streamlit", reason="the dashboard's extra is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["-m", "kvsim", "dashboard", "--no-browser", "--port", str(port)]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    try:
        until_it_serves(process, port)
    finally:
        process.terminate()
        process.communicate(timeout=60)  # its pipe closes when the last writer is gone
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("absent", ["streamlit", "plotly"])
def test_without_the_extra_it_names_it(absent, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == absent else find_spec(name)
    )
    with pytest.raises(MissingExtraError):
        server_command(8123, "127.0.0.1", browser=False)
    with pytest.raises(SystemExit) as done:
        main(["dashboard"])
    assert done.value.code == 2
    assert "pip install 'kvsim[dashboard]'" in capsys.readouterr().err


def test_a_port_out_of_range_is_refused(capsys):
    with pytest.raises(SystemExit) as done:
        main(["dashboard", "--port", "70000"])
    assert done.value.code == 2
    assert "70000" in capsys.readouterr().err
