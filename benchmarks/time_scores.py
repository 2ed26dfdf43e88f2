"""How far simulated latencies are from served runs: a score for each kind of run and engine.

    python benchmarks/time_scores.py [--every N] [--check]

Runs of ``$KVSIM_DATA/reference/served`` and every N-th of the campaigns of
``reference/gpu/aisimulate`` (`host_cases`) are simulated under the release that served them. Scores
stand in two rows each: runs that `fit_hosts` fitted the engine's host costs on, and all others.
The last columns say how many of the measured means lie within their band (90 % should, of runs that
were not fitted), and the median band's width, high over low. Writes ``benchmarks/time_scores.csv``;
``--check`` compares instead and leaves 1 when a median or a mean error got worse by more than a
tenth (and a tenth of a per cent).
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from math import ceil
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

from fit_hosts import ENTRIES
from host_cases import Case, at_the_cap, campaigns, replays, stages
from reference_data import parsed, parser

from kvsim.csv_text import csv_text
from kvsim.results.latencies import time_bands
from kvsim.runs.simulate import run_setup
from kvsim.steptime.bands import TimeBand

TARGET = Path(__file__).parent / "time_scores.csv"
EVERY = 5
_WORSE = 1.1
_ROUNDING = 0.1
_LATENCIES = ("ttft", "tpot", "e2el")
_BACKENDS = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt-llm"}
_MOST_CLIENTS = 1024


class Score(NamedTuple):
    """Errors of one latency over the runs of a kind, per cent of what was measured.

    `inside` is the share of runs within their band, per cent, and `width` the median band's.
    """

    kind: str
    fitted: bool
    latency: str
    runs: int
    mean: float
    median: float
    p90: float
    sign: float
    inside: float
    width: float


def scores(folder: Path, every: int) -> Iterator[Score]:
    """Simulate all runs, kind by kind, and yield their scores."""
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        fitted = {case.name for entry in ENTRIES for case in entry.cases(folder, scratch)}
        for kind, cases in _kinds(folder, scratch, every):
            yield from _scores(kind, cases, fitted)


def _kinds(folder: Path, scratch: Path, every: int) -> Iterator[tuple[str, Iterable[Case]]]:
    yield "served, open loop", replays(folder, scratch)
    yield "served, at the cap", at_the_cap(folder)
    yield "served, stages", stages(folder)
    for backend, engine in _BACKENDS.items():
        runs = campaigns(folder, backend, _MOST_CLIENTS, its_own_release=True)
        yield f"campaigns, {engine}", islice(runs, 0, None, every)


def _scores(kind: str, cases: Iterable[Case], fitted: set[str]) -> Iterator[Score]:
    errors: dict[tuple[bool, str], list[tuple[float, TimeBand]]] = {}
    for case in cases:
        seen = run_setup(case.setup, 0).observed
        bands = time_bands(case.setup)
        for key, value in case.measured.items():
            latency = key.split("_")[1]
            pair = seen[key] / value, bands[latency]
            errors.setdefault((case.name in fitted, latency), []).append(pair)
    order = sorted(errors, key=lambda at: (at[0], _LATENCIES.index(at[1])))
    for at in order:
        yield Score(kind, *at, len(errors[at]), *_numbers(errors[at]))


def _numbers(pairs: list[tuple[float, TimeBand]]) -> Iterator[float]:
    """Statistics of simulated over measured, in the order of a score's."""
    errors = [100 * (ratio - 1) for ratio, _ in pairs]
    size = sorted(map(abs, errors))
    p90 = size[ceil(0.9 * len(size)) - 1]
    inside = fmean(100 * (band.low <= 1 / ratio <= band.high) for ratio, band in pairs)
    width = median(band.high / band.low for _, band in pairs)
    for number in (fmean(size), median(size), p90, median(errors), inside, width):
        yield round(number, 1)


def table_of(rows: Iterable[Score]) -> str:
    """Scores as CSV."""
    return csv_text([Score._fields, *rows])


def markdown(known: Path) -> str:
    """The committed scores as docs/accuracy.md shows them: fitted on and not, side by side."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    with known.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            errors = ", ".join(row[name] for name in ("mean", "median", "p90"))
            text = f"{errors} ({float(row['sign']):+.1f}; {row['inside']}; {row['runs']})"
            cells.setdefault((row["kind"], row["latency"]), {})[row["fitted"]] = text
    head = ["| runs | latency | fitted on | not fitted on |", "| --- | --- | ---: | ---: |"]
    body = [
        f"| {kind} | {latency} | {each.get('True', '-')} | {each.get('False', '-')} |"
        for (kind, latency), each in cells.items()
    ]
    return "\n".join([*head, *body])


def worse(rows: Iterable[Score], known: Path) -> list[str]:
    """Scores that are worse than the committed ones by more than a tenth."""
    with known.open(newline="", encoding="utf-8") as lines:
        before = {
            (row["kind"], row["fitted"], row["latency"]): row for row in csv.DictReader(lines)
        }
    found = []
    for row in rows:
        was = before.get((row.kind, str(row.fitted), row.latency))
        for name in ("mean", "median") if was else ():
            now, then = getattr(row, name), float(was[name])
            if now > _WORSE * then + _ROUNDING:
                found.append(f"{row.kind}, {row.latency}: {name} error {now} %, was {then} %")
    return found


def main() -> int:
    """Print the scores; write or compare them."""
    options = parser(__doc__)
    options.add_argument("--every", type=int, default=EVERY, help="every N-th campaign run")
    options.add_argument("--check", action="store_true")
    options.add_argument("--table", action="store_true", help="print the committed scores")
    args = parsed(options)
    if args.table:
        print(markdown(TARGET))
        return 0
    rows = []
    for row in scores(args.data, args.every):
        print(
            f"{row.kind:24s} {'fitted on' if row.fitted else 'not fitted':10s} {row.latency:5s}"
            f" n {row.runs:3d}  mean {row.mean:6.1f} %  median {row.median:6.1f} %"
            f"  p90 {row.p90:6.1f} %  sign {row.sign:+6.1f} %"
            f"  inside {row.inside:5.1f} % of bands {row.width:.1f} wide",
            flush=True,
        )
        rows.append(row)
    if args.check:
        found = worse(rows, TARGET)
        print(*found, sep="\n", file=sys.stderr)
        return int(bool(found))
    if args.every == EVERY:
        TARGET.write_text(table_of(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
