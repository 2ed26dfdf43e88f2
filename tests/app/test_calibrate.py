"""The Calibrate page without a browser."""

import json

import numpy as np
import pytest

import kvsim
from kvsim.calibrate.fit import predict
from kvsim.calibrate.rows import read_rows
from kvsim.calibrate.twin.validate import Validation
from kvsim.steptime.defaults import class_coefficients
from tests.support.app_pages import (
    ROOT,
    charts,
    checked,
    commands,
    errors,
    link_of,
    open_page,
    warnings,
)

pytest.importorskip("plotly", reason="the dashboard's extra is not installed")

PAIR = {"name": "mean_ttft_ms", "predicted": 11.0, "measured": 10.0, "error_percent": 10.0}
GROUP = {
    "phase": "decode",
    "sequences": 8,
    "context": 256,
    "steps": 40,
    "predicted_seconds": 0.011,
    "measured_seconds": 0.010,
    "error_percent": 10.0,
}
ERRORS = {"median_percent": 3, "p95_percent": 9, "bias_percent": 1, "total_percent": 0.5}
STEP = {"tokens": 8, "sequences": 1, "predicted_seconds": 0.01, "measured_seconds": 0.02}
VALIDATION = {
    "kind": "kvsim-validation",
    "device": "a card",
    "model": "tiny",
    "kernels": "attention: one; norms, rotary, gates: two",
    "torch": "2.9",
    "clock": "events",
    "drift_percent": 3.0,
    "provenance": "fitted: here",
    "interrupted": False,
    "profile": {"name": "not looked at"},
    "runs": [
        {
            "label": "load 0.7",
            "steps": 40,
            "step_errors": ERRORS,
            "first_steps": [STEP],
            "step_groups": [GROUP, GROUP | {"phase": "prefill", "measured_seconds": 0.02}],
            "latency": [PAIR],
            "memory": [],
        }
    ],
}
BENCH = {
    "completed": 3,
    "duration": 2.0,
    "mean_ttft_ms": 20.0,
    "request_throughput": 1.5,
    "input_lens": [100, 200, 300],
    "output_lens": [10, 10, 10],
    "start_times": [0.0, 0.5, 1.0],
}
STEPS = """model,phase,layers,tokens,sequences,weight_bytes,flops,kv_bytes,kv_heads,\
attention_flops,query_tokens,tp,message_bytes,seconds
tiny,decode,32,8,8,16e9,1.3e11,1e9,256,0,0,1,65536,0.0062
tiny,prefill,32,2048,1,16e9,3.3e13,0,256,1e12,2097152,1,16777216,0.052
"""
PROFILE = """name: desk
vendor: me
advertised_memory_gb: 24
memory: {value: 23.6 GiB, source: the driver}
bandwidth: {value: 1.0e+12, source: the box}
flops: {bf16: {value: 1.0e+14, source: the box}}
interconnect: {name: none, bytes_per_s: 0}
"""


def upload(app, what, name, content):
    content = content if isinstance(content, bytes) else content.encode()
    app.file_uploader(key=f"upload {what}").upload(name, content)
    return checked(app.run())


def calibrate(**link):
    return open_page("calibrate", **link)


def numbers(app):
    return {metric.label: metric.value for metric in app.metric}


# --- profiles ----------------------------------------------------------------------------------


def test_bars_are_shares_of_the_datasheet_and_whiskers_the_error_of_the_fit():
    drawn = {each["name"]: each for each in charts(calibrate())[0]["data"]}
    card = kvsim.find_accelerator("H100-SXM5-80GB")
    found = card.coefficients
    bar = drawn["H100-SXM5-80GB"]
    assert bar["y"] == pytest.approx(
        [
            100 * found.weight_bytes_per_s / card.bandwidth_bytes_per_s,
            100 * found.kv_bytes_per_s / card.bandwidth_bytes_per_s,
            100 * found.flops_per_s / card.flops_per_s("bf16"),
            100 * found.attention_flops_per_s / card.flops_per_s("bf16"),
        ]
    )
    assert bar["error_y"]["value"] == found.error_percent


