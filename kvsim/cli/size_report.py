"""What `kvsim size` prints: the cheapest fleet first, then all, then those that cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvsim.cli.render import Section, Table
from kvsim.results.words import SHORT
from kvsim.units import digits

if TYPE_CHECKING:
    from kvsim.cli.fleet_options import Best
    from kvsim.search import FleetOption, FleetSearch

__all__ = [
    "best_lines",
    "best_record",
    "counted",
    "flat",
    "fleet_record",
    "launch",
    "milliseconds",
    "priced",
    "question_record",
    "size_record",
    "size_rows",
    "size_sections",
    "sure_lines",
]

_NONE = "-"
_NESTED = ("bound_by", "latency_ms", "time_bands", "values")
_JUDGED = ("ttft", "tpot", "e2el")
_ENDS_BY = "ends by: what is missed beyond it, or a queue that grows."
_ENDS = {**SHORT, "saturation": "queue"}


def size_sections(found: FleetSearch, currency: str, cautions: Sequence[str]) -> Iterator[Section]:
    """Lay the answer out: the cheapest, its launch line, the table of all, and why not."""
    best = found.cheapest
    title = "Cheapest so far" if found.is_cut else "Cheapest"
    if best:
        yield Section(title, tuple(best_lines(best, currency)))
        yield launch(best[0])
        if cautions:
            yield Section("Caution", tuple(f"- {said}" for said in cautions))
    elif found.answers:
        yield Section(title, ("no card here has a price: give one with --price GPU=PRICE",))
    else:
        said = "none yet" if found.is_cut else "no card carries the load: see below why"
        yield Section(title, (said,))
    if found.answers:
        table = _table(found.answers, currency)
        yield Section("All fleets", (table, _ENDS_BY, *sure_lines(found.answers)))
    if found.ruled_out:
        rows = tuple((_name(option), option.problem) for option in found.ruled_out)
        yield Section("Cannot, or not searched", (Table(("fleet", "why"), rows, words=True),))


def size_record(found: FleetSearch, currency: str, best: Best | None) -> dict[str, Any]:
    """The answer as JSON-ready values."""
    return {
        **question_record(found, currency),
        "cheapest": [_name(option) for option in found.cheapest],
        **best_record(best),
        "fleets": [fleet_record(option) for option in found.options],
    }


def best_record(best: Best | None) -> dict[str, Any]:
    """The cheapest as a scenario's YAML, and what to know of it."""
    return {
        "scenario": best.scenario.to_yaml(named=False) if best else None,
        "warnings": list(best.cautions) if best else [],
    }


def launch(option: FleetOption) -> Section:
    """How each replica is started, and how it is simulated."""
    saved = "the same line with --save FILE.yaml writes it as a scenario for kvsim simulate"
    if not option.unsaid:
        return Section("Launch, each replica", (option.command, saved))
    lacks = f"simulated, and nothing that this line says: {', '.join(option.unsaid)}"
    return Section("Launch, each replica", (option.command, lacks, saved))


def question_record(found: FleetSearch, currency: str) -> dict[str, Any]:
    """What was asked, as JSON-ready values."""
    from kvsim.version import __version__

    return {
        "kvsim": __version__,
        "demand": found.demand,
        "unit": found.unit,
        "currency": currency,
        "objectives": [each.to_dict() for each in found.objectives],
    }


def size_rows(found: FleetSearch) -> list[dict[str, Any]]:
    """One flat row a fleet."""
    return [flat(fleet_record(option)) for option in found.options]


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A fleet's record as a row: latencies as columns, the same ones whatever is known."""
    latencies = record["latency_ms"] or {}
    row = {key: value for key, value in record.items() if key not in _NESTED}
    return {**row, **{f"{name}_ms": latencies.get(name) for name in _JUDGED}}


