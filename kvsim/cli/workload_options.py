"""The flags that say who asks what: a rate or users, lengths, a shared prefix, or a trace.

With a scenario they change its workload, each flag what it names; without one they are all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvsim.cli.options import (
    COUNT,
    DURATION,
    NUMBER,
    SCENARIO,
    SPREAD,
    Count,
    decorate,
    flag_words,
    given,
)
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.simulator.overrides import Layer
    from kvsim.workload.traffic import Change, Traffic

__all__ = [
    "WORKLOAD_FLAGS",
    "missing_words",
    "workload_layers",
    "workload_options",
    "workload_words",
]

F = TypeVar("F", bound=Callable[..., Any])


class OutputTokens(Count):
    """Tokens of an answer; who gives a folder is told the flag that takes one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number or fail with what is allowed."""
        takes_folder = ctx is not None and "output_dir" in {
            each.name for each in ctx.command.params
        }
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            hint = " A folder for tables goes to --output-dir." if takes_folder else ""
            self.fail(error.message + hint, param, ctx)


_OPTIONS = (
    click.option("--rate", type=NUMBER, help="Requests/s that arrive, Poisson."),
    click.option(
        "--burstiness", type=NUMBER, help="As vLLM's: 1 is Poisson, below it burstier (gamma)."
    ),
    click.option("--users", type=COUNT, help="In place of a rate: each waits, thinks, asks again."),
    click.option(
        "--think",
        "think_seconds",
        type=DURATION,
        help="A user's mean pause (exponential), as 30s; default: 0.",
    ),
    click.option("--prompt", "prompt_tokens", type=COUNT, help="Tokens of a prompt."),
    click.option("--output", "output_tokens", type=OutputTokens(), help="Tokens of an answer."),
    click.option(
        "--spread",
        type=SPREAD,
        help="CV of lognormal lengths around --prompt and --output, cut at 8 times each; default:"
        " 0, all alike.",
    ),
    click.option("--prefix-tokens", type=COUNT, help="System prompt before each prompt."),
    click.option("--prefix-groups", type=COUNT, help="Different system prompts; default: 1."),
    click.option(
        "--requests",
        type=COUNT,
        help="How many; default without SCENARIO: 1000. Of size and search: a run's least, 2000.",
    ),
    click.option("--duration", "duration_seconds", type=DURATION, help="How long, as 10m."),
    click.option("--trace", type=click.Path(), help="Replay this file in place of the workload."),
    click.option("--workload", type=SCENARIO, help="Take the workload of this scenario."),
)
_NAMES = {  # of the flags whose values have a unit in their name
    "think_seconds": "think",
    "prompt_tokens": "prompt",
    "output_tokens": "output",
    "duration_seconds": "duration",
}
_TRAFFIC = (
    "rate", "burstiness", "users", "think_seconds", "prompt_tokens", "output_tokens", "spread",
    "prefix_tokens", "prefix_groups", "requests", "duration_seconds",
)  # fmt: skip
WORKLOAD_FLAGS = (*_TRAFFIC, "trace", "workload")
_ENDS = ("requests", "duration_seconds")  # also of a trace


def workload_options(function: F) -> F:
    """Add every flag of the workload; the command receives `WORKLOAD_FLAGS`."""
    return decorate(function, _OPTIONS)


def workload_layers(content: Mapping[str, Any], flags: Mapping[str, Any]) -> list[Layer]:
    """Return what the flags set in a scenario, each key with the words that say it.

    Parameters
    ----------
    content : mapping
        What the scenario says, unchecked; empty for none.
    flags : mapping
        Values of `WORKLOAD_FLAGS`, None where not given; others are passed over.

    Raises
    ------
    InputError
        For flags that contradict each other or the workload, or lack one that they need.
    """
    from kvsim.workload.traffic import Traffic

    stated = {name: value for name, value in given(flags).items() if name in WORKLOAD_FLAGS}
    _refuse_contradictions(stated)
    whole = _whole(content, stated)
    traffic = Traffic(**{name: value for name, value in stated.items() if name in _TRAFFIC})
    layers: list[Layer] = [] if whole is None else [{"workload": whole}]
    if not traffic.is_silent:
        workload = whole[0] if whole else content.get("workload")
        layers.append(_changes(traffic, workload if isinstance(workload, Mapping) else {}, stated))
    return layers


def missing_words(
    content: Mapping[str, Any], flags: Mapping[str, Any], stated: Collection[str]
) -> list[str]:
    """Return the workload's flags that are still needed, in words; none where all is said.

    Parameters
    ----------
    content, flags : mapping
        As `workload_layers`.
    stated : collection of str
        Dotted keys that are said otherwise.
    """
    named = set(given(flags))
    if (
        content.get("workload") is not None
        or {"trace", "workload"} & named
        or any(key.split(".")[0] == "workload" for key in stated)
    ):
        return []
    arrives = {"rate", "users"} & named
    words = [] if arrives else ["--rate (or --users)"]
    lengths = (name for name in ("prompt_tokens", "output_tokens") if name not in named)
    return [*words, *(f"--{_NAMES[name]}" for name in lengths)]


def workload_words(flags: Mapping[str, Any]) -> dict[str, tuple[object, str]]:
    """Return the values and words of the workload's flags that were given, by dotted key."""
    from kvsim.simulator.facts import key_of

    return {
        key_of(_NAMES.get(name, name), value): (value, _words(name, value))
        for name, value in given(flags).items()
        if name in WORKLOAD_FLAGS
    }


