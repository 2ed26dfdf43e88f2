"""The command line: a click group that imports a command only when it is asked for.

``kvsim --help`` reads the table below and nothing else, so it starts in milliseconds.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from kvsim.errors import KVSimError, nearest, shortened
from kvsim.interrupts import stopping
from kvsim.version import __version__

__all__ = ["COMMANDS", "INTERRUPTED", "main", "say"]

# name: (module that holds `command`, one line for --help)
COMMANDS: dict[str, tuple[str, str]] = {
    "plan": ("kvsim.cli.plan", "What fits on the card: bytes, blocks, tokens, requests."),
    "simulate": ("kvsim.cli.simulate", "What happens under load: latency, memory, preemption."),
    "size": ("kvsim.cli.size", "Which card, how many, with what flags: the cheapest fleet."),
    "search": ("kvsim.cli.search", "Which deployment of a space is the cheapest, and why."),
    "compare": ("kvsim.cli.compare", "Variants of a scenario on the same requests."),
    "scenarios": ("kvsim.cli.scenarios", "The scenarios that ship, or the YAML of one."),
    "cache-curve": ("kvsim.cli.cache_curve", "Hit ratios of a trace by cache size and policy."),
    "sweep": ("kvsim.cli.sweep", "Every point of a space, on all cores or a cluster, resumable."),
    "trace": ("kvsim.cli.trace", "A request trace: statistics, or another format."),
    "explain": ("kvsim.cli.explain", "A model's KV bytes as a formula with its numbers."),
    "models": ("kvsim.cli.models", "List the models of the catalogue."),
    "gpus": ("kvsim.cli.gpus", "List the accelerators of the catalogue."),
    "calibrate": (
        "kvsim.cli.calibrate",
        "Time a device, fit step times to tables, learn from a server.",
    ),
    "validate": ("kvsim.cli.validate", "Predictions beside a real decode loop, log or benchmark."),
    "study": ("kvsim.cli.study", "Four ways to keep K and V, in torch and simulated."),
    "dashboard": ("kvsim.cli.dashboard", "Open the dashboard in a browser (extra: dashboard)."),
    "completion": ("kvsim.cli.completion", "Print the line that switches on shell completion."),
}

INTERRUPTED = 130
UNWRITABLE = 74

# New objects before the cycle collector looks at them: Python's 700 is for programs that make
# cycles; a command's imports alone make half a million objects, and all of them stay.
_COLLECTED_AT_ONCE = 200_000


class _ReaderLeftError(Exception):
    """Nobody reads stdout any more: of an ``OSError`` click would make exit code 1."""


@contextmanager
def _telling_readers_apart() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise _ReaderLeftError from None


class LazyGroup(click.Group):
    """A group that knows its commands' names and helps without importing them."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Read the command line; ``--help`` and ``--version`` print here."""
        with _telling_readers_apart():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _telling_readers_apart():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name every command, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the one command that is asked for."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown command with its nearest neighbours."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = ", ".join(nearest(args[0], COMMANDS) or COMMANDS)
            ctx.fail(f"no command {args[0]!r}; did you mean {close}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: kvsim plan --model llama2-7b --gpu a100",
)
@click.version_option(__version__, prog_name="kvsim", message="%(prog)s %(version)s")
def cli() -> None:
    """Plan and simulate KV-cache memory on accelerators."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code.

    The answer goes to stdout. What went wrong is one line on stderr: 2 for bad input,
    70 for a bug in kvsim, 74 when stdout takes no more, 130 after Ctrl-C, 143 after SIGTERM.
    Who stops reading stdout (``| head``) has what was wanted: 0, and nothing is said.
    """
    if argv is None:
        gc.set_threshold(_COLLECTED_AT_ONCE)
    _open_what_is_closed()
    # Looking for pydantic's plugins reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    with stopping(_finishing) as stop:
        try:
            code = _run(argv)
        except KeyboardInterrupt:  # while something was being said
            code = INTERRUPTED
        except Exception:  # Python 3.11 makes a RuntimeError of one that comes as a class is made
            if not stop.was_raised:
                raise
            _complain("interrupted")
            code = INTERRUPTED
    if argv is None:
        gc.freeze()  # the process ends: nothing is gained by looking through all it has made
    if stop.signal:
        # Of an interrupt inside exec(), which makes every dataclass, Python remembers to end the
        # process by SIGINT, whatever its exit code (python -m), until exec() is called again.
        exec("")
    sys.exit(stop.exit_code if stop.signal and code == INTERRUPTED else code)


def _open_what_is_closed() -> None:
    """Let a stream that was closed by the shell (``>&-``) take everything and keep nothing."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def _finishing() -> None:
    """Say why a second signal does not end the program; past any buffer, as signals must."""
    os.write(2, b"kvsim: still writing what was finished; Ctrl-\\ (SIGQUIT) gives it up\n")


def _run(argv: Sequence[str] | None) -> int:
    try:
        code = cli.main(
            list(argv) if argv is not None else None,
            prog_name="kvsim",
            standalone_mode=False,
        )
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return INTERRUPTED
    except click.UsageError as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            say(error.format_message())
            return error.exit_code
        _complain(error.format_message(), error.ctx)
        return error.exit_code
    except click.ClickException as error:
        _complain(error.format_message())
        return error.exit_code
    except KVSimError as error:
        _complain(str(error))
        return error.exit_code
    except _ReaderLeftError:
        with suppress(OSError):  # what is still buffered goes nowhere when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is not None:  # of a path that was given: too long, or a loop
            _complain(f"{error.filename}: {error.strerror}")
            return KVSimError.exit_code
        _complain(f"the answer cannot be written: {error.strerror}")
        return UNWRITABLE
    return code if isinstance(code, int) else 0


def _complain(message: str, ctx: click.Context | None = None) -> None:
    """Say what went wrong on one line of stderr, under the command's name."""
    name = ctx.command_path if ctx else "kvsim"
    say(f"{name}: {shortened(' '.join(message.split()))}")


def say(line: str) -> None:
    """Write a line to stderr, if that takes any: an answer does not depend on it."""
    with suppress(OSError):
        click.echo(line, err=True)
