"""``make gpu``: the whole path on a CPU, and an H200 whose every rate is known."""

import json
import sys
from types import SimpleNamespace

import device_report
import measure_device
import pytest
from measure_device import Campaign, Job

from kvsim.calibrate.measure.session import kept_timings
from kvsim.catalog.accelerators import find_accelerator
from kvsim.errors import InputError
from tests.support.planted import H200, PlantedBench, measured

ROOT = measure_device.ROOT
PAGE = (ROOT / "docs" / "accuracy.md").read_text("utf-8")


def repository(folder):
    """As much of the repository as is published into."""
    for name in ("docs", "hardware_profiles"):
        (folder / name).mkdir(parents=True)
    (folder / "docs" / "accuracy.md").write_text(PAGE, "utf-8")
    return folder


def parts(page):
    """Text before the marks, between them and after them."""
    before, rest = page.split(device_report.BEGIN)
    between, after = rest.split(device_report.END)
    return before, between, after


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- the same path, on this CPU ------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory, torch):
    """Run every stage, quickly: (the campaign, the repository that was published into)."""
    folder = tmp_path_factory.mktemp("gpu")
    campaign = Campaign(
        device="cpu",
        out=folder / "out",
        quick=True,
        models=("twin-tiny",),
        studies=("gpt2",),
        loads=("0.6",),
        study_options=("--tokens", "20", "--tokens", "40", "--batch", "1"),
    )
    assert measure_device.measure(campaign) == []
    root = repository(folder / "root")
    measure_device.publish(campaign, root)
    return campaign, root


@pytest.mark.slow
def test_the_measured_profile_is_one_that_every_command_takes(done):
    campaign, root = done
    (path,) = (root / "hardware_profiles").glob("*.yaml")
    rates = find_accelerator(path).coefficients
    (calibration,) = campaign.records("calibrate")
    written = json.loads(json.dumps(rates.model_dump(mode="json")))
    assert written == calibration["coefficients"]["kernels"]
    assert f"torch {calibration['device']['torch_version']}" in rates.source
    assert rates.date.startswith("20")
    assert rates.error_percent is not None


@pytest.mark.slow
def test_the_raw_rows_and_records_are_kept(done):
    campaign, root = done
    (rows,) = (root / "hardware_profiles" / "measured").glob("*.csv")
    assert rows.stat().st_size < 1_000_000
    assert kept_timings(rows) == kept_timings(campaign.out / measure_device.ROWS)
    kept = {path.stem: path for path in (root / "docs" / "measured").rglob("*.json")}
    assert set(kept) == {"calibrate", "study-gpt2", "validate-twin-tiny-0-6"}
    text = "".join(path.read_text("utf-8") for path in kept.values())
    assert str(campaign.out) not in text


@pytest.mark.slow
def test_the_page_holds_what_was_measured_between_its_marks(done):
    campaign, root = done
    before, between, after = parts((root / "docs" / "accuracy.md").read_text("utf-8"))
    assert (before, after) == parts(PAGE)[::2]
    (validation,), (study,) = campaign.records("validate"), campaign.records("study")
    errors = validation["runs"][0]["step_errors"]
    assert f"| {errors['median_percent']:.1f} | {errors['p95_percent']:.1f} |" in between
    paged = study["rows"][-1]
    assert f"| paged | {paged['total_seconds']:.3g} |" in between
    assert "not counted" not in between
    assert validation["model"] in between


@pytest.mark.slow
def test_publishing_again_changes_nothing(done):
    campaign, root = done
    before = contents(root)
    measure_device.publish(campaign, root)
    assert contents(root) == before


@pytest.mark.slow
def test_what_is_done_is_not_run_again(done, monkeypatch):
    campaign, _ = done

    def refuse(*words, **options):
        raise AssertionError(words)

    monkeypatch.setattr(measure_device.subprocess, "run", refuse)
    assert measure_device.measure(campaign) == []


# --- stages and what goes wrong --------------------------------------------------------------

