"""Fleets as pictures: what one replica sustains, what a fleet costs, how a rate was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kvsim.figures.chart import Chart, Row, Table, rounded
from kvsim.figures.theme import PALETTE, Axis, draw, label, reference_line, series_colour
from kvsim.results.words import LATENCIES, SHORT

if TYPE_CHECKING:
    from kvsim.search import FleetOption, Probe

__all__ = ["fleet_chart", "fleet_table", "probes_chart", "rates_chart"]

_SLO_LATENCIES = ("ttft", "tpot", "e2el")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")

# Less than a decade, often: the digits are labelled too.
_NARROW_LOG = {"dtick": "D1", "tickformat": "~g"}


def _name(option: FleetOption) -> str:
    return f"{option.accelerator} · TP {option.tensor_parallel_size}"


# --- what one replica sustains ---------------------------------------------------------------


def rates_chart(options: Sequence[FleetOption]) -> Chart:
    """Draw the highest rate of one replica, a bar per card and degree."""
    rows = [
        {
            "card": option.accelerator,
            "tensor_parallel_size": option.tensor_parallel_size,
            "requests_per_s": option.highest_rate,
            "at_most": _at_most(option),
            "ended_by": option.search.limit if option.search else None,
        }
        for option in options
    ]
    degrees = sorted({option.tensor_parallel_size for option in options})
    cards = list(dict.fromkeys(option.accelerator for option in options))
    figure = draw(
        [_degree_bars(degree, options) for degree in degrees],
        x=Axis("highest rate of one replica", "requests/s", settings={"rangemode": "tozero"}),
        y=Axis(
            settings={
                "autorange": "reversed",
                "categoryorder": "array",
                "categoryarray": [label(card) for card in cards],
            }
        ),
        height=130 + 26 * (len(degrees) + 1) * len(cards),
        barmode="group",
        bargap=0.3,
    )
    return Chart("highest-rates", "What one replica sustains", rows, _rates_alt(options), figure)


def _at_most(option: FleetOption) -> float | None:
    """The high end of what a replica may sustain."""
    interval = option.search.interval if option.search else None
    return option.ranks * interval[1] if interval else None


def _degree_bars(degree: int, options: Sequence[FleetOption]) -> dict[str, Any]:
    mine = [option for option in options if option.tensor_parallel_size == degree]
    return {
        "type": "bar",
        "orientation": "h",
        "name": f"TP {degree}",
        "y": [label(option.accelerator) for option in mine],
        "x": [option.highest_rate or 0 for option in mine],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [(_at_most(each) or 0) - (each.highest_rate or 0) for each in mine],
            "arrayminus": [0 for _ in mine],
            "thickness": 1.5,
        },
        "text": [_rate_words(option) for option in mine],
        "customdata": [_end_words(option) for option in mine],
        "textposition": ["auto" if option.highest_rate else "outside" for option in mine],
        "cliponaxis": False,
        "hovertemplate": "%{y}, TP " + str(degree) + "<br>%{x:,.3g} requests/s"
        "<br>%{customdata}<extra></extra>",
    }


def _rate_words(option: FleetOption) -> str:
    return f"{option.highest_rate:,.3g}" if option.highest_rate else "none"


_ENDS = {
    "saturation": "saturated",
    "rejected": "then requests are rejected",
    "": "and more: nothing beyond was tried",
}


def _end_words(option: FleetOption) -> str:
    """What ends the rate, or why there is none."""
    if option.problem:
        return label(option.problem)
    ended = option.search.limit if option.search else ""
    return _ENDS.get(ended) or f"then {LATENCIES.get(ended, ended)} is missed"


def _rates_alt(options: Sequence[FleetOption]) -> str:
    said = "; ".join(
        f"{_name(option)} {option.highest_rate:,.3g}"
        if option.highest_rate
        else f"{_name(option)} none"
        for option in options
    )
    return f"Highest requests per second of one replica: {said}."


# --- the fleet -------------------------------------------------------------------------------


def fleet_table(options: Sequence[FleetOption]) -> Table:
    """List each card's fleet: replicas, devices, cost, latency under its load, what binds."""
    rows = [_fleet_row(option) for option in options]
    if any(option.problem for option in options):
        rows = [
            {**row, "why not": option.problem} for row, option in zip(rows, options, strict=True)
        ]
    return Table("fleet", "What it takes", rows)


def _fleet_row(option: FleetOption) -> Row:
    cost = option.cost_per_hour
    limited = option.memory_limited
    latencies = [cell for name in _SLO_LATENCIES for cell in _latency(option, name)]
    return {
        "card": option.accelerator,
        "TP": option.tensor_parallel_size,
        "requests/s per replica": rounded(option.highest_rate, 3),
        "at most": rounded(_at_most(option), 3),
        "replicas": option.replicas,
        "devices": option.devices,
        "USD/hour": f"{cost[0]:,.2f} to {cost[1]:,.2f}" if cost else _no_cost(option),
        **dict(latencies),
        "a step waits for": _bound_words(option),
        "memory kept requests out": None if limited is None else f"{100 * limited:.0f} % of time",
        "step times": option.provenance.split(":")[0],
    }


def _no_cost(option: FleetOption) -> str:
    return "" if option.devices is None else "no price known"


def _latency(option: FleetOption, name: str) -> Iterator[tuple[str, Any]]:
    """A latency under the load, and within what it would be measured."""
    found = option.at_demand.latency_ms[name] if option.at_demand else None
    yield f"{SHORT[name]} ms", rounded(found, 4)
    band = option.time_bands.get(name)
    within = band.around(found) if band and found is not None else ()
    yield f"{SHORT[name]} within", " to ".join(f"{rounded(each, 4):,.10g}" for each in within)


