"""The smallest changes that would make a plan fit, each re-planned, never guessed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from kvsim.errors import KVSimError
from kvsim.planning.plan_types import Suggestion
from kvsim.planning.sizing import Sizing, size
from kvsim.specs.engine_options import EngineOptions

__all__ = ["suggest"]

# With fewer single changes than this, pairs are tried too.
ENOUGH = 3
_FEW = 16  # changes of a family that are tried one by one
UTILIZATIONS = tuple(thousandths / 1000 for thousandths in range(1, 981))
DEGREES = (2, 4, 8, 16)
# Pools apart may set memory aside for every seat: states, llama.cpp's windows; so does a start-up
# profile with an image of each.
SEATS = (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
# What each engine calls narrower weights and a narrower cache; the others speak vLLM's words.
WEIGHTS = {"llama.cpp": ("q8_0", "q4_k_m")}
NARROW_CACHE = {"llama.cpp": {"kv_cache_dtype": "q8_0", "kv_cache_dtype_v": "q8_0"}}


class _Change(NamedTuple):
    """One change in words and as options."""

    words: str
    options: dict[str, Any]

    @property
    def flag(self) -> str:
        return " ".join(_flag(name, value) for name, value in self.options.items())

    def with_(self, other: _Change) -> _Change:
        return _Change(f"{self.words}, and {other.words}", {**self.options, **other.options})


def _flag(name: str, value: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag} {value}"


def suggest(sizing: Sizing) -> tuple[Suggestion, ...]:
    """List the changes that make a plan fit, gentlest first; none when it fits already.

    Single changes come first, or where no length is short enough by itself, each kind's
    gentlest change with the length that it allows; where they are few, pairs of changes that
    are not enough alone follow.
    """
    if sizing.fits:
        return ()
    families = [(family, _first_fit(sizing, family)) for family in _families(sizing)]
    shorter = [_longest_length(sizing)]
    if shorter == [None]:
        shorter = [_shortened(sizing, family) for family, _ in families]
    singles = [found for found in (*shorter, *(fit for _, fit in families)) if found]
    weak = [family for family, fit in families if not fit]
    pairs = (_pair(sizing, one, two) for one, two in itertools.combinations(weak, 2))
    missing = max(0, ENOUGH - len(singles))
    found = (*singles, *itertools.islice(filter(None, pairs), missing))
    return found or _together(sizing, weak)


def _shortened(sizing: Sizing, family: list[_Change]) -> Suggestion | None:
    """The gentlest of few changes beside which a shorter length fits; None where it need not be."""
    for change in family if len(family) <= _FEW else family[-1:]:
        if found := _longest_length(sizing, change):
            return found if _attempt(sizing, change) is None else None
    return None


def _last(sizing: Sizing, family: list[_Change]) -> _Change | None:
    """The strongest change of a family that the engine does not refuse."""
    return next((one for one in reversed(family) if _replan(sizing, one.options)), None)


def _pair(sizing: Sizing, one: list[_Change], two: list[_Change]) -> Suggestion | None:
    """The strongest change of one family beside the gentlest of another that is enough."""
    strongest = _last(sizing, one)
    return _first_fit(sizing, [strongest.with_(each) for each in two]) if strongest else None


def _together(sizing: Sizing, families: list[list[_Change]]) -> tuple[Suggestion, ...]:
    """Where no two changes are enough: the fewest that are, or all and a shorter length."""
    weak = [change for family in families if (change := _last(sizing, family))]
    for count in range(3, len(weak) + 1):
        for changes in itertools.combinations(weak, count):
            found = _attempt(sizing, functools.reduce(_Change.with_, changes))
            if found:
                return (found,)
    if not weak:
        return ()
    shorter = _longest_length(sizing, functools.reduce(_Change.with_, weak))
    return (shorter,) if shorter else ()


def _decree(sizing: Sizing) -> dict[str, Any]:
    """The largest pool that fits, in the words in which another one was asked for."""
    if sizing.deployment.options.num_gpu_blocks_override is not None:
        planned = _replan(sizing, {"num_gpu_blocks_override": None})
        blocks = planned.capacity.num_blocks if planned else 0
        return {"num_gpu_blocks_override": max(1, blocks)}
    return {"kv_cache_memory_bytes": max(1, sizing.room_bytes)}


def _first_fit(sizing: Sizing, family: list[_Change]) -> Suggestion | None:
    """The gentlest change of a family that is enough; one of many is found by bisection."""
    if len(family) <= _FEW:
        return next(filter(None, (_attempt(sizing, change) for change in family)), None)
    weak, enough = -1, len(family) - 1
    found = _attempt(sizing, family[enough])
    while found and enough - weak > 1:
        middle = (weak + enough) // 2
        gentler = _attempt(sizing, family[middle])
        weak, enough, found = (weak, middle, gentler) if gentler else (middle, enough, found)
    return found


def _families(sizing: Sizing) -> list[list[_Change]]:
    """Changes by kind, weakest first inside a kind."""
    return [family for family in map(list, _all_families(sizing)) if family]


def _all_families(sizing: Sizing) -> Iterator[Iterator[_Change]]:
    options, model = sizing.deployment.options, sizing.deployment.model
    if options.num_gpu_blocks_override or options.kv_cache_memory_bytes:
        yield iter([_Change("ask for what there is", _decree(sizing))])
    if sizing.budget.cuda_graph_in_budget and not options.enforce_eager:
        yield iter([_Change("run without CUDA graphs", {"enforce_eager": True})])
    used = options.gpu_memory_utilization
    if options.kv_cache_memory_bytes is None:
        higher = [share for share in UTILIZATIONS if share > used]
        yield (
            _Change(f"use {share:.1%} of the memory", {"gpu_memory_utilization": share})
            for share in higher
        )
    if len(sizing.pools.pools) > 1 or model.encoder_tokens:
        seats = [count for count in SEATS if count < options.max_num_seqs]
        yield (_Change(f"run at most {n:,} at once", {"max_num_seqs": n}) for n in seats)
    if sizing.kv_format.bits > 8:
        narrow = NARROW_CACHE.get(sizing.engine.name, {"kv_cache_dtype": "fp8"})
        yield iter([_Change(f"keep K and V in {narrow['kv_cache_dtype']}", dict(narrow))])
    if model.quantization is None and options.quantization is None:
        yield (
            _Change(f"quantize the weights to {name}", {"quantization": name})
            for name in WEIGHTS.get(sizing.engine.name, ("fp8", "awq"))
        )
    yield iter(_more_devices(options, "tensor", "split each layer"))
    yield iter(_more_devices(options, "pipeline", "deal the layers"))


def _more_devices(options: EngineOptions, kind: str, words: str) -> list[_Change]:
    name = f"{kind}_parallel_size"
    degrees = [degree for degree in DEGREES if degree > getattr(options, name)]
    return [_Change(f"{words} over {degree} devices", {name: degree}) for degree in degrees]


def _attempt(sizing: Sizing, change: _Change) -> Suggestion | None:
    """Re-plan with a change; None when the engine refuses it or it is not enough."""
    changed = _replan(sizing, change.options)
    if changed is None or not changed.fits:
        return None
    return Suggestion(
        change=change.words,
        flag=change.flag,
        kv_cache_bytes=changed.pool_bytes,
        max_model_len=changed.capacity.max_model_len,
        max_concurrency=changed.capacity.max_concurrency,
    )


def _replan(sizing: Sizing, options: dict[str, Any]) -> Sizing | None:
    """Size the asked deployment with other options; None when the engine refuses them.

    The length stays what it was: a default that shrinks to fit would hide the problem.
    """
    kept = {"max_model_len": sizing.capacity.max_model_len}
    asked = EngineOptions(**{**sizing.asked.options.model_dump(), **kept, **options})
    try:
        return size(sizing.engine, replace(sizing.asked, options=asked))
    except KVSimError:
        return None


def _longest_length(sizing: Sizing, beside: _Change | None = None) -> Suggestion | None:
    """Find the largest ``max_model_len`` that fits, by bisection over whole blocks.

    With `beside`, under that change too.
    """
    block = max(1, sizing.capacity.block_size)
    others = beside.options if beside else {}
    low, high = 0, sizing.capacity.max_model_len // block  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        changed = _replan(sizing, {**others, "max_model_len": middle * block})
        low, high = (middle, high) if changed and changed.fits else (low, middle)
    if low == 0:
        return None
    length = low * block
    shorter = _Change(f"serve at most {length:,} tokens", {"max_model_len": length})
    return _attempt(sizing, beside.with_(shorter) if beside else shorter)