BOTH = ("llama2-7b", "llama3-8b")
ALL = ("gpt2", *BOTH)


@pytest.fixture
def ran(monkeypatch):
    """Stand in for subprocesses: the commands that were run, and which of them fail."""
    log = SimpleNamespace(words=[], failing=())

    def run(command, **options):
        words = command[3:]
        log.words.append(words)
        return SimpleNamespace(returncode=int(words[0] in log.failing), stdout="{}")

    monkeypatch.setattr(measure_device.subprocess, "run", run)
    return log


def test_the_full_campaign_asks_for_what_the_issue_asks(tmp_path, ran):
    assert measure_device.measure(Campaign("cuda", tmp_path)) == []
    first, *others = ran.words
    assert first[:3] == ["calibrate", "--device", "cuda"]
    assert "--resume" in first
    studied = [words[words.index("--model") + 1] for words in others if words[0] == "study"]
    served = [
        (words[words.index("--model") + 1], words[words.index("--load") + 1])
        for words in others
        if words[0] == "validate"
    ]
    assert studied == ["gpt2", "llama2-7b"]
    assert {model for model, _ in served} == {"llama2-7b", "llama3-8b"}
    assert max(float(load) for _, load in served) > 1  # up to saturation
    assert all(words[words.index("--profile") + 1].endswith("device.yaml") for words in others[2:])


@pytest.mark.parametrize(("gib", "left_out"), [(23, ()), (14, ("llama3-8b",)), (9, BOTH), (0, ALL)])
def test_what_the_card_cannot_hold_is_left_out_by_name_and_nothing_went_wrong(
    tmp_path, ran, capsys, gib, left_out
):
    """An RTX 4090 holds all of them in 16 bits, a T4 the smaller one, and 10 GB neither."""
    assert measure_device.measure(Campaign("cuda", tmp_path), free_bytes=gib * 2**30) == []
    said = capsys.readouterr().err
    for model in ("gpt2", "llama2-7b", "llama3-8b"):
        asked = any(model in words for words in ran.words)
        assert asked == (model not in left_out)
        assert (f" of {model}: " in said) == (model in left_out)


def test_a_stage_can_be_run_alone(tmp_path, ran):
    campaign = Campaign("cuda", tmp_path)
    measure_device.measure(campaign, ["study"])
    assert {words[0] for words in ran.words} == {"study"}
    ran.words.clear()
    measure_device.measure(campaign, ["validate"])
    assert [words[0] for words in ran.words[:2]] == ["calibrate", "validate"]


def test_a_command_that_fails_does_not_stop_the_others(tmp_path, ran):
    ran.failing = ("study",)
    problems = measure_device.measure(Campaign("cuda", tmp_path))
    assert len(problems) == 2
    assert problems[0].startswith("kvsim study left 1: study cache --device cuda")
    assert sum(words[0] == "validate" for words in ran.words) == 6
    assert not (tmp_path / "study-gpt2" / "study.json").exists()


def test_without_a_calibration_nothing_else_is_run(tmp_path, ran):
    ran.failing = ("calibrate",)
    (problem,) = measure_device.measure(Campaign("cuda", tmp_path))
    assert "kvsim calibrate left 1" in problem
    assert len(ran.words) == 1
    assert not (tmp_path / "calibrate.json").exists()
    with pytest.raises(InputError, match="no calibration to publish"):
        measure_device.publish(Campaign("cuda", tmp_path), tmp_path)


@pytest.mark.parametrize("words", [["--quick"], ["--device", "cpu"]])
def test_a_trial_is_not_published_into_the_repository(tmp_path, ran, monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["measure_device.py", "--out", str(tmp_path), *words])
    monkeypatch.setattr(measure_device, "publish", lambda *_: pytest.fail("published"))
    monkeypatch.setattr(measure_device, "find_device", lambda device: H200)
    with pytest.raises(SystemExit) as left:
        measure_device.main()
    assert left.value.code == 0
    assert "not published: only a full run on a GPU is" in capsys.readouterr().err


