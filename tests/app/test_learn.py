"""The Learn page without a browser: six steps, each moved by its inputs."""

import pytest

import kvsim
from tests.support.app_pages import charts, checked, commands, errors, link_of, open_page, warnings


def texts(app):
    return " ".join(part.value for part in [*app.markdown, *app.caption])


@pytest.mark.parametrize("lesson", ["1", "2", "3", "4", "5", "6"])
def test_every_step_draws_and_says_its_command(lesson):
    app = open_page("learn", lesson=lesson)
    assert charts(app)
    assert commands(app)[-1].startswith(("kvsim ", "python -c "))
    assert app.info[0].value, "each step ends in a takeaway"
    assert warnings(app) == []


def test_onward_and_back():
    app = open_page("learn")
    assert app.header[0].value == "Why K and V"
    app.button(key="onward Next").click().run()
    assert app.header[0].value == "What a token costs"
    assert link_of(checked(app)) == {"lesson": "2"}
    app.button(key="onward Back").click().run()
    assert app.header[0].value == "Why K and V"
    assert app.button(key="onward Back").disabled


def test_without_a_cache_the_whole_triangle_is_computed():
    app = open_page("learn", tokens=5)
    kept = charts(app)[0]["data"][0]["customdata"]
    app.toggle(key="learn:cached").set_value(False).run()
    again = charts(checked(app))[0]["data"][0]["customdata"]
    assert [row.count("computed now") for row in kept] == [0, 0, 0, 0, 1]
    assert [row.count("computed now") for row in again] == [1, 2, 3, 4, 5]


def test_heads_that_cannot_be_shared_are_told_in_place():
    app = open_page("learn", lesson=2, heads=32, kv_heads=5)
    assert "32 query heads cannot share 5 KV heads evenly" in errors(app)[0]


def test_the_wall_uses_the_plan():
    app = open_page("learn", lesson=3, model="llama3-8b", gpu="h100", context=4096, batch=64)
    plan = kvsim.plan("llama3-8b", "h100", context_len=4096, max_num_seqs=64)
    points = charts(app)[0]["data"][1]
    assert points["x"] == pytest.approx([b.arithmetic_intensity for b in plan.decode.batches])
    assert points["customdata"][-1] == 64


def test_stepping_through_the_pool_keeps_every_slot():
    app = open_page("learn", lesson=4, policy="reserve-pow2", step=8)
    contiguous, paged = charts(app)
    for figure in (contiguous, paged):
        assert sum(len(row) for row in figure["data"][0]["z"]) == 64
        assert len(figure["frames"]) > 10
    # PagedAttention's point: at the same moment of the same requests, paging runs more.
    requests = [int(each.value) for each in app.metric if each.label == "Requests"]
    wasted = [int(each.value) for each in app.metric if each.label == "Held for nothing"]
    assert requests[0] < requests[1]
    assert wasted[0] > wasted[1]
    assert "E waits: it must reserve 22 slots in one piece, and 21 are free in all." in texts(app)


def test_a_step_past_the_end_of_a_story_is_its_end():
    app = open_page("learn", lesson=4, step=60)
    assert app.slider(key="learn:step").value < 60
    assert "finished and leaves" in texts(app)


def test_a_window_keeps_its_share():
    app = open_page("learn", lesson=5, model="llama3.1-8b", window=1024, kv="bf16")
    kept = {row["policy"]: row["sequence_bytes"] for row in _kept_rows()}
    (bars,) = charts(app)[0]["data"]
    shown = dict(zip(bars["y"], bars["x"], strict=True))
    assert shown["window:1024"] == pytest.approx(kept["window:1024"] / 2**20)
    assert shown["window:1024"] * 128 == pytest.approx(shown["full"])  # 1,024 of 131,072


def _kept_rows():
    plan = kvsim.plan("llama3.1-8b", "H200", kv_cache_dtype="bf16", retention=["window:1024"])
    return [each._asdict() for each in plan.retention]


def test_an_encoder_is_refused_with_the_reason():
    app = open_page("learn", lesson=6, kind="encoder")
    assert any("bidirectional" in text for text in errors(app))
    cells = charts(app)[0]["data"][0]["customdata"]
    assert [row.count("wrong") for row in cells] == [7, 7, 7, 0]  # drawn from the last layer


def test_a_bad_link_opens_the_first_step():
    app = open_page("learn", lesson=7, tokens=999)
    assert app.header[0].value == "Why K and V"
    assert len(warnings(app)) == 2
