"""The pictures of docs/images: all there, of the promised sizes, and the README shows some."""

import re
import struct
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
import dashboard_browser
import screenshots

FOLDER = ROOT / "docs" / "images"
README = (ROOT / "README.md").read_text("utf-8")


def pixels(path):
    """Width and height of a PNG, from its header."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


@pytest.mark.parametrize("name", dashboard_browser.registered())
@pytest.mark.parametrize(("screen", "size"), [("wide", (1440, 900)), ("narrow", (390, 844))])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_has_its_picture(name, screen, size, scheme):
    path = FOLDER / f"{name}-{screen}-{scheme}.png"
    assert pixels(path) == size
    assert path.stat().st_size < 300_000


def test_there_is_no_picture_of_a_page_that_is_gone():
    names = {path.name.split("-")[0] for path in FOLDER.glob("*.png")}
    assert names == set(dashboard_browser.registered()) == set(screenshots.VIEWS)


def test_the_readme_shows_pictures_light_and_dark_and_says_what_they_show():
    shown = re.findall(r'<img src="([^"]+)"[^>]* alt="([^"]+)"', README)
    dark = re.findall(r'srcset="([^"]+)"', README)
    assert len(shown) >= 4
    assert dark == [path.replace("-light", "-dark") for path, _ in shown]
    for path, alt in shown:
        assert (ROOT / path).exists()
        assert len(alt) > 40
    assert all((ROOT / path).exists() for path in dark)
