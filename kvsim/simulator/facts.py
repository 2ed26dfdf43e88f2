"""One key for one fact: which keys of a scenario state the same, and what flags call them.

::

    engine.num_gpu_blocks_override   memory.num_blocks            blocks of the pool
    engine.block_size                memory.block_size            tokens per block
    engine.enable_prefix_caching     memory.allocator: prefix     true; false is any other

A scenario keeps the engine's. Within one layer two spellings with two values contradict each
other; between layers the last word wins, whichever way it is spelled::

    file < --trace < flags < --set
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from kvsim.errors import InputError, nearest
from kvsim.simulator.overrides import Layer, concerning, set_key
from kvsim.specs.checked import defaults, unknown_key
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.yaml_files import line_of, read_yaml
from kvsim.workload.described import Described
from kvsim.workload.validation import field_error

__all__ = [
    "ContradictionError",
    "fact_of",
    "key_of",
    "named",
    "overlay",
    "refuse_twice",
    "replaced",
    "settled",
    "where_given",
]

Engine = TypeVar("Engine", bound=EngineOptions)
Memory = TypeVar("Memory", bound=Described)

# field of the engine's section: field of the memory's
_SAME = {"num_gpu_blocks_override": "num_blocks", "block_size": "block_size"}
_CACHING, _ALLOCATOR, _PREFIX = "engine.enable_prefix_caching", "memory.allocator", "prefix"
_PAIRS = (
    *((f"engine.{kept}", f"memory.{given}") for kept, given in _SAME.items()),
    (_CACHING, _ALLOCATOR),
)

_FLAGS = {
    "gpu": "accelerator",
    "engine_version": "engine.version",
    "tp": "engine.tensor_parallel_size",
    "pp": "engine.pipeline_parallel_size",
    "dp": "engine.data_parallel_size",
    "dcp": "engine.decode_context_parallel_size",
    "seed": "run.seed",
    "replications": "run.replications",
    "rate": "workload.arrivals.rate",
    "users": "workload.arrivals.clients",
    "prompt": "workload.lengths.prompt.tokens",
    "output": "workload.lengths.output.tokens",
    "requests": "workload.requests",
    "duration": "workload.duration_seconds",
}


class ContradictionError(InputError):
    """Two keys of one layer that state one fact with two values.

    Parameters
    ----------
    given : mapping of str to object
        The two dotted keys and their values.
    where : sequence of str, optional
        Where each was given, in that order.
    """

    def __init__(self, given: Mapping[str, object], where: Iterable[str] = ()) -> None:
        (first, last), (there, here) = given.items(), tuple(where) or ("", "")
        what = f"{last[0]} = {last[1]!r} contradicts {first[0]} = {first[1]!r}"
        super().__init__(
            f"{what} ({there})" if there else what, where=here, fix="leave one of the two out"
        )
        self.given = dict(given)


# --- names ------------------------------------------------------------------------------------


def key_of(name: str, value: object = None) -> str:
    """Return the dotted key that somebody means: flags are understood under their own names.

    ``engine`` with a word is the engine's name; with a mapping it is the section.

    Examples
    --------
    >>> key_of("gpu"), key_of("max-num-seqs"), key_of("memory.eviction")
    ('accelerator', 'engine.max_num_seqs', 'memory.eviction')
    >>> key_of("engine", "sglang"), key_of("engine", {"name": "sglang"})
    ('engine.name', 'engine')
    """
    flag = name.replace("-", "_")
    if flag == "engine" and isinstance(value, str):
        return "engine.name"
    return f"engine.{flag}" if flag in defaults(EngineOptions) else _FLAGS.get(flag, name)


def fact_of(name: str, value: object = None) -> str:
    """Return the key under which a scenario keeps what a name of it, or of a flag, states.

    Examples
    --------
    >>> fact_of("memory.num_blocks"), fact_of("tp")
    ('engine.num_gpu_blocks_override', 'engine.tensor_parallel_size')
    """
    key = key_of(name, value)
    return next((fact for fact, other in _PAIRS[:-1] if other == key), key)


def refuse_twice(vary: Mapping[str, Any]) -> None:
    """Refuse to vary one fact under two names.

    Raises
    ------
    InputError
        With both names.
    """
    seen: dict[str, str] = {}
    for name, values in vary.items():
        before = seen.setdefault(fact_of(name, values[0]), name)
        if before != name:
            raise InputError(
                f"varied twice: {before} is the same",
                where=f"vary {name}",
                fix="give all values at once",
            )


# --- layers -----------------------------------------------------------------------------------


def named(content: dict[str, Any], sections: Collection[str]) -> dict[str, Any]:
    """Return what a file says with the names of flags in place: ``gpu: a100``, ``tp: 2``.

    Raises
    ------
    ContradictionError
        When the section says otherwise.
    """
    kept = {key: value for key, value in content.items() if key in sections}
    if isinstance(kept.get("engine"), str):  # engine: sglang
        kept["engine"] = {"name": kept["engine"]}
    for name, value in content.items():
        key = key_of(str(name), value)
        if name in kept:
            continue
        before = _at(kept, key) if "." in key else kept.get(key)
        if before not in (None, value) and key != name:
            raise ContradictionError({key: before, name: value})
        set_key(kept, key, value, str(name))
    return kept


def overlay(content: dict[str, Any], layer: Layer, sections: Collection[str]) -> dict[str, str]:
    """Set a layer's keys in what was said before, and take back what they say anew.

    Parameters
    ----------
    content : dict
        The scenario so far.
    layer : mapping
        Keys, or names of flags, with values and words.
    sections : collection of str
        Keys of a scenario that have no dot.

    Returns
    -------
    dict of str to str
        The words that set each key, in either spelling.

    Raises
    ------
    InputError
        For a key that is unknown or cannot be set, and two values of one under two names.
    """
    words: dict[str, str] = {}
    names: dict[str, str] = {}
    for name, (value, said) in layer.items():
        key = _known_key(name, value, said, sections)
        before = names.setdefault(key, name)
        if before != name and layer[before][0] != value:
            there = layer[before][1]
            raise ContradictionError({before: layer[before][0], name: value}, (there, said))
        set_key(content, key, _keeping_facts(content, key, value), said)
        words |= dict.fromkeys((key, *_facts_in(key, value)), said)
    for kept, other in _PAIRS:
        _take_back(content, kept, other, words)
        _take_back(content, other, kept, words)
    return words


def _known_key(name: str, value: object, said: str, sections: Collection[str]) -> str:
    """The key that is meant, where it is a section, leads into one, or is a flag's name."""
    key = key_of(name, value)
    if not key or "." in key or key in sections:
        return key
    near = nearest(key, [*sections, *_FLAGS, *defaults(EngineOptions)])
    wrong = unknown_key((key,), near or sections)
    raise InputError(wrong.what, where=said, fix=wrong.fix)


