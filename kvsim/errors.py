"""Everything kvsim raises.

::

    KVSimError                 exit code 2: one clear line, never a traceback
    ├── InputError             a value, a file or a flag is wrong
    │   └── UnknownNameError   a name that no catalogue knows; lists the nearest ones
    ├── UnsupportedError       a thing that is understood and cannot be done, with the reason
    ├── MissingExtraError      an optional dependency is absent; names the extra to install
    └── InvariantError         a conservation law is broken: a bug in kvsim, exit code 70

Scarcity (no free block, no room) is an answer (``None`` or ``False``), never an exception.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "InputError",
    "InvariantError",
    "KVSimError",
    "MissingExtraError",
    "UnknownNameError",
    "UnsupportedError",
    "nearest",
]


_LONGEST_NAME = 200  # characters of a wrong name that a message shows, and that are compared
_LONGEST_LINE = 1500


class KVSimError(Exception):
    """Base of every error that kvsim raises on purpose; it prints in one line."""

    exit_code = 2

    def __str__(self) -> str:
        return _one_line(self._said())

    def _said(self) -> str:
        return super().__str__()


class InputError(KVSimError):
    """A value, a file or a flag is wrong.

    Parameters
    ----------
    what : str
        What is wrong, with the offending value.
    where : str, optional
        File, line, key or flag.
    fix : str, optional
        What to do instead.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = what, where, fix

    def _said(self) -> str:
        where = f"{self.where}: " if self.where else ""
        fix = f"; {self.fix}" if self.fix else ""
        return f"{where}{self.what}{fix}"


class UnknownNameError(InputError):
    """A name that a catalogue does not hold.

    Parameters
    ----------
    kind : str
        What was looked up: "model", "accelerator", "engine".
    name : str
        The name as given.
    known : iterable of str
        All valid names; the nearest few are printed.
    fix : str, optional
        How to see or extend the list.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, fix: str = "") -> None:
        known = list(known)
        close = nearest(name, known)
        known = [*sorted(known)[:8], *(["..."] if len(known) > 8 else [])]
        said = f"did you mean {', '.join(close)}?" if close else f"known are {', '.join(known)}"
        super().__init__(f"unknown {kind} {name!r:.{_LONGEST_NAME}}; {said}", fix=fix)


class UnsupportedError(KVSimError):
    """The input is understood, and what is asked of it cannot be done."""


class MissingExtraError(KVSimError):
    """An optional dependency is absent."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'kvsim[{extra}]'")


class InvariantError(KVSimError):
    """A conservation law is broken: this is a bug in kvsim, not in the input."""

    exit_code = 70


def _one_line(text: str) -> str:
    """Somebody's words may hold line ends, colours and megabytes: show them escaped and cut."""
    text = text[: 2 * _LONGEST_LINE]
    if not text.isprintable():
        text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 3]}..."


def nearest(name: str, known: Iterable[str], count: int = 4) -> list[str]:
    """Return up to `count` of the `known` names that resemble `name`, best first.

    A name resembles another when it contains it or when difflib finds them alike.

    Examples
    --------
    >>> nearest("h10", ["a100", "h100", "h200"])
    ['h100', 'h200', 'a100']
    """
    import difflib  # only a mistake needs it

    lowered = {entry.lower(): entry for entry in known}
    query = name[:_LONGEST_NAME].lower()
    inside = sorted((entry for entry in lowered if query and query in entry), key=len)
    alike = difflib.get_close_matches(query, list(lowered), n=count, cutoff=0.55)
    return [lowered[entry] for entry in dict.fromkeys([*inside, *alike])][:count]
