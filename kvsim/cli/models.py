"""``kvsim models``: the catalogue of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from kvsim.cli.gpus import matches
from kvsim.cli.options import format_option
from kvsim.cli.render import Section, Table, print_records

__all__ = ["command"]


@click.command("models")
@click.argument("pattern", default="")
@format_option
def command(pattern: str, output_format: str) -> None:
    """List the models whose name, alias or hub id contains PATTERN (default: all)."""
    from kvsim.catalog.models import describe_models

    found = [row for row in describe_models() if matches(row, pattern)]
    if not found:
        raise click.UsageError(f"no model's name contains {pattern!r}; see kvsim models.")
    table = Table(("model", "billions", "hub id"), tuple(map(_row, found)), words=True)
    print_records(found, [Section(f"{len(found)} models", (table,))], output_format)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["name"], f"{row['parameters']:,.2f}", row.get("hf_id") or "-"