def _keeping_facts(content: Mapping[str, Any], key: str, value: object) -> object:
    """A memory section set whole replaces no fact of the engine that it does not state."""
    before = content.get("memory")
    if key != "memory" or not isinstance(value, Mapping) or not isinstance(before, Mapping):
        return value
    kept = {name: before[name] for name in _SAME.values() if name in before}
    caching = {"allocator": before["allocator"]} if _caches(before.get("allocator")) else {}
    return {**kept, **caching, **value}


def _facts_in(key: str, value: object) -> list[str]:
    """Facts that a section set whole states: the engine's all of them, even by leaving out."""
    if not isinstance(value, Mapping) or key not in ("engine", "memory"):
        return []
    spelled = [one for pair in _PAIRS for one in pair if one.startswith(f"{key}.")]
    return [one for one in spelled if key == "engine" or one.partition(".")[2] in value]


def _take_back(content: dict[str, Any], said: str, other: str, words: dict[str, str]) -> None:
    """Forget what an earlier layer said in the other spelling."""
    if said not in words or other in words or _agree(content, said, other):
        return
    section, _, name = other.partition(".")
    if isinstance(content.get(section), dict):
        content[section].pop(name, None)
    words[other] = words[said]


def _agree(content: Mapping[str, Any], said: str, other: str) -> bool:
    """Whether the other spelling may stay: paged or reserve-max, where nothing is cached."""
    if _ALLOCATOR not in (said, other) or _at(content, other) is None:
        return False
    return bool(_at(content, _CACHING)) is _caches(_at(content, _ALLOCATOR))


