"""The keys of a scenario that choose a policy: a word, or a mapping with its parameters too.

::

    eviction: lru
    eviction: {name: my-lru, k: 2}        made as MyLRU(k=2)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from kvsim.errors import InputError, UnknownNameError, nearest
from kvsim.registry import Policies, PolicyName
from kvsim.simulator.families import FAMILIES
from kvsim.specs.checked import FieldError, Place

__all__ = [
    "AdmissionName",
    "AllocatorName",
    "EvictionName",
    "PlacementName",
    "SchedulerName",
    "chosen",
    "written",
]


def chosen(policies: Policies[Any], key: str, given: object) -> PolicyName:
    """Read what a scenario says at `key`.

    Parameters
    ----------
    policies : Policies
        The family to choose from.
    key : str
        Dotted key, for messages: "memory.eviction".
    given : str or mapping
        A name, or a mapping with ``name`` and the policy's parameters; without a name it is the
        policy that has these parameters, if one alone does.

    Raises
    ------
    FieldError
        For an unknown policy (with the nearest that are not) or one that cannot be loaded, a
        parameter that it does not have, and one that it needs.
    """
    place = tuple(key.split("."))
    if not isinstance(given, Mapping):
        choice = PolicyName(_known(policies, place, given), getattr(given, "parameters", None))
    elif "name" in given:
        parameters = {word: value for word, value in given.items() if word != "name"}
        choice = PolicyName(_known(policies, (*place, "name"), given["name"]), parameters)
    else:
        choice = PolicyName(_that_takes(policies, place, given), given)
    _refuse_parameters(policies.parameters(choice), place, choice)
    return choice


def written(choice: PolicyName) -> str | dict[str, Any]:
    """Write a choice in the shortest form that `chosen` reads."""
    return {"name": str(choice), **choice.parameters} if choice.parameters else str(choice)


def _known(policies: Policies[Any], place: Place, name: object) -> str:
    """Return the name of a policy that can be used."""
    wrong = f"{'.'.join(place)} = {name!r:.60}"
    try:
        if isinstance(name, str) and policies.find(str(name)):
            return name
    except UnknownNameError:
        pass
    except InputError as error:
        raise FieldError(f"{wrong}: {error.what}", place, fix=error.fix) from None
    *most, last = map(repr, policies.names())
    close = nearest(str(name), policies.names())
    fix = f"nearest valid: {', '.join(close)}" if close else ""
    raise FieldError(f"{wrong}: should be one of {', '.join(most)} or {last}", place, fix=fix)


def _that_takes(policies: Policies[Any], place: Place, given: Mapping[str, Any]) -> str:
    """The one policy that has all of some parameters."""
    own: dict[str, Mapping[str, bool]] = {}
    for name in policies.names():
        with suppress(InputError):  # an offered one that cannot be loaded
            own[name] = policies.parameters(name)
    has = [name for name, parameters in own.items() if given.keys() <= parameters.keys()]
    if given and len(has) == 1:
        return has[0]
    key = ".".join(place)
    words = ", ".join(repr(word) for word in given)
    what = f"no {policies.family} alone has {words}" if given else "it is empty"
    known = [word for parameters in own.values() for word in parameters]
    close = [near for word in given if word not in known for near in nearest(str(word), known)]
    fix = f"did you mean {', '.join(close)}?" if close else "write {name: ..., ...}"
    raise FieldError(f"the key '{key}.name' is missing, and {what}", place, fix=fix)


def _refuse_parameters(own: Mapping[str, bool], place: Place, choice: PolicyName) -> None:
    """Refuse parameters that a policy does not have, and the lack of those that it needs."""
    has = f"it has {', '.join(own)}" if own else "it has none"
    for word in choice.parameters:
        if word not in own:
            raise FieldError(
                f"{'.'.join(place)}: {choice} has no parameter {word!r:.60}; {has}", (*place, word)
            )
    lacking = [word for word, needed in own.items() if needed and word not in choice.parameters]
    if lacking:
        raise FieldError(
            f"{'.'.join(place)}: {choice} needs the parameter {lacking[0]!r}; {has}",
            place,
            fix=f"write {{name: {choice}, {lacking[0]}: ...}}",
        )


def _from(family: str, key: str) -> PlainValidator:
    """What a key reads: the name of a policy of a family, with its parameters."""
    return PlainValidator(partial(chosen, FAMILIES.find(family), key))


_WRITTEN = PlainSerializer(written)
AllocatorName = Annotated[PolicyName, _from("allocators", "memory.allocator"), _WRITTEN]
EvictionName = Annotated[PolicyName, _from("evictions", "memory.eviction"), _WRITTEN]
PlacementName = Annotated[PolicyName, _from("placements", "memory.placement"), _WRITTEN]
SchedulerName = Annotated[PolicyName, _from("schedulers", "scheduler.policy"), _WRITTEN]
AdmissionName = Annotated[PolicyName, _from("admissions", "scheduler.admission"), _WRITTEN]
