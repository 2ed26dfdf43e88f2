"""``kvsim calibrate``: from measurements to the coefficients that time a step."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.group(name="calibrate")
def command() -> None:
    """Fit the step-time coefficients of an accelerator to measurements."""


@command.command()
@click.option("--gpu", required=True, help="Accelerator: a name, an alias or a path.")
@click.option(
    "--tables",
    type=click.Path(path_type=Path),
    help="Folder of public kernel tables (aiconfigurator, llmservingsim, vidur).",
)
@click.option(
    "--rows",
    type=click.Path(path_type=Path),
    help="Your own measured steps, a CSV; its columns are in kvsim.calibrate.rows.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Profile to write; without it the block is printed.",
)
def fit(gpu: str, tables: Path | None, rows: Path | None, output: Path | None) -> None:
    """Fit coefficients from tables or from your own steps, and write a profile.

    The profile is at once good for ``--gpu`` of every command.
    """
    from kvsim.calibrate.command import fit_command

    click.echo(fit_command(gpu=gpu, tables=tables, rows=rows, output=output))
