"""``kvsim gpus``: the catalogue of accelerators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from kvsim.cli.options import format_option
from kvsim.cli.render import Section, Table, print_records

__all__ = ["command"]


@click.command("gpus")
@click.argument("pattern", default="")
@format_option
def command(pattern: str, output_format: str) -> None:
    """List the accelerators whose name or alias contains PATTERN (default: all)."""
    from kvsim.catalog.accelerators import describe_accelerators

    found = [row for row in describe_accelerators() if matches(row, pattern)]
    if not found:
        raise click.UsageError(f"no accelerator's name contains {pattern!r}; see kvsim gpus.")
    headers = ("accelerator", "GiB", "TB/s", "TFLOP/s", "USD/hour", "step times")
    table = Table(headers, tuple(map(_row, found)))
    section = Section(f"{len(found)} accelerators (memory as the driver reports it)", (table,))
    print_records(found, [section], output_format)


def matches(row: Mapping[str, Any], pattern: str) -> bool:
    """Whether the name, the hub id or an alias contains the pattern, whatever the case."""
    names: Iterable[str] = (row["name"], row.get("hf_id", ""), *row.get("aliases", ()))
    return any(pattern.lower() in name.lower() for name in names)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    rates, price = row["flops_per_s"], row["price_usd_per_hour"]
    rate = rates.get("bf16") or rates.get("fp16")
    return (
        row["name"],
        f"{row['memory_bytes'] / 2**30:,.1f}",
        f"{row['bandwidth_bytes_per_s'] / 1e12:.2f}",
        f"{rate / 1e12:,.0f}" if rate else "-",
        f"{price[0]:g} - {price[1]:g}" if price else "-",
        "architecture's medians" if row["step_times"] == "assumed" else row["step_times"],
    )
