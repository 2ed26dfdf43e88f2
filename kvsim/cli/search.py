"""``kvsim search``: the cheapest deployment of a space."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from kvsim.cli.fleet_options import (
    Asked,
    asked_of,
    card_prices,
    deliver,
    prepared,
    price_options,
    refuse_beside_manifest,
    search_options,
    settling,
)
from kvsim.cli.objective_options import objective_options
from kvsim.cli.options import COUNT, MODEL, SCENARIO, format_option
from kvsim.cli.render import emit, print_records
from kvsim.cli.space_options import chosen_space, space_options
from kvsim.cli.workload_options import workload_options
from kvsim.interrupts import held, released

if TYPE_CHECKING:
    from kvsim.cli.fleet_options import Best
    from kvsim.search import FleetSearch
    from kvsim.search.space import Space

__all__ = ["command"]


@click.command("search")
@click.argument("scenario", type=SCENARIO, required=False)
@click.option("--model", type=MODEL, help="Name, path or hf:org/name.")
@workload_options
@objective_options
@price_options
@click.option("--engine", help="Whose accounting sizes the pool.")
@click.option("--engine-version", help="Release; default: the newest known.")
@space_options
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any dotted key or flag."
)
@search_options
@click.option("--optimize", type=COUNT, help="Try so many points of a larger space (optuna).")
@click.option(
    "--explain", is_flag=True, help="Search all, and say why the cheapest wins and what changes it."
)
@format_option
def command(
    scenario: str | None,
    price: tuple[str, ...],
    settings: tuple[str, ...],
    vary: tuple[str, ...],
    explain: bool,
    optimize: int | None,
    output_format: str,
    **flags: Any,
) -> None:
    """Find the deployment that carries a load at the least cost: cards, degrees, dtypes, flags.

    Each of --gpu, --tp, --kv-cache-dtype, --max-num-seqs and their like takes several values, and
    all combinations are the points; without, --tp is 1,2,4,8 and --kv-cache-dtype auto,fp8. What
    cannot be the cheapest is not simulated, and says why.

    \b
    kvsim search --model llama3-70b --gpu a100,h100,h200 --rate 10 --prompt 1000 --output 200 \\
        --ttft 2s --tpot-p95 50ms --explain
    kvsim search --model llama3.1-8b --gpu h100 --tp 1,2 --max-num-seqs 64,256 --rate 20 \\
        --prompt 1000 --output 200 --ttft 2s
    kvsim search --space space.yaml --ttft 2s
    """  # noqa: D301 - \b keeps click from wrapping the examples
    asked = asked_of(flags)
    refuse_beside_manifest(asked, output_format, *(("--explain",) if explain else ()))
    space = chosen_space(scenario, settings, vary, flags)
    find = prepared(
        space,
        asked,
        prices=card_prices(price, _cards(space), asked.currency),
        search_all=asked.search_all or explain,  # what is not known changes what would win
        evaluations=optimize,
    )
    with held():
        with released(), settling() as told:
            found = find(told=told)
        show = partial(_show, found, asked, output_format, explain)
        deliver(found, space.scenario, asked, show)


def _cards(space: Space) -> list[str]:
    """The accelerators of a space."""
    from kvsim.simulator.facts import key_of

    named = [key for key in space.vary if key_of(key) == "accelerator"]
    return [str(each) for each in space.vary[named[0]]] if named else [space.scenario.accelerator]


def _show(
    found: FleetSearch, asked: Asked, output_format: str, explain: bool, best: Best | None
) -> None:
    from kvsim.cli.search_report import search_record, search_rows, search_sections

    if output_format == "csv":
        print_records(search_rows(found), (), output_format)
        return
    cautions = best.cautions if best else ()
    sections = search_sections(found, asked.currency, cautions, explain=explain)
    emit(sections, partial(search_record, found, asked.currency, best), output_format)