def test_a_dry_run_says_what_each_stage_takes_and_makes_nothing(tmp_path, ran, monkeypatch, capsys):
    words = ["measure_device.py", "--out", str(tmp_path / "out"), "--dry-run"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(measure_device, "find_device", lambda device: H200)
    measure_device.main()
    lines = capsys.readouterr().out.splitlines()
    assert ran.words == []
    assert not (tmp_path / "out").exists()
    totals = {line.split()[2]: float(line.split()[0]) for line in lines if "altogether" in line}
    for stage in ("calibrate", "study", "validate"):
        each = [float(line.split()[0]) for line in lines if f"kvsim {stage}" in line]
        assert totals[stage] == pytest.approx(sum(each), abs=len(each))
        assert 60 < totals[stage] < 540
    assert totals["publish"] == 0


def test_a_device_that_is_not_there_is_one_line(tmp_path, ran, monkeypatch, capsys):
    def absent(name):
        raise InputError("torch sees no cuda device", where="--device")

    monkeypatch.setattr(sys, "argv", ["measure_device.py", "--out", str(tmp_path)])
    monkeypatch.setattr(measure_device, "find_device", absent)
    with pytest.raises(SystemExit) as left:
        measure_device.main()
    assert (left.value.code, ran.words) == (2, [])
    assert capsys.readouterr().err == ("measure_device.py: --device: torch sees no cuda device\n")


def test_rows_beyond_a_megabyte_are_thinned_evenly():
    rows = [f"{number:09}\n" for number in range(250_000)]
    text = measure_device.thinned("head\n" + "".join(rows))
    head, *kept = text.splitlines(keepends=True)
    assert head == "head\n"
    assert kept == rows[::3]
    assert len(text) <= 1_000_000


# --- an H200 whose every rate is known -------------------------------------------------------


@pytest.fixture
def h200(tmp_path):
    """A campaign in which a planted H200 is calibrated."""
    out = tmp_path / "out"
    out.mkdir()
    found, _ = measured(out, PlantedBench(), name="device")
    (out / "calibrate.json").write_text(json.dumps(found), "utf-8")
    return Campaign("cuda", out)


def test_a_known_card_gains_a_profile_of_torch_beside_that_of_its_engine(h200, tmp_path):
    root = repository(tmp_path / "root")
    engines_own = root / "hardware_profiles" / "h200.yaml"
    engines_own.write_text("what a serving engine was fitted to\n")
    measure_device.publish(h200, root)
    assert engines_own.read_text() == "what a serving engine was fitted to\n"
    profile = find_accelerator(root / "hardware_profiles" / "h200-torch.yaml")
    shipped = find_accelerator("h200")
    assert (profile.name, profile.product_name) == ("H200-SXM-141GB-torch", "")
    assert "h200-torch" in profile.aliases
    assert not {"h200", "H200-SXM-141GB", "NVIDIA H200"} & {profile.name, *profile.aliases}
    assert profile.coefficients.engine == "torch"
    assert profile.coefficients.kv_bytes_per_s == pytest.approx(3.5e12, rel=0.02)
    assert "NVIDIA H200, torch 2.11.0+cu130, driver 580.159.03" in profile.coefficients.source
    assert (profile.bandwidth, profile.flops) == (shipped.bandwidth, shipped.flops)
    _, between, _ = parts((root / "docs" / "accuracy.md").read_text("utf-8"))
    assert "### On a GPU: NVIDIA H200 (measured 20" in between
    assert "| copy | 4.3 TB/s | 4.8 TB/s | 90 % |" in between
    assert (root / "hardware_profiles" / "measured" / "h200-torch.csv").exists()


def published(folder, bench=None, change=None, rows=None):
    """Publish a planted calibration, whose record or rows are changed before; what was written."""
    out = folder / "out"
    out.mkdir()
    found, _ = measured(out, bench or PlantedBench(), name="device")
    (out / "calibrate.json").write_text(json.dumps({**found, **(change or {})}), "utf-8")
    if rows is not None:
        (out / "device.csv").write_text(rows((out / "device.csv").read_text("utf-8")), "utf-8")
    return measure_device.publish(Campaign("cuda", out), repository(folder / "root"))


class Slow(PlantedBench):
    """An emulated card at a hundredth of its datasheet."""

    def seconds(self, case):
        return 100 * super().seconds(case)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bench": Slow()}, "copy is 1% of the datasheet's, less than half"),
        ({"bench": PlantedBench(copy=5e12)}, "copy is 104% of the datasheet's, which no card"),
        ({"bench": PlantedBench(flops=1200e12)}, "bf16 GEMM is 1[0-9]{2}% of the datasheet's"),
        ({"change": {"at_bounds": ["kernels layers: norm"]}}, "kernels layers: norm ended at the"),
        ({"rows": lambda text: text.replace(",1\n", ",0\n")}, "rows of kernels were launched one"),
        ({"rows": lambda text: text.replace("uuid: ", "uuid: 77")}, "the rows are of uuid '77'"),
        (
            {"rows": lambda text: text.replace("torch: 2", "torch: 3")},
            "rows are of torch '3.11",
        ),
        ({"rows": lambda text: text[text.index("kind,") :]}, "its head does not say device"),
    ],
)
def test_what_cannot_be_true_of_the_card_is_not_published(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        published(tmp_path, **options)
    assert [path.name for path in (tmp_path / "root").rglob("*") if path.is_file()] == [
        "accuracy.md"
    ]
    assert (tmp_path / "root" / "docs" / "accuracy.md").read_text("utf-8") == PAGE


def test_a_sound_calibration_is_published(tmp_path):
    assert [path.name for path in published(tmp_path)] == [
        "h200-torch.yaml", "h200-torch.csv", "h200-torch", "accuracy.md",
    ]  # fmt: skip


def run_record(**errors):
    """One run of a validation as its JSON has it, everything off by half a percent."""
    names = ("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "output_throughput", "peak_bytes")
    pairs = [{"name": name, "error_percent": errors.get(name, 0.5)} for name in names]
    steps = {"median_percent": 4.0, "p95_percent": 9.0, "total_percent": -1.0}
    return {
        "label": "load 0.7",
        "steps": 1234,
        "step_errors": steps | {key: errors[key] for key in steps if key in errors},
        "latency": pairs[:4],
        "memory": pairs[4:],
    }


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ({}, "all met"),
        ({"mean_tpot_ms": -5.1}, "missed: mean TPOT of llama3-8b, load 0.7"),
        ({"p95_percent": 10.2}, "missed: single step, p95 of llama3-8b, load 0.7"),
        ({"peak_bytes": 2.1}, "missed: peak memory of llama3-8b, load 0.7"),
        ({"peak_bytes": None, "mean_ttft_ms": 50.0}, "all met"),  # no counter; no goal
    ],
)
def test_every_goal_is_judged(h200, errors, verdict):
    (calibration,) = h200.records("calibrate")
    record = {"model": "llama3-8b", "runs": [run_record(**errors)]}
    text = device_report.section(
        device_report.Measured("2026-11-21", calibration, validations=[record])
    )
    (line,) = (line for line in text.splitlines() if line.startswith("Goals:"))
    assert line.endswith(f"peak memory 2 %: {verdict}.")


@pytest.mark.parametrize("page", ["", "BEGIN", "END BEGIN", "BEGIN END END"])
def test_a_page_without_its_marks_is_refused(page):
    page = page.replace("BEGIN", device_report.BEGIN).replace("END", device_report.END)
    with pytest.raises(InputError, match="the page needs one"):
        device_report.written_between(page, "body")


def test_a_job_that_dies_leaves_no_answer_behind(tmp_path, monkeypatch):
    job = Job("calibrate", ("calibrate",), tmp_path / "calibrate.json", prints_answer=True)

    def die(*words, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure_device.subprocess, "run", die)
    with pytest.raises(KeyboardInterrupt):
        job.run()
    assert not job.answer.exists()
