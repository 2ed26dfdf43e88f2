"""The Simulate page without a browser: ask, run, stop, scrub, bring a trace."""

import time

import pytest

import kvsim
from tests.support.app_pages import charts, checked, commands, errors, link_of, open_page, warnings

pytest.importorskip("plotly", reason="the dashboard's extra is not installed")
from app.parts import questions, runs

SMALL = {"scenario": "preemption-edge", "requests": 300}


def finished(app):
    """The page once its run is over, however slow the machine is."""
    while any(button.key == "stop run" for button in app.button):
        time.sleep(0.2)
        checked(app.run())
    return app


def simulated(**link):
    return finished(open_page("simulate", **(SMALL | link)))


def numbers(app):
    return {metric.label: metric.value for metric in app.metric}


def answer(**overrides):
    overrides = {"workload.requests": 300} | overrides
    camera = kvsim.Camera()
    scenario = kvsim.load_scenario("preemption-edge", overrides)
    return kvsim.simulate(scenario, camera=camera), camera


def test_the_page_shows_what_the_api_answers():
    result, _ = answer()
    shown = numbers(simulated())
    assert shown["Requests"] == "300"
    assert shown["Output tokens per second"] == f"{result.summary['output_throughput']:,.0f}"
    assert shown["Pool held"] == f"{100 * result.summary['kv_cache']['usage_mean']:.1f} %"


def test_every_input_of_a_link_changes_the_question_and_the_command():
    app = simulated(
        rate=5, allocator="reserve-pow2", scheduler="orca", block=32, seqs=16, seed=7, ttft=900
    )
    changed = {
        "workload.arrivals.rate": 5,
        "memory.allocator": "reserve-pow2",
        "scheduler.policy": "orca",
        "engine.block_size": 32,
        "engine.max_num_seqs": 16,
        "slo.ttft_ms": 900,
        "run.seed": 7,
    }
    result, _ = answer(**changed)
    assert numbers(app)["Output tokens per second"] == f"{result.summary['output_throughput']:,.0f}"
    (line,) = commands(app)[-1:]
    assert line.startswith("kvsim simulate preemption-edge --set ")
    for word in ("workload.arrivals.rate=5", "memory.allocator=reserve-pow2", "--seed 7"):
        assert word in line
    assert "TTFT objective, 900 ms" in [trace["name"] for trace in charts(app)[3]["data"]]


def test_scrubbing_shows_the_pool_of_that_moment():
    _, camera = answer()
    for number in (4, 30):
        app = simulated(at=number)
        frame = camera.frames[number]
        (title,) = [text.value for text in app.markdown if "The pool at" in text.value]
        assert title.replace("\\", "") == f"##### The pool at {frame.seconds:,.2f} s"
        drawn = [value for row in charts(app)[0]["data"][0]["z"] for value in row]
        assert drawn.count(0) == frame.free
        marked = charts(app)[1]["layout"]["shapes"][0]["x0"]
        assert marked == pytest.approx(frame.seconds)


def test_the_slider_moves_the_moment_and_the_link():
    app = simulated()
    slider = app.select_slider(key="simulate:at")
    slider.set_value(12).run()
    assert link_of(checked(app))["at"] == "12"


def test_a_moment_past_the_end_of_a_shorter_run_is_its_last():
    app = simulated(requests=2, at=900)
    assert not app.exception
    assert charts(app)


def test_the_slowest_are_ranked_by_what_is_asked():
    by_end, by_start = (charts(simulated(by=by))[4]["data"][0]["y"] for by in ("e2el", "ttft"))
    assert by_end != by_start
    assert len(by_end) == len(by_start) == 12


def test_a_change_that_the_scenario_cannot_take_is_told_in_place():
    app = open_page("simulate", scenario="agent-loop", rate=3)
    assert "workload.arrivals.rate" in errors(app)[0]
    assert charts(app) == []


def test_a_bad_link_is_told():
    bad = {"allocator": "pagd", "seed": -1, "rate": "nan", "at": "soon"}
    app = open_page("simulate", **(SMALL | bad))
    said = " ".join(warnings(app))
    assert "did you mean paged?" in said
    assert said.count("This link is not quite right") == 4


def test_saturation_and_rejections_are_told():
    app = finished(open_page("simulate", scenario="pagedattention-orca", requests=600))
    said = " ".join(warnings(app))
    assert "saturated: requests came faster than they could be served" in said
    assert "9 requests rejected at arrival" in said


def test_a_model_that_does_not_fit_is_told():
    app = finished(open_page("simulate", model="llama3.1-70b", gpu="l4", plan=1, requests=10, **{}))
    assert errors(app)
    assert charts(app) == []


# --- limits --------------------------------------------------------------------------------


