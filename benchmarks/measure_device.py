"""Measure a device fully and write down what came out: what ``make gpu`` runs.

    python benchmarks/measure_device.py [--stage STAGE] [--device cuda] [--quick] [--out FOLDER]

Stages, in order; each leaves its answer in the folder, and a stage whose answer is there is not
run again, so an interrupted run goes on where it stopped::

    calibrate   device.yaml, device.kernels.yaml, device.csv (row by row), calibrate.json
    study       study-MODEL/study.json and .html          GPT-2, Llama-2-7B
    validate    validate-MODEL-LOAD/comparison.json and .html   Llama-3-8B, Llama-2-7B, by load
    publish     hardware_profiles/CARD-torch.yaml, the raw rows and records, the tables of
                docs/accuracy.md; only of a full run on a GPU, or where --into names a folder, and
                only if nothing speaks against it (`kvsim.calibrate.measure.gates`)

On an H200 each stage is to take less than nine minutes.
The folder is all that a later call needs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_minutes import calibrate_seconds, study_seconds, validate_seconds
from device_report import Measured, section, written_between

from kvsim.calibrate.measure.device import DeviceFacts, find_device
from kvsim.calibrate.measure.gates import objections
from kvsim.calibrate.measure.profile import slug, write_profile
from kvsim.calibrate.profile import profile_path
from kvsim.catalog.accelerators import find_accelerator, load_accelerator
from kvsim.catalog.models import find_model
from kvsim.errors import InputError, KVSimError
from kvsim.memory.weights import weight_bytes
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.units import format_bytes

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("calibrate", "study", "validate", "publish")
MODELS = ("llama3-8b", "llama2-7b")
STUDIES = ("gpt2", "llama2-7b")
LOADS = ("0.3", "0.7", "1.1")
MOST_CSV_BYTES = 1_000_000
RAW = "measured"  # folder below hardware_profiles/ and docs/
PROFILE, KERNELS, ROWS = "device.yaml", "device.kernels.yaml", "device.csv"


@dataclass(frozen=True)
class Campaign:
    """What is measured, and where it goes.

    Parameters
    ----------
    device : str
        Torch's name: "cuda", "cpu".
    out : Path
        Folder of all answers.
    quick : bool
        Whether everything is coarse.
    models, studies, loads : sequence of str
        Of ``validate`` and ``study``; shares of the capacity.
    study_options : sequence of str
        More words for ``kvsim study cache``.
    """

    device: str
    out: Path
    quick: bool = False
    models: Sequence[str] = MODELS
    studies: Sequence[str] = STUDIES
    loads: Sequence[str] = LOADS
    study_options: Sequence[str] = ()

    def jobs(self) -> Iterator[Job]:
        """Every command, in order."""
        common = ("--device", self.device, *(["--quick"] if self.quick else []))
        profile, answer = self.out / PROFILE, self.out / "calibrate.json"
        words = ("calibrate", *common, "--resume", "-o", str(profile), "--format", "json")
        yield Job("calibrate", words, answer, prints_answer=True)
        for model in self.studies:
            folder = self.out / f"study-{slug(model)}"
            words = ("study", "cache", *common, "--model", model, *self.study_options)
            words = (*words, "--output", str(folder))
            yield Job("study", words, folder / "study.json", model=model)
        for model in self.models:
            for load in self.loads:
                folder = self.out / f"validate-{slug(model)}-{slug(load)}"
                words = ("validate", *common, "--model", model, "--profile", str(profile))
                words += ("--load", load, "--output", str(folder))
                yield Job("validate", words, folder / "comparison.json", model=model)

    def records(self, stage: str) -> list[dict[str, Any]]:
        """The answers of a stage that are there."""
        answers = [job.answer for job in self.jobs() if job.stage == stage]
        return [json.loads(path.read_text("utf-8")) for path in answers if path.exists()]


@dataclass(frozen=True)
class Job:
    """One kvsim command, and the file that says that it is done."""

    stage: str
    words: Sequence[str]
    answer: Path
    prints_answer: bool = False
    model: str = ""

    def expected_seconds(self, facts: DeviceFacts, *, quick: bool) -> float:
        """What it should take on a GPU."""
        if self.stage == "calibrate":
            return calibrate_seconds(facts, quick=quick)
        if self.stage == "study":
            return study_seconds(self.model, facts)
        return validate_seconds(self.model, quick=quick)

    def problem_on(self, free_bytes: int | None) -> str:
        """Why a device cannot do it: the model's weights alone are more than it has free."""
        if free_bytes is None or not self.model:
            return ""
        model = find_model(self.model).model_copy(update={"dtype": "bf16"})
        needed = weight_bytes(model)
        if needed <= free_bytes:
            return ""
        sizes = f"{format_bytes(needed)} of weights, {format_bytes(free_bytes)} are free"
        return f"{self.stage} of {self.model}: {sizes}"

    def run(self) -> str:
        """Run it unless it is done; return what went wrong, or ""."""
        if self.answer.exists():
            print(f"done already: {self.answer}", file=sys.stderr)
            return ""
        self.answer.parent.mkdir(parents=True, exist_ok=True)
        print(f"kvsim {' '.join(self.words)}", file=sys.stderr)
        command = [sys.executable, "-m", "kvsim", *self.words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return f"kvsim {self.words[0]} left {done.returncode}: {' '.join(self.words)}"
        if self.prints_answer:
            part = self.answer.with_suffix(".part")
            json.loads(done.stdout)  # before it counts as done
            part.write_text(done.stdout, encoding="utf-8")
            part.replace(self.answer)
        return ""


def measure(
    campaign: Campaign, stages: Sequence[str] = STAGES, free_bytes: int | None = None
) -> list[str]:
    """Run the jobs of some stages; return what went wrong, a line each.

    Without a calibration nothing after it can be predicted, so it is run first in any case. What
    the device cannot hold is left out by name, which is nothing that went wrong.
    """
    problems = []
    for job in campaign.jobs():
        if job.stage in stages or (job.stage == "calibrate" and "validate" in stages):
            if too_large := job.problem_on(free_bytes):
                print(f"left out: {too_large}", file=sys.stderr)
                continue
            problem = job.run()
            problems += [problem] if problem else []
            if problem and job.stage == "calibrate":
                break
    return problems


# ---- publishing ------------------------------------------------------------------------------


def publish(campaign: Campaign, root: Path) -> list[Path]:
    """Write profile, raw results and tables into a copy of the repository.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        Without a calibration, when something speaks against it, or when the page lacks its marks.
    """
    calibrations = campaign.records("calibrate")
    if not calibrations:
        raise InputError("no calibration to publish", where=str(campaign.out), fix="run that stage")
    calibration = calibrations[0]
    _refuse(campaign, calibration)
    measured_here = load_accelerator(campaign.out / KERNELS)
    coefficients = measured_here.coefficients
    if coefficients is None:
        raise InputError("has no coefficients", where=str(campaign.out / KERNELS))
    name = _file_name(calibration)
    rows = _keep_rows(campaign, root / "hardware_profiles" / RAW / f"{name}.csv")
    records = _keep_records(campaign, root / "docs" / RAW / name)
    profile = root / "hardware_profiles" / f"{name}.yaml"
    write_profile(profile, _of_torch(measured_here))
    measured = Measured(
        date=coefficients.date,
        calibration=calibration,
        validations=campaign.records("validate"),
        studies=campaign.records("study"),
        kept=[path.relative_to(root).as_posix() for path in (rows, records)],
    )
    page = root / "docs" / "accuracy.md"
    page.write_text(written_between(page.read_text("utf-8"), section(measured)), encoding="utf-8")
    return [profile, rows, records, page]


def _refuse(campaign: Campaign, calibration: dict[str, Any]) -> None:
    """Refuse to publish what something speaks against; a trial without a GPU is none."""
    if calibration["device"]["kind"] != "cuda":
        return
    if calibration.get("quick"):
        raise InputError("a quick calibration is a trial", where=str(campaign.out))
    rows = campaign.out / ROWS
    against = list(objections(calibration, rows.read_text("utf-8"), str(rows)))
    if against:
        raise InputError("; ".join(against), where=str(campaign.out))


def _file_name(calibration: dict[str, Any]) -> str:
    """The card's files are beside those of a serving engine's profile, which stays as it is."""
    known = calibration["datasheet"]
    stem = profile_path(find_accelerator(known)).stem if known else None
    return f"{stem or slug(calibration['device']['name'])}-torch"


def _of_torch(profile: AcceleratorProfile) -> AcceleratorProfile:
    """The card by names of its own: the driver's is the other profile's."""
    names = {"name": f"{profile.name}-torch", "product_name": ""}
    return profile.model_copy(
        update={**names, "aliases": tuple(f"{alias}-torch" for alias in profile.aliases)}
    )


def _keep_rows(campaign: Campaign, path: Path) -> Path:
    """Keep the raw rows, thinned where they are too many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(thinned((campaign.out / ROWS).read_text("utf-8")), encoding="utf-8")
    return path


def thinned(text: str, most_bytes: int = MOST_CSV_BYTES) -> str:
    r"""Keep the head and every n-th row, with the least n that makes it small enough.

    Examples
    --------
    >>> thinned("# of a card\nhead\n1\n2\n3\n4\n", most_bytes=22)
    '# of a card\nhead\n1\n3\n'
    """
    lines = text.splitlines(keepends=True)
    at = next((at for at, line in enumerate(lines) if not line.startswith("#")), 0) + 1
    head, rows = "".join(lines[:at]), lines[at:]
    step = 1
    while len((head + "".join(rows[::step])).encode()) > most_bytes and step < len(rows):
        step += 1
    return head + "".join(rows[::step])


def _keep_records(campaign: Campaign, folder: Path) -> Path:
    """Keep every record; where this machine put its files is no result."""
    folder.mkdir(parents=True, exist_ok=True)
    for job in campaign.jobs():
        if job.answer.exists():
            record = json.loads(job.answer.read_text("utf-8"))
            record.pop("files", None)
            stem = job.stage if job.prints_answer else job.answer.parent.name
            text = json.dumps(record, indent=1) + "\n"
            (folder / f"{stem}.json").write_text(text, encoding="utf-8")
    return folder


def main() -> None:
    chosen = _arguments()
    campaign = Campaign(
        device=chosen.device,
        out=chosen.out,
        quick=chosen.quick,
        models=chosen.models or MODELS,
        studies=chosen.studies or STUDIES,
        loads=chosen.loads or LOADS,
    )
    stages = chosen.stages or STAGES
    try:
        facts = find_device(chosen.device) if _asks_a_gpu(chosen) else None
    except KVSimError as error:  # no such device, or no torch
        print(f"measure_device.py: {error}", file=sys.stderr)
        sys.exit(2)
    if chosen.dry_run and facts is not None:
        if facts.kind != "cuda":
            print("measure_device.py: --dry-run estimates a GPU's minutes", file=sys.stderr)
            sys.exit(2)
        print("\n".join(dry_run(campaign, stages, facts)))
        return
    problems = measure(campaign, stages, _free_bytes(facts))
    if "publish" in stages:
        problems += _published(campaign, chosen.into)
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


def _free_bytes(facts: DeviceFacts | None) -> int | None:
    """What a GPU has free; a CPU's models are small."""
    return facts.free_bytes if facts is not None and facts.kind == "cuda" else None


def dry_run(campaign: Campaign, stages: Sequence[str], facts: DeviceFacts) -> Iterator[str]:
    """What each command should take, a line each, and each stage together."""
    for stage in (each for each in STAGES if each in stages):
        total = 0.0
        for job in (each for each in campaign.jobs() if each.stage == stage):
            if problem := job.problem_on(_free_bytes(facts)):
                yield f"left out: {problem}"
                continue
            seconds = job.expected_seconds(facts, quick=campaign.quick)
            total += seconds
            yield f"{seconds:6.0f} s  kvsim {' '.join(job.words)}"
        yield f"{total:6.0f} s  {stage} altogether"


def _asks_a_gpu(chosen: argparse.Namespace) -> bool:
    """Whether the device matters before the first command: what it holds, and how fast it is."""
    return chosen.device.startswith("cuda") or chosen.dry_run


def _published(campaign: Campaign, into: Path | None) -> list[str]:
    """Publish what may be; return what went wrong."""
    if into is None and (campaign.quick or not campaign.device.startswith("cuda")):
        print("not published: only a full run on a GPU is, or one with --into", file=sys.stderr)
        return []
    try:
        written = publish(campaign, into or ROOT)
    except (KVSimError, OSError) as error:
        return [f"not published: {error}"]
    print("\n".join(f"written: {path}" for path in written), file=sys.stderr)
    return []


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--stage", dest="stages", action="append", choices=STAGES, help="repeatable"
    )
    parser.add_argument("--device", default="cuda", help="torch's name: cuda, cpu")
    parser.add_argument("--quick", action="store_true", help="everything coarse: a trial")
    parser.add_argument("--dry-run", action="store_true", help="what each command should take")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "measured", help="all answers")
    parser.add_argument("--into", type=Path, help="repository to publish into")
    for what in ("models", "studies", "loads"):
        parser.add_argument(f"--{what}", nargs="+", help="instead of the usual ones")
    return parser.parse_args()


if __name__ == "__main__":
    main()
