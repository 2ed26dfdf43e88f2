"""Dotted keys set over what a file says, and which of them is to blame when that is wrong.

::

    file < layer < layer, each in the order given        the last word wins
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

from kvsim.errors import InputError
from kvsim.specs.checked import Place

__all__ = ["Layer", "closest", "concerning", "layer_of", "set_key"]

# key, as given: its value, and the words that set it, none for a default that nobody said
Layer = Mapping[str, tuple[object, str]]


def layer_of(overrides: Mapping[str, object], spelled: Mapping[str, str]) -> Layer:
    """Join overrides and the words that somebody set them with."""
    return {
        key: (value, spelled.get(key, f"override {key}={value!s:.80}"))
        for key, value in overrides.items()
    }


_POLICIES = (  # a policy's name may stand for a mapping with its parameters
    "scheduler.policy",
    "scheduler.admission",
    "memory.allocator",
    "memory.eviction",
    "memory.placement",
)


def set_key(content: dict[str, Any], key: str, value: object, where: str) -> None:
    """Set a dotted key in nested mappings, making those on the way.

    Raises
    ------
    InputError
        For a key with an empty part, or one that leads through what is no mapping; it says
        `where` the key was given.
    """
    *parents, last = key.split(".")
    if not all((*parents, last)):
        raise InputError(f"{key!r} is no dotted key: a part of it is empty", where=where)
    at = content
    for depth, parent in enumerate(parents):
        if at.get(parent) is None:
            at[parent] = {}
        inner = at[parent]
        on_the_way = ".".join(parents[: depth + 1])
        if isinstance(inner, str) and on_the_way in _POLICIES:
            inner = at[parent] = {"name": inner}
        if not isinstance(inner, dict):
            raise InputError(
                f"{on_the_way} is {inner!r:.60}, so it has no key {last!r}", where=where
            )
        at = inner
    at[last] = deepcopy(value)  # a later key may reach inside it


def concerning(place: Place, keys: Collection[str]) -> str | None:
    """Return the key that set what stands at `place`, the closest one, the last of equals.

    ::

        place   workload . arrivals . rate
        key     workload                        set all of it, this too
        key     workload . arrivals . rate      set just this: it is closer
        place   workload . arrivals
        key     workload . arrivals . rate      set something inside it
        key     workload . requests             lies beside it: no
    """
    return _most_in_common(place, [key for key in keys if _leads(key.split("."), place)])


def closest(place: Place, keys: Collection[str]) -> str | None:
    """Return the key that concerns a place, else the one that lies beside it most closely."""
    return concerning(place, keys) or _most_in_common(place, keys)


def _most_in_common(place: Place, keys: Collection[str]) -> str | None:
    best, found = 0, None
    for key in keys:
        common = _common(key.split("."), place)
        if common and common >= best:
            best, found = common, key
    return found


def _leads(parts: list[str], place: Place) -> bool:
    """Whether one of the two leads to the other."""
    return _common(parts, place) == min(len(parts), len(place))


def _common(parts: list[str], place: Place) -> int:
    """How many parts the two share from the start."""
    count = 0
    for part, other in zip(parts, map(str, place), strict=False):
        if part != other:
            break
        count += 1
    return count
