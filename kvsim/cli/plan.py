"""``kvsim plan``: what a model gets on an accelerator."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from kvsim.cli.options import (
    COUNT,
    engine_options,
    format_option,
    given,
    target_options,
)

__all__ = ["command"]


@click.command("plan")
@target_options
@engine_options
@click.option("--context-len", type=COUNT, help="Tokens of the requests the tables are about.")
@click.option("--retention", multiple=True, help="window:4096, sinks:4+2044, ... (repeatable).")
@format_option
def command(
    model: str,
    gpu: str,
    engine: str,
    engine_version: str,
    context_len: int | None,
    retention: tuple[str, ...],
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
            _compare(model, gpu, engine_version, output_format, question)
        else:
            question |= {"engine": engine, "engine_version": engine_version}
            _plan(model, gpu, output_format, question)


def _plan(model: str, gpu: str, output_format: str, question: dict[str, Any]) -> None:
    """Answer for one engine."""
    from kvsim.cli.render import emit
    from kvsim.planner import plan

    answer = plan(model, gpu, **question)
    if output_format in ("json", "csv"):
        emit((), answer.to_dict(), output_format)
        return
    from kvsim.cli.report import plan_sections

    emit(plan_sections(answer), answer.to_dict(), output_format)


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave garbage alone: a plan is over before collecting would pay for itself."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _compare(
    model: str, gpu: str, engine_version: str, output_format: str, question: dict[str, Any]
) -> None:
    """Put the same question to every engine."""
    if engine_version:
        raise click.UsageError("--engine-version belongs to one engine, not to --engine all.")
    from kvsim.cli.render import emit
    from kvsim.cli.report import comparison_sections
    from kvsim.planner import plan_engines

    comparison = plan_engines(model, gpu, **question)
    emit(comparison_sections(comparison), comparison.to_dict(), output_format)
