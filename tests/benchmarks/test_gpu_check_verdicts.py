"""The verdicts of ``make gpu-check``, by numbers handed in: each threshold from both sides."""

import json

import gpu_check_clocks
import gpu_check_verdicts as judge
import pytest
from gpu_check_verdicts import BAD, LOOK, OK, Done, Verdict

from kvsim.units import GIB
from tests.support.planted import H200


def words(verdicts):
    return [verdict.word for verdict in verdicts]


def done(code=0, out="", err="", seconds=1.0, most_seconds=60.0):
    return Done(code, out, err, seconds, most_seconds)


def test_a_verdict_is_one_line_whatever_it_says():
    assert Verdict("facts", OK, "one\n  two").line == "ok   facts     one two"


def test_a_card_that_the_catalogue_knows_is_named():
    known = judge.judge_facts(H200, "H200-SXM-141GB")
    assert known.word == OK
    assert "NVIDIA H200, 139.3 GiB of 139.8 GiB free, bf16 fp16 fp8, torch 2.11.0" in known.says
    assert known.says.endswith("driver 580.159.03, CUDA 13.0, clocks.sm 345 MHz, "
                               "the catalogue's H200-SXM-141GB")  # fmt: skip
    assert judge.judge_facts(H200, None).word == LOOK


def captured(**changes):
    found = {"replay": "", "failure": "not permitted"}
    after = {judge.PRODUCT: "", judge.EMPTY_CACHE: "", judge.CAPTURE: ""}
    return list(
        judge.judge_capture({**found, **changes, "after": after | changes.get("after", {})})
    )


def test_what_is_left_after_a_failed_capture_is_said():
    assert words(captured()) == [OK, OK]
    assert words(captured(replay="7 of 4096 elements are wrong")) == [BAD, OK]
    assert words(captured(failure=None)) == [OK, LOOK]
    _, asserts = captured(after={judge.EMPTY_CACHE: "captures_underway"})
    assert asserts.word == LOOK
    assert "empty_cache fails (captures_underway)" in asserts.says
    assert "calibrate keeps memory then (Workspace.keep_memory)" in asserts.says
    assert words(captured(after={judge.CAPTURE: "invalid"})) == [OK, LOOK]
    _, lost = captured(after={judge.PRODUCT: "unspecified launch failure"})
    assert lost.word == BAD
    assert "a product fails (unspecified launch failure)" in lost.says


def rated(*rates, gathers=False, bandwidth=4.8e12):
    found = {
        "attention": "FlashInfer",
        "elementwise": "torch.compile",
        "passed_over": ["vLLM: vllm is not installed"],
        "gathers": gathers,
        "left_out": [],
        "rates": [
            {"batch": batch, "context": context, "bytes_per_s": rate}
            for batch, context, rate in rates
        ],
    }
    return judge.judge_kernels(found, bandwidth)


@pytest.mark.parametrize(
    ("share", "word"), [(0.51, OK), (0.49, LOOK), (0.26, LOOK), (0.24, BAD)]
)  # fmt: skip
def test_the_best_rate_of_decode_is_judged_by_the_datasheet(share, word):
    found = rated((1, 1024, 1e9), (16, 8192, share * 4.8e12))
    assert found.word == word
    assert f"{share:.0%} of the datasheet's" in found.says
    assert "GB/s at batch 16 x 8,192" in found.says


def test_gathering_and_a_missing_datasheet_are_looked_at():
    assert rated((1, 1024, 4e12), gathers=True).word == LOOK
    assert rated((1, 1024, 1e11), gathers=True).word == BAD
    assert rated((1, 1024, 4e12), bandwidth=None).word == LOOK
    assert rated().word == BAD


def test_rates_are_a_table_by_batch_and_context():
    notes = rated((1, 1024, 1.5e12), (1, 8192, 2e12), (16, 1024, 3e12)).notes
    assert notes == (
        "passed over: vLLM: vllm is not installed",
        "    GB/s     1,024     8,192",
        "       1   1,500.0   2,000.0",
        "      16   3,000.0         -",
    )


def overlapped(stack=10.0, replayed=14.0, launched=14.0):
    seconds = {
        "layers replayed": 10e-3,
        "layers' launches": 4e-3,
        "attention replayed": 4e-3,
        "attention's launches": 2e-3,
        "layers launched": stack * 1e-3,
        "both replayed": replayed * 1e-3,
        "both launched": launched * 1e-3,
    }
    return list(judge.judge_overlap(seconds))


def test_launches_beside_the_device_are_the_larger_and_not_the_sum():
    assert words(overlapped()) == [OK, OK, OK]
    (stack, replayed, _) = overlapped()
    assert "+0.0 % beside the larger of launches 4 ms and device 10 ms" in stack.says
    assert "beside layers 10 ms plus attention 4 ms" in replayed.says
    assert words(overlapped(stack=11.4)) == [OK, OK, OK]
    assert words(overlapped(stack=11.6)) == [LOOK, OK, OK]
    assert words(overlapped(stack=14.0)) == [BAD, OK, OK]  # one after the other
    assert words(overlapped(replayed=14.0 * 0.84)) == [OK, LOOK, OK]
    assert words(overlapped(replayed=14.0 * 0.86)) == [OK, OK, OK]
    assert words(overlapped(launched=14.0 * 1.31)) == [OK, OK, BAD]


