"""``kvsim scenarios``: the questions that kvsim ships."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from kvsim.cli.options import SHIPPED, format_option
from kvsim.cli.render import Section, Table, emit, print_records

__all__ = ["command"]


@click.command("scenarios")
@click.argument("name", type=SHIPPED, required=False)
@format_option
def command(name: str | None, output_format: str) -> None:
    """List the scenarios that ship, or print the YAML of NAME to start from.

    \b
    kvsim scenarios
    kvsim scenarios peer-w > mine.yaml
    """  # noqa: D301 - \b keeps click from wrapping the examples
    from kvsim.simulator.shipped import describe_scenarios, scenario_text

    if name is not None:
        _print(name, scenario_text(name), output_format)
        return
    found = describe_scenarios()
    table = Table(("scenario", "question"), tuple(map(_question, found)), words=True)
    loads = Table(
        ("scenario", "model on accelerator", "load"), tuple(map(_load, found)), words=True
    )
    sections = [
        Section(f"{len(found)} scenarios: kvsim simulate NAME", (table,)),
        Section("Loads", (loads,)),
    ]
    print_records(found, sections, output_format)


def _question(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["name"], row["question"]


def _load(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["name"], f"{row['model']} on {row['accelerator']}", row["load"]


def _print(name: str, text: str, output_format: str) -> None:
    """Print the file itself; as JSON and CSV what it says."""
    if output_format == "table":
        click.echo(text, nl=False)
        return
    from kvsim.specs.yaml_files import parse_yaml

    fenced = f"```yaml\n{text.rstrip()}\n```"
    emit([Section(name, (fenced,))], parse_yaml(text, name), output_format)
