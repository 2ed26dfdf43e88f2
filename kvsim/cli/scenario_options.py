"""What `simulate` and `compare` share: a scenario, the flags that override it, the watch.

::

    file < --trace, --workload < --rate, --prompt, ... < --model, --gpu, engine flags < --set

The last word wins.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvsim.cli.bar import drawn
from kvsim.cli.options import (
    COUNT,
    GPU,
    MODEL,
    SCENARIO,
    SEED,
    decorate,
    engine_options,
    flag_words,
    given,
)
from kvsim.cli.workload_options import (
    WORKLOAD_FLAGS,
    missing_words,
    workload_layers,
    workload_options,
    workload_words,
)
from kvsim.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from kvsim.simulator.overrides import Layer
    from kvsim.simulator.replica import Watch
    from kvsim.simulator.scenario import Scenario

__all__ = [
    "check_writable",
    "chosen_scenario",
    "parsed_values",
    "progress",
    "refuse_fixed",
    "scenario_options",
    "varied",
    "with_first",
]

F = TypeVar("F", bound=Callable[..., Any])


_OPTIONS = (
    click.argument("scenario", type=SCENARIO, required=False),
    click.option("--model", type=MODEL, help="Name, path or hf:org/name."),
    click.option("--gpu", type=GPU, help="Name or YAML path."),
    workload_options,
    click.option("--engine", help="Whose accounting sizes the pool."),
    click.option("--engine-version", help="Release; default: the newest known."),
    engine_options,
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any dotted key or flag."
    ),
    click.option("--seed", type=SEED, help="Seed of every random stream."),
    click.option("--replications", type=COUNT, help="Independent runs; 2 or more give intervals."),
    click.option("--jobs", type=COUNT, help="Processes at once; default: one a core, if it pays."),
    click.option("--report", type=click.Path(dir_okay=False), help="Also write an HTML page."),
)


def scenario_options(function: F) -> F:
    """Add the SCENARIO argument and every flag that overrides one of its keys."""
    return decorate(function, _OPTIONS)


def chosen_scenario(
    scenario: str | None, settings: tuple[str, ...], flags: Mapping[str, Any]
) -> Scenario:
    """Load the scenario that the command line asks for; None where its flags are all of it.

    Raises
    ------
    InputError
        For an unknown scenario or key, an impossible value, and what is missing.
    """
    from kvsim.simulator.loading import load_layers, read_content

    content = {} if scenario is None else read_content(scenario)[1]
    said = dict(map(_set, settings))
    _refuse_missing(scenario, content, flags, said)
    layers = workload_layers(content, flags)
    return load_layers(scenario, [*layers, _flagged(flags), said])


def _flagged(flags: Mapping[str, Any]) -> Layer:
    """The layer of the flags that are not of the workload."""
    return {
        name: (value, flag_words(name, value))
        for name, value in given(flags).items()
        if name not in WORKLOAD_FLAGS
    }


def _refuse_missing(
    scenario: str | None, content: Mapping[str, Any], flags: Mapping[str, Any], said: Layer
) -> None:
    """Name everything at once that is needed and not there."""
    from kvsim.simulator.facts import key_of

    stated = {key_of(name, value) for name, (value, _) in said.items()}
    needed = {"model": "model", "gpu": "accelerator"}
    words = [
        f"--{flag}"
        for flag, key in needed.items()
        if not flags.get(flag) and not content.get(key) and key not in stated
    ]
    words += missing_words(content, flags, stated)
    if words:
        *first, last = words
        listed = f"{', '.join(first)} and {last}" if first else last
        raise InputError(
            f"give a SCENARIO, or {listed}" if scenario is None else f"it needs {listed}",
            where=scenario or "",
        )


def with_first(flags: Mapping[str, Any], vary: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return flags in which what is varied alone stands at its first value.

    So ``--vary gpu=a100,h100`` needs neither a SCENARIO nor a ``--gpu``.
    """
    from kvsim.simulator.facts import key_of

    firsts = {key_of(name, values[0]): values[0] for name, values in vary.items()}
    found = dict(flags)
    for flag in ("model", "gpu", "rate", "users", "prompt_tokens", "output_tokens"):
        if found.get(flag) is None:
            found[flag] = firsts.get(key_of(flag.removesuffix("_tokens")))
    return found


def _set(setting: str) -> tuple[str, tuple[object, str]]:
    key, value = _setting(setting, "--set")
    words = f"--set {setting}"
    return key, (_parsed(value, words), words)