def _bound_words(option: FleetOption) -> str:
    shares = sorted(option.bound_by.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares if share >= 0.05)


def fleet_chart(options: Sequence[FleetOption], latency: str, limit_ms: float | None) -> Chart:
    """Draw cost against latency, a point per fleet: cheap and quick is down on the left.

    Parameters
    ----------
    options : sequence of FleetOption
        Those without a price, or without an answer, are only in the rows.
    latency : str
        "ttft", "tpot" or "e2el".
    limit_ms : float or None
        Its objective, drawn across.
    """
    rows = [
        {
            "card": option.accelerator,
            "tensor_parallel_size": option.tensor_parallel_size,
            "replicas": option.replicas,
            "cost_per_hour_low": option.cost_per_hour[0] if option.cost_per_hour else None,
            "cost_per_hour_high": option.cost_per_hour[1] if option.cost_per_hour else None,
            f"{latency}_ms": option.at_demand.latency_ms[latency] if option.at_demand else None,
        }
        for option in options
    ]
    shown = [option for option in options if option.cost_per_hour and option.at_demand]
    cards = list(dict.fromkeys(option.accelerator for option in options))
    degrees = sorted({option.tensor_parallel_size for option in options})
    traces = [_fleet_point(option, latency, cards, degrees) for option in shown]
    figure = draw(
        [*traces, *_limit_line(shown, limit_ms)],
        x=Axis("cost", "USD per hour", settings={"rangemode": "tozero"}),
        y=Axis(LATENCIES[latency], "ms", settings={"rangemode": "tozero"}),
        height=430,
    )
    title = f"Cost against {LATENCIES[latency]}"
    return Chart("fleet-cost", title, rows, _fleet_alt(shown, latency), figure)


def _fleet_point(
    option: FleetOption, latency: str, cards: Sequence[str], degrees: Sequence[int]
) -> dict[str, Any]:
    low, high = option.cost_per_hour or (0.0, 0.0)
    middle = (low + high) / 2
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(_name(option)),
        "x": [middle],
        "y": [option.at_demand.latency_ms[latency] if option.at_demand else None],
        "error_x": {"type": "constant", "value": middle - low, "thickness": 1.5},
        "marker": {
            "size": 13,
            "color": series_colour(cards.index(option.accelerator)),
            "symbol": _SYMBOLS[degrees.index(option.tensor_parallel_size) % len(_SYMBOLS)],
        },
        "hovertemplate": f"{label(_name(option))}<br>{option.replicas} replicas,"
        f" {option.devices} devices<br>{low:,.2f} to {high:,.2f} USD/hour"
        "<br>%{y:,.4g} ms<extra></extra>",
    }


def _limit_line(shown: Sequence[FleetOption], limit_ms: float | None) -> list[dict[str, Any]]:
    if limit_ms is None or not shown:
        return []
    most = max(option.cost_per_hour[1] for option in shown if option.cost_per_hour)
    return [reference_line(f"objective, {limit_ms:,g} ms", [0, most], [limit_ms, limit_ms])]


def _fleet_alt(shown: Sequence[FleetOption], latency: str) -> str:
    said = "; ".join(
        f"{_name(option)}: {option.cost_per_hour[0]:,.2f} to {option.cost_per_hour[1]:,.2f}"
        f" USD/hour at {option.at_demand.latency_ms[latency] or 0:,.4g} ms"
        for option in shown
        if option.cost_per_hour and option.at_demand
    )
    return f"Cost against {LATENCIES[latency]}. {said or 'No fleet has a known price'}."


# --- one search ------------------------------------------------------------------------------


def probes_chart(option: FleetOption, latency: str, limit_ms: float | None) -> Chart:
    """Draw one option's search: every rate that was tried, passed or failed."""
    search = option.search
    probes = sorted(search.probes, key=lambda probe: probe.rate) if search else []
    rows = [
        {
            "requests_per_s": probe.rate,
            f"{latency}_ms": probe.latency_ms[latency],
            "seed": probe.seed,
            "requests": probe.requests,
            "missed_share": max(probe.missed.values(), default=0.0),
            "saturated": probe.saturated,
            "passed": probe.passed,
        }
        for probe in probes
    ]
    groups = {
        "met": [probe for probe in probes if probe.passed],
        "missed": [probe for probe in probes if not probe.passed],
    }
    rates = [probe.rate for probe in probes] if limit_ms else []
    limit = [reference_line("objective", rates, [limit_ms] * len(rates))] if rates else []
    figure = draw(
        [
            *(_probe_trace(name, group, latency) for name, group in groups.items()),
            *limit,
        ],
        x=Axis("rate of one replica", "requests/s"),
        y=Axis(LATENCIES[latency], "ms", log=True, settings=_NARROW_LOG),
        height=360,
    )
    alt = (
        f"{len(probes)} simulations of {_name(option)}; {option.highest_rate or 0:,.4g} requests/s"
        " are sustained."
    )
    return Chart("probes", f"How the rate was found: {_name(option)}", rows, alt, figure)


def _probe_trace(name: str, probes: Sequence[Probe], latency: str) -> dict[str, Any]:
    met = name == "met"
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "objectives met" if met else "objectives missed",
        "x": [probe.rate for probe in probes],
        "y": [probe.latency_ms[latency] for probe in probes],
        "customdata": [
            [100 * max(probe.missed.values(), default=0.0), probe.requests, probe.seed]
            for probe in probes
        ],
        "marker": {
            "size": 11,
            "symbol": "circle" if met else "x",
            "color": PALETTE["green" if met else "red"],
        },
        "hovertemplate": "%{x:,.4g} requests/s<br>%{y:,.4g} ms"
        "<br>%{customdata[0]:.2f} % of %{customdata[1]:,} requests missed an objective"
        "<br>seed %{customdata[2]}<extra></extra>",
    }
