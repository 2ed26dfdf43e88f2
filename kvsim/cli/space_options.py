"""Flags of a deployment that take several values each, and the space that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kvsim.cli.options import GPU, TextType, decorate, engine_options, flag_words, given
from kvsim.cli.scenario_options import chosen_scenario, parsed_values, refuse_fixed
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.search.space import Space

__all__ = ["chosen_space", "space_options"]

F = TypeVar("F", bound=Callable[..., Any])

# by the name that click gives them: the key of the scenario
_SEVERAL = {
    "gpu": "gpu",
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "pp",
    "data_parallel_size": "dp",
    "decode_context_parallel_size": "dcp",
    "dtype": "dtype",
    "quantization": "quantization",
    "kv_cache_dtype": "kv_cache_dtype",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "block_size": "block_size",
    "scheduler": "scheduler.policy",
}
_SWITCHES = ("enable_prefix_caching", "enable_expert_parallel")


class Several(TextType):
    """Values that commas separate, each of one kind, and each once."""

    def __init__(self, each: click.ParamType[Any]) -> None:
        self.each, self.name = each, f"{each.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read every value, or fail with what is wrong."""
        words = [word.strip() for word in str(value).split(",")]
        if not all(words):
            self.fail(f"{value!r} has an empty part; separate by one comma.", param, ctx)
        return list(dict.fromkeys(self.each.convert(word, param, ctx) for word in words))


def space_options(function: F) -> F:
    """Add every flag of a deployment; those of `_SEVERAL` take several values."""
    own = (
        click.option("--gpu", type=GPU, help="Accelerators to choose from."),
        engine_options,
        click.option("--scheduler", help="Policies of the scheduler."),
        click.option("--vary", multiple=True, metavar="KEY=V1,V2", help="Any other key, varied."),
        click.option("--space", type=click.Path(), help="All of it from a file, as kvsim sweep."),
    )
    decorated = decorate(function, own)
    parameters: list[click.Parameter] = decorated.__click_params__  # type: ignore[attr-defined]
    for parameter in parameters:
        if parameter.name in _SEVERAL:
            parameter.type = Several(parameter.type)
    for name in _SWITCHES:
        (at,) = (at for at, parameter in enumerate(parameters) if parameter.name == name)
        parameters[at : at + 1] = _both_ways(name)
    return decorated


def _both_ways(name: str) -> list[click.Parameter]:
    """A switch of which both positions can be asked for at once."""
    words = name.replace("_", "-")
    return [
        click.Option([f"--no-{words}"], is_flag=True, hidden=True),
        click.Option([f"--{words}"], is_flag=True, help=f"With --no-{words}, both are tried."),
    ]


def chosen_space(
    scenario: str | None,
    settings: tuple[str, ...],
    vary: tuple[str, ...],
    flags: dict[str, Any],
) -> Space:
    """Make the space of the flags, over the usual one; or read that of ``--space``.

    Raises
    ------
    InputError
        For what `chosen_scenario` and `Space` refuse, a flag beside a file that says all, and
        what is varied and set at once.
    """
    from kvsim.search.space import Space

    file = flags.pop("space")
    switches = _positions(flags)
    if file is not None:
        beside = {**flags, **{name: True for name in switches}, "requests": None}
        _refuse_beside(file, scenario, (*settings, *vary), beside)
        return Space.read(file)
    words: dict[str, str] = {}
    chosen: dict[str, list[Any]] = {}
    for name, key in _SEVERAL.items():
        values = flags.pop(name)
        if values is not None:
            chosen[key], words[key] = values, f"--{key.replace('_', '-').split('.')[0]}"
    for name, positions in switches.items():
        chosen[name], words[name] = positions, f"--{name.replace('_', '-')}"
    refuse_fixed(chosen, flags, settings, "--")
    for setting in vary:
        key, values = parsed_values(setting)
        if key in chosen:
            raise InputError("varied twice", where=f"--vary {setting}", fix="say it once")
        chosen[key], words[key] = values, f"--vary {key}"
    return _space(scenario, settings, flags, chosen, words)


def _positions(flags: dict[str, Any]) -> dict[str, list[Any]]:
    """Take the switches out of the flags: the positions that were given, by name."""
    found = {}
    for name in _SWITCHES:
        positions = {True: flags.pop(name), False: flags.pop(f"no_{name}")}
        found[name] = [value for value, given in positions.items() if given]
    return {name: positions for name, positions in found.items() if positions}


def _space(
    scenario: str | None,
    settings: tuple[str, ...],
    flags: Mapping[str, Any],
    chosen: dict[str, list[Any]],
    words: Mapping[str, str],
) -> Space:
    """The chosen values, and the usual ones of what nobody said."""
    from kvsim.search import usual_space
    from kvsim.search.space import Space
    from kvsim.simulator.facts import fact_of

    first = {"gpu": chosen["gpu"][0]} if "gpu" in chosen else {}
    question = chosen_scenario(scenario, settings, {**flags, "gpu": None, **first})
    said = {fact_of(key, values[0]) for key, values in chosen.items()}
    said |= {fact_of(setting.partition("=")[0].strip()) for setting in settings}
    usual = {
        key: values
        for key, values in usual_space(question).vary.items()
        if fact_of(key, values[0]) not in said
    }
    return Space(question, {**chosen, **usual}, spelled=words)


def _refuse_beside(
    file: str, scenario: str | None, settings: tuple[str, ...], flags: Mapping[str, Any]
) -> None:
    """Refuse whatever the file of a space says itself."""
    stated = [scenario] if scenario is not None else []
    stated += [*settings, *(flag_words(name, value) for name, value in given(flags).items())]
    if stated:
        raise InputError(
            f"{file} says all of the deployments", where=str(stated[0]), fix="write it there"
        )
