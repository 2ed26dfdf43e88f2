"""The Plan page as a visitor meets it."""

import json

import kvsim

GIB = 2**30

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
}


def kv_text(*arguments, **options):
    plan = kvsim.plan(*arguments, **options)
    return f"{plan.memory.kv_cache_bytes / GIB:,.2f} GiB"


def metric(page):
    return page.get_by_test_id("stMetricValue").first


def choose(page, label, name):
    """Search a box by typing, and take what it finds."""
    box = page.get_by_role("combobox", name=label)
    box.click()
    box.fill(name)
    page.get_by_role("option", name=name).first.click()


def test_another_model_is_searched_planned_and_linked(open_page, settled):
    page = open_page("plan")
    assert metric(page).inner_text() == kv_text("llama3.1-8b", "A100-SXM4-80GB")
    choose(page, "Model", "llama2-7b")
    settled(page)
    page.wait_for_url("**/?model=llama2-7b")
    assert metric(page).inner_text() == kv_text("llama2-7b", "A100-SXM4-80GB")
    assert page.locator(".js-plotly-plot .barlayer .trace").count() > 5
    assert page.locator(".js-plotly-plot .scatterlayer .trace").count() > 3
    # Charts are described for those who cannot see them.
    assert page.locator("[aria-label*='Stacked bars of one rank']").count()


def test_a_shared_link_opens_the_same_plan_and_back_goes_back(open_page, settled):
    page = open_page("plan", model="llama2-7b", gpu="l4", kv="fp8")
    expected = kv_text("llama2-7b", "l4", kv_cache_dtype="fp8")
    assert metric(page).inner_text() == expected
    choose(page, "Model", "llama3.2-1b")
    settled(page)
    page.wait_for_url("**model=llama3.2-1b**")
    assert metric(page).inner_text() == kv_text("llama3.2-1b", "l4", kv_cache_dtype="fp8")
    page.go_back()
    page.get_by_text(expected, exact=True).first.wait_for(timeout=20_000)
    assert "model=llama2-7b" in page.url
    page.go_forward()
    page.wait_for_url("**model=llama3.2-1b**")
    page.reload()
    page.get_by_test_id("stMetricValue").first.wait_for(timeout=60_000)
    settled(page)
    assert metric(page).inner_text() == kv_text("llama3.2-1b", "l4", kv_cache_dtype="fp8")


def test_every_form_downloads(open_page, tmp_path):
    page = open_page("plan", gpu="a100")
    kept = {}
    page.get_by_role("button", name="Download").first.click()
    for form in ("CSV", "JSON", "HTML"):
        with page.expect_download(timeout=30_000) as download:
            page.get_by_role("button", name=form, exact=True).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        kept[path.suffix] = path.read_text("utf-8")
    plan = kvsim.plan("llama3.1-8b", "a100")
    assert f"weights,{plan.memory.weights_bytes}," in kept[".csv"]
    assert json.loads(kept[".json"])["title"] == "Where the memory goes"
    assert "Plotly" in kept[".html"]
    assert "<h1>Where the memory goes</h1>" in kept[".html"]


def test_a_bad_file_is_told_in_place_and_a_good_one_is_planned(open_page, settled):
    page = open_page("plan", gpu="a100")
    page.get_by_text("Bring your own").click()
    bring(page, "<img src=x>.json", b"{")
    alert = page.get_by_role("alert").filter(has_text="img-src-x")
    alert.first.wait_for(timeout=30_000)
    settled(page)
    assert page.locator("img[src=x]").count() == 0
    assert metric(page).inner_text() == kv_text("llama3.1-8b", "A100-SXM4-80GB")
    bring(page, "tiny.json", json.dumps(TINY).encode())
    page.get_by_text("kvsim plan --model ./tiny.json").first.wait_for(timeout=30_000)
    settled(page)
    assert "22,528" in page.get_by_test_id("stMetricValue").all_inner_texts()


def bring(page, name, content):
    file = {"name": name, "mimeType": "application/json", "buffer": content}
    page.locator("input[type=file]").first.set_input_files(file)


def test_a_bad_link_on_a_narrow_dark_screen(open_page):
    page = open_page(
        "plan", width=390, height=844, scheme="dark", model="llama9", tp="many", gpu="a100"
    )
    said = page.get_by_role("alert").all_inner_texts()
    assert any("unknown model 'llama9'" in text for text in said)
    assert any("not a whole number" in text for text in said)
    assert metric(page).inner_text() == kv_text("llama3.1-8b", "A100-SXM4-80GB")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("each => each.scrollWidth <= each.clientWidth"), "it scrolls sideways"
    background = page.get_by_test_id("stApp").evaluate(
        "each => getComputedStyle(each).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert max(background) < 64
