"""Simulate: what happens to memory and to latency under load, moment by moment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import streamlit as st

import kvsim
from app.parts import command_line, questions, runs, shown
from app.parts.trouble import in_place, say
from app.parts.words import plain
from app.state import Choice, Count, Field, PageState, Pick
from kvsim import Camera, Replications, SimulationResult, figures

PAGE = "simulate"
MAIN = ["rate", "requests", "allocator", "scheduler"]
MORE = ["model", "gpu", "block", "seqs", "seed", "ttft", "tpot", "e2el", "plan"]
LATER = ("at", "by")  # asked for when there is an answer, and in the link before it
COLOURS = "Requests take five colours in turn."
BY = ("e2el", "ttft", "tpot", "queue")


@dataclass(frozen=True, kw_only=True)
class Moment(Count):
    """One of the moments that were kept of a run."""

    def widget(self, key: str, **settings: Any) -> Any:
        """A slider through simulated time."""
        seconds = settings.pop("seconds")
        st.session_state[key] = min(st.session_state[key], len(seconds) - 1)
        return st.select_slider(
            self.label,
            range(len(seconds)),
            key=key,
            format_func=lambda at: f"{seconds[at]:,.1f} s",
            **settings,
        )


FIELDS: tuple[Field, ...] = (
    Choice(
        key="scenario",
        label="Scenario",
        default="preemption-edge",
        options=kvsim.scenario_names,
        help="Each asks one question; every number of it can be changed.",
    ),
    *questions.FIELDS,
    Moment(key="at", label="Simulated time", default=40, least=0, most=1000),
    Pick(
        key="by",
        label="Slowest by",
        default="e2el",
        options=lambda: BY,
        show=lambda name: figures.LATENCIES[name],
    ),
)


@dataclass(frozen=True)
class Answer:
    """A run, the frames of its pool, and what it came to."""

    result: SimulationResult
    camera: Camera
    summary: dict[str, Any]

    @property
    def runs(self) -> Replications:
        """The run as the report takes it."""
        return Replications(self.result, (self.summary,))


def main() -> None:
    """Ask, simulate, show."""
    st.title("What happens under load?", anchor=False)
    state = PageState(PAGE, FIELDS)
    runs.say_again(state.problems)
    question = ask(state)
    for key in LATER:
        state.keep(key)
    state.publish()
    line = command_line.command_line(f"simulate {question.name}", question.flags())
    with in_place():
        run = runs.start(PAGE, task(question))
        if run.finished:
            show_run(state, run, line)
    command_line.show(line)


def ask(state: PageState) -> questions.Question:
    """Draw the inputs."""
    left, right = st.columns([1, 2], vertical_alignment="top")
    with left:
        name, trace = questions.ask_scenario(state)
    with right:
        values = questions.ask_changes(state, name, MAIN)
        with st.expander("Model, card, blocks, seed and objectives", icon=":material/tune:"):
            values |= questions.ask_changes(state, name, MORE)
    return questions.asked(name, trace, values)


def task(question: questions.Question) -> runs.Task:
    """Say what to compute."""

    def work(watch: runs.Watch) -> Answer:
        camera = Camera()
        with questions.on_disk(question) as scenario:
            result = kvsim.simulate(scenario, question.seed, watch=watch, camera=camera)
        return Answer(result, camera, result.summary)

    shared = question.trace is None
    return runs.Task(question.identity, work, requests=question.requests, shared=shared)


def show_run(state: PageState, run: runs.Run, line: str) -> None:
    """Show what a finished run came to."""
    cut = "This run was {}: it shows what was finished until then."
    answer: Answer | None = runs.answer_of(PAGE, run, cut)
    if run.trouble:
        return
    if answer is None or not answer.result.summary["completed"]:
        say("no request was finished: give it more time, or fewer or shorter requests")
        return
    show(state, answer, line)


def show(state: PageState, answer: Answer, line: str) -> None:
    """Show one run."""
    result = answer.result
    st.caption(plain(result.setup.scenario.question))
    _numbers(result)
    _cautions(result)
    _scrub(state, answer)
    left, right = st.columns([3, 2])
    with left:
        shown.chart(
            figures.latency_chart(result),
            note="A curve at 99 % says: 99 of 100 were at least that fast. Objectives are"
            " upright lines.",
        )
    with right:
        shown.table(figures.latency_table(answer.runs))
        for words in result.how_sure:
            st.caption(f":material/straighten: {plain(words)}")
        _keep(answer, line)
    by = state.ask("by")
    state.publish()
    shown.chart(
        figures.slowest_chart(result, by=by),
        note="From arrival to the last token. Recomputing after a preemption is inside decode.",
    )
    with st.expander("Every number of the run"):
        shown.table(figures.numbers_table(result.summary))


def _numbers(result: SimulationResult) -> None:
    summary = result.summary
    cache = summary["kv_cache"]
    numbers = {
        "Requests": f"{summary['completed']:,}",
        "Requests per second": f"{summary['request_throughput']:,.2f}",
        "Output tokens per second": f"{summary['output_throughput']:,.0f}",
        "TTFT p99": "saturated" if summary["saturated"] else f"{summary['p99_ttft_ms']:,.0f} ms",
        "Pool held": f"{100 * cache['usage_mean']:.1f} %",
        "Pool with tokens": f"{100 * cache['waste']['token_states']:.1f} %",
        "Preemptions": f"{summary['preemptions']:,}",
    }
    shown.metrics(numbers)


def _cautions(result: SimulationResult) -> None:
    shown.cautions(kvsim.Replications(result, (result.summary,)).cautions)
    for note in result.recording.notes:
        st.caption(f":material/info: {plain(note)}")


# --- scrubbing -----------------------------------------------------------------------------


@st.fragment
def _scrub(state: PageState, answer: Answer) -> None:
    """Show the pool at one moment, and that moment in the run."""
    camera = answer.camera
    number = state.ask("at", seconds=[frame.seconds for frame in camera.frames])
    state.publish()
    cells = kvsim.pool_cells(camera, number)
    shown.chart(figures.pool_map(cells), note=_pool_note(cells))
    bins = kvsim.time_bins(answer.result)
    left, right = st.columns(2)
    with left:
        shown.chart(
            figures.queue_chart(bins, at_seconds=cells.frame.seconds),
            note="Means over short spans of time; a cross marks preemptions.",
        )
    with right:
        shown.chart(
            figures.split_chart(bins, at_seconds=cells.frame.seconds),
            note="Internal: held and never written. External: free, but scattered or rounded away.",
        )


def _pool_note(cells: Any) -> str:
    size = cells.blocks_per_cell
    if cells.exact:
        return f"One cell is {size:,} token slots of contiguous memory, at its address. {COLOURS}"
    return (
        f"One cell is {'a block' if size == 1 else f'{size:,} blocks'} of {cells.block_size:,}"
        " tokens. How many blocks each request holds is exact; paged blocks have no addresses"
        f" that matter, so their places are reconstructed. {COLOURS}"
    )


# --- keeping -------------------------------------------------------------------------------


def _requests_csv(result: SimulationResult) -> str:
    rows = result.requests.to_dict("records")
    return figures.Table("requests", "One row per request", rows).to_csv()


def _keep(answer: Answer, line: str) -> None:
    """Offer everything about the run as files."""
    result = answer.result
    shown.downloads(
        {
            "Requests, CSV": ("requests.csv", lambda: _requests_csv(result)),
            "Summary, JSON": ("summary.json", lambda: json.dumps(result.summary, indent=2)),
            "Report, HTML": (
                "report.html",
                lambda: figures.simulation_report(answer.runs, command=line, camera=answer.camera),
            ),
            "Scenario, YAML": ("scenario.yaml", result.setup.scenario.to_yaml),
        }
    )


main()
