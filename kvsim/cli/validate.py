"""``kvsim validate``: the simulator beside a real decode loop, a real benchmark, a real log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from kvsim.cli import INTERRUPTED, say
from kvsim.cli.options import MODEL, SEED, format_option
from kvsim.cli.render import Section, Table, emit
from kvsim.errors import InputError
from kvsim.interrupts import held

if TYPE_CHECKING:
    from kvsim.calibrate.pairs import Pair
    from kvsim.calibrate.served.bench import BenchComparison
    from kvsim.calibrate.served.engine_log import LogComparison
    from kvsim.calibrate.twin.compare import TwinComparison
    from kvsim.calibrate.twin.validate import Validation

__all__ = ["command"]

_FILE = click.Path(dir_okay=False, path_type=Path)
_DEFAULT = ParameterSource.DEFAULT


@click.command("validate")
@click.option("--model", type=MODEL, help="Name or path; default: a tiny one on a CPU.")
@click.option("--device", default="cpu", show_default=True, help="Torch's name: cpu, cuda.")
@click.option("--scenario", help="Scenario name or file; default: a few loads to saturation.")
@click.option("--profile", help="Measured accelerator; default: the twin calibrates itself.")
@click.option(
    "--load",
    "loads",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    help="Share of the estimated capacity (repeatable).",
)
@click.option("--quick", is_flag=True, help="Less of everything: seconds on a CPU.")
@click.option("--seed", type=SEED, help="Default: 0; with --bench the scenario's.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for what is found, as JSON and, of the serving loop, HTML.",
)
@click.option("--engine-log", type=_FILE, help="vLLM's start-up log, to compare with the plan.")
@click.option("--bench", type=_FILE, help="A vllm bench serve JSON, to compare with --scenario.")
@format_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    engine_log: Path | None,
    bench: Path | None,
    output: Path | None,
    output_format: str,
    **asked: Any,
) -> None:
    """Compare predictions with reality.

    Runs a small real serving loop in torch under the simulator's own scheduler and allocator,
    and predicts the same run. With --engine-log or --bench it reads what vLLM wrote instead.

    \b
    kvsim validate --quick
    kvsim validate --device cuda --model llama3-8b --output results
    kvsim validate --engine-log vllm.log --profile h100
    kvsim validate --bench result.json --scenario my.yaml
    """  # noqa: D301 - \b keeps click from wrapping the examples
    if engine_log is not None and bench is not None:
        raise click.UsageError("--engine-log and --bench are two questions: ask one at a time.")
    _refuse_idle(ctx, engine_log, bench)
    if engine_log is not None:
        _log(engine_log, output, output_format, asked)
    elif bench is not None:
        _bench(bench, output, output_format, asked)
    else:
        _twin(output, output_format, asked)


_OF_THE_LOOP = {"device", "loads", "quick"}  # options that only the serving loop reads


def _refuse_idle(ctx: click.Context, engine_log: Path | None, bench: Path | None) -> None:
    """Refuse options that would change nothing beside a file of vLLM's."""
    file, flag = (bench, "--bench") if engine_log is None else (engine_log, "--engine-log")
    if file is None:
        return
    idle = _OF_THE_LOOP | ({"seed"} if engine_log is not None else set())
    stated = [
        option.opts[0]
        for option in ctx.command.params
        if option.name in idle and ctx.get_parameter_source(option.name) is not _DEFAULT
    ]
    if stated:
        words = ", ".join(stated)
        raise click.UsageError(f"{words} would change nothing with {flag}: leave it out.")


# ---- the twin -------------------------------------------------------------------------------


def _twin(output: Path | None, output_format: str, asked: dict[str, Any]) -> None:
    from kvsim.calibrate.twin.validate import ValidationRequest, validate

    asked["loads"] = tuple(asked["loads"])
    asked["seed"] = asked["seed"] or 0
    with held():
        found = validate(ValidationRequest(**asked), say=say)
        record = found.record()
        if output is not None:
            _write(output, "comparison", record)
        emit(_twin_sections(found), record, output_format)
    if found.interrupted:
        say(f"kvsim: interrupted: served whole: {', '.join(run.label for run in found.runs)}")
        raise click.exceptions.Exit(INTERRUPTED)


def _twin_sections(found: Validation) -> list[Section]:
    coefficients = found.profile.coefficients
    error = coefficients.error_percent if coefficients else None
    what = f"torch {found.torch_version}, timed in {found.clock}\n{found.kernels}"
    what += f"\ncoefficients {found.provenance}"
    what += f"; they miss their own rows by {error:g} %" if error is not None else ""
    if found.drift_percent is not None:
        what += f"\nequal work took up to {found.drift_percent:.0f} % longer at times: the"
        what += " device's own doing, which no model predicts"
    sections = [Section(f"{found.model} on {found.device}", (what,))]
    for run in found.runs:
        sections += _run_sections(run)
    return sections


