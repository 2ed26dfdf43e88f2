"""A report, opened from the disk as whoever got it by mail would open it."""

import pytest

import kvsim
from kvsim import figures

WIDE = {"width": 1200, "height": 900}
NARROW = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A small run's report; the address of its file."""
    camera = kvsim.Camera()
    scenario = kvsim.load_scenario("preemption-edge", {"workload.requests": 200})
    runs = kvsim.replicate(scenario, camera=camera)
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(figures.simulation_report(runs, camera=camera), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def open_report(driver, browser, report):
    """Return a function that opens the report, and later checks that nothing went wrong."""
    visits = []

    def open_report(**settings):
        page = browser.new_context(**settings).new_page()
        visits.append((page, driver.watch(page, report)))
        page.goto(report)
        page.locator("#figure-slowest .main-svg").first.wait_for(timeout=60_000)
        return page

    yield open_report
    troubles = [trouble for _, found in visits for trouble in found]
    for page, _ in visits:
        page.context.close()
    assert troubles == []


def test_the_pool_is_scrubbed_without_a_server(open_report):
    page = open_report(viewport=WIDE)
    film = page.locator("#figure-pool-film")
    film.scroll_into_view_if_needed()
    read = "each => [each.layout.sliders[0].active, JSON.stringify(each.data[0].customdata)]"
    opened = film.evaluate(read)
    rail = film.locator(".slider-rail-touch-rect").first
    box = rail.bounding_box()
    page.mouse.click(box["x"] + 12, box["y"] + box["height"] / 2)
    page.wait_for_function(
        "() => document.querySelector('#figure-pool-film').layout.sliders[0].active === 0",
        timeout=10_000,
    )
    first = film.evaluate(read)
    assert first[0] != opened[0]
    assert first[1] != opened[1], "the cells moved with the slider"


def test_no_button_offers_to_send_a_figure_anywhere(open_report):
    page = open_report(viewport=WIDE)
    names = page.locator(".modebar-btn").evaluate_all("all => all.map(each => each.ariaLabel)")
    assert "Download plot as a PNG" in names
    assert not [name for name in names if "share" in name.lower() or "cloud" in name.lower()]


def test_a_narrow_dark_screen_scrolls_one_way_only(open_report):
    page = open_report(viewport=NARROW, color_scheme="dark")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert max(map(int, background[4:-1].split(","))) < 64
