"""What `kvsim search` prints: the cheapest, all that carry the load, and why not the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kvsim.cli.render import Section, Table, short_key
from kvsim.cli.size_report import (
    best_lines,
    best_record,
    counted,
    flat,
    fleet_record,
    launch,
    milliseconds,
    priced,
    question_record,
    sure_lines,
)
from kvsim.results.words import SHORT
from kvsim.units import digits

if TYPE_CHECKING:
    from kvsim.cli.fleet_options import Best
    from kvsim.search import FleetOption, FleetSearch
    from kvsim.search.explain import Explanation, Reach

__all__ = ["search_record", "search_rows", "search_sections"]

_FRONT = "*"


def search_sections(
    found: FleetSearch, currency: str, cautions: Sequence[str], *, explain: bool
) -> Iterator[Section]:
    """Lay the answer out."""
    best, title = found.cheapest, _headline(found)
    if best:
        yield Section(title, tuple(best_lines(best, currency)))
        yield launch(best[0])
        if cautions:
            yield Section("Caution", tuple(f"- {said}" for said in cautions))
    else:
        yield Section(title, (_without(found),))
    if explain and not found.is_cut and found.explanation is not None:
        yield Section("Why, and what would change it", tuple(_why(found.explanation)))
    if found.answers:
        yield Section(_title(found), (_table(found, currency), *_notes(found)))
    if found.ruled_out:
        names = _names(found)
        rows = tuple((names(option), option.problem) for option in found.ruled_out)
        title = f"{len(rows):,} of {len(found.options):,} points are no answer"
        yield Section(title, (Table(("point", "why"), rows, words=True),))


def _headline(found: FleetSearch) -> str:
    """What the answer is the cheapest of."""
    if found.is_cut:
        return "Cheapest so far"
    tried = len(found.options)
    return "Cheapest" if tried == found.points else f"Cheapest of {tried:,} of {found.points:,}"


def _without(found: FleetSearch) -> str:
    """Why there is none."""
    if found.answers:
        return "no point has a price: give one with --price GPU=PRICE"
    return "none yet" if found.is_cut else "no point carries the load"


def search_record(found: FleetSearch, currency: str, best: Best | None) -> dict[str, Any]:
    """The answer as JSON-ready values."""
    return {
        **question_record(found, currency),
        "points": found.points,
        "tried": len(found.options),
        "simulated": found.simulated,
        "interrupted": found.interrupted,
        "front_latency": found.latency,
        "cheapest": [option.values for option in found.cheapest],
        **best_record(best),
        "explanation": _explanation_record(found.explanation),
        "fleets": [_record(found, option) for option in found.options],
    }


def search_rows(found: FleetSearch) -> list[dict[str, Any]]:
    """One flat row a point."""
    return [{**option.values, **flat(_record(found, option))} for option in found.options]


def _record(found: FleetSearch, option: FleetOption) -> dict[str, Any]:
    return {
        "values": dict(option.values),
        "on_front": option in found.front,
        "is_cheapest": option in found.cheapest,
        "ruled_out": option.ruled_out,
        **fleet_record(option),
    }


def _explanation_record(why: Explanation | None) -> dict[str, Any] | None:
    if why is None:
        return None
    return {
        "winner": why.winner.values,
        "runner_up": why.runner_up.values if why.runner_up else None,
        "rival": why.rival.values if why.rival else None,
        "price_ratio": why.price_ratio,
        "price_ratio_now": why.price_ratio_now,
        "more_replicas_above": why.more_replicas_above,
        "overtaken_above": why.overtaken_above,
        "overtaken_by": why.overtaken_by.values if why.overtaken_by else None,
        "objectives": [
            {
                "objective": reach.objective.name,
                "limit_ms": reach.objective.limit_ms,
                "at_demand_ms": reach.at_demand_ms,
                "least_ms": reach.least_ms,
            }
            for reach in why.reaches
        ],
    }


def _title(found: FleetSearch) -> str:
    count, tried = len(found.answers), len(found.options)
    return f"{count:,} of {tried:,} points carry {digits(found.demand, 4)} {found.unit}"


def _table(found: FleetSearch, currency: str) -> Table:
    latency = f"{SHORT[found.latency]} ms"
    headers = ("point", "devices", f"{currency}/hour", "each", latency, _FRONT)
    names = _names(found)
    return Table(headers, tuple((names(each), *_row(found, each)) for each in found.answers))


def _row(found: FleetSearch, option: FleetOption) -> tuple[str, ...]:
    probe = option.at_demand
    return (
        f"{option.devices:,}",
        priced(option),
        digits(option.highest_rate or 0.0),
        milliseconds(probe.latency_ms.get(found.latency) if probe else None),
        _FRONT if option in found.front else "",
    )


def _notes(found: FleetSearch) -> Iterator[str]:
    quicker = f"both cheaper and quicker by {SHORT[found.latency]}"
    yield f"{_FRONT} no point that was searched is {quicker}; --all searches all that run."
    if len(found.options) < found.points:
        yield f"{len(found.options):,} of the space's {found.points:,} points were tried"
    yield from sure_lines(found.answers)


def _names(found: FleetSearch) -> Callable[[FleetOption], str]:
    """How rows call their points: by the values that are not the same in every row."""
    points = [option.values for option in found.options]
    same = {key for key, value in points[0].items() if all(each[key] == value for each in points)}
    return partial(_values, leave_out=same if len(same) < len(points[0]) else ())


def _values(option: FleetOption, leave_out: Collection[str] = ()) -> str:
    """A point by its values."""
    kept = {key: value for key, value in option.values.items() if key not in leave_out}
    return " ".join(_value(key, value) for key, value in kept.items())


def _value(key: str, value: object) -> str:
    plain = isinstance(value, str) and short_key(key) in ("accelerator", "gpu")
    return str(value) if plain else f"{short_key(key)}={value}"


def _why(why: Explanation) -> Iterator[str]:
    winner = why.winner
    carried = f"{digits(why.more_replicas_above, 4)} {winner.unit}"
    yield f"the demand: above {carried} it needs another replica, of {winner.devices_per_replica}"
    yield _overtaken(why)
    yield _price(why)
    for reach in why.reaches:
        yield _objective(reach)


def _overtaken(why: Explanation) -> str:
    if why.overtaken_above is None or why.overtaken_by is None:
        return "up to ten times the demand no other point is cheaper"
    other = f"{_values(why.overtaken_by)} is cheaper"
    return f"above {digits(why.overtaken_above, 4)} {why.winner.unit} {other}, by the middle prices"


def _price(why: Explanation) -> str:
    if why.runner_up is None:
        return "no other point that was searched carries the demand"
    said = f"next is {counted(why.runner_up)}"
    rival = why.rival
    if rival is None or why.price_ratio is None or why.price_ratio_now is None:
        return f"{said}: the same card, so no price changes that"
    own = f"{rival.accelerator} in prices of {why.winner.accelerator}"
    devices = f"devices: {why.winner.devices:,} over {rival.devices:,}"
    return (
        f"{said}; {_values(rival)} takes over where a {own} is below {why.price_ratio:.3g}"
        f" ({devices}); it is {why.price_ratio_now:.3g}"
    )


def _objective(reach: Reach) -> str:
    if reach.at_demand_ms is None or reach.least_ms is None:
        return f"{reach.objective.words}: no probe saw it"
    return (
        f"{reach.objective.words}: {milliseconds(reach.at_demand_ms)} ms under its share of the"
        f" demand, so a lower limit takes more or another; no probe of it saw less than"
        f" {milliseconds(reach.least_ms)} ms"
    )
