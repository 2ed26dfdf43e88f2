"""What happened while a trace was read: rows kept, rows left out and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ReadReport"]

_EXAMPLES = 20


@dataclass
class ReadReport:
    """Counts kept while a trace streams by.

    Parameters
    ----------
    path : Path
        The file or folder.
    format : str
        Name of the format it is read as.
    rows : int
        Requests handed on.
    malformed : int
        Rows that could not be understood; the first 20 with line and reason in `examples`.
    dropped : Counter of str
        Rows that were understood and left out, by reason (a failed request, say).
    notes : Counter of str
        Rows that were kept with a change, by reason.
    """

    path: Path
    format: str
    rows: int = 0
    malformed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[int, str]] = field(default_factory=list)

    def malform(self, line: int, reason: str) -> None:
        """Count a row that could not be understood."""
        self.malformed += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append((line, reason))

    @property
    def first_problem(self) -> str:
        """The first malformed row in words, or an empty text."""
        return "line {}: {}".format(*self.examples[0]) if self.examples else ""

    def record(self) -> dict[str, Any]:
        """The counts as JSON; keys are as in ``kvsim trace stats --format json``."""
        return {
            "rows": self.rows,
            "malformed": self.malformed,
            "dropped": dict(self.dropped),
            "changed": dict(self.notes),
            "examples": [{"line": line, "reason": why} for line, why in self.examples],
        }

    def lines(self) -> list[str]:
        """Describe what was left out or changed, one line a matter; empty if nothing was."""
        said = [f"{_rows(count)} dropped: {reason}" for reason, count in self.dropped.items()]
        said += [f"{_rows(count)} changed: {reason}" for reason, count in self.notes.items()]
        if self.malformed:
            said.append(_rows(self.malformed, "malformed "))
            said += [f"  line {line}: {reason}" for line, reason in self.examples]
            hidden = self.malformed - len(self.examples)
            said += [f"  and {hidden} more"] if hidden else []
        return said


def _rows(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}row{'' if count == 1 else 's'}"
