"""``make gpu-check``: its arguments, what it does with its checks, and a run of all of it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gpu_check
import gpu_check_checks
import pytest
from gpu_check_checks import CHECKS, Bench
from gpu_check_runner import Runner
from gpu_check_verdicts import BAD, LOOK, OK, Done, Verdict

from kvsim.errors import InputError
from kvsim.units import GIB
from tests.support.planted import H200

ROOT = Path(__file__).resolve().parents[2]


def done(code=0, out="", err="", seconds=1.0, most_seconds=60.0):
    return Done(code, out, err, seconds, most_seconds)


# --- a device without a process ------------------------------------------------------------


class Table:
    """A runner that answers from a table."""

    spent_seconds, is_late = 12.0, False

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    def kvsim(self, *words, most_seconds=None):
        self.asked.append(words)
        return self.answers[words[0]]


def bench(tmp_path, facts=H200, **answers):
    return Bench("cuda", facts, tmp_path, Table(**answers))


def test_a_command_that_hangs_or_fails_is_bad(tmp_path):
    hung = bench(tmp_path, study=done(None, most_seconds=42))
    (found,) = gpu_check_checks.made(hung, "study")
    assert found.line == "BAD  study     kvsim study cache took longer than 42 s"
    lost = bench(tmp_path, calibrate=done(2, err="warning\nkvsim: the device failed\n"))
    (found,) = gpu_check_checks.made(lost, "calibrate")
    assert found.line == ("BAD  calibrate kvsim calibrate --quick left 2: kvsim: the device failed")


def test_an_answer_that_nobody_can_read_is_its_checks_own_failure(tmp_path):
    (found,) = gpu_check_checks.made(bench(tmp_path, study=done(out="{}")), "study")
    assert (found.word, found.says) == (BAD, "KeyError: 'rows'")


def test_libraries_may_speak_before_the_answer(tmp_path):
    record = {"rows": [{"cache": "paged"}], "checked_tokens": 32, "model": "gpt2"}
    said = done(out="loading\n" + json.dumps(record, indent=1))
    (found,) = gpu_check_checks.made(bench(tmp_path, study=said), "study")
    assert (found.word, found.says) == (OK, "1 caches (paged) generated the same 32 tokens of gpt2")


def test_the_model_is_the_largest_that_leaves_room():
    def chosen(gigabytes):
        found = gpu_check_checks.model_for(replace(H200, free_bytes=int(gigabytes * 1e9)))
        return found and found.name

    assert [chosen(size) for size in (140, 22, 21, 3, 0.9, 0.2)] == [
        "llama3-8b", "llama3-8b", "llama3.2-1b", "qwen2.5-0.5b", "gpt2", None,
    ]  # fmt: skip


def test_without_a_profile_there_is_nothing_to_validate(tmp_path):
    (found,) = gpu_check_checks.made(bench(tmp_path), "validate")
    assert (found.word, found.says[:20]) == (LOOK, "left out: there is n")


def test_an_h200_is_looked_at_within_nine_minutes(tmp_path):
    known = bench(tmp_path)
    seconds = {name: check.seconds(known) for name, check in CHECKS.items()}
    assert sum(seconds.values()) < gpu_check.LIMIT_SECONDS
    assert seconds["calibrate"] == known.calibrating_seconds
    assert min(seconds.values()) >= known.start_seconds  # none is left out there


# --- the command ----------------------------------------------------------------------------


class Quick(Runner):
    """Finds a device without a process; nothing else is asked."""

    def probe(self, name, device):
        if device != "cuda":
            return done(2, err=f"--device: {device!r} is no device; choose cuda\n")
        facts = H200.to_dict()
        del facts["context_bytes"]
        return done(out=json.dumps(facts))


def run(capsys, *arguments):
    try:
        code = gpu_check.main(arguments, Quick)
    except SystemExit as left:
        code = left.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--only", "kernel"],
            "--only: no check 'kernel'; did you mean kernels?; there are facts,",
        ),
        (
            ["--only", "x"],
            "there are facts, capture, kernels, overlap, calibrate, validate,",
        ),
        (["--device", "tpu"], "--device: 'tpu' is no device; choose cuda"),
        (["--limit", "0"], "'0' is no number of seconds above 0"),
        (["--limit", "soon"], "invalid _seconds value: 'soon'"),
        (["--format", "xml"], "invalid choice: 'xml'"),
        (["--fast"], "unrecognized arguments: --fast"),
        (["--only", "facts", "--out", "/dev/null/x"], "--out /dev/null/x: cannot be made (Not a d"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(capsys, arguments, said):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("gpu-check: ")
    assert said in line


def test_a_dry_run_prints_seconds_by_check_and_their_sum(capsys, tmp_path):
    code, out, err = run(capsys, "--dry-run", "--out", str(tmp_path / "none"))
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert list(lines) == [*CHECKS, "all"]
    code, out, _ = run(
        capsys, "--dry-run", "--format", "json", "--only", "study", "--only", "memory"
    )
    found = json.loads(out)
    assert found == {"expected_seconds": {"study": 22.0, "memory": 40.0}, "total_seconds": 62.0}
    assert not (tmp_path / "none").exists()


@pytest.fixture
def planted(monkeypatch):
    """Checks that only say a verdict; the names of those that were made."""
    made = []

    def plant(**verdicts):
        def check(name, word):
            def run(bench):
                made.append(name)
                if word == "Ctrl-C":
                    raise KeyboardInterrupt
                yield Verdict(name, word, f"{name} says so", ("a note",))

            return gpu_check_checks.Check(run, lambda bench: 1.0)

        for name, word in verdicts.items():
            monkeypatch.setitem(CHECKS, name, check(name, word))
        return made

    return plant


def test_a_bad_verdict_makes_exit_code_1(capsys, tmp_path, planted):
    planted(facts=OK, kernels=LOOK, study=BAD)
    ask = ("--out", str(tmp_path), "--only", "facts", "--only", "kernels")
    code, out, err = run(capsys, *ask)
    assert (code, out.splitlines()[:-1]) == (
        0, ["ok   facts     facts says so", "look kernels   kernels says so"],
    )  # fmt: skip
    assert "     a note" in err.splitlines()
    code, out, _ = run(capsys, *ask, "--only", "study")
    assert code == 1
    assert out.splitlines()[-1].startswith("1 ok, 1 look, 1 BAD in ")


def test_json_is_all_of_stdout(capsys, tmp_path, planted):
    planted(facts=OK, study=BAD)
    ask = ("--out", str(tmp_path), "--only", "facts", "--only", "study", "--format", "json")
    code, out, err = run(capsys, *ask)
    found = json.loads(out)
    assert (code, found["interrupted"]) == (1, False)
    assert found["verdicts"][1] == {
        "check": "study", "word": BAD, "says": "study says so", "notes": ["a note"],
    }  # fmt: skip
    assert "BAD  study     study says so" in err


def test_ctrl_c_leaves_what_was_found(capsys, tmp_path, planted):
    made = planted(facts=BAD, kernels="Ctrl-C", study=OK)
    ask = [word for name in ("facts", "kernels", "study") for word in ("--only", name)]
    code, out, err = run(capsys, "--out", str(tmp_path), *ask)
    assert (code, out) == (130, "BAD  facts     facts says so\n")
    assert err.splitlines()[-1] == "gpu-check: interrupted"
    assert made == ["facts", "kernels"]
    code, out, _ = run(capsys, "--out", str(tmp_path), *ask, "--format", "json")
    assert code == 130
    assert json.loads(out)["interrupted"] is True
    assert words_of(out) == [BAD]


def words_of(out):
    return [verdict["word"] for verdict in json.loads(out)["verdicts"]]


def test_what_would_begin_after_the_limit_is_left_out(capsys, tmp_path, planted):
    made = planted(facts=OK, study=OK)
    ask = ("--out", str(tmp_path), "--only", "facts", "--only", "study", "--limit", "1e-9")
    code, out, _ = run(capsys, *ask)
    assert (code, made) == (0, [])
    assert out.splitlines()[1] == "look study     left out: 0 s are over, which is the limit"


def test_a_command_is_ended_in_time_and_ctrl_c_reaches_it(tmp_path):
    sleeper = (sys.executable, "-c", "import time; print('on', flush=True); time.sleep(600)")
    holder = (sys.executable, "-c", "import sys; print('on', flush=True); sys.stdin.read()")
    runner = Runner(600, kvsim=sleeper, probe=holder)
    assert runner.kvsim(most_seconds=0.01).code is None
    with runner.holding("cuda") as said:
        assert said == "on\n"
    file = tmp_path / "rows.csv"
    file.write_text("1\n2\n3\n")
    cut = Runner(600, kvsim=(sys.executable, "-c", CATCHER.format(str(file))))
    assert cut.interrupted((), file, 5).code == 130


CATCHER = """
import sys, time
try:
    with open({!r}, "a") as file:
        file.write("4\\n5\\n")
    time.sleep(600)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_probe_that_is_refused_is_one_line(torch):
    code, out, err, *_ = Runner(100).probe("facts", "cuda:99")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "--device: " in line
    with pytest.raises(InputError, match="--device: "):
        gpu_check_checks.find_facts(Runner(100), "cuda:99")


