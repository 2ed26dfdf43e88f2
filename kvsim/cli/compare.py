"""``kvsim compare``: variants of a scenario on the same requests."""

from __future__ import annotations

from math import prod
from typing import Any

import click

from kvsim.cli import INTERRUPTED
from kvsim.cli.options import format_option
from kvsim.cli.render import emit
from kvsim.cli.report_page import write_report
from kvsim.cli.scenario_options import (
    check_writable,
    chosen_scenario,
    progress,
    scenario_options,
    varied,
)
from kvsim.cli.simulate import explain_interrupt, tell_notes

__all__ = ["command"]


@click.command("compare")
@scenario_options
@click.option("--vary", multiple=True, required=True, metavar="KEY=V1,V2,...", help="Repeatable.")
@format_option
def command(
    scenario: str,
    trace: str | None,
    settings: tuple[str, ...],
    vary: tuple[str, ...],
    report: str | None,
    output_format: str,
    **flags: Any,
) -> None:
    """Run variants of SCENARIO that meet the same requests, and set them side by side.

    Several --vary give every combination; the first is the baseline of the differences.

    \b
    kvsim compare pagedattention-orca --vary memory.allocator=reserve-max,reserve-oracle,paged
    kvsim compare azure-conversation --vary engine=vllm,sglang,tensorrt-llm
    kvsim compare peer-w --vary max_num_seqs=64,256 --replications 5
    """  # noqa: D301 - \b keeps click from wrapping the examples
    from kvsim.cli.simulation_report import comparison_sections
    from kvsim.runs.compare import compare

    question = chosen_scenario(scenario, trace, settings, flags)
    values = varied(vary)
    check_writable(None, report)
    with progress(question) as watch:
        found = compare(question, values, watch=watch)
    emit(comparison_sections(found), found.to_dict(), output_format)
    tell_notes(question.name, *(variant.runs for variant in found.variants))
    if report is not None:
        from kvsim.figures import comparison_report

        write_report(report, lambda command: comparison_report(found, command=command))
    if found.interrupted:
        last, of = found.variants[-1], prod(map(len, values.values()))
        explain_interrupt(last.runs, f" in variant {len(found.variants)} of {of} ({last.label})")
        raise click.exceptions.Exit(INTERRUPTED)
