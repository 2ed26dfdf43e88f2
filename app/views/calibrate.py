"""Calibrate: what a card was measured to do, beside its datasheet and beside real runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

import kvsim
from app.parts import catalogue, command_line, shown, uploads
from app.parts.rows import ask_look, look_field
from app.parts.trouble import in_place
from app.parts.words import plain
from app.state import Choice, Field, PageState
from kvsim import AcceleratorProfile, figures

PAGE = "calibrate"
UPLOADED = "uploaded"
PLACE = "uploaded profile"
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "validation.json"
PROFILE_LIMIT_BYTES = 2**20
RECORD_LIMIT_BYTES = 16 * 2**20
MOST_BENCH_REQUESTS = 50_000


def _cards() -> list[str]:
    brought = [UPLOADED] if PLACE in st.session_state else []
    return [*brought, *catalogue.cards()]


FIELDS: tuple[Field, ...] = (
    catalogue.cards_field(
        default=("H100-SXM5-80GB", "A100-SXM4-80GB", "L40S"),
        options=_cards,
        help="Up to eight, set side by side.",
    ),
    look_field(8),
    Choice(
        key="scenario",
        label="What the benchmark served",
        default="peer-w",
        options=kvsim.scenario_names,
        help="Model, card and flags; the result's own requests are replayed where it lists them.",
    ),
    catalogue.model_field(empty="the scenario's"),
)


def main() -> None:
    """Ask, read, show."""
    st.title("How far from the datasheet?", anchor=False)
    state = PageState(PAGE, FIELDS)
    with st.expander("Bring your own measurements", icon=":material/upload:"):
        _ask_profile(state)
    cards = state.ask("gpu")
    state.publish()
    with in_place():
        profiles = [_profile(name) for name in cards]
        if profiles:
            number = compare(state, profiles)
            closely(profiles[number])
            validated(profiles[number])
            benchmarked(state, profiles[number])
            command_line.show(_command(cards))
        else:
            st.info("Choose at least one card.")
    command_line.show(
        [
            "kvsim calibrate -o card.yaml",
            "kvsim validate --device cuda --model llama3-8b --profile card.yaml --output results",
        ],
        title="Measure and validate a card of yours",
    )


def _command(cards: tuple[str, ...]) -> str:
    """The coefficients of the cards, each beside its datasheet, without a page."""
    found = ", ".join(f"{_read_by(name)}({json.dumps(_file_or_name(name))})" for name in cards)
    return command_line.python_line(
        "import kvsim, kvsim.figures",
        f"cards = [{found}]",
        "print(*(kvsim.figures.coefficients_table(card).to_csv() for card in cards))",
    )


# --- profiles ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Brought:
    """A profile that this visitor brought, and the file that it was in."""

    file: str
    profile: AcceleratorProfile


def _ask_profile(state: PageState) -> None:
    """Read a profile into this visitor's session."""
    found = uploads.upload(
        "A profile that kvsim calibrate wrote",
        kvsim.load_accelerator,
        key="upload profile",
        types=["yaml", "yml"],
        limit_bytes=PROFILE_LIMIT_BYTES,
    )
    st.caption(
        "A file is read here and forgotten when you leave; it is never part of a link."
        " Nothing here needs torch or a GPU."
    )
    if found is None:
        st.session_state.pop(PLACE, None)
        return
    before = st.session_state.get(PLACE)
    brought = st.session_state[PLACE] = _Brought(*found)
    if before != brought:
        shown_too = [name for name in FIELDS[0].default if name != brought.profile.name]
        state.set("gpu", (UPLOADED, *shown_too[:2]))


def _profile(name: str) -> AcceleratorProfile:
    if name == UPLOADED:
        own = _brought().profile
        return own.model_copy(update={"name": f"{own.name} (yours)"})
    return _known_profile(name)


def _brought() -> _Brought:
    brought: _Brought = st.session_state[PLACE]
    return brought


def _read_by(name: str) -> str:
    return f"kvsim.{'load' if name == UPLOADED else 'find'}_accelerator"


def _file_or_name(name: str) -> str:
    return _brought().file if name == UPLOADED else name


@st.cache_data(max_entries=128, show_spinner=False)
def _known_profile(name: str) -> AcceleratorProfile:
    return kvsim.find_accelerator(name)


def compare(state: PageState, profiles: list[AcceleratorProfile]) -> int:
    """Show the cards side by side; return which one to look at closely."""
    shown.chart(
        figures.coefficients_chart(profiles),
        note="Whiskers: the mean error of predicted step times on the rows that the"
        " coefficients were fitted on. Hollow: nobody measured this card, so it is given its"
        " architecture's median.",
    )
    return ask_look(state, [each.name for each in profiles]) if len(profiles) > 1 else 0


