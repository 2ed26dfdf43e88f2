"""The Compare page as a visitor meets it."""

import json

SMALL = {"requests": 150, "runs": 2}
DRAWN = 60_000


def compared(page, settled):
    """Wait until every variant has run and is drawn."""
    page.get_by_role("heading", name="Where the pool's slots go").wait_for(timeout=DRAWN)
    settled(page)


def test_variants_are_compared_changed_and_linked(open_page, settled):
    page = open_page("compare", **SMALL)
    compared(page, settled)
    assert page.locator(".js-plotly-plot").count() == 4
    assert page.get_by_test_id("stDataFrame").count() == 3  # values, their bands, differences
    box = page.get_by_role("combobox", name="Schedulers")
    box.click()
    page.get_by_role("option", name="orca").click()
    box.press("Escape")  # an open list hides the rest of the page from readers
    page.get_by_text("--vary scheduler.policy=orca").first.wait_for(timeout=DRAWN)
    compared(page, settled)
    assert "schedulers=orca" in page.url


def test_a_shared_link_opens_the_same_comparison(open_page, settled):
    page = open_page("compare", allocators="paged,reserve-max", **SMALL)
    compared(page, settled)
    heading = page.get_by_role("heading", name="Differences from paged")
    assert heading.is_visible()
    page.reload()
    compared(page, settled)
    assert heading.is_visible()


def test_a_comparison_downloads(open_page, settled, tmp_path):
    page = open_page("compare", allocators="paged,reserve-max", **SMALL)
    compared(page, settled)
    kept = {}
    for form in ("Everything, JSON", "Report, HTML"):
        with page.expect_download(timeout=DRAWN) as download:
            page.get_by_role("button", name=form).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        kept[path.suffix] = path.read_text("utf-8")
    first, second = json.loads(kept[".json"])["variants"]
    assert first["overrides"] == {"memory.allocator": "paged"}
    assert second["difference"]["output_throughput"]["mean"] < 0
    assert "Differences from paged" in kept[".html"]


def test_a_bad_link_is_told(open_page, settled):
    page = open_page("compare", allocators="paged,pagd", **SMALL)
    said = page.get_by_role("alert").all_inner_texts()
    assert any("unknown allocators 'pagd'" in text for text in said)
    compared(page, settled)


def test_a_narrow_dark_screen_scrolls_one_way_only(open_page, settled):
    page = open_page("compare", width=390, height=844, scheme="dark", **SMALL)
    compared(page, settled)
    main = page.get_by_test_id("stMain")
    assert main.evaluate("each => each.scrollWidth <= each.clientWidth")
