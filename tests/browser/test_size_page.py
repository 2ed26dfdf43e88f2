"""The Size it page as a visitor meets it."""

import kvsim

QUICK = {"requests": 200, "gpu": "H100-SXM5-80GB,L4", "tp": "1", "tpot": 15, "output": 100}


def searched(page, settled):
    """The page once its search is over."""
    page.get_by_text("What it takes").wait_for(timeout=60_000)
    settled(page)
    return page


def numbers(page):
    return page.get_by_test_id("stMetricValue").all_inner_texts()


def test_a_search_runs_and_another_rate_takes_other_replicas(open_page, settled):
    page = searched(open_page("size", rate=5, **QUICK), settled)
    card, replicas = numbers(page)[:2]
    box = page.get_by_role("spinbutton", name="Requests per second")
    box.fill("500")
    box.press("Enter")
    page.wait_for_url("**rate=500**")
    page.get_by_text("each replica under its share of 500 requests/s").wait_for(timeout=60_000)
    searched(page, settled)
    assert numbers(page)[0] == card
    assert int(numbers(page)[1]) > int(replicas)
    assert page.locator(".js-plotly-plot .barlayer .trace").count() == 1


def test_a_shared_link_opens_the_same_and_the_scenario_downloads(open_page, settled, tmp_path):
    page = searched(open_page("size", rate=8, by="ttft", **QUICK), settled)
    page.get_by_text("Cost against time to first token").wait_for()
    with page.expect_download(timeout=30_000) as download:
        page.get_by_role("button", name="Scenario, YAML").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    scenario = kvsim.load_scenario(path)
    assert path.name == "kvsim-size.yaml"
    assert (scenario.workload.arrivals.rate, scenario.slo.tpot_ms) == (8, 15)


def test_a_bad_link_is_told(open_page, settled):
    page = open_page("size", tp="3", rate="inf", **{key: QUICK[key] for key in ("requests", "gpu")})
    said = page.get_by_role("alert").all_inner_texts()
    assert any("unknown tp '3'" in text for text in said)
    assert any("inf is not from" in text for text in said)
    searched(page, settled)


def test_a_narrow_dark_screen_scrolls_one_way_only(open_page, settled):
    page = open_page("size", width=390, height=844, scheme="dark", **QUICK)
    searched(page, settled)
    main = page.get_by_test_id("stMain")
    assert main.evaluate("each => each.scrollWidth <= each.clientWidth")
