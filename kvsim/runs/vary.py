"""Values of keys that are varied, and the scenarios that all their combinations make."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from kvsim.errors import InputError
from kvsim.simulator.facts import refuse_twice
from kvsim.simulator.loading import with_overrides
from kvsim.simulator.scenario import Scenario

__all__ = ["checked_values", "combinations"]


def checked_values(vary: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Return the values of each key; numpy's numbers become plain.

    Raises
    ------
    InputError
        Where nothing varies, a key has no list of values, a value is given twice, or one fact is
        varied under two names.

    Examples
    --------
    >>> checked_values({"max_num_seqs": (64, 256)})
    {'max_num_seqs': [64, 256]}
    """
    if not vary:
        raise InputError(
            "nothing to vary", fix="give a key with values: memory.allocator=paged,grow"
        )
    values = {key: _values(key, given) for key, given in vary.items()}
    refuse_twice(values)
    return values


def combinations(
    scenario: Scenario,
    values: Mapping[str, Sequence[Any]],
    spelled: Mapping[str, str] | None = None,
) -> Iterator[tuple[dict[str, Any], Scenario]]:
    """Yield every combination of values, the last key's the fastest, with its scenario.

    Parameters
    ----------
    scenario : Scenario
        What they are set over.
    values : mapping of str to sequence
        As `checked_values` returns them.
    spelled : mapping of str to str, optional
        How each key was written, to say which is wrong; "vary KEY" by default.

    Raises
    ------
    InputError
        For an unknown key or an impossible value, in its turn.
    """
    spelled = spelled or {key: f"vary {key}" for key in values}
    for chosen in product(*values.values()):
        overrides = dict(zip(values, chosen, strict=True))
        words = {key: f"{spelled[key]}={value}" for key, value in overrides.items()}
        yield overrides, with_overrides(scenario, overrides, spelled=words)


def _values(key: str, given: Sequence[Any]) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray) or not len(given):
        raise InputError(f"{key} needs a list of values", where="vary")
    values = [value.item() if isinstance(value, np.generic) else value for value in given]
    for value in _twice(values):
        raise InputError(f"the value {value!r} is given twice", where=f"vary {key}")
    return values


def _twice(values: Sequence[Any]) -> Iterator[Any]:
    """Yield values that were there before; lists and mappings are no members of a set."""
    seen: set[Hashable] = set()
    others: list[Any] = []
    for value in values:
        known: Any = seen if isinstance(value, Hashable) else others
        if value in known:
            yield value
        (seen.add if known is seen else others.append)(value)
