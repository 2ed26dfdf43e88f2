"""The Cache page as a visitor meets it."""

import json

import kvsim


def metric(page, name):
    box = page.get_by_test_id("stMetric").filter(has_text=name)
    return box.get_by_test_id("stMetricValue").inner_text()


def upload(page, settled, name, content):
    page.get_by_text("Bring your own trace").click()
    file = {"name": name, "mimeType": "application/json", "buffer": content}
    page.locator("input[type=file]").first.set_input_files(file)
    settled(page)


def test_another_trace_is_chosen_replayed_and_linked(open_page, settled):
    page = open_page("cache", refs=4000)
    trace = kvsim.example_prefixes("conversations", most_references=4000)
    assert metric(page, "Distinct blocks") == f"{trace.distinct_blocks:,}"
    box = page.get_by_role("combobox", name="Trace")
    box.click()
    page.get_by_role("option", name="documents").click()
    page.wait_for_url("**trace=documents**")
    settled(page)
    other = kvsim.example_prefixes("documents", most_references=4000)
    page.get_by_text(f"{other.distinct_blocks:,}", exact=True).first.wait_for(timeout=20_000)
    assert page.locator(".js-plotly-plot .scatterlayer .trace").count() >= 6


def test_a_shared_link_opens_the_same_and_its_curve_downloads(open_page, tmp_path):
    page = open_page("cache", refs=2000, policy="fifo,lru", tp=2, cpu_gib=64)
    page.get_by_role("button", name="Download").first.click()
    with page.expect_download(timeout=30_000) as download:
        page.get_by_role("button", name="JSON", exact=True).click()
    download.value.save_as(tmp_path / "curve.json")
    rows = json.loads((tmp_path / "curve.json").read_text("utf-8"))["rows"]
    trace = kvsim.example_prefixes("conversations", most_references=2000)
    sizes = kvsim.cache_sizes(trace, 12)
    assert [row["hit_ratio"] for row in rows] == [
        ratio for policy in ("fifo", "lru") for ratio in kvsim.hit_ratio_curve(trace, policy, sizes)
    ]


def test_a_bad_trace_is_told_in_place_and_a_good_one_replayed(open_page, settled):
    page = open_page("cache", refs=2000, policy="lru")
    upload(page, settled, "<img src=x>.jsonl", b'{"a": 1}')
    page.get_by_role("alert").filter(has_text="img-src-x").first.wait_for(timeout=20_000)
    assert page.locator("img[src=x]").count() == 0
    rows = [
        {"timestamp": at, "input_length": 512, "output_length": 1, "hash_ids": [at % 2]}
        for at in range(4)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = {"name": "mine.jsonl", "mimeType": "application/json", "buffer": content}
    page.locator("input[type=file]").first.set_input_files(file)
    page.wait_for_url("**trace=uploaded**", timeout=20_000)
    settled(page)
    assert metric(page, "Block references") == "4"


def test_a_narrow_dark_screen_scrolls_one_way_only(open_page):
    page = open_page("cache", width=390, height=844, scheme="dark", refs=2000, policy="lru")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("each => each.scrollWidth <= each.clientWidth")
