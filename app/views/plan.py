"""Plan: what fits, where the memory goes, and what to change when it does not fit."""

from __future__ import annotations

import streamlit as st

from app.parts import command_line, deployment, shown
from app.parts.rows import ask_look
from app.parts.trouble import say
from app.parts.words import plain
from app.state import PageState
from kvsim import Plan, figures

GIB = 2**30


def main() -> None:
    """Ask, plan, show."""
    st.title("What fits on the card?", anchor=False)
    state = PageState("plan", deployment.FIELDS)
    question = deployment.ask(state)
    state.publish()
    if not question.cards or not question.engines:
        st.info("Choose at least one card and one engine.")
        return
    answers = deployment.answer(question)
    for refusal in answers.refusals:
        say(refusal)
    if answers.plans:
        show(state, question, answers)
    command_line.show([command_line.command_line("plan", flags) for flags in question.commands()])


def show(state: PageState, question: deployment.Question, answers: deployment.Answers) -> None:
    """Show every plan beside the others, then one of them closely."""
    plans = [answer.plan for answer in answers.plans]
    shown.chart(
        figures.memory_chart(plans),
        note="One bar per plan: the memory of the rank that has the least left."
        " Past the red stroke the card ends.",
    )
    if len(plans) > 1:
        shown.table(figures.comparison_table(plans))
    chosen = _closer(state, figures.plan_labels(plans))
    closely(plans[chosen], answers.by_dtype(chosen))
    if any(plan.capacity_tokens.steady for plan in plans):
        _held(plans)
    _behind(plans[chosen])


def _held(plans: list[Plan]) -> None:
    """How many tokens each plan holds, and how many requests."""
    left, right = st.columns(2)
    with left:
        shown.chart(
            figures.capacity_chart(plans),
            note="Admission is what the engine's log states; steady is what running"
            " sequences occupy; all full is without any window's saving.",
        )
    with right:
        shown.chart(
            figures.admission_chart(plans),
            note="Contiguous: each request reserves the longest sequence."
            " Paged: it takes a block when it needs one.",
        )


def _closer(state: PageState, labels: list[str]) -> int:
    """Ask which plan to look at closely; its number, 0 when there is one only."""
    if len(labels) == 1:
        return 0
    return ask_look(state, labels)


def closely(plan: Plan, by_dtype: dict[str, Plan]) -> None:
    """Show one plan: the verdict, its numbers, its curves and its launch line."""
    (st.success if plan.fits else st.error)(plain(plan.verdict))
    _numbers(plan)
    if plan.suggestions:
        shown.table(figures.suggestions_table(plan))
    for warning in plan.warnings:
        st.caption(f":material/info: {plain(warning)}")
    if any(each.requests for one in by_dtype.values() for each in one.concurrency):
        _curves(plan, by_dtype)
    command_line.show(plan.command, title="Launch it")


def _curves(plan: Plan, by_dtype: dict[str, Plan]) -> None:
    """How many requests of each length, and how fast a batch of each size."""
    left, right = st.columns(2)
    with left:
        shown.chart(
            figures.concurrency_chart(by_dtype),
            note="One line per KV dtype, steady regime; both axes are logarithmic.",
        )
    with right:
        shown.chart(
            figures.batch_chart(plan),
            note=f"Step times are {plain(plan.decode.source.split(';')[0])}. {_sure(plan)}",
        )


def _sure(plan: Plan) -> str:
    """How sure the step times are."""
    decode, last = plan.decode, plan.decode.batches[-1]
    low, high = (f"{1e3 * each:,.1f}" for each in decode.band.around(last.step_seconds))
    step = f"{1e3 * last.step_seconds:,.1f} ms ({low} to {high})"
    return f"A step of {last.batch:,} takes {step}: {plain(decode.band.words)}."


def _numbers(plan: Plan) -> None:
    kv = plan.kv_cache
    numbers = {
        "KV cache": f"{max(0, plan.memory.kv_cache_bytes) / GIB:,.2f} GiB",
        "Tokens (engine's log)": f"{kv.capacity_tokens:,}",
        f"Requests of {kv.max_model_len:,} tokens": f"{kv.max_concurrency:,.2f}",
        "KV bytes per token": f"{kv.bytes_per_token:,}",
        "Blocks x tokens each": f"{kv.num_blocks:,} x {kv.block_size:,}",
    }
    shown.metrics(numbers)
    if plan.certainty:
        st.caption(f":material/straighten: {plain(plan.certainty)}")


def _behind(plan: Plan) -> None:
    """What the numbers rest on."""
    shown.table(figures.kinds_table(plan))
    if len(plan.pools) > 1:
        shown.table(figures.pools_table(plan))
    title = "Keeping less, and where the numbers come from"
    fold = st.expander(title, key="behind", on_change="rerun")
    if fold.open:
        with fold:
            shown.table(figures.retention_table(plan))
            shown.table(figures.provenance_table(plan))


main()
