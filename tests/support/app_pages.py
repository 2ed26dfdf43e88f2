"""Open pages of the dashboard without a browser, and read what they draw."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("streamlit", reason="the dashboard's extra is not installed")
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def open_page(name, **link):
    """Follow a link to a page in a session of its own; whatever goes wrong there is shown."""
    app = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
    if name != "plan":
        app.run()
        app.switch_page(f"views/{name}.py")
    for key, value in link.items():
        app.query_params[key] = str(value)
    return checked(app.run())


def checked(app):
    """The app, if its script ended without an exception."""
    redacted = [error.value for error in app.error if "encountered an error" in error.value]
    assert not app.exception, app.exception
    assert not redacted, "the script raised; run it with client.showErrorDetails=full"
    return app


def link_of(app):
    """What stands in the URL, as text by key."""
    values = dict(app.query_params)
    return {key: value[0] if isinstance(value, list) else value for key, value in values.items()}


def charts(app):
    """Every chart's plotly figure, as JSON values, in the order of the page."""
    return [json.loads(element.proto.spec) for element in app.get("plotly_chart")]


def commands(app):
    """Every code block's text."""
    return [block.value for block in app.code]


def errors(app):
    """Every error's text, without the backslashes that make it harmless."""
    return [error.value.replace("\\", "") for error in app.error]


def warnings(app):
    """Every warning's text, the same way."""
    return [warning.value.replace("\\", "") for warning in app.warning]
