"""Colours on a terminal, and none for those who want none (https://no-color.org)."""

import click
import pytest
from click.testing import CliRunner

from kvsim.cli import main

PLAN = ("plan", "--model", "llama2-7b", "--gpu", "a100")


@pytest.mark.parametrize(("wish", "coloured"), [(None, True), ("", True), ("1", False)])
def test_no_color_is_honoured(wish, coloured):
    out = CliRunner(env={"NO_COLOR": wish}).invoke(_kvsim(), PLAN, color=True).output
    assert (click.unstyle(out) != out) is coloured
    assert "FITS" in out


def _kvsim():
    """The command line as a click command, whatever wraps it."""

    @click.command(context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    def command(words):
        raise SystemExit(main(list(words)))

    return command