def parsed_values(setting: str) -> tuple[str, list[Any]]:
    """Read ``KEY=V1,V2,...``: a dotted key and YAML values; brackets keep commas together.

    Raises
    ------
    InputError
        When there is no key or no value, or the values are not YAML.
    """
    key, text = _setting(setting, "--vary")
    values = _parsed(f"[{text}]", f"--vary {setting}")
    if not isinstance(values, list) or not values:
        raise InputError("needs values, separated by commas", where=f"--vary {setting}")
    if None in values:
        raise InputError("null is no value to compare: name them all", where=f"--vary {setting}")
    return key, values


def varied(settings: tuple[str, ...]) -> dict[str, list[Any]]:
    """Read every ``--vary``: values by dotted key.

    Raises
    ------
    InputError
        For what `parsed_values` refuses, a key that is varied twice, and a single variant.
    """
    found: dict[str, list[Any]] = {}
    for setting in settings:
        key, values = parsed_values(setting)
        if key in found:
            raise InputError(
                f"{key} is varied twice", where=f"--vary {setting}", fix="give all values at once"
            )
        found[key] = values
    if all(len(values) == 1 for values in found.values()):
        raise InputError(
            "one variant leaves nothing to compare",
            where=f"--vary {settings[0]}",
            fix="give two values or more, separated by commas",
        )
    return found


def refuse_fixed(
    vary: Mapping[str, list[Any]],
    flags: Mapping[str, Any],
    settings: tuple[str, ...],
    by: str = "--vary ",
) -> None:
    """Refuse a flag or ``--set`` of what is varied, by which flag: it would have no effect.

    Raises
    ------
    InputError
        With the words of both.
    """
    from kvsim.simulator.facts import fact_of

    stated = {**workload_words(flags), **_flagged(flags), **dict(map(_set, settings))}
    varied_facts = {fact_of(name, values[0]): name for name, values in vary.items()}
    for name, (value, words) in stated.items():
        found = varied_facts.get(fact_of(name, value))
        if found is not None:
            raise InputError(f"{by}{found} takes its place", where=words, fix="leave it out")


def _setting(setting: str, flag: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{setting!r} is not KEY=VALUE", where=flag)
    return key.strip(), value.strip()


def _parsed(text: str, where: str) -> Any:
    """Read a value as a scenario's file does: 20 is a number, paged a word, null nothing."""
    from kvsim.specs.yaml_files import parse_yaml

    try:
        return parse_yaml(text, where)
    except InputError as error:
        raise InputError(f"the value is not YAML ({error.what})", where=where) from None


@contextmanager
def progress(scenario: Scenario, *, quiet: bool = False) -> Iterator[Watch | None]:
    """Show a bar on a terminal's stderr while runs go on; elsewhere nothing.

    Yields
    ------
    callable or None
        The watch to hand to `kvsim.simulate`.
    """
    if quiet:
        yield None
        return
    after = "{task.completed:,} requests done, {task.fields[clock]:,.0f} s simulated"
    after += " pool {task.fields[usage]:.0%}"
    with drawn("{task.description}", after, clock=0.0, usage=0.0) as bar:
        if bar is None:
            yield None
            return
        bar.show(description=scenario.name, total=scenario.workload.limits.requests)

        def watch(clock: float, requests: int, usage: float) -> None:
            bar.show(completed=requests, clock=clock, usage=usage)

        yield watch


def check_writable(output: str | None, report: str | None) -> None:
    """Refuse places that cannot be written before the run, not after it.

    Raises
    ------
    InputError
        When the folder cannot be made or written, or the page has no folder to lie in.
    MissingExtraError
        When tables are asked for and pyarrow is not installed.
    """
    if output is not None and importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", "export", "writing the tables of --output-dir")
    for flag, name in (("--output-dir", output), ("--report", report)):
        if name is None:
            continue
        if not name:
            raise InputError("names no place to write to", where=flag)
        folder = Path(name) if flag == "--output-dir" else Path(name).absolute().parent
        try:
            if flag == "--output-dir":
                folder.mkdir(parents=True, exist_ok=True)
            Path(name).exists()  # whether it can be a name at all
        except OSError as error:
            raise InputError(f"cannot make {name}: {error.strerror}", where=flag) from None
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise InputError(f"cannot write into {folder}", where=flag)