def test_an_unmeasured_card_is_shown_as_assumed():
    app = calibrate(gpu="V100-SXM2-32GB")
    card = kvsim.find_accelerator("V100-SXM2-32GB")
    assert card.coefficients is None
    (bar,) = charts(app)[0]["data"]
    assert bar["name"] == "V100-SXM2-32GB (assumed)"
    share = class_coefficients(card).weight_bytes_per_s / card.bandwidth_bytes_per_s
    assert bar["y"][0] == pytest.approx(100 * share)
    assert not bar["error_y"]["visible"]
    assert numbers(app)["Coefficients"] == "assumed"


def test_every_shipped_card_has_its_page():
    names = kvsim.accelerator_names()
    app = calibrate()
    for start in range(0, len(names), 8):
        app.multiselect(key="calibrate:gpu").set_value(names[start : start + 8])
        checked(app.run())
        assert len(charts(app)[0]["data"]) == len(names[start : start + 8])


def test_the_state_is_in_the_link():
    app = calibrate(gpu="L40S,H200-SXM-141GB", look=1, scenario="agent-loop")
    assert link_of(app) == {"gpu": "L40S,H200-SXM-141GB", "look": "1", "scenario": "agent-loop"}
    assert numbers(app)["Card"] == "H200-SXM-141GB"
    assert any("unknown gpu 'h1000'" in text for text in warnings(calibrate(gpu="h1000")))


def test_an_uploaded_profile_stands_beside_the_others_and_stays_with_its_owner():
    app = upload(calibrate(), "profile", "desk.yaml", PROFILE)
    assert charts(app)[0]["data"][0]["name"] == "desk (yours) (assumed)"
    assert link_of(app)["gpu"].startswith("uploaded")
    assert any("unknown gpu 'uploaded'" in text for text in warnings(calibrate(gpu="uploaded")))


# --- measured runs -------------------------------------------------------------------------------


def test_a_validation_is_drawn():
    app = upload(calibrate(), "validation", "comparison.json", json.dumps(VALIDATION))
    steps, off = charts(app)[1:]
    assert {each["name"] for each in steps["data"]} == {"decode", "prefill", "equal"}
    assert steps["data"][0]["x"] == [11.0]
    assert off["data"][0]["x"] == [10.0]
    assert "interrupted" not in _described(app)


def test_a_validation_that_was_cut_says_that_loads_are_missing():
    cut = {**VALIDATION, "interrupted": True}
    app = upload(calibrate(), "validation", "comparison.json", json.dumps(cut))
    assert _described(app).endswith("; interrupted: loads are missing")


def _described(app) -> str:
    """What the page says of the validation shown."""
    said = [text.value.replace("\\", "") for text in app.caption]
    return next(words for words in said if words.startswith("tiny on a card"))


def test_reading_a_validation_back_keeps_every_number(tmp_path):
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(VALIDATION))
    record = kvsim.read_validation(path)
    expected = {key: value for key, value in VALIDATION.items() if key not in ("kind", "profile")}
    assert record == expected


def test_what_a_validation_writes_can_be_read_back():
    """The example is what `kvsim validate` wrote; its keys are those it writes today."""
    example = ROOT / "app" / "examples" / "validation.json"
    written = json.loads(example.read_text("utf-8"))
    profile = kvsim.find_accelerator("L40S")
    said = ("a card", "tiny", "kernels", profile, "fitted", "2.13", "seconds")
    today = Validation(*said, 3.0, ()).record()
    assert list(written) == list(today)
    read = kvsim.read_validation(example)
    assert read == {key: value for key, value in written.items() if key not in ("kind", "profile")}


def test_without_a_file_the_example_is_shown_and_called_one():
    app = calibrate()
    example = kvsim.read_validation(ROOT / "app" / "examples" / "validation.json")
    assert len(charts(app)[2]["data"]) == len(example["runs"])
    assert any("An example" in text.value for text in app.caption)


