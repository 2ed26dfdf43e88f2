"""docs/scale.md: its space is one, its flags exist, and its arithmetic adds up."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kvsim import Space

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text("utf-8")


def test_the_space_of_the_page_is_one(tmp_path):
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    (tmp_path / "space.yaml").write_text(block)
    space = Space.read(tmp_path / "space.yaml")
    assert (len(list(space.points())), space.seeds) == (4, 3)


def test_every_flag_of_the_page_exists():
    command = [sys.executable, "-m", "kvsim"]
    helps = [
        subprocess.run(
            [*command, name, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for name in ("sweep", "simulate")
    ]
    flags = set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--nthreads"}
    assert flags
    assert {flag for flag in flags if not any(flag in page for page in helps)} == set()


REQUEST_SECONDS, REQUEST_BYTES = 24e-6, 986
RUN_SECONDS = 1e7 * REQUEST_SECONDS


@pytest.mark.parametrize(
    ("said", "value"),
    [
        (r"\(24\.2 - 5\.0\) s / 800,000 = (\d+) us", (24.2 - 5.0) / 800_000 * 1e6),
        (r"\(1,017 - 265\) MiB / 800,000 = (\d+) bytes", (1017 - 265) * 2**20 / 800_000),
        (r"x 24 us = (\d+) s of one core", RUN_SECONDS),
        (r"240,000 s = (\d+) core-hours", 1000 * RUN_SECONDS / 3600),
        (r"bytes \+ 77 MiB = ([\d.]+) GiB", (1e7 * REQUEST_BYTES + 77 * 2**20) / 2**30),
        (r"240,000 s = ([\d.]+) days", 1000 * RUN_SECONDS / 86_400),
        (r"24,000 s = ([\d.]+) h", 100 * RUN_SECONDS / 3600),
        (r"([\d.]+) TiB, 9\.3 GiB a core", 1000 * 9.3 / 1024),
        (r"256 GiB holds (\d+) such", 256 // 9.3),
    ],
)
def test_the_arithmetic_adds_up(said, value):
    (found,) = re.findall(said, PAGE)
    assert float(found) == pytest.approx(value, rel=0.02)
