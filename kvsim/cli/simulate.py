"""``kvsim simulate``: what happens to memory and latency under load."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from kvsim.cli import INTERRUPTED, say
from kvsim.cli.options import format_option
from kvsim.cli.render import emit
from kvsim.cli.report_page import write_report
from kvsim.cli.save import savable, save_scenario
from kvsim.cli.scenario_options import (
    check_writable,
    chosen_scenario,
    progress,
    scenario_options,
)
from kvsim.interrupts import held

if TYPE_CHECKING:
    from kvsim.runs.replicate import Replications
    from kvsim.simulator.camera import Camera

__all__ = ["command", "explain_interrupt", "tell_notes"]


@click.command("simulate")
@scenario_options
@click.option(
    "--output-dir", type=click.Path(file_okay=False), help="Folder for tables and traces."
)
@click.option("--save", type=click.Path(dir_okay=False), help="Also write it as a scenario.")
@format_option
def command(
    scenario: str | None,
    settings: tuple[str, ...],
    jobs: int | None,
    report: str | None,
    output_dir: str | None,
    save: str | None,
    output_format: str,
    **flags: Any,
) -> None:
    """Run SCENARIO (`kvsim scenarios` lists names; or a YAML file), or what the flags describe.

    Flags override the scenario's keys; --set reaches every one of them.

    \b
    kvsim simulate --model llama3.1-8b --gpu h100 --rate 4 --prompt 1000 --output 200
    kvsim simulate --model llama3.1-8b --gpu h100 --users 50 --think 30s --prompt 1000 --output 200
    kvsim simulate peer-w
    kvsim simulate peer-w --set workload.arrivals.rate=20 --replications 5
    kvsim simulate azure-conversation --trace AzureLLMInferenceTrace_conv.csv
    """  # noqa: D301 - \b keeps click from wrapping the examples
    from kvsim.runs.replicate import replicate
    from kvsim.simulator.camera import Camera

    question = chosen_scenario(scenario, settings, flags)
    check_writable(output_dir, report)
    if save is not None:
        question = savable(question, save)
    camera = None if report is None else Camera()
    with held():
        with progress(question) as watch:
            runs = replicate(question, watch=watch, camera=camera, jobs=jobs)
        try:  # files first: who reads stdout may leave early, as head does
            _keep(runs, output_dir, report, camera)
            if save is not None:
                save_scenario(question, save)
        finally:
            _show(runs, output_format)
    if runs.interrupted:
        raise click.exceptions.Exit(INTERRUPTED)


def _show(runs: Replications, output_format: str) -> None:
    """Print the answer, and say what is to be known about it."""
    from kvsim.cli.simulation_report import run_record, run_sections

    if runs.interrupted:
        explain_interrupt(runs)
    tell_notes(runs.first.setup.scenario.name, {"": runs})
    emit(run_sections(runs), partial(run_record, runs), output_format)


def tell_notes(name: str, variants: Mapping[str, Replications]) -> None:
    """Say on stderr what the reader of a trace left out or changed, and which keys are idle.

    Variants are named by their labels, where a key is idle in some of them and not in others.
    """
    idle: dict[str, list[str]] = {}
    for label, runs in variants.items():
        for said in dict.fromkeys(runs.first.setup.idle_keys):
            idle.setdefault(said, []).append(label)
    for note in next(iter(variants.values())).first.recording.notes:
        say(f"{name}: {note}")
    for said, labels in idle.items():
        of = "" if len(labels) == len(variants) else f"{', '.join(labels)}: "
        say(f"{name}: {of}{said}")


def explain_interrupt(runs: Replications, where: str = "") -> None:
    """Say on stderr what was finished before the interrupt."""
    last, whole = runs.summaries[-1], len(runs.whole)
    said = f"{whole} run{'s are' if whole > 1 else ' is'} whole" if whole else ""
    if last["interrupted"]:
        cut = f"run {whole + 1} ended with {last['completed']:,} requests finished and"
        cut += f" {last['unfinished']:,} unfinished"
        said = f"{cut}; {said} before it" if whole else cut
    say(f"kvsim: interrupted{where}: {said}")


def _keep(
    runs: Replications, output: str | None, report: str | None, camera: Camera | None
) -> None:
    """Write the files that were asked for."""
    if output is not None:
        _write(runs, output)
    if report is not None:
        from kvsim.figures import simulation_report

        write_report(
            report, lambda command: simulation_report(runs, command=command, camera=camera)
        )


def _write(runs: Replications, folder: str) -> None:
    from kvsim.cli.simulation_report import interval_record
    from kvsim.results.outputs import write_outputs

    extra = {**interval_record(runs), "warnings": list(runs.cautions)}
    written = write_outputs(runs.first, folder, extra)
    of = f" (tables of seed {runs.first.recording.seed} alone)" if len(runs.summaries) > 1 else ""
    say(f"wrote {', '.join(path.name for path in written)}{of} to {folder}")
