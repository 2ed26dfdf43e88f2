"""``kvsim simulate``: what happens to memory and latency under load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvsim.cli import INTERRUPTED
from kvsim.cli.options import format_option
from kvsim.cli.scenario_options import (
    check_writable,
    chosen_scenario,
    progress,
    scenario_options,
    write_report,
)

if TYPE_CHECKING:
    from kvsim.comparison import Replications

__all__ = ["command", "explain_interrupt"]


@click.command("simulate")
@scenario_options
@click.option("--output", type=click.Path(file_okay=False), help="Folder for tables and traces.")
@format_option
def command(
    scenario: str,
    trace: str | None,
    settings: tuple[str, ...],
    seed: int | None,
    replications: int | None,
    report: str | None,
    output: str | None,
    output_format: str,
    **flags: Any,
) -> None:
    """Run SCENARIO: a name (kvsim ships some) or a YAML file.

    Flags override the scenario's keys; --set reaches every one of them.

    \b
    kvsim simulate peer-w
    kvsim simulate peer-w --set workload.arrivals.rate=20 --replications 5
    kvsim simulate azure-conversation --trace AzureLLMInferenceTrace_conv.csv
    """  # noqa: D301 - \b keeps click from wrapping the examples
    from kvsim.comparison import replicate

    question = chosen_scenario(scenario, trace, settings, flags)
    check_writable(output, report)
    with progress(question) as watch:
        runs = replicate(question, seed=seed, replications=replications, watch=watch)
    _print(runs, output_format)
    for note in runs.first.notes:
        click.echo(f"{question.name}: {note}", err=True)
    if runs.interrupted:
        explain_interrupt(runs)
    if output is not None:
        _write(runs, output)
    if report is not None:
        _report(runs, report)
    if runs.interrupted:
        raise click.exceptions.Exit(INTERRUPTED)


def explain_interrupt(runs: Replications) -> None:
    """Say on stderr what was finished before the run was cut."""
    last = runs.summaries[-1]
    done, left = last["completed"], last["unfinished"]
    whole = len(runs.summaries) - 1
    click.echo(
        f"kvsim: interrupted: run {whole + 1} ended with {done:,} requests finished and {left:,}"
        f" unfinished; {whole} runs before it are whole",
        err=True,
    )


def _print(runs: Replications, output_format: str) -> None:
    from kvsim.cli.render import emit
    from kvsim.cli.simulation_report import run_record, run_sections

    sections = () if output_format in ("json", "csv") else run_sections(runs)
    emit(sections, run_record(runs), output_format)


def _write(runs: Replications, folder: str) -> None:
    from kvsim.cli.simulation_report import interval_record
    from kvsim.outputs import write_outputs

    written = write_outputs(runs.first, folder, interval_record(runs))
    click.echo(f"wrote {', '.join(path.name for path in written)} to {folder}", err=True)


def _report(runs: Replications, file: str) -> None:
    from kvsim.figures import simulation_report

    write_report(file, lambda command: simulation_report(runs, command=command))
