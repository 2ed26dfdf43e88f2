"""``kvsim compare``: variants of a scenario on the same requests."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import click

from kvsim.cli import INTERRUPTED
from kvsim.cli.options import format_option
from kvsim.cli.render import emit
from kvsim.cli.report_page import write_report
from kvsim.cli.scenario_options import (
    check_writable,
    chosen_scenario,
    progress,
    refuse_fixed,
    scenario_options,
    varied,
    with_first,
)
from kvsim.cli.simulate import explain_interrupt, tell_notes
from kvsim.interrupts import held

if TYPE_CHECKING:
    from kvsim.runs.compare import SimulationComparison

__all__ = ["command"]


@click.command("compare")
@scenario_options
@click.option("--vary", multiple=True, required=True, metavar="KEY=V1,V2,...", help="Repeatable.")
@format_option
def command(
    scenario: str | None,
    settings: tuple[str, ...],
    vary: tuple[str, ...],
    jobs: int | None,
    report: str | None,
    output_format: str,
    **flags: Any,
) -> None:
    """Run variants of SCENARIO, or of what the flags describe, on the same requests.

    Several --vary give every combination; the first is the baseline of the differences.

    \b
    kvsim compare pagedattention-orca --vary memory.allocator=reserve-max,reserve-oracle,paged
    kvsim compare azure-conversation --vary engine=vllm,sglang,tensorrt-llm
    kvsim compare peer-w --vary max_num_seqs=64,256 --replications 5
    kvsim compare --model qwen3-8b --rate 4 --prompt 1000 --output 200 --vary gpu=a100,h100
    """  # noqa: D301 - \b keeps click from wrapping the examples
    from kvsim.runs.compare import compare

    values = varied(vary)
    refuse_fixed(values, flags, settings)
    asked = flags if scenario else with_first(flags, values)
    question = chosen_scenario(scenario, settings, asked)
    check_writable(None, report)
    with held():
        with progress(question) as watch:
            found = compare(question, values, watch=watch, jobs=jobs)
        try:  # files first: who reads stdout may leave early, as head does
            _report(found, report)
        finally:
            _show(found, prod(map(len, values.values())), output_format)
    if found.interrupted:
        raise click.exceptions.Exit(INTERRUPTED)


def _show(found: SimulationComparison, of: int, output_format: str) -> None:
    """Print the answer, and say what is to be known about it."""
    from kvsim.cli.simulation_report import comparison_sections

    first, last = found.variants[0], found.variants[-1]
    if found.interrupted:
        explain_interrupt(last.runs, f" in variant {len(found.variants)} of {of} ({last.label})")
    variants = {variant.label: variant.runs for variant in found.variants}
    tell_notes(first.runs.first.setup.scenario.name, variants)
    emit(comparison_sections(found), found.to_dict(), output_format)


def _report(found: SimulationComparison, file: str | None) -> None:
    if file is not None:
        from kvsim.figures import comparison_report

        write_report(file, lambda command: comparison_report(found, command=command))
