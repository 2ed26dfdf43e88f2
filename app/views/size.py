"""Size it: which card meets the objectives at this rate, how many it takes, what it costs."""

from __future__ import annotations

from typing import Any

import streamlit as st

import kvsim
from app.parts import command, planning, runs, shown
from app.parts.fleets import Demand, sized
from app.parts.trouble import in_place, say
from app.parts.words import plain
from app.state import Choice, Count, Field, PageState, Pick, Several, Share
from kvsim import FleetOption, SearchSettings, figures

PAGE = "size"
MOST_OPTIONS = 16
SIMULATIONS_EACH = 10
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
LATENCIES = ("ttft", "tpot", "e2el")


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
    Choice(
        key="model",
        label="Model",
        default="llama3.1-8b",
        options=planning.models,
        spellings=planning.spelled_models,
    ),
    Several(
        key="gpu",
        label="Cards",
        default=("L40S", "A100-SXM4-80GB", "H100-SXM5-80GB"),
        options=planning.cards,
        spellings=planning.spelled_cards,
        show=planning.card_named,
    ),
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
        label="Requests a second",
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
        help="Share of the requests that must meet all objectives together.",
    ),
    Choice(
        key="kv",
        label="KV cache dtype",
        default="auto",
        options=lambda: ["auto", "fp8", *kvsim.kv_format_names()],
    ),
    Count(key="requests", label="Requests a simulation", default=2000, least=200, most=20_000),
    Count(key="seed", label="Seed", default=0, least=0, most=10**9),
    Pick(
        key="by",
        label="Latency shown",
        default="tpot",
        options=lambda: LATENCIES,
        show=lambda name: figures.LATENCIES[name],
    ),
    Choice(
        key="look",
        label="Look closely at",
        default="0",
        options=lambda: [str(at) for at in range(MOST_OPTIONS)],
    ),
)


def main() -> None:
    """Ask, search, show."""
    st.title("Which card, and how many?", anchor=False)
    state = PageState(PAGE, FIELDS)
    values = ask(state)
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
            show_run(state, run, wanted, values)


def ask(state: PageState) -> dict[str, Any]:
    """Draw the inputs and return their values by key."""
    rows = (
        (("model", "gpu", "tp"), [2, 4, 2]),
        (("rate", "prompt", "output", "spread"), 4),
        (("ttft", "tpot", "e2el", "percentile"), 4),
    )
    values: dict[str, Any] = {}
    for keys, widths in rows:
        for key, column in zip(keys, st.columns(widths), strict=True):
            with column:
                values[key] = state.ask(key)
    with st.expander("KV dtype, length of the simulations, seed", icon=":material/tune:"):
        for key, column in zip(("kv", "requests", "seed"), st.columns(3), strict=True):
            with column:
                values[key] = state.ask(key)
    return values


def demand(values: dict[str, Any]) -> Demand:
    """Say what the fleets are sized for.

    Raises
    ------
    KVSimError
        For a value that no scenario takes.
    """
    overrides: dict[str, Any] = {
        "question": "What does one replica sustain?",
        "model": values["model"],
        "engine": {} if values["kv"] == "auto" else {"kv_cache_dtype": values["kv"]},
        "workload.arrivals.rate": values["rate"],
        "workload.lengths.prompt": _lengths(values["prompt"], values["spread"]),
        "workload.lengths.output": _lengths(values["output"], values["spread"]),
        "workload.requests": values["requests"],
        "memory": {"allocator": "paged"},
        "slo": {f"{key}_ms": values[key] for key in LATENCIES if values[key]},
        "run.seed": values["seed"],
    }
    settings = SearchSettings(
        share=PERCENTILES[values["percentile"]], requests=values["requests"], seed=values["seed"]
    )
    return Demand(kvsim.load_scenario("peer-w", overrides), values["rate"], settings)


def _lengths(mean: int, spread: float) -> dict[str, Any]:
    if spread == 0:
        return {"kind": "fixed", "tokens": mean}
    return {"kind": "lognormal", "mean": mean, "cv": spread, "max": 8 * mean}


