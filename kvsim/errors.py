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
    "few",
    "first_line",
    "nearest",
    "printable",
    "shortened",
]

LONGEST = 500  # characters of a message: what is read before the eye gives up
_TAIL = 180  # of them from the end, where the fix is

_LONGEST_NAME = 200  # characters of a wrong name that a message shows, and that are compared


class KVSimError(Exception):
    """Base of every error that kvsim raises on purpose; it prints in one line, not a long one."""

    exit_code = 2

    def __str__(self) -> str:
        return shortened(printable(self._said()))

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


def shortened(message: str) -> str:
    """Leave out the middle of a message that is too long: a value that was echoed, as a rule.

    Examples
    --------
    >>> len(shortened("unknown model '" + 5000 * "x" + "'; did you mean llama2-7b?"))
    500
    """
    if len(message) <= LONGEST:
        return message
    gap = " ... "
    return message[: LONGEST - _TAIL - len(gap)] + gap + message[-_TAIL:]


def few(reasons: Iterable[str], room: int = 400) -> str:
    """Join reasons while there is room for them, and count the rest.

    Parameters
    ----------
    reasons : iterable of str
        One at least; the first is always said.
    room : int
        Characters.

    Examples
    --------
    >>> few(["vllm: no such option", "sglang: no such option", "llama.cpp: no"], room=30)
    'vllm: no such option; and 2 more'
    """
    said, *rest = reasons
    while rest and len(said) + len(rest[0]) <= room:
        said = f"{said}; {rest.pop(0)}"
    return f"{said}; and {len(rest)} more" if rest else said


def printable(text: str) -> str:
    r"""Escape what somebody's words may hold: line ends, colours, what no terminal shows.

    Examples
    --------
    >>> printable("two\nlines")
    'two\\nlines'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in shortened(text))


def first_line(error: BaseException) -> str:
    """Return what an error says in its first line; its name where it is mute."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
