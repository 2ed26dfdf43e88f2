"""Lists of block identities taken out of a JSON text before it is parsed.

In a conversation of an agent each request's list repeats that of the request before it and adds
a few: 65 of 66 MB of WEKA's traces. The text of a list that starts as the last one did is not
read again; only what follows is::

    "hash_ids": [1,2,3,4,7]
    "hash_ids": [1,2,3,4,7,8,9]
                 ---------       as before: its runs are known
                          ====   parsed
"""

from __future__ import annotations

import json
import re
from typing import Any

from kvsim.readers.json_file import each_key_once
from kvsim.workload.content import IdRuns
from kvsim.workload.traces.plain_lines import NotPlain

__all__ = ["with_id_runs"]

_OPENING = re.compile(r"[ \t\r\n]*:[ \t\r\n]*\[")
_STAND_IN = "NaN"  # what JSON has no other use for, and Python's parser asks about


def with_id_runs(text: str, key: str, below: int, offset: int) -> Any:
    """Parse JSON in which every list under `key` becomes `IdRuns`.

    Parameters
    ----------
    text : str
        A JSON value.
    key : str
        Key of the lists; it is none that JSON would escape.
    below : int
        What every identity is below; and 0 or more.
    offset : int
        Added to every identity.

    Raises
    ------
    NotPlain
        For a list of anything else, and for JSON that holds a NaN.
    ValueError
        For what is not JSON, or repeats a key.
    """
    pieces, lists = _taken_out(text, f'"{key}"', _Lists(below, offset))
    found = iter(lists)

    def constant(name: str) -> Any:
        return next(found) if name == _STAND_IN else float(name)

    return json.loads(
        _STAND_IN.join(pieces), object_pairs_hook=each_key_once, parse_constant=constant
    )


def _taken_out(text: str, quoted: str, read: _Lists) -> tuple[list[str], list[IdRuns]]:
    """Return the text around the lists, and the lists."""
    pieces, lists, done, at = [], [], 0, 0
    while (at := text.find(quoted, at)) >= 0:
        at += len(quoted)
        if opening := _OPENING.match(text, at):
            start, end = opening.end(), text.find("]", opening.end())
            if end < 0:
                raise NotPlain
            lists.append(read.runs(text[start:end]))
            pieces.append(text[done : start - 1])
            done = at = end + 1
    pieces.append(text[done:])
    if any(_STAND_IN in piece for piece in pieces):
        raise NotPlain
    return pieces, lists


class _Lists:
    """Reads one list after the other, remembering the last."""

    def __init__(self, below: int, offset: int) -> None:
        self._below, self._offset = below, offset
        self._text, self._runs = "", IdRuns(())

    def runs(self, text: str) -> IdRuns:
        """Read what stands between the brackets."""
        kept = _common_members(self._text, text)
        if kept == len(self._text):
            known = self._runs.runs
        else:
            count = text.count(",", 0, kept) + 1 if kept else 0
            known = _first(self._runs.runs, count)
        if kept < len(text):
            known = _followed(known, self._parsed(text[kept + 1 :] if kept else text, kept))
        self._text, self._runs = text if known else "", IdRuns(known)
        return self._runs

    def _parsed(self, text: str, behind: int) -> tuple[range, ...]:
        try:
            ids = json.loads(f"[{text}]")
        except ValueError:
            raise NotPlain from None
        if not ids:
            if behind:  # nothing after a comma
                raise NotPlain
            return ()
        if set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) >= self._below:
            raise NotPlain
        first = ids[0] + self._offset
        if ids[-1] - ids[0] == len(ids) - 1 and ids == list(range(ids[0], ids[-1] + 1)):
            return (range(first, first + len(ids)),)
        return IdRuns.of(ids).shifted(self._offset).runs


def _common_members(before: str, now: str) -> int:
    """How many characters of both hold the same whole members, without the comma behind them."""
    same = _common(before, now)
    if before[same : same + 1] in ("", ",") and now[same : same + 1] in ("", ","):
        return same
    return max(now.rfind(",", 0, same), 0)


def _common(before: str, now: str) -> int:
    """How many characters two texts begin with in common."""
    if now.startswith(before):
        return len(before)
    least, most = 0, min(len(before), len(now))
    while least < most:
        middle = (least + most + 1) // 2
        if now.startswith(before[least:middle], least):
            least = middle
        else:
            most = middle - 1
    return least


def _first(runs: tuple[range, ...], count: int) -> tuple[range, ...]:
    """Return the runs of the first `count` members."""
    kept = []
    for run in runs:
        if count <= 0:
            break
        kept.append(run[:count])
        count -= len(run)
    return tuple(kept)


def _followed(runs: tuple[range, ...], others: tuple[range, ...]) -> tuple[range, ...]:
    """Return runs and those behind them, joined where they meet."""
    if runs and others and runs[-1].stop == others[0].start:
        return (*runs[:-1], range(runs[-1].start, others[0].stop), *others[1:])
    return (*runs, *others)
