"""Where the accuracy benchmarks find what was observed: ``--data FOLDER``, else $KVSIM_DATA."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

__all__ = ["parsed", "parser", "written"]


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with ``--data``, described by the first line of a benchmark's docstring."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--data", type=Path, default=os.environ.get("KVSIM_DATA"))
    return made


def parsed(made: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line; leave with one line where no folder is named."""
    chosen = made.parse_args()
    if not chosen.data:
        sys.exit("give --data FOLDER or set KVSIM_DATA: the folder that holds reference/")
    chosen.data = Path(chosen.data)
    return chosen


def written(text: str, target: Path, *, check: bool) -> int:
    """Write a fit's data file, or only compare: 1 when it would change."""
    if check:
        return int(text != target.read_text(encoding="utf-8"))
    target.write_text(text, encoding="utf-8")
    print(text)
    return 0