def _words(name: str, value: object) -> str:
    if isinstance(value, float):
        value = f"{value:g}s" if name in ("think_seconds", "duration_seconds") else f"{value:g}"
    return flag_words(_NAMES.get(name, name), value)


def _refuse_contradictions(stated: Mapping[str, Any]) -> None:
    from kvsim.workload.traffic import CONTRADICTIONS

    of_a_trace = [("workload", "trace")]
    of_a_trace += [(name, "trace") for name in _TRAFFIC if name not in _ENDS]
    for one, other in (*CONTRADICTIONS, *of_a_trace):
        if one in stated and other in stated:
            there = _words(other, stated[other])
            raise InputError(
                f"contradicts {there}",
                where=_words(one, stated[one]),
                fix="leave one of the two out",
            )


def _whole(
    content: Mapping[str, Any], stated: Mapping[str, Any]
) -> tuple[dict[str, Any], str] | None:
    """The workload that --trace or --workload puts in the place of the scenario's."""
    if "trace" in stated:
        trace = stated["trace"]
        return {"trace": _trace(content.get("workload"), trace)}, f"--trace {trace}"
    if "workload" in stated:
        return _borrowed(stated["workload"]), f"--workload {stated['workload']}"
    return None


def _trace(workload: object, trace: str) -> dict[str, Any]:
    """Return the trace section: the scenario's own settings of one, and the file asked for."""
    if not trace:
        raise InputError("names no file", where="--trace")
    before = workload.get("trace") if isinstance(workload, Mapping) else None
    kept = before if isinstance(before, Mapping) else {}
    return {**kept, "file": str(Path(trace).absolute())}


def _borrowed(scenario: str) -> dict[str, Any]:
    from kvsim.simulator.loading import read_content
    from kvsim.workload.spec import with_absolute_files

    words = f"--workload {scenario}"
    try:
        file, content = read_content(scenario)
    except InputError as error:
        raise InputError(error.what, where=words, fix=error.fix) from None
    workload = content.get("workload")
    if not isinstance(workload, Mapping):
        raise InputError("it has no workload", where=words)
    return with_absolute_files(workload, file.resolve().parent)


def _changes(traffic: Traffic, workload: Mapping[str, Any], stated: Mapping[str, Any]) -> Layer:
    """One layer of all that the numbers set; the words of a key are those of its flags."""
    from kvsim.workload.traffic import TrafficError, workload_changes

    try:
        changes = workload_changes(traffic, workload)
    except TrafficError as error:
        where = _words(error.field, stated[error.field])
        raise InputError(error.what, where=where, fix=error.fix) from None
    return {f"workload.{each.key}": (each.value, _said(each, stated)) for each in changes}


def _said(change: Change, stated: Mapping[str, Any]) -> str:
    return " ".join(_words(name, stated[name]) for name in change.fields if name in stated)
