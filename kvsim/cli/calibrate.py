"""``kvsim calibrate``: from measurements to the coefficients that time a step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvsim.cli import INTERRUPTED, say
from kvsim.cli.options import SCENARIO, format_option, json_option
from kvsim.cli.render import emit
from kvsim.interrupts import held

if TYPE_CHECKING:
    from kvsim.calibrate.measure.session import Progress

__all__ = ["command"]

_LABEL_WIDTH = 40
_SIMULATIONS = 250  # about as many as learning a server takes


@click.group(name="calibrate", invoke_without_command=True)
@click.option("--device", help="cuda, cuda:1, cpu or mps; default: a GPU if any.")
@click.option("--quick", is_flag=True, help="A coarse grid: seconds instead of minutes.")
@click.option("--dry-run", is_flag=True, help="Print the grid, its bytes and minutes; no more.")
@click.option("--resume", is_flag=True, help="Keep the rows that the CSV already has.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Profile to write (.yaml); default: the device's name. Raw rows go beside it.",
)
@format_option
@click.pass_context
def command(
    ctx: click.Context,
    device: str | None,
    quick: bool,
    dry_run: bool,
    resume: bool,
    output: Path | None,
    output_format: str,
) -> None:
    """Measure a device with torch and write a profile for ``--gpu``.

    Without a subcommand it times memory, GEMMs, layers, attention and the host, fits the
    step-time coefficients and prints them beside the datasheet. No setting of the device
    is changed.

    \b
    kvsim calibrate --dry-run
    kvsim calibrate --quick --device cpu -o my-cpu.yaml
    kvsim calibrate -o my-gpu.yaml --resume    # after a Ctrl-C: only what is missing
    """  # noqa: D301 - \b keeps click from wrapping the examples
    if ctx.invoked_subcommand is not None:
        _refuse_measuring_options(ctx)
    elif dry_run:
        _dry_run(device, quick, output_format)
    else:
        _measure(device, quick, output, output_format, resume=resume)


@command.command()
@click.option("--gpu", required=True, help="Accelerator: a name, an alias or a path.")
@click.option(
    "--tables",
    type=click.Path(path_type=Path),
    help="Folder of public kernel tables (aiconfigurator, llmservingsim, vidur).",
)
@click.option(
    "--rows",
    type=click.Path(path_type=Path),
    help="Your own measured steps, a CSV; its columns are in docs/calibrate.md.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Profile to write, beside printing the block.",
)
@json_option
def fit(
    gpu: str, tables: Path | None, rows: Path | None, output: Path | None, output_format: str
) -> None:
    """Fit coefficients from tables or from your own steps, and write a profile.

    The profile is at once good for ``--gpu`` of every command.
    """
    from kvsim.calibrate.public.fit_card import fit_command

    found = fit_command(gpu=gpu, tables=tables, rows=rows, output=output)
    if output_format == "json":
        emit((), found.to_dict(), output_format)
    else:
        click.echo(found.block(), nl=False)
    for warning in found.warnings:
        say(f"kvsim calibrate fit: warning: {warning}")
    if output is not None:
        say(f"kvsim calibrate fit: written to {output}")


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--scenario", type=SCENARIO, required=True, help="What served: a name or a file.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Profile to write (.yaml): the scenario's card with what was learned.",
)
@format_option
def served(file: Path, scenario: str, output: Path | None, output_format: str) -> None:
    """Learn a server's host, front end, prefill and decode from its own requests.

    FILE is what a client measured, request by request: a vllm bench serve --save-detailed JSON,
    inference-perf's per_request_lifecycle_metrics.json, a GuideLLM benchmarks.json, AIPerf's
    profile_export.jsonl, or a CSV (docs/calibrate.md). Half of it is fitted, the other half
    says how well that predicts.

    \b
    kvsim calibrate served result.json --scenario my.yaml -o profile.yaml
    kvsim simulate my.yaml --gpu ./profile.yaml
    """  # noqa: D301 - \b keeps click from wrapping the examples
    from kvsim.calibrate.served.learn import learn_served, refuse_output, write_learned
    from kvsim.catalog.accelerators import find_accelerator
    from kvsim.cli.calibrate_report import learned_sections
    from kvsim.simulator.loading import load_scenario

    asked = load_scenario(scenario)
    if output is not None:
        refuse_output(output, find_accelerator(asked.accelerator))
    with held():  # but for the simulations: what was learned until then is written
        with _progress(_SIMULATIONS) as step:
            found = learn_served(
                file, asked, progress=lambda count: step(count, _SIMULATIONS, "simulations")
            )
        if output is not None:
            write_learned(output, found)
        record = found.record() | {"output": None if output is None else str(output)}
        emit(learned_sections(record), record, output_format)
    if found.interrupted:
        say("kvsim calibrate served: interrupted: the nearest values so far are shown")
        raise click.exceptions.Exit(INTERRUPTED)


def _refuse_measuring_options(ctx: click.Context) -> None:
    """Refuse an option of measuring that stands before a subcommand."""
    from click.core import ParameterSource

    for name in ctx.params:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"{flag} before {ctx.invoked_subcommand} would measure; give it after."
            )


def _dry_run(device: str | None, quick: bool, output_format: str) -> None:
    from kvsim.calibrate.measure.calibrate import planned, planned_dict
    from kvsim.cli.calibrate_report import plan_sections

    content = planned_dict(*planned(device, quick=quick))
    emit(plan_sections(content), content, output_format)


def _measure(
    device: str | None, quick: bool, output: Path | None, output_format: str, *, resume: bool
) -> None:
    from kvsim.calibrate.measure.calibrate import Outputs, measure, planned
    from kvsim.cli.calibrate_report import found_sections

    if output is not None:
        Outputs.beside(output)  # refuse a bad path before torch is loaded
    facts, plan = planned(device, quick=quick)
    with held():  # but for the timing itself: what is timed is fitted and written
        try:
            with _progress(len(plan.cases)) as progress:
                content = measure(facts, plan, output, progress, resume=resume)
        except KeyboardInterrupt as stop:
            say(f"kvsim calibrate: {stop}")
            raise
        emit(found_sections(content), content, output_format)


@contextmanager
def _progress(total: int) -> Iterator[Progress]:
    """Draw a bar on stderr where that is a terminal."""
    stream = sys.stderr
    if not stream.isatty():
        yield lambda done, total, label: None
        return
    with click.progressbar(
        length=total, label="calibrating", file=stream, item_show_func=_shown
    ) as bar:
        yield _stepper(bar)


def _shown(label: Any) -> str | None:
    """Name the case that is being timed, where there is one."""
    return str(label)[:_LABEL_WIDTH] if label else None


def _stepper(bar: Any) -> Callable[[int, int, str], None]:
    def step(done: int, total: int, label: str) -> None:
        bar.update(done - bar.pos, label)

    return step
