"""The Cache page without a browser."""

import gzip
import io
import json
import shlex
import tracemalloc

import pytest

import kvsim
from tests.support.app_pages import charts, checked, commands, errors, link_of, open_page, warnings

pytest.importorskip("plotly", reason="the dashboard's extra is not installed")

GIB = 2**30
FEW = {"refs": 3000}


def cache(**link):
    return open_page("cache", **(FEW | link))


def lines(figure):
    return {trace["name"]: trace for trace in figure["data"] if trace.get("customdata")}


def numbers(app):
    return {metric.label: metric.value for metric in app.metric}


def upload(app, name, content):
    app.file_uploader(key="upload prefixes").upload(name, content)
    return checked(app.run())


def mooncake(requests=6):
    rows = [
        {"timestamp": at, "input_length": 1024, "output_length": 1, "hash_ids": [0, at % 3 + 1]}
        for at in range(requests)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_curves_are_what_the_api_answers():
    app = cache()
    trace = kvsim.example_prefixes("conversations", most_references=3000)
    sizes = kvsim.cache_sizes(trace, 12)
    drawn = lines(charts(app)[0])
    assert set(drawn) == {"LRU", "FIFO", "LFU", "Belady (offline best)"}
    for policy, name in (("lru", "LRU"), ("belady", "Belady (offline best)")):
        ratios = [100 * ratio for ratio in kvsim.hit_ratio_curve(trace, policy, sizes)]
        assert drawn[name]["y"] == pytest.approx(ratios)
    assert drawn["LRU"]["x"][-1] == pytest.approx(trace.distinct_blocks * 256 * 131_072 / GIB)
    assert numbers(app)["Block references"] == f"{trace.references:,}"


def test_the_gpu_tier_is_the_plan_unless_it_is_given():
    plan = kvsim.plan("llama3.1-8b", "H100-SXM5-80GB")
    held = plan.kv_cache.capacity_tokens * plan.kv_cache.bytes_per_token / GIB
    strokes = [each for each in charts(cache(policy="lru"))[0]["data"] if "text" in each]
    assert strokes[0]["x"][0] == pytest.approx(held)
    assert strokes[1]["x"][0] == pytest.approx(held + 128)
    given = [each for each in charts(cache(policy="lru", gpu_gib=7))[0]["data"] if "text" in each]
    assert given[0]["x"][0] == pytest.approx(7)


def test_a_tier_adds_the_difference_of_two_hit_ratios():
    app = cache(policy="lru", gpu_gib=4, cpu_gib=8, ssd_gib=100)
    trace = kvsim.example_prefixes("conversations", most_references=3000)
    block = 256 * 131_072
    blocks = [int(size * GIB / block) for size in (4, 12, 112)]
    ratios = list(kvsim.hit_ratio_curve(trace, "lru", blocks))
    bars = {each["name"]: each["x"][0] for each in charts(app)[1]["data"]}
    assert bars["GPU"] == pytest.approx(100 * ratios[0])
    assert bars["CPU"] == pytest.approx(100 * (ratios[1] - ratios[0]))
    assert bars["SSD"] == pytest.approx(100 * (ratios[2] - ratios[1]))
    assert sum(bars.values()) == pytest.approx(100)


def test_a_cut_is_stated():
    said = [caption.value for caption in cache().caption]
    assert any("Cut: only the first" in text for text in said)
    whole = [
        caption.value for caption in cache(trace="documents", refs=500_000, policy="fifo").caption
    ]
    assert not any("Cut" in text for text in whole)


def test_the_whole_state_is_in_the_link_and_a_bad_one_is_told():
    link = {"trace": "documents", "policy": "lru,fifo", "tp": "2", "cpu_gib": "64", "kv": "fp8"}
    assert link_of(cache(**link)) == {**link, "refs": "3000"}
    said = warnings(cache(policy="lruu", refs="5", trace="uploaded", model="llama9"))
    assert any("unknown policy 'lruu'; did you mean lru" in text for text in said)
    assert any("5 is not from 1,000" in text for text in said)
    assert any("unknown trace 'uploaded'" in text for text in said)


def test_the_command_line_prints_the_same_ratios(run_kvsim):
    app = cache(policy="fifo", seed="2")
    command, plan = commands(app)[-1].splitlines()
    kvsim_, *words = shlex.split(command)
    assert kvsim_ == "kvsim"
    code, out, _ = run_kvsim(*words, "--format", "json")
    assert code == 0
    drawn = lines(charts(app)[0])["FIFO"]["y"]
    printed = [100 * row["fifo"] for row in json.loads(out)["curve"]]
    assert printed == pytest.approx(drawn)
    assert plan == "kvsim plan --model llama3.1-8b --gpu H100-SXM5-80GB"


def test_an_uploaded_trace_is_replayed_and_stays_with_its_owner():
    app = upload(cache(policy="lru"), "mine.jsonl", mooncake())
    assert link_of(app)["trace"] == "uploaded"
    assert numbers(app) == {
        "Requests": "6",
        "Block references": "12",
        "Distinct blocks": "4",
        "Tokens per block": "512",
    }
    assert lines(charts(app)[0])["LRU"]["y"][-1] == pytest.approx(100 * 8 / 12)
    assert "kvsim cache-curve ./mine.jsonl --model" in commands(app)[-1]
    assert "--seed" not in commands(app)[-1]
    assert "uploaded" not in cache().selectbox(key="cache:trace").options


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", b"", "the file is empty"),
        ("x.jsonl", b"\0\0\0\0", "binary"),
        ("x.jsonl", b'{"a": 1}', "no trace format"),
        ("x.gz", b"\x1f\x8b" + b"0" * 64, "damaged"),
        ("<img src=x>.jsonl", mooncake()[:40], "img-src-x"),
    ],
)
def test_a_bad_file_is_told_in_place(name, content, said):
    app = upload(cache(policy="lru"), name, content)
    assert any(said in text for text in errors(app)), errors(app)
    assert len(charts(app)) == 3


def test_a_bomb_is_neither_unpacked_nor_kept():
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as bomb:
        for _ in range(256):
            bomb.write(b"0" * 2**20)  # one line of 256 MiB
    app = cache(policy="lru")
    tracemalloc.start()
    app = upload(app, "bomb.jsonl.gz", packed.getvalue())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any(text.startswith("bomb.jsonl.gz") for text in errors(app)), errors(app)
    assert peak_bytes < 2**26
    assert len(charts(app)) == 3


def test_a_model_that_does_not_fit_is_told_and_the_page_goes_on():
    app = cache(model="llama3.1-405b", gpu="T4", policy="lru", cpu_gib=64)
    assert errors(app) == []
    bars = {each["name"]: each["x"][0] for each in charts(app)[1]["data"]}
    assert bars["GPU"] == 0
    assert bars["CPU"] > 0
