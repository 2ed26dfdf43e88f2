"""The way to the engine's queue and back: against one-by-one recursions, and by hand."""

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.runs.simulate import run_setup
from kvsim.simulator.entrance import Entrance, text_delays
from kvsim.simulator.prepare import prepare
from kvsim.simulator.scenario import Scenario
from kvsim.specs.hardware import FrontEnd

seconds = st.floats(0, 2)
requests = st.lists(st.tuples(seconds, st.integers(1, 5000)), min_size=1, max_size=40)
fronts = st.builds(
    FrontEnd,
    transit_seconds=st.floats(0, 0.1),
    request_seconds=st.floats(0, 0.3),
    token_seconds=st.floats(0, 1e-4),
)


@given(requests, fronts, st.integers(0, 40))
def test_a_table_is_taken_in_as_its_requests_one_by_one(rows, front, cut):
    sent = np.sort([at for at, _ in rows])
    tokens = np.array([count for _, count in rows])
    one_by_one, whole = Entrance(front), Entrance(front)
    expected = [one_by_one.take_in(at, int(n)) for at, n in zip(sent, tokens, strict=True)]
    parts = [
        whole.take_in_all(sent[:cut], tokens[:cut]),
        whole.take_in_all(sent[cut:], tokens[cut:]),
    ]
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-12, atol=1e-12)


def test_who_comes_faster_than_it_takes_waits_ever_longer():
    front = FrontEnd(transit_seconds=0.5, request_seconds=0.1, token_seconds=0.01)
    queued = Entrance(front).take_in_all(np.array([0.0, 0.1, 0.2]), np.array([10, 10, 10]))
    np.testing.assert_allclose(queued, [0.7, 0.9, 1.1])  # 0.2 s each, one after another
    assert Entrance(front).queued_at(1.0, 10) == pytest.approx(1.7)


def test_nothing_stands_before_the_queue_without_a_front_end():
    sent = np.array([0.0, 0.25, 7.5])
    assert Entrance(FrontEnd()).take_in_all(sent, np.array([5, 6, 7])).tolist() == sent.tolist()
    assert Entrance(FrontEnd()).free_seconds == -inf


# ---- the way back ---------------------------------------------------------------------------


def rows(*each):
    """Step rows from (start, seconds, steps, sequences)."""
    names = ("start_seconds", "seconds", "steps", "sequences")
    return {
        name: np.array(column, dtype=float)
        for name, column in zip(names, zip(*each, strict=True), strict=True)
    }


def test_a_text_server_that_keeps_up_delays_by_half_a_steps_tokens():
    front = FrontEnd(transit_seconds=0.004, output_token_seconds=1e-4)
    steps = rows((0.0, 0.1, 1, 9), (0.1, 1.0, 10, 9))
    found = text_delays(front, steps, np.array([0.1, 1.1, nan]))
    # nine decode, and one more has its first token: ten in turn, half of them before
    np.testing.assert_allclose(found[:2], 0.004 + 10 * 1e-4 / 2)
    assert np.isnan(found[2])


def test_a_text_server_that_does_not_keep_up_falls_behind():
    front = FrontEnd(output_token_seconds=0.01)
    steps = rows((0.0, 1.0, 10, 20), (1.0, 1.0, 10, 20), (12.0, 1.0, 1, 1))
    first, second, late = text_delays(front, steps, np.array([1.0, 2.0, 13.0]))
    # 200 tokens a second of run, 100 of which are sent in it
    assert first == pytest.approx(1.0 - 0.21 / 2)
    assert second == pytest.approx(2.0 - 0.21 / 2)
    assert late == pytest.approx(0.02 / 2)  # ten idle seconds later


# ---- in a simulation ------------------------------------------------------------------------


def serve(front, workload, **engine):
    content = {
        "name": "front",
        "model": "llama3-8b",
        "accelerator": "h100",
        "engine": {"name": "vllm", "max_model_len": 4096, **engine},
        "workload": workload,
    }
    setup = prepare(Scenario.model_validate(content))
    host = setup.step_time.host.model_copy(update={"front_end": front})
    object.__setattr__(setup.step_time, "host", host)
    return run_setup(setup, 0)


def fixed(prompt, output, **rest):
    tokens = {"prompt": prompt, "output": output}
    return {"lengths": {k: {"kind": "fixed", "tokens": v} for k, v in tokens.items()}, **rest}


def test_the_clients_latencies_are_the_engines_and_both_ways():
    load = fixed(100, 20, arrivals={"kind": "constant", "rate": 0.5}, requests=8)
    bare = serve(FrontEnd(), load).summary
    seen = serve(FrontEnd(transit_seconds=0.007, request_seconds=0.002, token_seconds=1e-5), load)
    summary = seen.summary
    way_in, way_back = 0.007 + 0.002 + 0.001, 0.007
    for key in ("ttft", "e2el"):
        engine = summary[f"mean_engine_{key}_ms"]
        assert engine == pytest.approx(bare[f"mean_{key}_ms"], rel=1e-9)
        assert summary[f"mean_{key}_ms"] == pytest.approx(engine + 1e3 * (way_in + way_back))
    assert summary["mean_tpot_ms"] == pytest.approx(bare["mean_tpot_ms"], rel=1e-9)
    assert summary["mean_queue_ms"] == pytest.approx(bare["mean_queue_ms"], abs=1e-9)
    waits = seen.columns["queued_seconds"] - seen.columns["arrival_seconds"]
    np.testing.assert_allclose(waits, way_in, rtol=1e-9)


def test_a_front_end_that_saturates_bounds_the_throughput():
    """A request each 50 ms is all that a front end of 50 ms takes in, whatever the engine does."""
    load = fixed(10, 2, arrivals={"kind": "constant", "rate": 100}, requests=200)
    found = serve(FrontEnd(request_seconds=0.05), load).observed
    assert found["request_throughput"] == pytest.approx(20, rel=0.02)
    assert found["mean_engine_ttft_ms"] < 20 < 4000 < found["mean_ttft_ms"]


def test_a_clients_next_request_waits_for_its_answer_to_arrive():
    """Little's law of one client: a round is what it waits for, and there is no other time."""
    load = fixed(50, 10, arrivals={"kind": "closed_loop", "clients": 1}, requests=20)
    found = serve(FrontEnd(transit_seconds=0.5, request_seconds=0.1), load)
    rounds = np.diff(found.columns["arrival_seconds"])
    np.testing.assert_allclose(rounds, found.latencies["e2el"][:-1], rtol=1e-9)
    assert rounds.min() > 1.1


def test_clients_are_taken_in_as_they_send_and_not_as_they_were_answered():
    think = {"kind": "exponential", "mean": 0.3}
    arrivals = {"kind": "closed_loop", "clients": 6, "think": think}
    load = fixed(50, 5, arrivals=arrivals, requests=60)
    found = serve(FrontEnd(transit_seconds=0.01, request_seconds=0.02), load)
    sent, queued = found.columns["arrival_seconds"], found.columns["queued_seconds"]
    order = np.argsort(sent, kind="stable")
    assert (np.diff(queued[order]) >= 0.02 - 1e-12).all()


def test_asynchronous_scheduling_changes_the_host_time_of_a_step():
    load = fixed(100, 50, arrivals={"kind": "constant", "rate": 1}, requests=10)
    on, off = (serve(FrontEnd(), load, async_scheduling=way).summary for way in (True, False))
    assert on["mean_tpot_ms"] != off["mean_tpot_ms"]