def task(wanted: Demand, cards: list[tuple[str, int]]) -> runs.Task:
    """Say what to compute."""
    return runs.Task(
        f"{wanted.identity('', 0)} {cards}",
        lambda watch: sized(wanted, cards, watch),
        requests=wanted.settings.requests,
        simulations=SIMULATIONS_EACH * len(cards),
    )


# --- showing -------------------------------------------------------------------------------


def show_run(state: PageState, run: runs.Run, wanted: Demand, values: dict[str, Any]) -> None:
    """Show what a finished search came to."""
    if run.trouble:
        say(run.trouble)
        return
    if run.cut:
        left, right = st.columns([5, 1], vertical_alignment="center")
        left.warning(plain(f"This search was {run.cut}: the fleets finished until then are shown."))
        right.button("Run it again", on_click=runs.again, args=(PAGE,))
    options: tuple[FleetOption, ...] = run.answer or ()
    if not options:
        return
    best(options)
    shown.table(
        figures.fleet_table(options),
        note=f"Latencies at {values['percentile']}, each replica under its share of"
        f" {values['rate']:,g} requests/s. Prices are list ranges of one device and hour.",
    )
    by = charts(state, options, values)
    closely(state, options, by, values[by] or None)
    downloads(options, wanted)


def best(options: tuple[FleetOption, ...]) -> None:
    """Say which fleet is the cheapest, and which the quickest to answer."""
    priced = [option for option in options if option.usd_per_hour]
    if not any(option.replicas for option in options):
        st.error("No card meets the objectives; the table says why.")
        return
    if not priced:
        st.info("No card here has a known price.")
        return
    option = min(priced, key=lambda each: each.usd_per_hour or (0.0, 0.0))
    low, high = option.usd_per_hour or (0.0, 0.0)
    numbers = {
        "Cheapest": f"{option.accelerator} · TP {option.tensor_parallel_size}",
        "Replicas": f"{option.replicas:,}",
        "Devices": f"{option.devices:,}",
        "USD an hour": f"{low:,.2f} to {high:,.2f}",
        "One replica sustains": f"{option.highest_rate:,.3g} requests/s",
    }
    row = st.container(horizontal=True)
    for name, value in numbers.items():
        row.metric(name, value, width="content")


def charts(state: PageState, options: tuple[FleetOption, ...], values: dict[str, Any]) -> str:
    """Show the rates, and cost against a latency; return which latency."""
    by = state.ask("by")
    state.publish()
    left, right = st.columns(2)
    with left:
        shown.chart(
            figures.rates_chart(options),
            note="The highest rate at which enough requests meet all objectives and the queue"
            " does not grow. Hover to see what is missed beyond.",
        )
    with right:
        shown.chart(
            figures.fleet_chart(options, by, values[by] or None),
            note="One point a fleet, in the middle of its price range; down on the left is"
            " cheap and quick.",
        )
    return str(by)


def closely(
    state: PageState, options: tuple[FleetOption, ...], by: str, limit_ms: float | None
) -> None:
    """Show how one of the rates was found."""
    labels = [f"{each.accelerator} · TP {each.tensor_parallel_size}" for each in options]
    numbers = [str(at) for at in range(len(options))]
    number = int(state.ask("look", options=numbers, labels=labels))
    state.publish()
    option = options[number]
    if option.search is None:
        say(f"{labels[number]}: {option.problem}")
        return
    shown.chart(
        figures.probes_chart(option, by, limit_ms),
        note=f"{option.search.simulations} simulations of the same requests, at least"
        f" {option.search.settings.requests:,} each. Step times are {plain(option.provenance)}.",
    )


def downloads(options: tuple[FleetOption, ...], wanted: Demand) -> None:
    """Offer the scenario, and the lines that run it on each card."""
    st.download_button(
        "Scenario, YAML",
        data=wanted.scenario.to_yaml,
        file_name="kvsim-size.yaml",
        mime="application/yaml",
        key="scenario.yaml",
        on_click="ignore",
    )
    command.show(
        [
            command.command_line(
                "simulate kvsim-size.yaml",
                {
                    "gpu": option.accelerator,
                    "tensor_parallel_size": option.tensor_parallel_size,
                    "set": [f"workload.arrivals.rate={option.highest_rate:.6g}"],
                },
            )
            for option in options
            if option.highest_rate
        ],
        title="One replica at its highest rate, on the command line",
    )


main()