def test_each_objection_and_each_poor_fit_of_a_calibration_is_a_line():
    record = {"warnings": ["the fit of prefill is poor"], "error_percent": {"layers": 2.5}}
    found = list(judge.judge_calibration(record, ["copy is 2%", "norm is at its bound"]))
    assert words(found) == [BAD, BAD, LOOK]
    assert found[0].says == "copy is 2%"
    record["warnings"] = []
    (sound,) = judge.judge_calibration(record, [])
    assert sound.line == (
        "ok   calibrate nothing speaks against it; the fits miss their own rows by layers 2.5 %"
    )
    assert words(judge.judge_calibration(record, None)) == [OK]


@pytest.mark.parametrize(("taken", "word"), [(124, OK), (126, LOOK), (76, OK), (74, LOOK)])
def test_an_estimate_may_be_a_quarter_off(taken, word):
    assert judge.judge_estimate("calibrate", 100.0, taken).word == word


def validated(median=5.0, total=-5.0, first=1.0):
    steps = [{"tokens": 9, "sequences": 1, "predicted_seconds": 0.01, "measured_seconds": 0.01}] * 5
    steps[0] = {**steps[0], "measured_seconds": 0.01 * first}
    run = {
        "label": "load 0.5",
        "steps": 1234,
        "step_errors": {"median_percent": median, "total_percent": total},
        "first_steps": steps,
    }
    return list(judge.judge_validation({"model": "llama3-8b", "runs": [run]}))


def test_steps_are_judged_by_the_worse_of_their_sum_and_their_median():
    assert words(validated()) == [OK, OK]
    assert words(validated(total=-15.1)) == [LOOK, OK]
    assert words(validated(median=15.1)) == [LOOK, OK]
    assert words(validated(total=29.9, median=14.9)) == [LOOK, OK]
    assert words(validated(total=-30.1)) == [BAD, OK]
    assert "1,234 steps are predicted -5.0 % off all together, single ones 5.0 %" in (
        validated()[0].says
    )


def test_a_first_step_of_three_times_its_prediction_is_cold():
    assert words(validated(first=2.9)) == [OK, OK]
    cold = validated(first=3.1)
    assert words(cold) == [OK, LOOK]
    assert "took (and should have taken) 31 ms (10 ms), 10 ms (10 ms)" in cold[1].says
    assert "cold, 3.1 times as long" in cold[1].says


LINE = "kvsim: 3 cases in a row fit at no size"
SHRUNK = json.dumps({"shrunk": ["copy: out of memory, buffer 2 to 1"], "notes": []})


@pytest.mark.parametrize(
    ("ended", "word", "said"),
    [
        (done(2, err=f"{LINE}\n"), OK, f"in one line: {LINE}"),
        (done(2, err=f"FutureWarning: of a library\n{LINE}\n"), OK, f"in one line: {LINE}"),
        (done(2, err=f"{LINE}\n{LINE}\n"), BAD, "left 2 and said 2 lines"),
        (done(1, err="Traceback (most recent call last):\nE\n"), BAD, "in a traceback: E"),
        (done(70, err=f"{LINE}\n"), BAD, "left 70 and said 1 lines"),
        (done(0, out=SHRUNK), OK, "finished: copy: out of memory"),
        (done(0, out='{"shrunk": [], "notes": []}'), LOOK, "as if nothing was held"),
        (done(None), BAD, "took longer than 60 s"),
        (done(2, err=f"{LINE}\n", seconds=61, most_seconds=90), BAD, "took longer than 60 s"),
    ],
)
def test_a_full_card_has_to_be_said_in_one_line_and_soon(ended, word, said):
    found = judge.judge_memory(ended, 138 * GIB)
    assert found.word == word
    assert said in found.says
    assert found.says.startswith("with 138 GiB held by another program calibrate")


def test_an_interrupt_keeps_its_rows_and_they_are_not_timed_again():
    kept = ["a\n", "b\n", "c\n"]
    assert judge.judge_interrupt(done(130), kept) is None
    assert judge.judge_interrupt(done(0), kept).word == LOOK
    assert judge.judge_interrupt(done(130), []).word == BAD
    assert judge.judge_interrupt(done(143, err="x"), kept).word == BAD
    assert judge.judge_interrupt(done(None), kept).says.endswith("took longer than 60 s")
    sound = judge.judge_resumed(done(), kept, [*kept, "d\n"])
    assert (sound.word, sound.says) == (
        OK, "Ctrl-C left 3 rows with exit code 130, and --resume timed only the other 1",
    )  # fmt: skip
    again = judge.judge_resumed(done(), kept, ["a\n", "B\n", "c\n", "d\n"])
    assert (again.word, again.says.split(",")[0]) == (
        BAD,
        "--resume kept 2 of 3 rows that were there",
    )
    assert judge.judge_resumed(done(), kept, kept[:2]).word == BAD
    assert judge.judge_resumed(done(2, err="of uuid"), kept, kept).word == BAD


def clocked(now="1800 MHz", reasons="0x0", answers=True, peak=989e12):
    said = {"clocks.sm": now, "clocks.max.sm": "1980 MHz", "temperature.gpu": "61"}
    found = {"flops_per_s": 700e12, "answers": said if answers else {}, "reasons": reasons}
    return gpu_check_clocks.judge_clocks(found, peak)


def test_clocks_that_are_held_down_or_low_are_looked_at():
    assert clocked().word == OK
    assert "under products of 700.0 TFLOP/s (71% of the datasheet's)" in clocked().says
    assert clocked(now="1390 MHz").word == OK
    assert clocked(now="1380 MHz").word == LOOK
    assert clocked(now="[N/A]").word == OK
    held = clocked(reasons="0x0000000000000044")
    assert held.word == LOOK
    assert "held down by power cap, heat (hardware)" in held.says
    assert clocked(reasons="0x1").word == OK  # idle
    assert clocked(answers=False).word == LOOK