def _run_sections(run: TwinComparison) -> list[Section]:
    errors = run.step_errors
    summary = (
        f"single steps: {errors.median_percent:.1f} % off in the median,"
        f" {errors.p95_percent:.1f} % at p95; all together {errors.total_percent:+.1f} %"
    )
    steps = tuple(
        (
            f"{group.phase}, up to {group.sequences} x {group.context:,}",
            f"{group.steps:,}",
            f"{1e3 * group.predicted_seconds:.2f}",
            f"{1e3 * group.measured_seconds:.2f}",
            f"{group.error_percent:+.1f}",
        )
        for group in run.groups
    )
    pairs = tuple(map(_pair_row, (*run.latency, *run.memory)))
    return [
        Section(
            f"{run.label}: {run.steps:,} steps by batch and context",
            (summary, Table(("", "steps", "predicted ms", "measured ms", "off %"), steps)),
        ),
        Section(f"{run.label}: requests and memory", (Table(_PAIR_HEADERS, pairs),)),
    ]


_PAIR_HEADERS = ("", "predicted", "measured", "off %")


def _pair_row(pair: Pair) -> tuple[str, ...]:
    off = "-" if pair.error_percent is None else f"{pair.error_percent:+.1f}"
    return pair.name, f"{pair.predicted:,.2f}", f"{pair.measured:,.2f}", off


# ---- what vLLM wrote ------------------------------------------------------------------------


def _log(path: Path, output: Path | None, output_format: str, asked: dict[str, Any]) -> None:
    from kvsim.calibrate.served.engine_log import compare_log, read_engine_log
    from kvsim.simulator.loading import load_scenario

    if asked["profile"] is None:
        raise click.UsageError("--engine-log needs --profile: the accelerator that vLLM ran on.")
    options = load_scenario(asked["scenario"]).engine.options if asked["scenario"] else None
    found = compare_log(read_engine_log(path), asked["profile"], asked["model"], options)
    if output is not None:
        _write(output, "engine-log-comparison", found.record(), read=path)
    emit(_log_sections(found), found.record(), output_format)


def _log_sections(found: LogComparison) -> list[Section]:
    from kvsim.units import GIB

    rows = tuple(
        (
            term.name,
            f"{term.plan_bytes / GIB:.2f}",
            f"{term.log_bytes / GIB:.2f}",
            f"{term.difference_bytes / GIB:+.2f}",
        )
        for term in found.terms
    )
    plan = found.plan
    title = f"{plan.model.name} on {plan.accelerator.name}, vLLM {plan.engine.version}"
    table = Table(("GiB per rank", "plan", "log", "log - plan"), rows)
    return [Section(title, (table,)), Section("What would close the gap", (_closing(found),))]


def _closing(found: LogComparison) -> str:
    """The lines to add, and what the plan says with them."""
    tokens = f"{found.closed_plan.kv_cache.capacity_tokens:,} tokens of KV cache"
    if found.log.kv_tokens is not None:
        tokens += f", the log {found.log.kv_tokens:,.0f}"
    if not found.overrides and not found.profile_lines:
        return f"nothing: no overhead differs by more than a log's rounding\nplan: {tokens}"
    flags = [f"--{name.replace('_', '-')} {size}" for name, size in found.overrides.items()]
    lines = [f"kvsim plan ... {' '.join(flags)}"] if flags else []
    lines += (
        ["in a scenario:", "engine:", *(f"  {line}" for line in found.scenario_lines())]
        if flags
        else []
    )
    lines += ["in the profile:", *found.profile_lines] if found.profile_lines else []
    return "\n".join([*lines, f"with them the plan has {tokens}"])


def _bench(path: Path, output: Path | None, output_format: str, asked: dict[str, Any]) -> None:
    from kvsim.calibrate.served.bench import compare_bench
    from kvsim.simulator.loading import load_scenario

    if asked["scenario"] is None:
        raise click.UsageError("--bench needs --scenario: what vLLM served, and on what.")
    places = {"model": asked["model"], "accelerator": asked["profile"]}
    overrides = {key: value for key, value in places.items() if value is not None}
    found = compare_bench(path, load_scenario(asked["scenario"], overrides), asked["seed"])
    if output is not None:
        _write(output, "bench-comparison", found.record(), read=path)
    emit(_bench_sections(found), found.record(), output_format)


def _bench_sections(found: BenchComparison) -> list[Section]:
    rows = tuple(map(_pair_row, found.pairs))
    how = "its own requests, replayed" if found.replayed else "the scenario's workload"
    deployment = found.setup.deployment
    on = f"{deployment.model.name} on {deployment.accelerator.name}"
    sections = [Section(f"{found.path.name}: {how}, {on}", (Table(_PAIR_HEADERS, rows),))]
    if found.warnings:
        lines = "\n".join(f"- {said}" for said in found.warnings)
        sections.append(Section("Caution", (lines,)))
    return sections


def _write(folder: Path, stem: str, record: dict[str, Any], *, read: Path | None = None) -> None:
    """Write the JSON, and of the serving loop the page where plotly is there to draw it."""
    from kvsim.calibrate.outputs import write_record
    from kvsim.figures.measured import validation_page

    if read is not None and read.resolve() == (folder / f"{stem}.json").resolve():
        raise InputError("would be overwritten", where=str(read), fix="give another --output")
    for line in write_record(folder, stem, record, None if read else validation_page):
        say(line)
