"""``kvsim size``: which card, how many, and with what flags."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kvsim.cli import INTERRUPTED, say
from kvsim.cli.objective_options import objective_options, objectives
from kvsim.cli.options import (
    COUNT,
    DURATION,
    MODEL,
    NUMBER,
    SCENARIO,
    engine_options_but_tp,
    format_option,
)
from kvsim.cli.render import emit, print_records
from kvsim.cli.save import savable, save_scenario
from kvsim.cli.scenario_options import chosen_scenario, refuse_fixed
from kvsim.cli.workload_options import workload_options
from kvsim.errors import InputError
from kvsim.interrupts import held, released
from kvsim.units import parse_count

if TYPE_CHECKING:
    from kvsim.search import FleetOption, Objective, SearchSettings
    from kvsim.simulator.replica import Watch
    from kvsim.simulator.scenario import Scenario
    from kvsim.specs.hardware import Price

__all__ = ["command"]

_DEGREES = "1,2,4,8"
_REDRAWN_SECONDS = 0.1


@click.command("size")
@click.argument("scenario", type=SCENARIO, required=False)
@click.option("--model", type=MODEL, help="Name, path or hf:org/name.")
@click.option("--gpu", metavar="GPU,...", help="Accelerators to choose from.")
@click.option("--tp", metavar="N,...", default=_DEGREES, show_default=True, help="Degrees to try.")
@workload_options
@objective_options
@click.option("--price", multiple=True, metavar="GPU=PRICE", help="An hour of one; or a YAML file.")
@click.option("--currency", help="Of your prices; the catalogue's are US dollars.  [default: USD]")
@click.option("--all", "search_all", is_flag=True, help="Search what cannot be cheaper, too.")
@click.option("--engine", help="Whose accounting sizes the pool.")
@click.option("--engine-version", help="Release; default: the newest known.")
@engine_options_but_tp
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any dotted key or flag."
)
@click.option("--tolerance", type=NUMBER, help="Relative; default: 0.03.")
@click.option("--seed", type=click.IntRange(min=0), help="First seed.")
@click.option("--replications", type=COUNT, help="Seeds, at least; default: 3.")
@click.option("--max-seconds", type=DURATION, help="For the whole search.")
@click.option("--jobs", type=COUNT, help="Processes at once; default: one a core.")
@click.option("--save", type=click.Path(dir_okay=False), help="Write the cheapest as a scenario.")
@format_option
def command(
    scenario: str | None,
    gpu: str | None,
    tp: str,
    price: tuple[str, ...],
    settings: tuple[str, ...],
    output_format: str,
    **flags: Any,
) -> None:
    """Find the cheapest fleet for a load, and how many of each card carry it.

    The load is a rate, the users of a chat or a trace, of SCENARIO or of the flags. What one
    replica sustains never exceeds its throughput under overload, and is the low end of an interval
    over seeds.

    \b
    kvsim size --model llama3.1-8b --gpu a100,h100,l40s --rate 20 --prompt 1000 --output 200 \\
        --ttft 2s --tpot-p95 50ms --price h100=2.49
    kvsim size --model llama3.1-8b --gpu h100 --users 500 --think 30s --prompt 800 --output 200 \\
        --e2e-p95 10s
    """  # noqa: D301 - \b keeps click from wrapping the examples
    from kvsim.search import cheapest, size_fleet

    asked = _asked(flags)
    cards = _cards(gpu, tp, flags, settings)
    question = chosen_scenario(scenario, settings, {**flags, "gpu": cards[0][0]})
    if asked.save is not None:
        question = savable(question, asked.save)
    size = partial(
        size_fleet,
        question,
        asked.demand(question),
        cards,
        asked.settings,
        objectives=asked.goals(question),
        prices=_prices(price, cards, asked.currency),
        search_all=asked.search_all,
        jobs=asked.jobs,
    )
    with held():
        with released(), _progress() as watch:
            options = size(watch=watch)
        if not options:
            raise KeyboardInterrupt
        if asked.save is not None:
            _save(question, cheapest(options), asked.save)
        if not asked.goals(question):
            say("kvsim: no objective is given: a queue that does not grow is all that is asked for")
        _show(options, asked, output_format)
    if len(options) < len(cards):
        say(f"kvsim: interrupted: {len(options)} of {len(cards)} fleets are finished")
        raise click.exceptions.Exit(INTERRUPTED)


class _Asked(NamedTuple):
    """What is asked beside the scenario."""

    objectives: tuple[Objective, ...]
    settings: SearchSettings
    currency: str
    search_all: bool
    jobs: int | None
    save: str | None

    def goals(self, question: Scenario) -> tuple[Objective, ...]:
        """The objectives of the flags, else those of the scenario."""
        from kvsim.search.objectives import objectives_of

        return self.objectives or objectives_of(question.slo, self.settings.share)

    def demand(self, question: Scenario) -> float:
        """The load of the whole fleet."""
        from kvsim.search.load import load_of

        return load_of(question).stated(question.workload)


def _asked(flags: dict[str, Any]) -> _Asked:
    """Take what is not of the scenario out of the flags."""
    from kvsim.search import SearchSettings

    if flags["duration_seconds"] is not None:
        raise InputError(
            "a search decides how long it simulates", where="--duration", fix="leave it out"
        )
    stated = {name: flags.pop(name) for name in ("tolerance", "replications", "max_seconds")}
    stated["requests"] = flags["requests"]
    given = {name: value for name, value in stated.items() if value is not None}
    if (count := given.get("replications")) is not None:
        given["most_replications"] = max(count, SearchSettings.most_replications)
    return _Asked(
        objectives(flags),
        SearchSettings(**given),
        flags.pop("currency") or "USD",
        flags.pop("search_all"),
        flags.pop("jobs"),
        flags.pop("save"),
    )


def _cards(
    gpu: str | None, tp: str, flags: Mapping[str, Any], settings: tuple[str, ...]
) -> list[tuple[str, int]]:
    """Every card with every degree."""
    if gpu is None:
        raise InputError("names no card to choose from", where="--gpu", fix="as --gpu a100,h100")
    names = _listed(gpu, "--gpu")
    degrees = [_degree(word) for word in _listed(tp, "--tp")]
    by_flag: dict[str, list[Any]] = {"gpu": list(names), "tp": list(degrees)}
    refuse_fixed(by_flag, flags, settings, "--")
    return [(name, degree) for name in names for degree in degrees]


def _listed(text: str, flag: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise InputError(f"{text!r} has an empty part", where=flag, fix="separate by one comma")
    return list(dict.fromkeys(words))


def _degree(word: str) -> int:
    try:
        degree = parse_count(word)
    except InputError:
        degree = 0
    if degree < 1:
        raise InputError(f"{word!r} is no degree", where="--tp", fix="as --tp 1,2,4")
    return degree


def _prices(
    stated: tuple[str, ...], cards: list[tuple[str, int]], currency: str
) -> dict[str, Price | None]:
    """Prices by accelerator; in another currency the catalogue has none."""
    from kvsim.catalog.accelerators import find_accelerator
    from kvsim.search.prices import prices_of

    wanted = dict.fromkeys(find_accelerator(name).name for name, _ in cards)
    for text in stated:
        idle = set(prices_of([text])) - set(wanted) if "=" in text else ()
        if idle:
            raise InputError(
                "is not among the cards of --gpu", where=f"--price {text}", fix="leave it out"
            )
    own: dict[str, Price | None] = dict(prices_of(stated))
    if currency.upper() != "USD":
        own = {**dict.fromkeys(wanted), **own}
        if not any(own[name] for name in wanted):
            raise InputError(
                "the catalogue's prices are US dollars",
                where=f"--currency {currency}",
                fix="give yours with --price GPU=PRICE",
            )
    return own


def _save(question: Scenario, best: tuple[FleetOption, ...], file: str) -> None:
    """Write one replica of the cheapest fleet under its share of the demand."""
    from kvsim.search.fleet import replica_scenario

    if not best:
        say(f"kvsim: no fleet has a price, so {file} was not written")
        return
    save_scenario(replica_scenario(question, best[0]), file)


def _show(options: tuple[FleetOption, ...], asked: _Asked, output_format: str) -> None:
    from kvsim.cli.size_report import size_record, size_rows, size_sections

    if output_format == "csv":
        print_records(size_rows(options), (), output_format)
        return
    sections = size_sections(options, asked.currency)
    emit(sections, partial(size_record, options, asked.currency), output_format)


@contextmanager
def _progress() -> Iterator[Watch | None]:
    """Count simulations and requests on a terminal's stderr."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.fields[runs]:,} simulations here, {task.completed:,} requests")
    columns = (TextColumn("sizing"), text, TimeElapsedColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, auto_refresh=False
    ) as bar:
        task, seen = bar.add_task("", total=None, runs=0), _Seen()

        def watch(clock: float, requests: int, usage: float) -> None:
            if seen.take(requests):
                bar.update(task, completed=seen.requests, runs=seen.runs)
                bar.refresh()

        yield watch


class _Seen:
    """What passed so far, of simulations that each count from 0."""

    def __init__(self) -> None:
        self.runs = self.before = self.now = 0
        self.drawn = -1.0

    @property
    def requests(self) -> int:
        """Requests of all simulations."""
        return self.before + self.now

    def take(self, requests: int) -> bool:
        """Take a count; whether it is time to draw."""
        if requests < self.now or not self.runs:
            self.before += self.now
            self.runs += 1
        self.now = requests
        due = monotonic() - self.drawn > _REDRAWN_SECONDS
        if due:
            self.drawn = monotonic()
        return due