def fleet_record(option: FleetOption) -> dict[str, Any]:
    """One fleet as JSON-ready values."""
    search, probe = option.search, option.at_demand
    cost, tokens = option.cost_per_hour or (None, None), option.cost_per_million_tokens
    low, high = search.interval if search and search.interval else (None, None)
    return {
        "accelerator": option.accelerator,
        "tensor_parallel_size": option.tensor_parallel_size,
        "pipeline_parallel_size": option.stages,
        "data_parallel_size": option.ranks,
        "replicas": option.replicas,
        "devices": option.devices,
        "cost_per_hour_low": cost[0],
        "cost_per_hour_high": cost[1],
        "cost_per_million_tokens_low": tokens[0] if tokens else None,
        "cost_per_million_tokens_high": tokens[1] if tokens else None,
        "price_source": option.price.source if option.price else None,
        "sustained_per_replica": option.highest_rate,
        "sustained_low": None if low is None else option.ranks * low,
        "sustained_high": None if high is None else option.ranks * high,
        "is_sure": search.is_sure if search else None,
        "carries_more": search.is_floor if search else None,
        "throughput_under_overload": option.throughput,
        "limited_by": search.limit if search else None,
        "steepness": search.steepness if search else None,
        "headroom": option.headroom,
        "bound_by": dict(option.bound_by),
        "memory_limited": option.memory_limited,
        "latency_ms": dict(probe.latency_ms) if probe else None,
        "time_bands": {
            name: {"low": band.low, "high": band.high}
            for name, band in option.time_bands.items()
            if probe and name in probe.latency_ms
        },
        "simulations": search.simulations if search else 0,
        "step_times": option.provenance,
        "command": option.command,
        "not_in_command": list(option.unsaid),
        "problem": option.problem,
    }


def best_lines(best: Sequence[FleetOption], currency: str) -> Iterator[str]:
    """Say of the cheapest fleet what it costs, carries and waits for, and what ties with it."""
    option = best[0]
    yield f"{counted(option)}: {_cost(option, currency)} an hour{_a_million(option, currency)}"
    if len(best) > 1:
        ties = "; ".join(f"{counted(each)}, {_cost(each, currency)}" for each in best[1:])
        differ = any(each.cost_per_hour != option.cost_per_hour for each in best)
        yield f"a tie, {'as price ranges overlap' if differ else 'at the same price'}: {ties}"
    yield from _asked(option)
    yield _sustained(option)
    yield _ends(option)
    bound = _bound(option)
    if bound:
        yield bound
    yield from _times(option)
    yield from _may_miss(option)
    if option.price and option.price.source:
        yield f"price of one: {option.price.source}"


def counted(option: FleetOption) -> str:
    """Say how many devices a fleet has, and how they are divided."""
    replicas = f"{option.replicas:,} replica{'s' if option.replicas != 1 else ''}"
    known = ("accelerator", "tensor_parallel_size", "gpu", "tp")
    beside = [
        f"{key.rpartition('.')[2]} {value}"
        for key, value in option.values.items()
        if key.rpartition(".")[2] not in known
    ]
    words = ", ".join((replicas, option.degrees, *beside))
    return f"{option.devices:,} x {option.accelerator} ({words})"


def priced(option: FleetOption) -> str:
    """What a fleet costs an hour: a number, a range, or that no price is known."""
    cost = option.cost_per_hour
    if cost is None:
        return "no price"
    return " to ".join(dict.fromkeys(f"{each:,.2f}" for each in cost))


def _cost(option: FleetOption, currency: str) -> str:
    return f"{priced(option)} {currency}"


def _a_million(option: FleetOption, currency: str) -> str:
    cost = option.cost_per_million_tokens
    if cost is None:
        return ""
    said = " to ".join(dict.fromkeys(map(digits, cost)))
    return f", {said} {currency} a million tokens (prompt and output)"


def _asked(option: FleetOption) -> Iterator[str]:
    """What had to be met: a limit in another unit than was meant is seen here."""
    goals = option.search.objectives if option.search else ()
    if goals:
        yield f"asked: {', '.join(goal.words for goal in goals)} at most"


