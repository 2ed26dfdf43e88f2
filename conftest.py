"""What a test needs of the machine, for the tests and for the doctests of `kvsim` alike."""

import importlib
from collections.abc import Generator
from pathlib import Path
from typing import Never

import pytest

from tests.support import needs


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the tests that are left out of a quick run."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config: pytest.Config) -> None:
    """Let `needs` know of the run it skips in."""
    needs.SLOW_RUN = config.getoption("slow")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test by the fixtures it takes, so that ``-m data`` finds all that need the data."""
    for fixture in getattr(item, "fixturenames", ()):
        for name in needs.OF_FIXTURE.get(fixture, ()):
            item.add_marker(name)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip before any fixture is set up: a skip in a fixture has the test's line, not one line."""
    for name in needs.REASON_WITHOUT:
        if item.get_closest_marker(name):
            needs.need(name)


class WithoutTorch(pytest.File):
    """Stands for the doctests of a module that cannot be imported here."""

    def collect(self) -> Never:
        """Skip, with the reason that every test gives that needs torch."""
        needs.need("torch")
        raise AssertionError(f"{self.path} found no torch, and then there was one")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Put a skip in place of a module of `kvsim` that is made of torch where there is none."""
    found = yield
    inside = parent.config.rootpath / "kvsim"
    if not found or inside not in file_path.parents:
        return found
    parts = file_path.relative_to(inside.parent).with_suffix("").parts
    name = ".".join(part for part in parts if part != "__init__")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            return [WithoutTorch.from_parent(parent, path=file_path)]
    return found
