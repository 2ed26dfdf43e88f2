"""``kvsim sweep``: many simulations, kept as they finish."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from kvsim.cli import INTERRUPTED, say
from kvsim.cli.bar import drawn
from kvsim.cli.options import COUNT, format_option
from kvsim.cli.render import Section, Table, emit, print_records, short_key
from kvsim.interrupts import held

if TYPE_CHECKING:
    from kvsim.search.sweep.answer import PointAnswer, Sweep
    from kvsim.search.sweep.runner import Progress, Watch

__all__ = ["command"]

_MOST_ROWS = 40  # of points, and of reasons: who wants all of them reads the results
_HEADINGS = {  # eighty columns have no room for more: the formats for machines have all
    "request_throughput": "requests/s",
    "p99_ttft_ms": "p99 TTFT ms",
    "p99_tpot_ms": "p99 TPOT ms",
    "kv_cache.usage_mean": "KV",
    "preemptions": "preempted",
}


@click.command("sweep")
@click.argument("space", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder of the sweep.")
@click.option("--jobs", type=COUNT, help="Processes of this machine; default: one a core.")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask cluster instead: tcp://host:8786.")
@click.option("--best", default="", metavar="KEY", help="Rank points: min:p99_ttft_ms, max:...")
@click.option("--retry-failed", is_flag=True, help="Run again what failed before.")
@format_option
def command(
    space: str,
    output: str,
    output_format: str,
    **options: Any,
) -> None:
    """Run every point of SPACE, a YAML file, with every seed, and keep each run as it finishes.

    The same line on the same folder goes on where it was ended, and repeats nothing.

    \b
    kvsim sweep space.yaml -o out
    kvsim sweep space.yaml -o out --best min:p99_ttft_ms --jobs 4
    kvsim sweep space.yaml -o out --scheduler tcp://10.0.0.1:8786
    """  # noqa: D301 - \b keeps click from wrapping the examples
    from kvsim.search.sweep.runner import sweep

    with held():
        with _progress() as watch:
            found = sweep(space, output, watch=watch, **options)
        _show(found, output_format)
        _tell(found)
    if found.interrupted:
        raise click.exceptions.Exit(INTERRUPTED)


def _show(found: Sweep, output_format: str) -> None:
    """Print the answer; as CSV it is one table, a row a point."""
    if output_format == "csv":
        print_records([point.to_dict() for point in found.points], (), output_format)
    else:
        emit(_sections(found), found.to_dict, output_format)


def _tell(found: Sweep) -> None:
    """Say what became of the runs; the last line how to go on, where some are missing."""
    before = f" ({found.repeated:,} of them before)" if found.repeated else ""
    done = found.runs - found.unfinished
    said = f"{done:,} of {found.runs:,} runs are done{before}, {found.failed:,} failed"
    say(f"kvsim: {said}")
    if found.results is not None:
        say(f"wrote {found.results.name} to {found.folder}")
    if found.interrupted:
        kept = f"{done:,} runs are kept in {found.folder}"
        say(f"kvsim: interrupted: {kept}; the same line again goes on")


def _sections(found: Sweep) -> Iterator[Section]:
    ranked = found.ranked
    runs = f"{found.finished:,} of {found.runs:,} runs finished"
    by = f", {found.best_by} first" if found.best_by else ""
    title = f"{found.name}: {len(ranked):,} points, {runs}{by}"
    left = len(ranked) - _MOST_ROWS
    more = (f"and {left:,} more: --format csv, or the results",) if left > 0 else ()
    sure = "Every time has its band: time_bands, factors of it, in --format json and the results."
    yield Section(title, (_points(found, ranked[:_MOST_ROWS]), *more, sure))
    if found.failures:
        rows = tuple((f"{count:,}", reason) for reason, count in found.failures[:_MOST_ROWS])
        others = sum(count for _, count in found.failures[_MOST_ROWS:])
        more = (f"and {others:,} more, each with its reason in the results",) if others else ()
        title = f"{found.failed:,} of {found.runs:,} runs failed"
        yield Section(title, (Table(("runs", "reason"), rows, words=True), *more))


def _points(found: Sweep, points: tuple[PointAnswer, ...]) -> Table:
    headings = dict(_HEADINGS)
    if found.best_by is not None:
        headings.setdefault(found.best_by.key, found.best_by.key)
    varied = tuple(points[0].values)
    rows = tuple(
        (
            *(str(point.values[key]) for key in varied),
            *(_number(key, point) for key in headings),
            _runs(point),
        )
        for point in points
    )
    names = (*map(short_key, varied), *headings.values(), "runs")
    return Table(names, rows)


def _number(key: str, point: PointAnswer) -> str:
    value = point.means[key]
    if value is None:
        return "saturated" if point.has_grown(key) else "-"
    if key == "kv_cache.usage_mean":
        return f"{value:.1%}"
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"


def _runs(point: PointAnswer) -> str:
    """How many finished, and what is to be known of them."""
    said = f"{point.finished}/{point.asked}"
    return f"{said}, {point.saturated} saturated" if point.saturated else said


@contextmanager
def _progress() -> Iterator[Watch | None]:
    """Draw a bar on a terminal's stderr; elsewhere nothing."""
    with drawn("", "{task.description}") as bar:
        if bar is None:
            yield None
            return
        began = monotonic()

        def watch(now: Progress) -> None:
            said = _progress_words(now, monotonic() - began)
            is_last = now.done == now.runs
            bar.show(now=is_last, completed=now.done, total=now.runs, description=said)

        yield watch


def _progress_words(now: Progress, seconds: float) -> str:
    """Say how far a sweep is, how fast, for how long, and what is best so far."""
    words = [f"{now.done:,} of {now.runs:,} runs"]
    if now.failed:
        words.append(f"{now.failed:,} failed")
    rate = (now.done - now.repeated) / seconds if seconds > 0 else 0.0
    if rate > 0:
        left = round((now.runs - now.done) / rate)
        words.append(
            f"{rate:,.3g} a second, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        )
    if now.best is not None:
        point, value = now.best
        chosen = ", ".join(str(each) for each in point.values.values())
        words.append(f"best {chosen}: {value:,.4g}")
    return "; ".join(words)