def _sustained(option: FleetOption) -> str:
    search = option.search
    low, high = (option.ranks * each for each in (search and search.interval) or (0.0, 0.0))
    known = f"{digits(low, 4)} to {digits(high, 4)} {option.unit}"
    if search is not None and search.is_floor:
        known = f"{digits(low, 4)} {option.unit} and more"
    elif search is not None and not search.is_long:
        known += " (too few requests to be sure)"
    elif search is None or not search.is_sure:
        known += " (not within the tolerance)"
    return (
        f"one replica sustains {known};"
        f" {digits(option.demand, 4)} are asked of all,"
        f" {option.headroom_percent} % more would still be carried"
    )


def _ends(option: FleetOption) -> str:
    search = option.search
    if search is not None and search.is_floor:
        return "beyond that nothing was tried"
    if search is None or search.goal is None:
        return "beyond that its queue grows"
    steep = search.steepness
    rise = "" if steep is None else f", which grows by {steep:.2g} % with each % of load there"
    return f"beyond that it misses {search.goal.words}{rise}"


def _bound(option: FleetOption) -> str:
    shares = sorted(option.bound_by.items(), key=lambda item: -item[1])
    words = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares if share >= 0.05)
    limited = option.memory_limited
    memory = "" if not limited else f"; memory keeps requests out {100 * limited:.0f} % of the time"
    return f"a step waits for: {words}{memory}" if words else ""


def _times(option: FleetOption) -> Iterator[str]:
    """Each latency under the load, and within what it would be measured."""
    from kvsim.search.objectives import shares_of

    probe, search = option.at_demand, option.search
    if probe is None or search is None:
        return
    shares = shares_of(search.objectives, search.settings.share)
    for name, value in probe.latency_ms.items():
        band = option.time_bands.get(name)
        if value is not None:
            within = "" if band is None else f" ({_milliseconds_range(*band.around(value))})"
            point = f"p{100 * shares[name]:g}"
            yield f"{point} {SHORT[name]} {milliseconds(value)} ms{within}"


def _may_miss(option: FleetOption) -> Iterator[str]:
    """Say which limits lie within the band of what is predicted."""
    probe = option.at_demand
    for goal in option.search.objectives if option.search and probe else ():
        value = probe.reached_ms.get(goal.name) if probe else None
        band = option.time_bands.get(goal.latency)
        if value is not None and band is not None and band.around(value)[1] > goal.limit_ms:
            yield f"may miss {goal.words}: the limit lies within the prediction's band"


def _milliseconds_range(low: float, high: float) -> str:
    return f"{milliseconds(low)} to {milliseconds(high)}, 90% sure"


def _table(options: Sequence[FleetOption], currency: str) -> Table:
    shown = [name for name in _JUDGED if name != "e2el" or _limits(options, name)]
    latencies = (f"{SHORT[name]} ms" for name in shown)
    headers = ("fleet", f"{currency}/hour", "each", "ends by", *latencies)
    return Table(headers, tuple(_row(option, shown) for option in options))


def _limits(options: Sequence[FleetOption], latency: str) -> bool:
    """Whether an objective is of that latency."""
    searches = (option.search for option in options if option.search)
    return any(each.latency == latency for search in searches for each in search.objectives)


def _row(option: FleetOption, shown: Sequence[str]) -> tuple[str, ...]:
    search, probe = option.search, option.at_demand
    limit = search.limit if search else ""
    return (
        f"{option.devices:,} x {_name(option)}",
        priced(option),
        digits(option.highest_rate or 0.0),
        _ENDS.get(limit, limit),
        *(milliseconds(probe.latency_ms[name] if probe else None) for name in shown),
    )


def sure_lines(options: Sequence[FleetOption]) -> Iterator[str]:
    """Say what the latencies of a table are, and how sure they are."""
    said = dict.fromkeys(words for option in options for words in option.how_sure)
    yield (
        "each: load that one replica sustains. Latencies are at the percentiles asked for, else"
        " p99, under each replica's share; means over seeds."
    )
    yield from said


def milliseconds(value: float | None) -> str:
    """Write a latency in four digits; None is "-"."""
    return _NONE if value is None else digits(value, 4)


def _name(option: FleetOption) -> str:
    return f"{option.accelerator} {option.degrees}"
