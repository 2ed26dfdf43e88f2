"""``kvsim size``: which card, how many, and with what flags."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from kvsim.cli.fleet_options import (
    asked_of,
    card_prices,
    deliver,
    distinct_cards,
    prepared,
    price_options,
    refuse_beside_manifest,
    search_options,
    settling,
)
from kvsim.cli.objective_options import objective_options
from kvsim.cli.options import (
    MODEL,
    SCENARIO,
    engine_options_but_tp,
    format_option,
    listed,
)
from kvsim.cli.render import emit, print_records
from kvsim.cli.scenario_options import chosen_scenario, refuse_fixed
from kvsim.cli.workload_options import workload_options
from kvsim.errors import InputError
from kvsim.interrupts import held, released
from kvsim.units import parse_count

if TYPE_CHECKING:
    from kvsim.cli.fleet_options import Best
    from kvsim.search import FleetSearch
    from kvsim.search.space import Space

__all__ = ["command"]

_DEGREES = "1,2,4,8"


@click.command("size")
@click.argument("scenario", type=SCENARIO, required=False)
@click.option("--model", type=MODEL, help="Name, path or hf:org/name.")
@click.option("--gpu", metavar="GPU,...", help="Accelerators to choose from.")
@click.option("--tp", metavar="N,...", default=_DEGREES, show_default=True, help="Degrees to try.")
@workload_options
@objective_options
@price_options
@click.option("--engine", help="Whose accounting sizes the pool.")
@click.option("--engine-version", help="Release; default: the newest known.")
@engine_options_but_tp
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any dotted key or flag."
)
@search_options
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
    asked = asked_of(flags)
    refuse_beside_manifest(asked, output_format)
    space = _space(scenario, gpu, tp, flags, settings)
    prices = card_prices(price, space.vary["gpu"], asked.currency)
    find = prepared(space, asked, prices=prices, search_all=asked.search_all)
    with held():
        with released(), settling() as told:
            found = find(told=told)
        deliver(found, space.scenario, asked, partial(_show, found, asked.currency, output_format))


def _space(
    scenario: str | None,
    gpu: str | None,
    tp: str,
    flags: Mapping[str, Any],
    settings: tuple[str, ...],
) -> Space:
    """Every card with every degree."""
    from kvsim.search.space import Space

    if gpu is None:  # the scenario's own; without one all that is missing is named at once
        gpu = chosen_scenario(scenario, settings, {**flags, "gpu": None}).accelerator
    vary: dict[str, list[Any]] = {
        "gpu": distinct_cards(listed(gpu, "--gpu")),
        "tp": [_degree(word) for word in listed(tp, "--tp")],
    }
    refuse_fixed(vary, flags, settings, "--")
    question = chosen_scenario(scenario, settings, {**flags, "gpu": vary["gpu"][0]})
    return Space(question, dict(vary), spelled={key: f"--{key}" for key in vary})


def _degree(word: str) -> int:
    try:
        degree = parse_count(word)
    except InputError:
        degree = 0
    if degree < 1:
        raise InputError(f"{word!r} is no degree", where="--tp", fix="as --tp 1,2,4")
    return degree


def _show(found: FleetSearch, currency: str, output_format: str, best: Best | None) -> None:
    from kvsim.cli.size_report import size_record, size_rows, size_sections

    if output_format == "csv":
        print_records(size_rows(found), (), output_format)
        return
    cautions = best.cautions if best else ()
    record = partial(size_record, found, currency, best)
    emit(size_sections(found, currency, cautions), record, output_format)
