"""The lines that ask CUDA, run on a stand-in for a card that does what it is told to do wrong.

What these show is control: what is kept, left out, said and refused. No number here is a GPU's.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import measure_device
import pytest

from kvsim.catalog.accelerators import load_accelerator
from kvsim.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.torch]
ROOT = Path(__file__).resolve().parents[2]

CALIBRATE = ("calibrate", "--device", "cuda", "--quick", "-o", "card.yaml")


@pytest.fixture(scope="module")
def emulator(torch):
    """The process in which cards are emulated."""
    command = [sys.executable, "-m", "tests.support.fake_cuda"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def on_card(emulator):
    """Run kvsim beside an emulated card: (exit code, stdout, stderr)."""

    def run(folder, *words, **card):
        asked = {"folder": str(folder), "words": words, "card": card}
        print(json.dumps(asked), file=emulator.stdin, flush=True)
        done = json.loads(emulator.stdout.readline())
        assert "Traceback" not in done["err"], done["err"]
        return done["code"], done["out"], done["err"]

    return run


def rows(folder):
    lines = (folder / "card.csv").read_text("utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@pytest.fixture(scope="module")
def sound(tmp_path_factory, on_card):
    """A calibration in which nothing goes wrong."""
    folder = tmp_path_factory.mktemp("sound")
    code, out, err = on_card(folder, *CALIBRATE, "--format", "json")
    assert (code, err) == (0, "")
    return folder, json.loads(out)


def test_both_profiles_are_written_and_every_kernel_was_replayed(sound):
    folder, found = sound
    assert found["device"]["name"] == "NVIDIA H100 80GB HBM3"
    assert found["datasheet"] == "H100-SXM5-80GB"
    assert (found["skipped"], found["shrunk"]) == ([], [])
    kinds = {row["kind"]: row["captured"] for row in rows(folder)}
    launched = {"layers", "layers_host", "decode_host", "launch", "host"}
    assert {kind for kind, captured in kinds.items() if captured == "0"} == launched
    for name in ("card.yaml", "card.kernels.yaml"):
        assert load_accelerator(folder / name).coefficients.engine == "torch"


def test_a_card_that_nobody_knows_validates_and_is_studied_in_what_it_serves_in(on_card, tmp_path):
    small = {"name": "NVIDIA Test", "memory": 2**31, "free": 2**31, "capability": (7, 5)}
    words = ("validate", "--quick", "--device", "cuda", "--model", "twin-tiny", "--load", "0.5")
    code, out, err = on_card(tmp_path, *words, "--format", "json", **small)
    assert code == 0, err
    found = json.loads(out)
    assert (found["device"], found["clock"]) == ("NVIDIA Test", "wall seconds")
    assert set(found["profile"]["flops"]) == {"bf16", "fp16"}
    words = ("study", "cache", "--quick", "--device", "cuda", "--batch", "1")
    words += ("--tokens", "20", "--tokens", "60", "--format", "json")
    code, out, err = on_card(tmp_path, *words, **small)
    assert code == 0, err
    assert json.loads(out)["dtype"] == "fp16"


def test_a_failed_capture_is_said_and_leaves_the_loop_alone(on_card, tmp_path):
    code, out, err = on_card(tmp_path, *CALIBRATE, "--format", "json", capture_fails=True)
    assert code == 0, err
    found = json.loads(out)
    assert set(found["coefficients"]) == {"loop"}
    assert any("could not be captured (CUDA error: operation failed" in n for n in found["notes"])
    assert {row["captured"] for row in rows(tmp_path)} == {"0"}
    assert not (tmp_path / "card.kernels.yaml").exists()


def test_memory_that_is_short_once_in_every_case_costs_nothing(on_card, tmp_path, sound):
    code, out, err = on_card(tmp_path, *CALIBRATE, "--format", "json", oom_once=True)
    assert code == 0, err
    assert json.loads(out)["shrunk"] == []
    assert len(rows(tmp_path)) == len(rows(sound[0]))


def test_memory_that_somebody_else_holds_ends_it_with_the_figures_and_is_resumed(
    on_card, tmp_path, sound
):
    code, out, err = on_card(tmp_path, *CALIBRATE, full_from=120)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "3 cases in a row fit at no size (78.6 GiB of 79.19 GiB are free, torch holds" in line
    kept = len(rows(tmp_path))
    assert 0 < kept < len(rows(sound[0]))
    code, _, err = on_card(tmp_path, *CALIBRATE, "--resume")
    assert code == 0, err
    assert len(rows(tmp_path)) == len(rows(sound[0]))


def test_a_lost_card_is_one_line_and_its_rows_are_its_own(on_card, tmp_path):
    code, out, err = on_card(tmp_path, *CALIBRATE, lost_at=150)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "the device failed at" in line
    assert "CUDA error: unspecified launch failure" in line
    kept = len(rows(tmp_path))
    assert kept > 0
    code, _, err = on_card(tmp_path, *CALIBRATE, "--resume", uuid="another")
    assert code == 2
    assert "its rows are of uuid '0c0ffee0', and this is 'another'" in err
    assert len(rows(tmp_path)) == kept


def test_an_older_card_has_no_fp8_and_is_measured_in_fp16(on_card, tmp_path):
    card = {"name": "Tesla T4", "capability": (7, 5), "memory": 15 * 2**30, "free": 14 * 2**30}
    code, out, err = on_card(tmp_path, *CALIBRATE, "--format", "json", **card)
    assert code == 0, err
    assert {row["dtype"] for row in rows(tmp_path)} == {"fp16"}
    assert json.loads(out)["device"]["dtypes"] == ["fp16"]


def test_the_second_of_two_cards_is_measured_and_an_interrupt_keeps_its_rows(on_card, tmp_path):
    words = ("calibrate", "--device", "cuda:1", "--quick", "-o", "card.yaml")
    code, out, err = on_card(tmp_path, *words, count=2, interrupt_at=100)
    assert (code, out) == (130, "")
    kept = len(rows(tmp_path))
    assert f"stopped: {kept} rows are in card.csv" in err
    assert kept > 0
    code, _, err = on_card(tmp_path, "calibrate", "--device", "cuda:2", "--quick", count=2)
    assert code == 2
    assert "there is no cuda:2: torch sees 2 of them" in err


# --- validate, study, publish --------------------------------------------------------------

SERVE = ("validate", "--quick", "--device", "cuda", "--model", "twin-tiny", "--load", "0.5")
STUDY = ("study", "cache", "--quick", "--device", "cuda", "--batch", "1", "--tokens", "20")
SMALL = {"name": "NVIDIA Test", "memory": 2**31, "free": 2**31}
# Of a run's allocations: while weights are made, the pool, the first step, and in the midst of it.
PHASES = (1, 30, 80, 150)


@pytest.mark.parametrize("at", PHASES)
@pytest.mark.parametrize("words", [SERVE, STUDY], ids=["validate", "study"])
def test_memory_that_runs_out_is_one_line_whenever_it_does(on_card, tmp_path, words, at):
    code, out, err = on_card(tmp_path, *words, full_from=at, **SMALL)
    assert (code, out) == (2, "")
    said = err.splitlines()[-1]
    assert said.startswith("kvsim: NVIDIA Test ran out of memory while ")
    assert "choose a smaller model" in said


@pytest.mark.parametrize("at", PHASES)
@pytest.mark.parametrize("words", [SERVE, STUDY], ids=["validate", "study"])
def test_a_card_that_is_lost_is_one_line_whenever_it_is(on_card, tmp_path, words, at):
    code, out, err = on_card(tmp_path, *words, lost_at=at, **SMALL)
    assert (code, out) == (2, "")
    said = err.splitlines()[-1]
    assert "NVIDIA Test failed while " in said
    assert "CUDA error: unspecified launch failure" in said


@pytest.mark.parametrize("words", [SERVE, STUDY], ids=["validate", "study"])
def test_an_interrupt_before_anything_is_whole_says_so(on_card, tmp_path, words):
    code, out, err = on_card(tmp_path, *words, interrupt_at=150, **SMALL)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "kvsim: interrupted"


def test_the_second_card_serves_and_is_studied(on_card, tmp_path):
    for words in (SERVE, STUDY):
        other = [each.replace("cuda", "cuda:2") for each in words]
        code, _, err = on_card(tmp_path, *other, count=2, **SMALL)
        assert code == 2
        assert "there is no cuda:2: torch sees 2 of them" in err


@pytest.mark.parametrize("at", [1, 25, 60, 200])
def test_a_calibration_that_runs_out_of_memory_keeps_its_rows(on_card, tmp_path, at):
    code, out, err = on_card(tmp_path, *CALIBRATE, full_from=at)
    assert (code, out) == (2, "")
    said = err.splitlines()[-1]
    early = "memory is short before anything is timed (78.6 GiB of 79.19 GiB are free"
    assert ("3 cases in a row fit at no size" if at > 1 else early) in said


def test_what_was_emulated_is_not_published(sound, tmp_path):
    """Its rates are a CPU's: a hundredth of the card's datasheet."""
    folder, found = sound
    out = tmp_path / "out"
    out.mkdir()
    for name, source in (
        ("device.yaml", "card.yaml"),
        ("device.kernels.yaml", "card.kernels.yaml"),
        ("device.csv", "card.csv"),
    ):
        (out / name).write_bytes((folder / source).read_bytes())
    (out / "calibrate.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match="a quick calibration is a trial"):
        measure_device.publish(measure_device.Campaign("cuda", out), tmp_path)
    (out / "calibrate.json").write_text(json.dumps({**found, "quick": False}))
    with pytest.raises(InputError, match=r"copy is [0-9]% of the datasheet's, less than half"):
        measure_device.publish(measure_device.Campaign("cuda", out), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
