"""``kvsim plan``: what a model gets on an accelerator."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from kvsim.cli.options import (
    COUNT,
    engine_options,
    format_option,
    given,
    target_options,
)
from kvsim.cli.render import emit

if TYPE_CHECKING:
    from kvsim.planning.planner import EngineComparison

__all__ = ["command"]


@click.command("plan")
@target_options
@engine_options
@click.option("--context-len", type=COUNT, help="Tokens of the requests the tables are about.")
@click.option("--retention", multiple=True, help="window:4096, sinks:4+2044, ... (repeatable).")
@click.option("--report", type=click.Path(dir_okay=False), help="Also write an HTML page.")
@format_option
def command(
    model: str,
    gpu: str,
    engine: str,
    engine_version: str,
    context_len: int | None,
    retention: tuple[str, ...],
    report: str | None,
    output_format: str,
    **options: Any,
) -> None:
    """Say what fits: bytes, blocks, tokens and concurrent requests of KV cache.

    Flags are vLLM's. ``--engine all`` sets the engines side by side.

    \b
    kvsim plan --model llama2-7b --gpu a100
    kvsim plan --model llama3.1-70b --gpu h100 --tp 4 --max-model-len 32k
    """  # noqa: D301 - \b keeps click from wrapping the examples
    question = {"context_len": context_len, "retention": retention, **given(options)}
    with uncollected():
        if engine == "all":
            answer = _compare(model, gpu, engine_version, question)
        else:
            question |= {"engine": engine, "engine_version": engine_version}
            answer = _plan(model, gpu, question)
        if report is not None:  # first: nothing is printed when it cannot be written
            _report(answer, report)
        _show(answer, engine == "all", output_format)


def _plan(model: str, gpu: str, question: dict[str, Any]) -> EngineComparison:
    """Answer for one engine."""
    from kvsim.planning.planner import EngineComparison, plan

    return EngineComparison((plan(model, gpu, **question),), ())


def _show(answer: EngineComparison, is_comparison: bool, output_format: str) -> None:
    """Print one engine's plan, or several side by side."""
    from kvsim.cli.report import comparison_sections, plan_sections

    if is_comparison:
        emit(comparison_sections(answer), answer.to_dict(), output_format)
    else:
        emit(plan_sections(answer.plans[0]), answer.plans[0].to_dict(), output_format)


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave garbage alone: a plan is over before collecting would pay for itself."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _compare(
    model: str, gpu: str, engine_version: str, question: dict[str, Any]
) -> EngineComparison:
    """Put the same question to every engine."""
    if engine_version:
        raise click.UsageError("--engine-version belongs to one engine, not to --engine all.")
    from kvsim.planning.planner import plan_engines

    return plan_engines(model, gpu, **question)


def _report(answer: EngineComparison, file: str) -> None:
    """Write plans as a self-contained HTML page."""
    from kvsim.cli.report_page import write_report
    from kvsim.figures import plan_report

    refused = dict(answer.refused)
    write_report(file, lambda command: plan_report(answer.plans, command=command, refused=refused))