def closely(profile: AcceleratorProfile) -> None:
    """Show one card's coefficients and where they come from."""
    _numbers(profile)
    shown.table(figures.coefficients_table(profile))
    with st.expander("Where the numbers come from"):
        shown.table(figures.profile_table(profile))


def _numbers(profile: AcceleratorProfile) -> None:
    found = profile.coefficients
    numbers = {"Card": profile.name, "Coefficients": profile.step_times}
    if found is not None:
        error = found.error_percent
        numbers["Error of the fit"] = "not stated" if error is None else f"{error:g} %"
        numbers["Date"] = found.date
    shown.metrics(numbers)


# --- measured runs ---------------------------------------------------------------------------


def validated(profile: AcceleratorProfile) -> None:
    """Show a validation, or measured steps, that this visitor brings."""
    st.subheader("Predicted against measured", anchor=False, divider="gray")
    left, right = st.columns(2)
    with left:
        record = uploads.upload(
            "A validation: the comparison.json of kvsim validate",
            kvsim.read_validation,
            key="upload validation",
            types=["json"],
            limit_bytes=RECORD_LIMIT_BYTES,
        )
    with right:
        steps = uploads.upload(
            f"Measured steps: the CSV of kvsim calibrate fit --rows, beside {profile.name}",
            lambda path: kvsim.measured_steps(path, profile),
            key="upload steps",
            types=["csv"],
            limit_bytes=RECORD_LIMIT_BYTES,
        )
    if record is not None:
        _show_validation(record[1])
    elif steps is None:
        st.caption("An example, measured on a CPU, until you bring yours.")
        _show_validation(_example())
    if steps is not None:
        shown.chart(figures.measured_steps_chart(steps[1], profile.name))


@st.cache_data(show_spinner=False)
def _example() -> dict[str, Any]:
    return kvsim.read_validation(EXAMPLE)


def _show_validation(record: dict[str, Any]) -> None:
    st.caption(
        plain(
            f"{record['model']} on {record['device']}, torch {record['torch']},"
            f" {record['clock']}; coefficients {record['provenance']}"
            f"{_drift_words(record)}{_cut_words(record)}"
        )
    )
    left, right = st.columns(2)
    with left:
        shown.chart(
            figures.step_time_chart(record["runs"]),
            note="Medians of steps alike in batch and context; on the line they agree.",
        )
    with right:
        shown.chart(figures.error_chart(record["runs"]))


def _drift_words(record: dict[str, Any]) -> str:
    drift = record["drift_percent"]
    return "" if drift is None else f"; equal work took up to {drift:.0f} % longer at times"


def _cut_words(record: dict[str, Any]) -> str:
    return "; interrupted: loads are missing" if record["interrupted"] else ""


def benchmarked(state: PageState, profile: AcceleratorProfile) -> None:
    """Show a benchmark's numbers beside what the simulator says of the same requests."""
    left, middle, right = st.columns([3, 2, 2])
    with middle:
        scenario = state.ask("scenario")
    with right:
        model = state.ask("model")
    state.publish()
    with left:
        found = uploads.upload(
            "A benchmark: the JSON of vllm bench serve --save-result",
            lambda path: _bench(path, scenario, model, profile),
            key="upload bench",
            types=["json"],
            limit_bytes=RECORD_LIMIT_BYTES,
        )
    if found is None:
        return
    name, compared = found
    how = "its own requests, replayed" if compared.replayed else "the scenario's workload"
    st.caption(plain(f"{name} beside {profile.name}: {how}"))
    left, right = st.columns([3, 2])
    with left:
        shown.chart(figures.bench_chart(compared.pairs))
    with right:
        shown.table(figures.bench_table(compared.pairs))
    flags = {"scenario": scenario, "model": model, "profile": profile.name}
    command_line.show(command_line.command_line(f"validate --bench ./{name}", flags))


def _bench(path: Path, scenario: str, model: str | None, profile: AcceleratorProfile) -> Any:
    """Compare a result with its prediction, once for the same file and question."""
    content = kvsim.read_bench_result(path)
    requests = content.get("input_lens")
    if isinstance(requests, list) and len(requests) > MOST_BENCH_REQUESTS:
        raise kvsim.InputError(
            f"lists {len(requests):,} requests, and {MOST_BENCH_REQUESTS:,} are replayed here",
            fix="use `kvsim validate --bench`",
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _compared(digest, scenario, model, repr(profile), path, profile)


@st.cache_data(max_entries=16, show_spinner="Replaying the benchmark's requests")
def _compared(
    digest: str,
    scenario: str,
    model: str | None,
    card: str,
    _path: Path,
    _profile: AcceleratorProfile,
) -> Any:
    question = kvsim.load_scenario(scenario, {"model": model} if model else {})
    return kvsim.compare_bench(_path, question, accelerator=_profile)


main()
