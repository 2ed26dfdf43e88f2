"""A real Chromium on a real server: a page in trouble fails its test, whatever it asked.

Trouble is a console error, a script error, a traceback on the page, or any request to
another host than the server's.
"""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def driver():
    """The helpers of scripts/dashboard_browser.py."""
    import dashboard_browser

    return dashboard_browser


@pytest.fixture(scope="session")
def server(driver) -> Iterator[str]:
    """Address of a dashboard of our own, on a free port."""
    with driver.served() as address:
        yield address


@pytest.fixture(scope="session")
def browser(driver):
    """One Chromium for all tests; each has a profile of its own in it."""
    with driver.launched() as browser:
        yield browser


@pytest.fixture
def settled(driver):
    """Return a function that waits until no run goes on and what came of it is drawn."""
    return driver.settle


@pytest.fixture(scope="session")
def screens(browser):
    """Return a function that gives the browser profile of one screen.

    Tests share it, so that scripts are fetched once; every page is a session of its own.
    """
    profiles = {}

    def screen(width, height, scheme):
        if (width, height, scheme) not in profiles:
            profiles[width, height, scheme] = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
        return profiles[width, height, scheme]

    return screen


@pytest.fixture
def open_page(driver, server, screens):
    """Return a function that opens a page as a new visitor, and later checks it.

    ``open_page("learn", lesson=4)``; keywords `width`, `height` and `scheme` are the
    visitor's screen.
    """
    visits = []

    def open_page(name, *, width=1440, height=900, scheme="light", **link):
        page = screens(width, height, scheme).new_page()
        visits.append((page, driver.watch(page, server)))
        query = f"?{urlencode(link)}" if link else ""
        page.goto(f"{server}/{driver.registered()[name]}{query}")
        page.get_by_role("heading", level=1).wait_for(timeout=60_000)
        driver.rest(page)  # a run may go on: `settled` waits for its end
        return page

    yield open_page
    troubles = []
    for page, found in visits:
        troubles += found
        if page.get_by_test_id("stException").count():
            troubles.append(f"a traceback: {page.get_by_test_id('stException').inner_text()}")
        page.close()
    assert troubles == []
