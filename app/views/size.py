"""Size it: which card meets the objectives at this rate, how many it takes, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.parts import catalogue, command_line, runs, shown
from app.parts.fleets import LATENCIES, PERCENTILES, Demand, demand, sized
from app.parts.rows import ask_look, ask_row, look_field
from app.parts.trouble import in_place, say
from app.parts.words import plain
from app.state import Count, Field, PageState, Pick, Several, Share
from kvsim import FleetOption, cheapest, figures

PAGE = "size"
MOST_OPTIONS = 16
SIMULATIONS_EACH = 30
LATER = ("by", "look")  # asked for when there is an answer, and in the link before it
FILE = "kvsim-size.yaml"
_FLAGS = {"ttft": "ttft", "tpot": "tpot", "e2el": "e2e"}


def _objective(key: str, label: str, default: float | None, step: float) -> Share:
    return Share(
        key=key,
        label=label,
        default=default,
        least=0.0,
        most=1e7,
        step=step,
        help="0: none.",
    )


FIELDS: tuple[Field, ...] = (
    catalogue.model_field(default="llama3.1-8b"),
    catalogue.cards_field(default=("L40S", "A100-SXM4-80GB", "H100-SXM5-80GB")),
    Several(
        key="tp",
        label="Tensor parallel",
        default=("1", "2"),
        options=lambda: ["1", "2", "4", "8"],
        most=4,
        help="Devices that share one replica.",
    ),
    Share(
        key="rate",
        label="Requests per second",
        default=20.0,
        least=0.01,
        most=100_000.0,
        step=5.0,
        help="Of the whole fleet; arrivals are Poisson.",
    ),
    Count(key="prompt", label="Prompt (mean tokens)", default=1000, most=200_000, step=100),
    Count(key="output", label="Output (mean tokens)", default=200, most=50_000, step=50),
    Share(
        key="spread",
        label="Spread of lengths (CV)",
        default=1.0,
        least=0.0,
        most=4.0,
        step=0.1,
        help="Standard deviation over mean, lognormal; 0: every request is alike.",
    ),
    _objective("ttft", "TTFT at most (ms)", 1000.0, 100.0),
    _objective("tpot", "TPOT at most (ms)", 50.0, 5.0),
    _objective("e2el", "End to end at most (ms)", 0.0, 1000.0),
    Pick(
        key="percentile",
        label="Met by",
        default="p99",
        options=lambda: list(PERCENTILES),
        help="Percentile of each latency that must be within its limit.",
    ),
    catalogue.kv_dtype_field(),
    Count(key="requests", label="Requests per simulation", default=2000, least=200, most=20_000),
    Count(key="seed", label="Seed", default=0, least=0, most=10**9),
    Pick(
        key="by",
        label="Latency shown",
        default="tpot",
        options=lambda: LATENCIES,
        show=lambda name: figures.LATENCIES[name],
    ),
    look_field(MOST_OPTIONS),
)


def main() -> None:
    """Ask, search, show."""
    st.title("Which card, and how many?", anchor=False)
    state = PageState(PAGE, FIELDS)
    runs.say_again(state.problems)
    values = ask(state)
    for key in LATER:
        state.keep(key)
    state.publish()
    cards = [(card, int(degree)) for card in values["gpu"] for degree in sorted(values["tp"])]
    if not cards:
        st.info("Choose at least one card and one degree.")
        return
    if len(cards) > MOST_OPTIONS:
        say(f"{len(cards)} fleets are too many at once; the first {MOST_OPTIONS} are shown")
        cards = cards[:MOST_OPTIONS]
    with in_place():
        wanted = demand(values)
        run = runs.start(PAGE, task(wanted, cards))
        if run.finished:
            show_run(state, run, values)
        keep(wanted, cards, run.answer or ())


def ask(state: PageState) -> dict[str, Any]:
    """Draw the inputs and return their values by key."""
    values = ask_row(state, "model", "gpu", "tp", widths=[2, 4, 2])
    values |= ask_row(state, "rate", "prompt", "output", "spread")
    values |= ask_row(state, "ttft", "tpot", "e2el", "percentile")
    with st.expander("KV dtype, length of the simulations, seed", icon=":material/tune:"):
        return values | ask_row(state, "kv", "requests", "seed")


def task(wanted: Demand, cards: list[tuple[str, int]]) -> runs.Task:
    """Say what to compute."""
    return runs.Task(
        f"{wanted.identity('', 0)} {cards}",
        lambda watch: sized(wanted, cards, watch),
        requests=wanted.settings.requests,
        simulations=SIMULATIONS_EACH * len(cards),
    )


# --- showing -------------------------------------------------------------------------------


def show_run(state: PageState, run: runs.Run, values: dict[str, Any]) -> None:
    """Show what a finished search came to."""
    cut = "This search was {}: the fleets finished until then are shown."
    options: tuple[FleetOption, ...] = runs.answer_of(PAGE, run, cut) or ()
    if not options:
        return
    best(options)
    shown.table(
        figures.fleet_table(options),
        note=f"Latencies at {values['percentile']}, each replica under its share of"
        f" {values['rate']:,g} requests/s; *within*: where the measured one would be, by"
        " the band of its class. Costs are those of all devices, by the list prices found, from"
        " the lowest to the highest.",
    )
    by = charts(state, options, values)
    closely(state, options, by, values[by] or None)


def best(options: tuple[FleetOption, ...]) -> None:
    """Say which fleet is the cheapest, and what it is made of."""
    if not any(option.replicas for option in options):
        st.error("No card meets the objectives; the table says why.")
        return
    known = cheapest(options)
    if not known:
        st.info("No card here has a known price.")
        return
    option, *ties = known
    low, high = option.cost_per_hour or (0.0, 0.0)
    numbers = {
        "Cheapest": f"{option.accelerator} · TP {option.tensor_parallel_size}",
        "Replicas": f"{option.replicas:,}",
        "Devices": f"{option.devices:,}",
        "USD per hour": f"{low:,.2f} to {high:,.2f}",
        "One replica sustains": f"{option.highest_rate:,.3g} requests/s",
    }
    shown.metrics(numbers)
    if ties:
        named = ", ".join(f"{each.accelerator} · TP {each.tensor_parallel_size}" for each in ties)
        st.caption(f"A tie, as price ranges overlap: {named}.")


def charts(state: PageState, options: tuple[FleetOption, ...], values: dict[str, Any]) -> str:
    """Show the rates, and cost against a latency; return which latency."""
    by = state.ask("by")
    state.publish()
    left, right = st.columns(2)
    with left:
        shown.chart(
            figures.rates_chart(options),
            note="What is sustained, by one seed: the whisker ends at the lowest rate that was"
            " missed, or at the throughput under overload. `kvsim size` without `--replications`"
            " takes three seeds and gives an interval. Hover to see what is missed beyond.",
        )
    with right:
        shown.chart(
            figures.fleet_chart(options, by, values[by] or None),
            note="One point per fleet, in the middle of its price range; down on the left is"
            " cheap and quick.",
        )
    return str(by)


def closely(
    state: PageState, options: tuple[FleetOption, ...], by: str, limit_ms: float | None
) -> None:
    """Show how one of the rates was found."""
    labels = [f"{each.accelerator} · TP {each.tensor_parallel_size}" for each in options]
    number = ask_look(state, labels)
    option = options[number]
    if option.search is None:
        say(f"{labels[number]}: {option.problem}")
        return
    shown.chart(
        figures.probes_chart(option, by, limit_ms),
        note=f"{option.search.simulations} simulations, at least"
        f" {option.search.settings.requests:,} requests each and more near saturation; a seed has"
        f" the same requests at every rate. Step times are {plain(option.provenance)}.",
    )
    for words in option.how_sure:
        st.caption(f":material/straighten: {plain(words)}")


def keep(wanted: Demand, cards: Sequence[tuple[str, int]], options: Sequence[FleetOption]) -> None:
    """Offer the scenario, and the lines that search it and run it again."""
    shown.downloads({"Scenario, YAML": (FILE.removeprefix("kvsim-"), wanted.scenario.to_yaml)})
    percentile = f"p{100 * wanted.settings.share:g}"
    limits = {f"{_FLAGS[key]}-{percentile}": f"{limit}ms" for key, limit in wanted.limits_ms}
    flags = {
        "gpu": ",".join(dict.fromkeys(card for card, _ in cards)),
        "tp": ",".join(dict.fromkeys(str(degree) for _, degree in cards)),
        **limits,
        "requests": wanted.settings.requests,
        "replications": wanted.settings.replications,
        "all": True,
    }
    search = command_line.command_line(f"size {FILE}", flags)
    command_line.show([search, *(_at_its_highest(each) for each in options if each.highest_rate)])
    st.caption("The first line searches again; the others run one replica at its highest rate.")


def _at_its_highest(option: FleetOption) -> str:
    flags = {
        "gpu": option.accelerator,
        "tensor_parallel_size": option.tensor_parallel_size,
        "set": [f"workload.arrivals.rate={option.highest_rate:.6g}"],
    }
    return command_line.command_line(f"simulate {FILE}", flags)


main()
