"""The Simulate page as a visitor meets it."""

import json

import kvsim

TRACE = b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + b"".join(
    b"2023-11-16 18:15:%02d.000000,%d,20\n" % (second, 200 + second) for second in range(40)
)


def metric(page, name):
    box = page.get_by_test_id("stMetric").filter(has_text=name).first
    return box.get_by_test_id("stMetricValue").inner_text()


def answered(page, settled):
    """Wait until a run is over and its pictures are drawn."""
    page.get_by_test_id("stMetric").first.wait_for(timeout=60_000)
    settled(page)


def give(page, name, content):
    page.get_by_text("Bring a trace").click()
    file = {"name": name, "mimeType": "text/csv", "buffer": content}
    page.locator("input[type=file]").first.set_input_files(file)


def test_a_scenario_is_run_changed_and_linked(open_page, settled):
    page = open_page("simulate", requests=300)
    answered(page, settled)
    summary = kvsim.simulate(
        kvsim.load_scenario("preemption-edge", {"workload.requests": 300})
    ).summary
    assert metric(page, "Output tokens") == f"{summary['output_throughput']:,.0f}"
    assert page.locator(".js-plotly-plot .heatmaplayer image").count() == 1
    rate = page.get_by_label("Requests per second", exact=True)
    rate.fill("3")
    rate.press("Enter")
    page.get_by_text("--set workload.arrivals.rate=3").first.wait_for(timeout=60_000)
    answered(page, settled)
    assert "rate=3" in page.url
    slower = kvsim.simulate(
        kvsim.load_scenario(
            "preemption-edge", {"workload.requests": 300, "workload.arrivals.rate": 3}
        )
    ).summary
    assert metric(page, "Output tokens") == f"{slower['output_throughput']:,.0f}"


def test_scrubbing_moves_the_pool_and_the_link(open_page, settled):
    page = open_page("simulate", requests=300, at=20)
    answered(page, settled)
    title = page.get_by_role("heading", name="The pool at")
    before = title.inner_text()
    slider = page.get_by_role("slider").first
    slider.focus()
    for _ in range(3):  # a key pressed while the page is redrawn may be lost: one at a time
        slider.press("ArrowRight")
        settled(page)
    page.wait_for_url(lambda url: "at=" in url and "at=20" not in url)
    assert title.inner_text() != before
    page.reload()
    answered(page, settled)
    assert title.inner_text() != before


def test_a_shared_link_opens_the_same_run(open_page, settled):
    link = {"scenario": "pagedattention-orca", "requests": 200, "allocator": "reserve-oracle"}
    first, second = open_page("simulate", **link), open_page("simulate", **link)
    for page in (first, second):
        answered(page, settled)
    titles = [
        page.get_by_role("heading", name="The pool at").inner_text() for page in (first, second)
    ]
    assert titles[0] == titles[1]
    assert metric(first, "Output tokens") == metric(second, "Output tokens")


def test_everything_about_a_run_downloads(open_page, settled, tmp_path):
    page = open_page("simulate", requests=200)
    answered(page, settled)
    kept = {}
    for form in ("Requests, CSV", "Summary, JSON", "Report, HTML", "Scenario, YAML"):
        with page.expect_download(timeout=60_000) as download:
            page.get_by_role("button", name=form).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        kept[path.suffix] = path.read_text("utf-8")
    assert len(kept[".csv"].splitlines()) == 201
    assert json.loads(kept[".json"])["completed"] == 200
    assert "<h2>Queue and batch over time</h2>" in kept[".html"]
    (tmp_path / "again.yaml").write_text(kept[".yaml"])
    assert kvsim.load_scenario(tmp_path / "again.yaml").workload.requests == 200


def test_a_long_run_shows_its_progress_and_stops(open_page, settled):
    page = open_page("simulate", scenario="agent-loop", seed=21, requests=20_000)
    page.get_by_role("progressbar").first.wait_for(timeout=60_000)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("This run was stopped").first.wait_for(timeout=60_000)
    settled(page)
    assert page.get_by_role("button", name="Run it again").is_visible()


def test_an_uploaded_trace_is_replayed(open_page, settled):
    page = open_page("simulate", requests=300)
    answered(page, settled)
    give(page, "mine.csv", TRACE)
    page.get_by_text("--trace ./mine.csv").first.wait_for(timeout=60_000)
    answered(page, settled)
    assert metric(page, "Requests") == "40"


def test_a_bad_file_is_told_in_place(open_page, settled):
    page = open_page("simulate", requests=300)
    answered(page, settled)
    give(page, "<img src=x>.csv", b"colour,taste\nred,sweet\n")
    page.get_by_role("alert").filter(has_text="img-src-x").first.wait_for(timeout=30_000)
    settled(page)
    assert page.locator("img[src=x]").count() == 0
    assert metric(page, "Requests") == "300"


def test_a_narrow_dark_screen_scrolls_one_way_only(open_page, settled):
    page = open_page("simulate", requests=300, width=390, height=844, scheme="dark")
    answered(page, settled)
    main = page.get_by_test_id("stMain")
    assert main.evaluate("each => each.scrollWidth <= each.clientWidth")
