"""Compare: the same requests under several memories, schedulers, dtypes or cards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import Any

import streamlit as st

import kvsim
from app.parts import catalogue, command_line, questions, runs, shown
from app.parts.trouble import in_place, say
from app.parts.words import plain
from app.state import Choice, Count, Field, PageState, Several
from kvsim import SimulationComparison, figures

PAGE = "compare"
MOST_VARIANTS = 8
BASE = ["rate", "requests", "seqs", "seed", "ttft", "tpot", "e2el", "plan"]

# key of the page: dotted key that it varies
VARIED = {
    "allocators": "memory.allocator",
    "blocks": "engine.block_size",
    "schedulers": "scheduler.policy",
    "dtypes": "engine.kv_cache_dtype",
    "cards": "accelerator",
}
# What changes the size of the pool, unless a scenario states its number of blocks.
RESIZES = ("blocks", "dtypes", "cards")

FIELDS: tuple[Field, ...] = (
    Choice(
        key="scenario",
        label="Scenario",
        default="pagedattention-orca",
        options=kvsim.scenario_names,
    ),
    Several(
        key="allocators",
        label="Memory",
        default=("reserve-max", "reserve-pow2", "reserve-oracle", "paged"),
        options=kvsim.allocator_names,
        help="The first combination is what the others are measured against.",
    ),
    Several(
        key="blocks",
        label="Block sizes (tokens)",
        options=lambda: [str(2**power) for power in (0, *range(3, 10))],  # vLLM's
    ),
    Several(key="schedulers", label="Schedulers", options=kvsim.scheduler_names),
    catalogue.kv_dtypes_field(key="dtypes"),
    catalogue.cards_field(key="cards"),
    Count(
        key="runs",
        label="Runs of each",
        default=3,
        most=10,
        help="Two or more give 95 % intervals; the variants meet the same requests, run by run.",
    ),
    *(each for each in questions.FIELDS if each.key in BASE),
)


@dataclass(frozen=True)
class Asked:
    """A question, what to vary of it, and how often to run each."""

    question: questions.Question
    vary: dict[str, list[Any]]
    replications: int

    @property
    def variants(self) -> int:
        """How many combinations there are."""
        return prod(map(len, self.vary.values()))

    def command_line(self) -> str:
        """The same for a shell."""
        flags = self.question.flags() | {
            "vary": [f"{key}={','.join(map(str, values))}" for key, values in self.vary.items()],
            "replications": self.replications,
        }
        return command_line.command_line(f"compare {self.question.name}", flags)

    def task(self) -> runs.Task:
        """What to compute."""

        def work(watch: runs.Watch) -> SimulationComparison:
            with questions.on_disk(self.question) as scenario:
                return kvsim.compare(
                    scenario,
                    self.vary,
                    seed=self.question.seed,
                    replications=self.replications,
                    watch=watch,
                )

        return runs.Task(
            f"{self.question.identity} {self.vary} {self.replications}",
            work,
            requests=self.question.requests,
            simulations=self.variants * self.replications,
            shared=self.question.trace is None,
        )


def main() -> None:
    """Ask, simulate every variant, show them side by side."""
    st.title("The same requests, under each", anchor=False)
    state = PageState(PAGE, FIELDS)
    runs.say_again(state.problems)
    asked = ask(state)
    state.publish()
    line = asked.command_line()
    if not asked.vary:
        st.info("Choose at least two of something to compare.")
        return
    if asked.variants > MOST_VARIANTS:
        say(f"{asked.variants} combinations, and at most {MOST_VARIANTS} are compared here")
    else:
        with in_place():
            run = runs.start(PAGE, asked.task())
            if run.finished:
                show_run(run, line)
    command_line.show(line)


def ask(state: PageState) -> Asked:
    """Draw the inputs."""
    left, right = st.columns([1, 2], vertical_alignment="top")
    with left:
        name, trace = questions.ask_scenario(state)
        replications = state.ask("runs")
    chosen: dict[str, Any] = {}
    with right:
        chosen["allocators"] = state.ask("allocators")
        for pair in (("blocks", "schedulers"), ("dtypes", "cards")):
            for key, column in zip(pair, st.columns(2), strict=True):
                with column:
                    chosen[key] = state.ask(key)
    with st.expander("Load, seed, objectives and the pool", icon=":material/tune:"):
        values = questions.ask_changes(state, name, BASE)
    question = questions.asked(name, trace, values)
    vary = {VARIED[key]: _typed(key, names) for key, names in chosen.items() if names}
    if any(chosen[key] for key in RESIZES) and not values["plan"]:
        _say_if_fixed(name)
    return Asked(question, vary, replications)


def _typed(key: str, names: tuple[str, ...]) -> list[Any]:
    return [int(name) for name in names] if key == "blocks" else list(names)


def _say_if_fixed(name: str) -> None:
    blocks = kvsim.load_scenario(name).engine.num_gpu_blocks_override
    if blocks is not None:
        st.caption(
            f":material/info: {plain(name)} states its pool, {blocks:,} blocks, whatever the"
            " card, the dtype or the block size. Switch on *Pool from the plan* below to size it"
            " by them."
        )


def show_run(run: runs.Run, line: str) -> None:
    """Show what the variants came to."""
    cut = "This comparison was {}: it shows what was finished."
    found: SimulationComparison | None = runs.answer_of(PAGE, run, cut)
    if run.trouble:
        return
    if found is None:
        say("nothing was finished: give it more time, or fewer requests")
        return
    show(found, line)


def show(found: SimulationComparison, line: str) -> None:
    """Show the variants side by side."""
    first = found.variants[0].runs.first
    st.caption(plain(first.setup.scenario.question))
    shown.cautions(found.cautions())
    left, right = st.columns(2)
    with left:
        shown.chart(figures.split_panels(found))
    with right:
        shown.chart(figures.queue_panels(found))
    shown.table(
        figures.values_table(found),
        note="Means over the runs; a dash where a saturated run's mean would say nothing.",
    )
    if found.how_sure:
        shown.table(
            figures.bands_table(found),
            note="\n".join(plain(words) for words in found.how_sure),
        )
    if len(found.variants) > 1:
        shown.table(
            figures.differences_table(found),
            note="Paired, run by run, on the same requests; *from* and *to* are the 95 % interval.",
        )
    left, right = st.columns(2)
    with left:
        shown.chart(figures.latency_panels(found), note="Of the first run, at most so long.")
    with right:
        shown.chart(
            figures.interval_chart(found),
            note="Whiskers: 95 % intervals. No dot where a saturated run's mean would say nothing.",
        )
    _keep(found, line)


def _keep(found: SimulationComparison, line: str) -> None:
    """Offer the comparison as files."""
    shown.downloads(
        {
            "Everything, JSON": (
                "comparison.json",
                lambda: json.dumps(found.to_dict(), indent=2),
            ),
            "Report, HTML": (
                "comparison.html",
                lambda: figures.comparison_report(found, command=line),
            ),
            "Scenario, YAML": (
                "scenario.yaml",
                found.variants[0].runs.first.setup.scenario.to_yaml,
            ),
        }
    )


main()
