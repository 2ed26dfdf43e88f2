"""``kvsim explain``: a model's KV bytes, layer kind by layer kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvsim.cli.options import COUNT, MODEL, format_option
from kvsim.cli.render import Section, emit

if TYPE_CHECKING:
    from kvsim.planning.formula import Explanation

__all__ = ["command"]


@click.command("explain")
@click.argument("model", type=MODEL)
@click.option("--kv-cache-dtype", default="auto", show_default=True, help="Format of K and V.")
@click.option("--context-len", type=COUNT, help="Tokens of the sequence; default: the longest.")
@click.option("--tp", "--tensor-parallel-size", "tp", type=COUNT, default=1, show_default=True)
@format_option
def command(
    model: str, kv_cache_dtype: str, context_len: int | None, tp: int, output_format: str
) -> None:
    """Show what every layer of MODEL keeps, as a formula with its numbers in."""
    from kvsim.catalog.models import find_model
    from kvsim.memory.rank import Rank
    from kvsim.planning.formula import explain
    from kvsim.planning.plan_types import plain
    from kvsim.specs.precision import kv_format

    spec = find_model(model)
    fmt = kv_format(spec.dtype if kv_cache_dtype == "auto" else kv_cache_dtype)
    answer = explain(spec, fmt, context=context_len, rank=Rank(tp=tp))
    emit(_sections(answer), plain(answer), output_format)


def _sections(answer: Explanation) -> list[Section]:
    from kvsim.cli.report import kinds_table, size_text

    total = (
        "all",
        "",
        f"{sum(kind.layers for kind in answer.kinds):,}",
        f"{answer.bytes_per_token:,}",
        size_text(answer.context_bytes),
        size_text(answer.all_full_bytes),
    )
    rank = f", one rank of tp {answer.tp}" if answer.tp > 1 else ""
    formulas = "\n".join(f"{kind.group}: {kind.formula}" for kind in answer.kinds)
    return [
        Section(
            f"{answer.model}: KV cache in {answer.kv_cache_dtype}{rank}",
            (formulas, kinds_table(answer.kinds, answer.context_len, total)),
        ),
        Section("Takeaway", (answer.takeaway,)),
    ]
