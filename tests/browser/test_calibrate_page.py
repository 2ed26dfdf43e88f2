"""The Calibrate page as a visitor meets it."""

import json

import kvsim

BENCH = {
    "completed": 2,
    "duration": 1.0,
    "mean_ttft_ms": 20.0,
    "input_lens": [100, 200],
    "output_lens": [10, 10],
    "start_times": [0.0, 0.5],
}


def bring(page, label, name, content):
    """Give a file to the uploader under a label."""
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    box = page.get_by_test_id("stFileUploader").filter(has_text=label)
    box.locator("input[type=file]").set_input_files(file)


def test_a_card_is_looked_at_closely_and_linked(open_page, settled):
    page = open_page("calibrate", gpu="L40S,V100-SXM2-32GB")
    values = page.get_by_test_id("stMetricValue")
    assert values.all_inner_texts()[:2] == ["L40S", "measured"]
    page.get_by_role("combobox", name="Look closely at").click()
    page.get_by_role("option", name="V100-SXM2-32GB").click()
    page.wait_for_url("**look=1**")
    settled(page)
    assert values.all_inner_texts() == ["V100-SXM2-32GB", "assumed"]


def test_the_bars_download_with_what_they_are_shares_of(open_page, tmp_path):
    page = open_page("calibrate", gpu="L40S")
    page.get_by_role("button", name="Download").first.click()
    with page.expect_download(timeout=30_000) as download:
        page.get_by_role("button", name="JSON", exact=True).click()
    download.value.save_as(tmp_path / "bars.json")
    rows = json.loads((tmp_path / "bars.json").read_text("utf-8"))["rows"]
    card = kvsim.find_accelerator("L40S")
    assert rows[0]["measured"] == card.coefficients.weight_bytes_per_s
    assert rows[0]["datasheet"] == card.bandwidth_bytes_per_s


def test_a_benchmark_is_replayed_and_a_bad_one_told_in_place(open_page, settled):
    page = open_page("calibrate", gpu="L40S")
    bring(page, "A benchmark", "x<b>.json", b"{")
    page.get_by_role("alert").filter(has_text="not whole JSON").first.wait_for(timeout=20_000)
    bring(page, "A benchmark", "bench.json", json.dumps(BENCH).encode())
    page.get_by_text("Predicted beside the benchmark").wait_for(timeout=30_000)
    settled(page)
    assert page.locator(".js-plotly-plot").count() == 4  # the cards, the example, the benchmark
    assert page.get_by_text("kvsim validate --bench ./bench.json").count() == 1


def test_a_bad_profile_is_told_in_place(open_page):
    page = open_page("calibrate", gpu="L40S")
    page.get_by_text("Bring your own measurements").click()
    bring(page, "A profile", "mine.yaml", b"name: &a [x, *a]\n")
    page.get_by_role("alert").filter(has_text="anchors").first.wait_for(timeout=20_000)


def test_a_narrow_dark_screen_scrolls_one_way_only(open_page):
    page = open_page("calibrate", width=390, height=844, scheme="dark")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("each => each.scrollWidth <= each.clientWidth")
