"""What README.md tells a newcomer to type, and what it shows in answer.

One reader for the tests, which run what it shows, and for ``.ci/run``, which sets up by it::

    python scripts/readme_commands.py first          # the first block's two lines
    python scripts/readme_commands.py setup          # every line that installs something
    python scripts/readme_commands.py compare FILE   # does FILE hold what the README shows first?

It runs before anything is installed, so it imports the standard library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCK = re.compile(r"^```console\n\$ (?P<command>.+)\n(?P<output>(?:.*\n)*?)```$", re.MULTILINE)
CUT = "..."  # a block that ends so shows the first lines only
_FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<body>(?:.*\n)*?)```$", re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_INSTALLS = re.compile(
    r"(sudo )?(python3? -m )?(pip3?|pipx|uv|conda|apt|apt-get|brew|npm|make) .*\binstall\b"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A command, the lines that the README shows of its output, and whether it cuts them short."""

    command: str
    lines: tuple[str, ...]
    cut: bool

    def agrees(self, printed: Sequence[str]) -> bool:
        """Whether the command, if it printed these lines, printed what is shown."""
        shown = list(self.lines)
        return bool(shown) and shown == list(printed[: len(shown)] if self.cut else printed)


def shown(text: str) -> Iterator[Shown]:
    """Read every command whose output the README shows."""
    for match in BLOCK.finditer(text):
        lines = match["output"].splitlines()
        cut = lines[-1:] == [CUT]
        yield Shown(match["command"], tuple(lines[:-1] if cut else lines), cut)


def first_lines(text: str) -> list[str]:
    """Read the lines of the first block: what a newcomer types."""
    match = _FENCED.search(text)
    return match["body"].splitlines() if match else []


def setup_lines(text: str) -> list[str]:
    """Read every line that installs something, in a block or within a sentence, once each."""
    typed = [line for match in _FENCED.finditer(text) for line in _typed(match)]
    quoted = [" ".join(code.split()) for code in _INLINE.findall(_FENCED.sub("", text))]
    commands = (line.partition("  #")[0].strip() for line in typed + quoted)
    return list(dict.fromkeys(line for line in commands if _INSTALLS.match(line)))


def _typed(block: re.Match[str]) -> list[str]:
    """Read what a block tells to type: all of it, or behind the prompt where answers are shown."""
    lines = block["body"].splitlines()
    if block["language"] != "console":
        return lines
    return [line[2:] for line in lines if line.startswith("$ ")]


def compare(printed: list[str], first: Shown) -> str:
    """Say where what was printed leaves what is shown, or nothing.

    An installer that prints before it is passed over.
    """
    if first.lines[0] not in printed:
        return f"never printed: {first.lines[0]}"
    answer = printed[printed.index(first.lines[0]) :]
    if first.agrees(answer):
        return ""
    both = zip_longest(first.lines, answer[: len(first.lines)] if first.cut else answer)
    return "\n".join(f"shown: {one}\nprinted: {other}" for one, other in both if one != other)


def main(words: list[str]) -> int:
    """Print what is asked for; 1 if what was printed is not what is shown."""
    text = README.read_text("utf-8")
    match words:
        case ["first"]:
            print("\n".join(first_lines(text)))
        case ["setup"]:
            print("\n".join(setup_lines(text)))
        case ["compare", file]:
            first = next(shown(text))
            wrong = compare(Path(file).read_text("utf-8").splitlines(), first)
            print(wrong or f"printed as README.md shows: {first.command}")
            return 1 if wrong else 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
