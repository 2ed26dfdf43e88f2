"""``kvsim study``: small experiments on a real device, beside the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvsim.cli import INTERRUPTED, say
from kvsim.cli.options import COUNT, MODEL, format_option
from kvsim.cli.render import Section, Table, emit
from kvsim.errors import UnsupportedError
from kvsim.interrupts import held
from kvsim.units import format_bytes

if TYPE_CHECKING:
    from kvsim.calibrate.study.findings import Study, StudyRow

__all__ = ["command"]


@click.group("study")
def command() -> None:
    """Run small experiments in torch and in the simulator, side by side."""


@command.command("cache")
@click.option("--model", type=MODEL, default="gpt2", show_default=True, help="Name or path.")
@click.option("--device", default="cpu", show_default=True, help="Torch's name: cpu, cuda.")
@click.option("--tokens", type=COUNT, multiple=True, help="Lengths of the answer (repeatable).")
@click.option("--batch", type=COUNT, multiple=True, help="Sequences side by side (repeatable).")
@click.option("--quick", is_flag=True, help="A shrunk decoder and short answers: under a minute.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for study.json and study.html.",
)
@format_option
def cache(
    model: str,
    device: str,
    tokens: tuple[int, ...],
    batch: tuple[int, ...],
    quick: bool,
    output: Path | None,
    output_format: str,
) -> None:
    """Generate with no, a growing, a preallocated and a paged cache, and compare.

    All four must generate the same tokens before anything is timed.

    \b
    kvsim study cache --quick
    kvsim study cache --device cuda --model llama2-7b --output results
    """  # noqa: D301 - \b keeps click from wrapping the examples
    from dataclasses import replace

    from kvsim.calibrate.outputs import write_record
    from kvsim.calibrate.study.plan import StudyPlan
    from kvsim.calibrate.study.study_caches import study_caches
    from kvsim.figures.study import study_page

    plan = StudyPlan.quickly(model, device) if quick else StudyPlan(model, device)
    plan = replace(
        plan,
        tokens=tuple(sorted(set(tokens))) or plan.tokens,
        batches=tuple(sorted(set(batch))) or plan.batches,
    )
    with held():
        study = study_caches(plan, say=say)
        record = study.record()
        if output is not None:
            for line in write_record(output, "study", record, study_page):
                say(line)
        emit(_sections(study), record, output_format)
    if study.interrupted:
        kept = sorted({row.batch for row in study.rows})
        say(f"kvsim: interrupted: of batches, {', '.join(map(str, kept))} were timed whole")
        raise click.exceptions.Exit(INTERRUPTED)
    if study.stopped:
        whole = ", ".join(map(str, sorted({row.batch for row in study.rows})))
        raise UnsupportedError(f"{study.stopped}; of batches, {whole} were timed whole")


def _sections(study: Study) -> list[Section]:
    headers = (
        "",
        "ms per token",
        "total s",
        "simulated s",
        "KV peak",
        "simulated",
        "read per token",
    )
    title = f"{study.model} in {study.dtype} on {study.device}"
    what = (
        f"torch {study.torch_version}, timed in {study.clock}; all four caches generated the same"
        f" {study.checked_tokens} tokens\nweights {format_bytes(study.weight_bytes)}, a token of K"
        f" and V {format_bytes(study.token_bytes)}, prompts of {study.prompt_tokens} tokens"
    )
    what += "".join(f"\nleft out: {line}" for line in study.left_out)
    rows = tuple(_row(row) for row in study.rows)
    claims = "\n".join(
        f"- {claim.claim}: {'yes' if claim.holds else 'no'}. {claim.finding}."
        for claim in study.claims
    )
    return [
        Section(title, (what, Table(headers, rows))),
        Section("Growth exponents (1 is linear, 2 quadratic)", (_exponents(study),)),
        Section("Common claims", (claims,)),
    ]


def _exponents(study: Study) -> str:
    return "\n".join(
        f"{name}, batch {batch}: a token over its context {slopes['token']:.2f},"
        f" in total over the answer {slopes['total']:.2f}"
        f" (simulated {slopes['simulated_total']:.2f})"
        for name, batches in study.exponents.items()
        for batch, slopes in batches.items()
    )


def _row(row: StudyRow) -> tuple[str, ...]:
    return (
        f"{row.cache}, batch {row.batch}, {row.tokens:,} tokens",
        f"{1e3 * row.token_seconds:.2f}",
        f"{row.total_seconds:.2f}",
        f"{row.simulated_seconds:.2f}",
        format_bytes(row.kv_peak_bytes),
        format_bytes(row.simulated_kv_bytes),
        format_bytes(row.read_bytes_per_token),
    )
