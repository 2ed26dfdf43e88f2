"""``--save FILE.yaml``: a command line becomes a scenario."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kvsim.cli import say
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.simulator.scenario import Scenario

__all__ = ["savable", "save_scenario"]


def savable(question: Scenario, file: str) -> Scenario:
    """Return the question as its file will ask it: the files it names need no folder.

    Raises
    ------
    InputError
        For a place that cannot be written, or that holds a file.
    """
    from kvsim.simulator.loading import placed

    path = Path(file)
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"{file!r} is no name of a scenario", where="--save", fix="end it in .yaml"
        )
    try:
        if path.exists() or path.is_symlink():
            raise InputError(
                f"{file} is there already", where="--save", fix="remove it, or give another name"
            )
    except OSError as error:
        raise InputError(f"cannot make {file}: {error.strerror}", where="--save") from None
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write into {path.absolute().parent}", where="--save")
    return placed(question)


def save_scenario(question: Scenario, file: str) -> None:
    """Write the question as a scenario that `kvsim simulate` reads.

    Raises
    ------
    InputError
        When the file cannot be written, or came into being meanwhile.
    """
    try:
        with Path(file).open("x", encoding="utf-8") as written:
            written.write(question.to_yaml(named=False))
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}", where="--save") from None
    say(f"saved: kvsim simulate {file}")
