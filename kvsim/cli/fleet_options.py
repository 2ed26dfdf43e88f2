"""What `size` and `search` share: prices, how a rate is searched, the objectives, the progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from kvsim.cli import INTERRUPTED, say
from kvsim.cli.bar import drawn
from kvsim.cli.objective_options import objectives
from kvsim.cli.options import COUNT, DURATION, NUMBER, SEED, decorate, given
from kvsim.cli.save import savable, save_scenario
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.search import FleetOption, FleetSearch, Objective
    from kvsim.search.space import Space
    from kvsim.search.work import Told
    from kvsim.simulator.scenario import Scenario
    from kvsim.specs.hardware import Price

__all__ = [
    "Asked",
    "asked_of",
    "card_prices",
    "deliver",
    "distinct_cards",
    "prepared",
    "price_options",
    "refuse_beside_manifest",
    "search_options",
    "settling",
]

F = TypeVar("F", bound=Callable[..., Any])

_PRICES = (
    click.option(
        "--price", multiple=True, metavar="GPU=PRICE", help="An hour of one; or a YAML file."
    ),
    click.option(
        "--currency", help="Of your prices; the catalogue's are US dollars.  [default: USD]"
    ),
    click.option("--all", "search_all", is_flag=True, help="Search what cannot be cheaper, too."),
)

_SEARCH = (
    click.option("--tolerance", type=NUMBER, help="Relative; default: 0.03."),
    click.option("--seed", type=SEED, help="First seed."),
    click.option("--replications", type=COUNT, help="Seeds, at least; default: 3."),
    click.option("--max-seconds", type=DURATION, help="For the whole search."),
    click.option("--jobs", type=COUNT, help="Processes at once; default: one a core."),
    click.option(
        "--save", type=click.Path(dir_okay=False), help="Write the cheapest as a scenario."
    ),
    click.option(
        "--manifest",
        type=click.Choice(("kubernetes", "kserve")),
        help="Print the cheapest as YAML, and nothing else.",
    ),
    click.option("--image", help="Container image of the manifest; default: the engine's own."),
)


def price_options(function: F) -> F:
    """Add ``--price``, ``--currency`` and ``--all``."""
    return decorate(function, _PRICES)


def search_options(function: F) -> F:
    """Add the flags that say how a rate is searched, and what becomes of the cheapest."""
    return decorate(function, _SEARCH)


class Best(NamedTuple):
    """The cheapest fleet: one replica under its share as a scenario, and what to know of it."""

    scenario: Scenario
    cautions: tuple[str, ...]


class Asked(NamedTuple):
    """What is asked beside the scenario; `stated` are fields of `SearchSettings`."""

    objectives: tuple[Objective, ...]
    stated: dict[str, Any]
    currency: str
    search_all: bool
    jobs: int | None
    save: str | None
    manifest: str | None
    image: str | None


def asked_of(flags: dict[str, Any]) -> Asked:
    """Take what is not of the scenario out of the flags."""
    if flags["duration_seconds"] is not None:
        raise InputError(
            "a search decides how long it simulates", where="--duration", fix="leave it out"
        )
    if flags["image"] and not flags["manifest"]:
        raise InputError("is of a manifest", where="--image", fix="add --manifest kubernetes")
    currency = flags["currency"]
    if currency is not None and not (currency.strip() and currency.isprintable()):
        raise InputError("names no currency", where="--currency", fix="as --currency EUR")
    stated = {name: flags.pop(name) for name in ("tolerance", "replications", "max_seconds")}
    stated["requests"] = flags["requests"]
    return Asked(
        objectives(flags),
        given(stated),
        flags.pop("currency") or "USD",
        flags.pop("search_all"),
        flags.pop("jobs"),
        flags.pop("save"),
        flags.pop("manifest"),
        flags.pop("image"),
    )


def refuse_beside_manifest(asked: Asked, output_format: str, *others: str) -> None:
    """Refuse what asks to print something else than the manifest.

    Raises
    ------
    InputError
        For another format, and for each of the `others`, flags that were given.
    """
    if asked.manifest is None:
        return
    words = others if output_format == "table" else (f"--format {output_format}", *others)
    if words:
        raise InputError(
            "a manifest is printed alone, as YAML", where=words[0], fix="leave out one of the two"
        )


def prepared(space: Space, asked: Asked, **options: Any) -> Callable[..., FleetSearch]:
    """Return the search that is asked for, less who is told; `options` are `find_cheapest`'s.

    Raises
    ------
    InputError
        For a place that nothing can be saved to, and impossible settings.
    """
    from kvsim.search.find import find_cheapest, settings_of
    from kvsim.search.objectives import over
    from kvsim.search.rate import SHARE

    if asked.save is not None:
        savable(space.scenario, asked.save)
    return partial(
        find_cheapest,
        space,
        settings=settings_of(space, **asked.stated),
        objectives=over(asked.objectives, space.scenario.slo, SHARE),
        jobs=asked.jobs,
        **options,
    )


def distinct_cards(names: Iterable[str]) -> list[str]:
    """Leave out names of one card; refuse two profiles that have one name.

    Raises
    ------
    InputError
        For an unknown card, and two that no answer could tell apart.
    """
    from kvsim.catalog.accelerators import find_accelerator

    found: dict[str, tuple[str, object]] = {}
    for name in names:
        profile = find_accelerator(name)
        known = found.setdefault(profile.name, (name, profile))
        if known[1] != profile:
            raise InputError(
                f"{known[0]} and {name} are both called {profile.name}",
                where="--gpu",
                fix="give your profile a name of its own",
            )
    return [name for name, _ in found.values()]


def card_prices(
    stated: tuple[str, ...], cards: Iterable[str], currency: str
) -> dict[str, Price | None]:
    """Prices by accelerator; in another currency the catalogue has none."""
    from kvsim.catalog.accelerators import find_accelerator
    from kvsim.search.prices import prices_of

    wanted = dict.fromkeys(find_accelerator(name).name for name in cards)
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


def deliver(
    found: FleetSearch, scenario: Scenario, asked: Asked, show: Callable[[Best | None], None]
) -> None:
    """Save the cheapest, print the answer and say what is missing; a cut search saves nothing.

    Parameters
    ----------
    found : FleetSearch
        The answer.
    scenario : Scenario
        The question.
    asked : Asked
        What is to become of it.
    show : callable
        Prints it, given the cheapest.
    """
    best = _best(found, scenario)
    if asked.save is not None and not found.interrupted:
        _save(found, best, asked.save)
    if not found.objectives:
        say("kvsim: no objective is given: a queue that does not grow is all that is asked for")
    if asked.manifest is not None and not found.interrupted:
        _print_manifest(best, found, asked)
    else:
        show(best)
    unmeasured = sum(bool(each.replicas) and each.at_demand is None for each in found.options)
    if unmeasured:
        said = f"{unmeasured:,} of {len(found.answers):,} fleets"
        say(f"kvsim: out of time: the latencies of {said} were not simulated")
    left = sum(option.ruled_out == "unsearched" for option in found.options)
    if left:
        settled = f"{len(found.options) - left:,} of {len(found.options):,} points are settled"
        say(f"kvsim: {'interrupted' if found.interrupted else 'out of time'}: {settled}")
    if found.interrupted:
        raise click.exceptions.Exit(INTERRUPTED)


def _best(found: FleetSearch, question: Scenario) -> Best | None:
    """One replica of the cheapest fleet under its share of the demand; None without one."""
    from kvsim.planning.notes import other_checkpoint
    from kvsim.search.fleet import replica_scenario
    from kvsim.simulator.cautions import stated_pool
    from kvsim.simulator.loading import placed
    from kvsim.simulator.prepare import prepare

    if not found.cheapest:
        return None
    scenario = placed(replica_scenario(question, found.cheapest[0]))
    setup = prepare(scenario)
    cautions = (
        *stated_pool(scenario, setup.sizing),
        *other_checkpoint(setup.sizing),
        *setup.idle_keys,
    )
    return Best(scenario, tuple(dict.fromkeys(cautions)))


def _without(found: FleetSearch) -> str:
    """Why there is no cheapest fleet."""
    return "no card here has a price" if found.answers else "no fleet carries the load"


def _save(found: FleetSearch, best: Best | None, file: str) -> None:
    if best is None:
        say(f"kvsim: {_without(found)}, so {file} was not written")
        return
    goals = found.objectives
    if len({goal.latency for goal in goals}) < len(goals):
        say(f"kvsim: of two objectives for one latency {file} keeps that of the higher percentile")
    save_scenario(best.scenario, file)


def _print_manifest(best: Best | None, found: FleetSearch, asked: Asked) -> None:
    """Print the cheapest fleet as Kubernetes takes it, and nothing else."""
    from kvsim.search.manifests import deployment_manifest, fleet_of, kserve_manifest

    if best is None:
        raise InputError(_without(found), where="--manifest", fix="without it the answer says why")
    engine = best.scenario.engine
    fleet = fleet_of(
        found.cheapest[0],
        engine.name,
        engine.version,
        image=asked.image or "",
        currency=asked.currency,
    )
    written = deployment_manifest if asked.manifest == "kubernetes" else kserve_manifest
    click.echo(written(fleet), nl=False)


@contextmanager
def settling() -> Iterator[Told | None]:
    """Draw on a terminal's stderr how many are settled, and the cheapest so far."""
    with drawn("", "{task.description}") as bar:
        if bar is None:
            yield None
            return

        def told(stage: str, done: int, of: int, best: FleetOption | None) -> None:
            said = f"{done:,} of {of:,} points {stage}"
            if best is not None:
                said += f"; cheapest so far: {best.devices:,} x {best.label}"
            is_last = stage != "screened" or done == of
            bar.show(now=is_last, completed=done, total=of, description=said)

        yield told
