"""``kvsim dashboard``: what it would serve, and what it says where it cannot."""

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

from kvsim.cli import main
from kvsim.cli.dashboard import server_command
from kvsim.errors import MissingExtraError

ROOT = Path(__file__).resolve().parent.parent


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
