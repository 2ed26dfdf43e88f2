"""A bar on a terminal's stderr while work goes on; elsewhere nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Bar", "drawn"]

_REDRAWN_SECONDS = 0.1


class Bar:
    """What is drawn, now and then.

    By whoever works: a thread of the bar's own would keep this process from being copied.
    """

    def __init__(self, progress: Progress, **fields: Any) -> None:
        self._progress = progress
        self._task = progress.add_task("", **{"total": None, **fields})
        self._drawn = -1.0

    def show(self, *, now: bool = False, **fields: Any) -> None:
        """Take how far the work is; draw it if that is due, or `now`."""
        due = now or monotonic() - self._drawn > _REDRAWN_SECONDS
        self._progress.update(self._task, refresh=due, **fields)
        if due:
            self._drawn = monotonic()


@contextmanager
def drawn(before: str, after: str, **fields: Any) -> Iterator[Bar | None]:
    """Yield a bar between two texts, and the time that has passed; None where nobody looks.

    Parameters
    ----------
    before, after : str
        As rich's ``TextColumn`` takes them: ``{task.completed:,}``, ``{task.fields[name]}``.
    **fields
        Values to begin with.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    texts = (TextColumn(before), BarColumn(), TextColumn(after), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*texts, console=console, transient=True, auto_refresh=False) as progress:
        yield Bar(progress, **fields)