def _caches(allocator: object) -> bool:
    """Whether the memory policy is the one that keeps prefixes."""
    name = allocator.get("name") if isinstance(allocator, Mapping) else allocator
    return bool(name == _PREFIX)


def _at(content: Mapping[str, Any], key: str) -> Any:
    """What stands at a key of a section, None where there is none."""
    section, _, name = key.partition(".")
    inner = content.get(section)
    return inner.get(name) if isinstance(inner, Mapping) else None


# --- one layer --------------------------------------------------------------------------------


def settled(engine: Engine, memory: Memory) -> tuple[Engine, Memory]:
    """Return the two sections with each fact at the engine's key alone.

    Raises
    ------
    ContradictionError
        When the two state different values.
    """
    said = {name: getattr(memory, name) for name in memory.model_fields_set}
    facts = {kept: said.pop(given, None) for kept, given in _SAME.items()}
    if _caches(said.get("allocator")):
        facts["enable_prefix_caching"] = True
    _refuse_contradiction(engine, memory)
    if engine.enable_prefix_caching:
        said.setdefault("allocator", _PREFIX)
    changes = {
        name: value
        for name, value in facts.items()
        if value is not None and value != getattr(engine, name)
    }
    engine = engine.model_copy(update=changes) if changes else engine
    return engine, type(memory).model_validate(said)


def _refuse_contradiction(engine: EngineOptions, memory: Described) -> None:
    for kept, given in _PAIRS:
        one = getattr(engine, kept.partition(".")[2])
        name = given.partition(".")[2]
        other = getattr(memory, name) if name in memory.model_fields_set else None
        meant = _caches(other) if given == _ALLOCATOR else other
        if one is not None and other is not None and one != meant:
            raise ContradictionError({kept: one, given: other})


def replaced(engine: Engine, memory: Memory, update: Mapping[str, Any]) -> tuple[Engine, Memory]:
    """Return the two sections of a scenario of which one is, or both are, set to others.

    Raises
    ------
    ContradictionError
        When the new ones contradict each other.
    """
    content = {"engine": engine.model_dump(), "memory": _said(memory)}
    layer: Layer = {
        name: (_section(name, section), name) for name, section in update.items() if name in content
    }
    overlay(content, layer, tuple(content))
    return settled(type(engine)(**content["engine"]), _made(type(memory), content["memory"]))


def _section(name: str, given: object) -> dict[str, Any]:
    """What a section says that somebody sets whole."""
    if isinstance(given, Described):
        return _said(given)
    if isinstance(given, EngineOptions):
        return given.model_dump()
    if isinstance(given, Mapping):
        return dict(given)
    raise InputError(f"{name} = {given!r:.60}: should be a mapping")


def _made(section: type[Memory], content: dict[str, Any]) -> Memory:
    try:
        return section.model_validate(content)
    except ValidationError as error:
        raise field_error(error, content, section) from None


def _said(memory: Described) -> dict[str, Any]:
    return {name: getattr(memory, name) for name in memory.model_fields_set}


# --- places -----------------------------------------------------------------------------------


def where_given(key: str, words: Mapping[str, str], file: Path | None) -> str:
    """Say where a dotted key was given, in either spelling: an override, or a line of the file.

    Parameters
    ----------
    key : str
        Dotted key.
    words : mapping of str to str
        What `overlay` returned.
    file : Path, optional
        What the rest was read from.
    """
    override = concerning(tuple(key.split(".")), words)
    if override is not None:
        return words[override] if override == key else f"{words[override]}: {key}"
    if file is None or not file.is_file():
        return key
    try:
        content = read_yaml(file)
    except InputError:  # somebody is editing it while its run ends
        return f"{file}: {key}"
    spelled = next((one for one in _spellings(key) if _states(content, one, key)), key)
    line = line_of(file, spelled.split("."))
    return f"{file}, line {line}: {spelled}" if line else f"{file}: {spelled}"


def _states(content: Mapping[str, Any], spelling: str, key: str) -> bool:
    """Whether the file says something at a spelling, and thereby at the key: paged says no more."""
    value = _at(content, spelling)
    return value is not None and (spelling == key or spelling != _ALLOCATOR or _caches(value))


def _spellings(key: str) -> list[str]:
    """The key, and the other that states the same."""
    return [key, *(one for pair in _PAIRS if key in pair for one in pair if one != key)]
