"""``--report FILE.html``: a self-contained page that ends with the command that gives it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from kvsim.cli import say
from kvsim.errors import InputError

__all__ = ["write_report"]

# They say where to write, not what was asked.
_PLACES = ("report", "output", "output_dir", "save", "output_format")


def write_report(file: str, page: Callable[[str], str]) -> None:
    """Write a self-contained HTML page, made from the command line that was given.

    Raises
    ------
    InputError
        When the file cannot be written.
    MissingExtraError
        Without plotly.
    """
    from kvsim.results.outputs.folder import write_whole

    content = page(_command_line(click.get_current_context()))
    try:
        write_whole(Path(file), content.encode())
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}", where="--report") from None
    say(f"report: {file}")


def _command_line(context: click.Context) -> str:
    """Rebuild the command line, without what only says where to write."""
    import shlex

    words = ["kvsim", str(context.info_name)]
    for option in context.command.params:
        name = str(option.name)
        value = context.params[name]
        if isinstance(option, click.Argument):
            words += [] if value is None else [str(value)]
        elif name not in _PLACES:
            words += _flag(option, value)
    return shlex.join(words)


def _flag(option: click.Parameter, value: object) -> list[str]:
    """Words that give an option its value; none where it has none."""
    flag = max(option.opts, key=len)
    if isinstance(value, tuple):
        return [word for each in value for word in (flag, str(each))]
    if isinstance(value, bool):
        if option.secondary_opts:
            return [flag if value else option.secondary_opts[0]]
        return [flag] if value else []
    return [] if value in (None, "") else [flag, str(value)]
