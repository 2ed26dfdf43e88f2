"""The smallest changes that would make a plan fit, each re-planned, never guessed.

One notch less of anything that a suggestion names would not be enough: families of changes
(`kvsim.planning.changes`) are searched from their gentle end, by bisection where they are long,
and where changes are joined each is made as gentle as the others allow.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.errors import InvariantError, KVSimError
from kvsim.planning.changes import Change, Family, cards, families
from kvsim.planning.plan_types import Suggestion
from kvsim.planning.sizing import Sizing, size
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import ceil_div

__all__ = ["suggest"]

# With fewer single changes than this, pairs are tried too.
ENOUGH = 3
_FEW = 16  # changes of a family that are tried one by one


def suggest(sizing: Sizing) -> tuple[Suggestion, ...]:
    """List the changes that make a plan fit, gentlest first; none when it fits already.

    Single changes come first, or where no length is short enough by itself, each kind's
    gentlest change with the length that it allows; where they are few, pairs of changes that
    are not enough alone follow. The last is the smallest other card that is enough.
    """
    if sizing.fits:
        return ()
    kinds = list(families(sizing, _fitting_pool(sizing)))
    fits = [_first_fit(sizing, family) for family in kinds]
    shorter = [_longest_length(sizing)]
    if shorter == [None]:
        shorter = [_shortened(sizing, family) for family in kinds]
    singles = [found for found in (*shorter, *fits) if found]
    weak = [family for family, fit in zip(kinds, fits, strict=True) if not fit]
    pairs = (_joined(sizing, pair) for pair in itertools.combinations(weak, 2))
    missing = max(0, ENOUGH - len(singles))
    found = [*singles, *itertools.islice(filter(None, pairs), missing)] or _together(sizing, weak)
    other = _first_fit(sizing, cards(sizing))
    return tuple(_suggestion(sizing, change) for change in (*found, *([other] if other else ())))


def _suggestion(sizing: Sizing, change: Change) -> Suggestion:
    """Say what the plan is with a change that is known to fit."""
    changed = _replan(sizing, change)
    if changed is None or not changed.serves:
        raise InvariantError(f"{change.flag} was found to be enough, and is not")
    return Suggestion(
        change=change.words,
        flag=change.flag,
        kv_cache_bytes=changed.pool_bytes,
        max_model_len=changed.capacity.max_model_len,
        max_concurrency=changed.capacity.max_concurrency,
    )


# --- one plan -------------------------------------------------------------------------------


def _replan(sizing: Sizing, change: Change) -> Sizing | None:
    """Size the asked deployment with a change; None when the engine refuses it.

    The length stays what it was: a default that shrinks to fit would hide the problem.
    """
    kept = {"max_model_len": sizing.capacity.max_model_len}
    asked = sizing.asked
    options = EngineOptions(**{**asked.options.model_dump(), **kept, **change.options})
    try:
        model = find_model(change.model) if change.model else asked.model
        card = find_accelerator(change.gpu) if change.gpu else asked.accelerator
        changed = replace(asked, model=model, accelerator=card, options=options)
        return size(sizing.engine, changed)
    except KVSimError:
        return None


def _is_enough(sizing: Sizing, change: Change) -> bool:
    changed = _replan(sizing, change)
    return changed is not None and changed.serves


def _fitting_pool(sizing: Sizing) -> int:
    """A size of the pool that fits, in the words in which another one was asked for; or 0."""
    name = sizing.deployment.options.pool_key
    if name in ("", "kv_cache_memory_bytes"):
        return sizing.room_bytes if name else 0
    free = _replan(sizing, Change("", {name: None}))
    if free is None:
        return 0
    blocks = free.capacity.num_blocks
    return blocks * (free.capacity.block_size if name == "max_total_tokens" else 1)


# --- search ---------------------------------------------------------------------------------


def _first_fit(sizing: Sizing, family: Family, beside: Change | None = None) -> Change | None:
    """The gentlest change of a family that is enough, beside another one if that is given."""

    def at(index: int) -> Change:
        return beside.with_(family[index]) if beside else family[index]

    if len(family) <= _FEW:
        tried = (at(index) for index in range(len(family)))
        return next((change for change in tried if _is_enough(sizing, change)), None)
    weak, enough = -1, len(family) - 1
    if not _is_enough(sizing, at(enough)):
        return None
    while enough - weak > 1:
        middle = (weak + enough) // 2
        weak, enough = (weak, middle) if _is_enough(sizing, at(middle)) else (middle, enough)
    return at(enough)


def _last(sizing: Sizing, family: Family) -> Change | None:
    """The strongest change of a family that the engine does not refuse."""
    allowed = family if len(family) <= _FEW else family[-1:]
    return next((one for one in reversed(allowed) if _replan(sizing, one)), None)


def _joined(sizing: Sizing, kinds: Sequence[Family], length: Change | None = None) -> Change | None:
    """A change of each family, all of them together enough, each as gentle as the others allow.

    ::

        strongest of all ─▶ weaken the last ─▶ weaken the one before beside it ─▶ ...
    """
    strongest = [_last(sizing, family) for family in kinds]
    chosen = [change for change in strongest if change]
    if len(chosen) < len(kinds):
        return None
    for at in reversed(range(len(kinds))):
        others = [*chosen[:at], *chosen[at + 1 :], *([length] if length else ())]
        whole = _first_fit(sizing, kinds[at], _all(others))
        if whole is None:
            return None
        chosen[at] = _own_part(whole, kinds[at])
    return _all([*chosen, *([length] if length else ())])


def _all(changes: Sequence[Change]) -> Change | None:
    """Several changes at once; None of none."""
    joined: Change | None = None
    for change in changes:
        joined = joined.with_(change) if joined else change
    return joined


def _own_part(whole: Change, family: Family) -> Change:
    """What a joined change has of one family."""
    names = family[0].options
    options = {name: whole.options[name] for name in names}
    words = whole.words.rpartition(", and ")[2]
    return Change(words, options, whole.model if family[0].model else "")


def _together(sizing: Sizing, kinds: Sequence[Family]) -> list[Change]:
    """Where no two changes are enough: the fewest that are, or all and a shorter length."""
    usable = [family for family in kinds if _last(sizing, family)]
    for count in range(3, len(usable) + 1):
        for several in itertools.combinations(usable, count):
            if found := _joined(sizing, several):
                return [found]
    if not usable:
        return []
    strongest = (_last(sizing, family) for family in usable)
    length = _longest_length(sizing, _all([change for change in strongest if change]))
    if length is None:
        return []
    joined = _joined(sizing, usable, _length(length.options["max_model_len"]))
    return [joined or length]


def _shortened(sizing: Sizing, family: Family) -> Change | None:
    """The gentlest of few changes beside which a shorter length fits; None where it need not be."""
    for change in family if len(family) <= _FEW else family[-1:]:
        if found := _longest_length(sizing, change):
            if _is_enough(sizing, change):
                return None
            length = _length(found.options["max_model_len"])
            return found if len(family) <= _FEW else _joined(sizing, [family], length)
    return None


def _length(tokens: int) -> Change:
    return Change(f"serve at most {tokens:,} tokens", {"max_model_len": tokens})


def _longest_length(sizing: Sizing, beside: Change | None = None) -> Change | None:
    """Find the largest ``max_model_len`` that fits, by bisection over whole blocks.

    Beside another change if that is given.
    """

    def at(blocks: int) -> Change:
        length = _length(blocks * block)
        return beside.with_(length) if beside else length

    block = max(1, sizing.capacity.block_size)
    low, high = 0, ceil_div(sizing.capacity.max_model_len, block)  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _is_enough(sizing, at(middle)) else (low, middle)
    return at(low) if low else None