def test_a_stopped_run_shows_what_was_finished():
    app = open_page("simulate", scenario="agent-loop", seed=11, requests=20_000)
    stop = [button for button in app.button if button.key == "stop run"]
    assert stop, "a run this long shows its progress"
    app = finished(checked(stop[0].click().run()))
    assert any("stopped" in text for text in warnings(app))
    assert int(numbers(app).get("Requests", "0").replace(",", "")) < 20_000


def test_a_run_ends_at_the_limit_of_time(monkeypatch):
    monkeypatch.setattr(runs, "MOST_SECONDS", 0.05)
    app = finished(open_page("simulate", scenario="agent-loop", seed=12))
    assert any("the limit of a run here" in text for text in warnings(app))


def test_no_link_asks_for_more_requests_than_the_limit():
    app = open_page("simulate", requests=runs.MOST_REQUESTS + 1)
    assert any("not from 1 to 200,000" in text for text in warnings(app))


def test_a_scenario_without_an_end_in_requests_gets_one():
    question = questions.asked("chat-day-peak", None, {})
    assert question.scenario.workload.requests == runs.MOST_REQUESTS


def test_a_run_that_another_replaces_is_stopped(monkeypatch):
    monkeypatch.setattr(runs.st, "session_state", state := {})
    monkeypatch.setattr(runs, "_follow", lambda run: None)
    monkeypatch.setattr(runs, "PATIENCE_SECONDS", 0.0)

    def forever(watch):
        while True:
            time.sleep(0.01)
            watch(0.0, 1, 0.0)

    first = runs.start("page", runs.Task("one", forever, shared=False))
    assert not first.finished
    second = runs.start("page", runs.Task("two", lambda watch: 42, shared=False))
    first.wait(60)
    second.wait(60)
    assert first.cut == "stopped"
    assert first.answer is None
    assert second.answer == 42
    assert list(state.values()) == [second]


def test_a_broken_simulation_is_one_line_here_and_a_traceback_in_the_log(caplog):
    run = runs.Run(runs.Task("broken", lambda watch: 1 / 0)).begin()
    run.wait(60)
    assert run.trouble == "the simulation broke: ZeroDivisionError"
    assert "1 / 0" in caplog.text


def test_no_folder_of_this_machine_is_told():
    def refuse(watch):
        raise kvsim.InputError("bad", where="/home/somebody/kvsim/scenarios/x.yaml, line 3")

    run = runs.Run(runs.Task("refused", refuse)).begin()
    run.wait(60)
    assert "x.yaml, line 3" in run.trouble
    assert "somebody" not in run.trouble


# --- traces --------------------------------------------------------------------------------

AZURE = b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + b"".join(
    b"2023-11-16 18:15:%02d.000000,%d,%d\n" % (second, 100 + second, 10 + second)
    for second in range(50)
)


def upload(app, name, content):
    app.file_uploader(key="trace of simulate").upload(name, content)
    return finished(checked(app.run()))


def test_an_uploaded_trace_is_replayed_and_stays_with_its_owner():
    before = set(runs._remembered())
    app = upload(simulated(), "mine.csv", AZURE)
    assert numbers(app)["Requests"] == "50"
    assert "--trace ./mine.csv" in commands(app)[-1]
    new = set(runs._remembered()) - before
    assert not any("mine.csv" in identity for identity in new)
    assert numbers(simulated())["Requests"] == "300"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.csv", b"", "empty.csv"),
        ("noise.csv", b"\x00\xff\xfe" * 50, "noise.csv"),
        ("other.csv", b"colour,taste\nred,sweet\n", "other.csv"),
        ("<img src=x>.csv", b"a,b\n1,2\n", "img-src-x-.csv"),
        ("deep.json", b"[" * 10_000, "deep.json"),
    ],
)
def test_a_file_that_is_no_trace_is_told_in_place(name, content, said):
    app = upload(simulated(), name, content)
    assert any(said.split(".")[0] in text for text in errors(app))
    assert numbers(app)["Requests"] == "300"


def test_a_trace_without_arrivals_is_told_in_place():
    lengths = b"prompt_len,output_len\n" + b"100,10\n" * 20
    app = upload(simulated(), "lengths.csv", lengths)
    assert errors(app)


def test_what_is_wrong_with_a_link_is_still_said_when_its_run_has_finished(monkeypatch):
    monkeypatch.setattr(runs, "PATIENCE_SECONDS", 0.0)
    app = open_page("simulate", **(SMALL | {"seed": 31, "allocator": "pagd"}))
    assert "did you mean paged?" in " ".join(warnings(app))
    app.session_state["run of simulate"].wait(60)
    app.session_state[runs._BY_ITSELF] = True  # what the progress does when it is through
    checked(app.run())
    assert charts(app)
    assert "did you mean paged?" in " ".join(warnings(app))
