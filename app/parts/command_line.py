"""The command line that says the same as the page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

__all__ = ["command_line", "flags", "python_line", "show"]


def command_line(command: str, options: Mapping[str, Any]) -> str:
    """Write a kvsim command with its flags; None is left out, quotes are set where needed.

    Examples
    --------
    >>> command_line("plan", {"model": "llama3-8b", "enforce_eager": True, "max_model_len": None})
    'kvsim plan --model llama3-8b --enforce-eager'
    """
    return shlex.join(["kvsim", *shlex.split(command), *flags(options)])


def python_line(*statements: str) -> str:
    """Write a line that runs Python, for what no kvsim command says.

    Examples
    --------
    >>> python_line("import kvsim", "print(kvsim.__version__)")
    "python -c 'import kvsim; print(kvsim.__version__)'"
    """
    return shlex.join(["python", "-c", "; ".join(statements)])


def flags(options: Mapping[str, Any]) -> list[str]:
    """Turn options into flags: True is ``--name``, False ``--no-name``, a list repeats."""
    words: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            words += [word for each in value for word in (f"--{flag}", str(each))]
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return words


def show(lines: str | Sequence[str], *, title: str = "The same on the command line") -> None:
    """Show command lines to copy."""
    st.markdown(f"##### {title}")
    text = lines if isinstance(lines, str) else "\n".join(lines)
    st.code(text, language="bash", wrap_lines=True)