def without(record, *keys):
    copy = json.loads(json.dumps(record))
    inner = copy
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return copy


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not whole JSON"),
        (b"[]", "not an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "cannot be read as text"),
        (json.dumps({"kind": "other"}), "no validation of kvsim's"),
        (json.dumps(VALIDATION | {"runs": []}), "has no runs"),
        (json.dumps(VALIDATION | {"runs": VALIDATION["runs"] * 17}), "more than 16 runs"),
        (json.dumps(VALIDATION | {"runs": [7]}), "runs.0"),
        (json.dumps(without(VALIDATION, "runs", 0, "latency")), "'runs.0.latency' is missing"),
        (
            json.dumps(VALIDATION | {"runs": [VALIDATION["runs"][0] | {"steps": -1}]}),
            "runs.0.steps = -1",
        ),
        (json.dumps(VALIDATION).replace("0.011", "NaN"), "predicted_seconds"),
    ],
)
def test_a_bad_validation_is_told_in_place(content, said):
    app = upload(calibrate(), "validation", "x.json", content)
    assert any(said in text for text in errors(app)), errors(app)
    assert charts(app)[1:] == charts(calibrate())[1:], "the example stays"


def test_a_hostile_label_stays_text():
    hostile = json.loads(json.dumps(VALIDATION))
    hostile["device"] = "![x](https://elsewhere.example/x.png)"
    app = upload(calibrate(), "validation", "x.json", json.dumps(hostile))
    (said,) = [text.value for text in app.caption if "elsewhere" in text.value]
    assert "\\!\\[x\\]" in said


def test_measured_steps_stand_beside_the_cards_prediction(tmp_path):
    app = upload(calibrate(gpu="H100-SXM5-80GB"), "steps", "steps.csv", STEPS)
    path = tmp_path / "steps.csv"
    path.write_text(STEPS)
    rows = read_rows(path)
    coefficients = kvsim.find_accelerator("h100").coefficients
    expected = 1e3 * predict(rows, coefficients)
    drawn = charts(app)[1]["data"]
    assert np.concatenate([drawn[0]["x"], drawn[1]["x"]]) == pytest.approx(expected)
    assert drawn[0]["y"] == [6.2]
    bad = upload(calibrate(), "steps", "steps.csv", "model,phase\na,b\n")
    assert any("no column layers" in text for text in errors(bad))


def test_a_benchmark_is_replayed_on_the_card_that_is_looked_at(tmp_path):
    app = upload(calibrate(gpu="A100-SXM4-80GB"), "bench", "bench.json", json.dumps(BENCH))
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(BENCH))
    found = kvsim.compare_bench(path, kvsim.load_scenario("peer-w", {"accelerator": "a100"}))
    drawn = charts(app)[-1]["data"][0]
    assert found.replayed
    assert drawn["x"] == pytest.approx([pair.error_percent for pair in found.pairs])
    assert any(
        line.startswith("kvsim validate --bench ./bench.json --scenario peer-w")
        for line in commands(app)
    )


def test_a_benchmark_is_replayed_on_an_uploaded_card():
    app = upload(calibrate(model=""), "profile", "desk.yaml", PROFILE)
    app = upload(app, "bench", "bench.json", json.dumps(BENCH))
    assert len(charts(app)) == len(charts(calibrate())) + 1
    assert errors(app) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not whole JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{}", "no result of vllm bench serve"),
        (json.dumps(BENCH | {"input_lens": [1]}), "1, 3 and 3 entries"),
        (json.dumps(BENCH | {"input_lens": 7}), "input_lens"),
        (json.dumps(BENCH | {"input_lens": [1] * 60_000}), "60,000 requests"),
    ],
)
def test_a_bad_benchmark_is_told_in_place(content, said):
    app = upload(calibrate(), "bench", "bench.json", content)
    assert any(said in text for text in errors(app)), errors(app)
    assert len(charts(app)) == len(charts(calibrate()))
