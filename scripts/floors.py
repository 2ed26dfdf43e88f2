"""The lower bounds of pyproject.toml, and whether what is installed stands at them.

``.ci/run`` installs the lowest versions that pyproject.toml allows and runs the tests with them;
this says whether it did::

    python scripts/floors.py check EXTRA...   # are the core and these extras at their bounds?
    python scripts/floors.py pin NAME...      # NAME==BOUND, for an installer

A bound is a version that was run, so it must exist, and what else is installed must allow it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
_NEED = re.compile(r"(?P<name>[\w-]+)>=(?P<floor>[\w.]+)")
_OWN = re.compile(r"kvsim\[(?P<extras>[\w,]+)\]")


def floors(text: str, extras: list[str]) -> dict[str, str]:
    """Read the lower bound of every package of the core and of `extras`.

    Raises
    ------
    ValueError
        For a requirement that states none.
    """
    project = tomllib.loads(text)["project"]
    needs = list(project["dependencies"])
    for extra in extras:
        needs += project["optional-dependencies"][extra]
    found = {}
    for need in needs:
        if own := _OWN.fullmatch(need):
            found |= floors(text, own["extras"].split(","))
        elif stated := _NEED.fullmatch(need):
            found[stated["name"]] = stated["floor"]
        else:
            raise ValueError(f"{need!r} states no lower bound")
    return found


def astray(bounds: dict[str, str]) -> list[str]:
    """Say of each package that is not installed at its bound what there is instead."""
    there = {name: _installed(name) for name in bounds}
    return [
        f"{name}: {there[name] or 'nothing'} is installed, the bound is {floor}"
        for name, floor in bounds.items()
        if _parts(there[name]) != _parts(floor)
    ]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _parts(release: str) -> list[str]:
    """Split a version: 2.0 and 2.0.0 are one."""
    parts = release.split(".")
    while parts[-1] == "0":
        parts.pop()
    return parts


def main(words: list[str]) -> int:
    """Print what is asked for; 1 when something is not at its bound."""
    text = PYPROJECT.read_text("utf-8")
    match words:
        case ["check", *extras]:
            bounds = floors(text, extras)
            wrong = astray(bounds)
            print("\n".join(wrong) or f"{len(bounds)} packages at their lower bounds")
            return 1 if wrong else 0
        case ["pin", *names]:
            bounds = floors(text, ["dev"])
            print("\n".join(f"{name}=={bounds[name]}" for name in names))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
