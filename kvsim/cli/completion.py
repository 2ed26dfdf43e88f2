"""``kvsim completion``: the line that switches on shell completion."""

from __future__ import annotations

import click

__all__ = ["command"]

_LINES = {
    "bash": 'eval "$(_KVSIM_COMPLETE=bash_source kvsim)"',
    "zsh": 'eval "$(_KVSIM_COMPLETE=zsh_source kvsim)"',
    "fish": "_KVSIM_COMPLETE=fish_source kvsim | source",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(_LINES)))
def command(shell: str) -> None:
    """Print the line to add to ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish."""
    click.echo(_LINES[shell])