# --- all of it, beside an emulated card --------------------------------------------------------


def on_card(folder, *arguments, **card):
    """Run the checks: (exit code, verdicts by check, stderr)."""
    text = json.dumps({"name": "NVIDIA Test", "memory": 2 * GIB, "free": 2 * GIB, **card})
    command = (sys.executable, "-m", "tests.support.fake_check", text, str(folder / "full"))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "benchmarks"))),
    }
    ended = subprocess.run(
        [*command, "check", "--out", str(folder), *arguments, "--format", "json"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in ended.stderr, ended.stderr
    found = {}
    for verdict in json.loads(ended.stdout)["verdicts"]:
        found.setdefault(verdict.pop("check"), []).append(tuple(verdict.values()))
    return ended.returncode, found, ended.stderr


@pytest.fixture(scope="module")
def checked(tmp_path_factory, torch):
    return on_card(tmp_path_factory.mktemp("checked"))


@pytest.mark.slow
@pytest.mark.torch
def test_every_check_says_what_it_saw_of_a_card(checked):
    code, found, _ = checked
    assert list(found) == list(CHECKS)
    every = [word for verdicts in found.values() for word, _, _ in verdicts]
    assert code == int(BAD in every)
    ((word, says, _),) = found["facts"]
    assert (word, says.split(",")[0]) == (LOOK, "NVIDIA Test")
    (_, replayed, _), (_, failed, _) = found["capture"]
    assert replayed == "a CUDA graph was captured, and its replay computed right"
    assert "CUDA error: operation not permitted when stream is capturing" in failed
    assert "a product works, empty_cache works, another capture works" in failed
    ((word, says, notes),) = found["kernels"]
    assert word == LOOK
    assert "attention by torch scaled_dot_product_attention, gathered by equal length" in says
    assert "passed over: flash-attn flash_attn_with_kvcache: flash_attn is not installed" in notes
    assert notes[-3].split() == ["GB/s", "64", "256"]
    assert [note.split()[0] for note in notes[-2:]] == ["1", "4"]
    assert [says.split(" take ")[0] for _, says, _ in found["overlap"]] == [
        "layers launched one by one",
        "layers and attention replayed in turn",
        "layers and attention launched in turn",
    ]
    ((word, says, _),) = found["clocks"]
    assert word == LOOK
    assert "power.draw 698.2 W" in says
    assert says.endswith("held down by power cap; the SM clock is 89% of its most")


@pytest.mark.slow
@pytest.mark.torch
def test_kvsims_own_commands_are_run_and_judged(checked):
    _, found, _ = checked
    said = [says for word, says, _ in found["calibrate"] if word != LOOK]
    known = ("ended at the bound", "nothing speaks against", "% off, though", "misses its own rows")
    assert all(any(words in says for words in known) for says in said)
    assert "s were expected" in found["calibrate"][-1][1]
    (_, steps, _), (_, first, _) = found["validate"]
    assert steps.startswith("twin-tiny, load 0.5 (")
    assert first.count("ms (") == 5
    assert found["study"] == [
        (OK, "4 caches (grow, none, paged, preallocated) generated the same 32 tokens of gpt2,"
         " shrunk", []),
    ]  # fmt: skip
    ((word, says, _),) = found["memory"]
    assert word == OK
    assert "with 1 GiB held by another program calibrate ended in one line: kvsim: 3 cases" in says
    ((word, says, _),) = found["interrupt"]
    assert word == OK
    assert says.startswith("Ctrl-C left ")
    assert "rows with exit code 130, and --resume timed only the other" in says


@pytest.mark.slow
@pytest.mark.torch
def test_a_torch_that_asserts_after_a_failed_capture_is_looked_at(tmp_path):
    code, found, _ = on_card(tmp_path, "--only", "capture", asserts=True)
    assert code == 0
    _, (word, says, _) = found["capture"]
    assert word == LOOK
    assert "empty_cache fails (captures_underway.empty() INTERNAL ASSERT FAILED)" in says
    assert "Workspace.keep_memory" in says
