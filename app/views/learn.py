"""Learn: how a KV cache works, in six steps that move."""

from __future__ import annotations

import streamlit as st

from app.parts import command_line, lessons
from app.state import PageState


def main() -> None:
    """Show the chosen step."""
    st.title("How a KV cache works", anchor=False)
    state = PageState("learn", lessons.FIELDS)
    name = state.ask("lesson", label_visibility="collapsed")
    lesson = lessons.LESSONS[name]
    st.header(lesson.title, anchor=False)
    st.markdown(lesson.text)
    line = lesson.show(state)
    state.publish()
    st.info(lesson.takeaway)
    _onward(state, name)
    command_line.show(line)


def _onward(state: PageState, name: str) -> None:
    """Buttons to the step before and the one after."""
    names = list(lessons.LESSONS)
    at = names.index(name)
    row = st.container(horizontal=True)
    for label, target in (("Back", at - 1), ("Next", at + 1)):
        row.button(
            label,
            key=f"onward {label}",
            disabled=not 0 <= target < len(names),
            on_click=lambda there=target: state.set("lesson", names[there]),
        )


main()
