"""Try random worlds until time is up, or one of them shows a bug.

::

    python -m tests.soak --seconds 600            worlds that nobody has tried yet
    python -m tests.soak --seconds 600 --seed 7   worlds 7, 8, 9, ...
    python -m tests.soak --world 7                one world again: how a bug is replayed
"""

from __future__ import annotations

import argparse
import random
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from time import monotonic

from tests.soak.trial import try_seed

_REPORT_SECONDS = 10.0


def soak(
    seeds: Iterable[int], seconds: float, tried: Callable[[int], Counter[str]] = try_seed
) -> tuple[int, Counter[str]]:
    """Try worlds until time is up; return 1 after a line on the first that fails, else 0."""
    begun = told = monotonic()
    seen = Counter[str]()
    for seed in seeds:
        try:
            seen += tried(seed)
        except Exception as error:
            print(failure(seed, error))
            if sys.stderr.isatty():
                traceback.print_exc()
            return 1, seen
        if monotonic() - told > _REPORT_SECONDS:
            told = monotonic()
            print(_progress(seen), file=sys.stderr, flush=True)
        if monotonic() - begun > seconds:
            break
    print(f"no law was broken in {_progress(seen)}", file=sys.stderr)
    return 0, seen


def failure(seed: int, error: Exception) -> str:
    """One line: the command that replays a world, and what was said of it."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return f"python -m tests.soak --world {seed}  # {words}"


def _progress(seen: Counter[str]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in seen.items())


def main(words: list[str]) -> int:
    """Read the command line, and soak."""
    shape = argparse.RawDescriptionHelpFormatter
    reader = argparse.ArgumentParser("python -m tests.soak", None, __doc__, formatter_class=shape)
    reader.add_argument("--seconds", type=float, default=600.0, help="how long")
    reader.add_argument("--seed", type=int, help="the first world; one at random by default")
    reader.add_argument("--world", type=int, help="try this one alone")
    asked = reader.parse_args(words)
    warnings.simplefilter("error")
    if asked.world is not None:
        return soak([asked.world], asked.seconds)[0]
    first = random.SystemRandom().randrange(10**9) if asked.seed is None else asked.seed
    print(f"worlds from seed {first} on", file=sys.stderr)
    return soak(count(first), asked.seconds)[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
