"""What could be changed about a plan that does not fit: families of like changes, weakest first.

::

    [use 92.1 % ... 98.0 % of the memory]     a family: one flag, from gentle to strong
    [fp8]  [tp 2, 4, 8, 16]  [another card]   others

A family may be long: its changes are made as they are asked for, and the search bisects it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, overload

from kvsim.catalog.accelerators import larger_accelerators
from kvsim.catalog.models import published_variants
from kvsim.planning.sizing import Sizing

__all__ = ["Change", "Family", "families", "flag_of"]

MOST_UTILIZATION = 0.98
# Ranks of tensor parallelism divide heads, which are as a rule powers of two.
TENSOR_DEGREES = (2, 4, 8, 16)
PIPELINE_DEGREES = range(2, 17)
# What each engine calls narrower weights and a narrower cache; the others speak vLLM's words.
WEIGHTS = {"llama.cpp": ("q8_0", "q4_k_m")}
NARROW_CACHE = {"llama.cpp": {"kv_cache_dtype": "q8_0", "kv_cache_dtype_v": "q8_0"}}
# Engines that load the checkpoints that others have quantised, of every method published.
_LOADS_PUBLISHED = ("vllm", "sglang")


class Change(NamedTuple):
    """One change in words and as options; `model` and `gpu` are names, where they change."""

    words: str
    options: dict[str, Any]
    model: str = ""
    gpu: str = ""

    @property
    def flag(self) -> str:
        """What to add to the command line."""
        named = {"model": self.model, "gpu": self.gpu}
        said = {name: value for name, value in named.items() if value} | self.options
        return " ".join(flag_of(name, value) for name, value in said.items())

    def with_(self, other: Change) -> Change:
        """Both changes at once."""
        return Change(
            f"{self.words}, and {other.words}",
            {**self.options, **other.options},
            other.model or self.model,
            other.gpu or self.gpu,
        )


def flag_of(name: str, value: Any) -> str:
    """A flag as it is typed."""
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag} {value}"


class _Lazy(Sequence[Change]):
    """Changes over a range of whole numbers, each made when it is looked at."""

    def __init__(self, numbers: range, make: Callable[[int], Change]) -> None:
        self._numbers, self._make = numbers, make

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, at: int) -> Change: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Change]: ...
    def __getitem__(self, at: int | slice) -> Change | Sequence[Change]:
        found = self._numbers[at]
        return self._make(found) if isinstance(found, int) else _Lazy(found, self._make)


Family = Sequence[Change]


def families(sizing: Sizing, decreed: int) -> Iterator[Family]:
    """Changes by kind, weakest first inside a kind; kinds that have none are left out.

    Parameters
    ----------
    sizing : Sizing
        The plan that does not fit.
    decreed : int
        A size that fits, in the words in which the user gave the pool another one; 0 where
        nobody did, or none fits.
    """
    made = (
        _decree(sizing, decreed),
        _graphs(sizing),
        _utilizations(sizing),
        _seats(sizing),
        _caches(sizing),
        _published(sizing),
        _weights(sizing),
        _degrees(sizing, "tensor", "split each layer", TENSOR_DEGREES),
        _degrees(sizing, "pipeline", "deal the layers", PIPELINE_DEGREES),
    )
    return (family for family in made if len(family))


def cards(sizing: Sizing) -> Family:
    """The other cards of the vendor, the smallest first."""
    names = larger_accelerators(sizing.deployment.accelerator)
    return [Change(f"take a {name}", {}, gpu=name) for name in names]


def _decree(sizing: Sizing, fitting: int) -> Family:
    """From the size that was asked for, in steps of one, to one that fits."""
    options = sizing.deployment.options
    name = options.pool_key
    if not name or not fitting:
        return ()
    asked: int = getattr(options, name)
    step = 1 if fitting > asked else -1
    numbers = range(asked + step, fitting + step, step)
    return _Lazy(numbers, lambda size: Change("ask for what there is", {name: size}))


def _graphs(sizing: Sizing) -> Family:
    if not sizing.budget.cuda_graph_in_budget or sizing.deployment.options.enforce_eager:
        return ()
    return (Change("run without CUDA graphs", {"enforce_eager": True}),)


def _utilizations(sizing: Sizing) -> Family:
    options = sizing.deployment.options
    if options.kv_cache_memory_bytes is not None:
        return ()
    first = int(options.gpu_memory_utilization * 1000) + 1
    return _Lazy(
        range(first, round(MOST_UTILIZATION * 1000) + 1),
        lambda share: Change(
            f"use {share / 10:.1f}% of the memory", {"gpu_memory_utilization": share / 1000}
        ),
    )


def _seats(sizing: Sizing) -> Family:
    """What is set aside for every seat: logits and graphs, states, llama.cpp's windows."""
    return _Lazy(
        range(sizing.deployment.options.max_num_seqs - 1, 0, -1),
        lambda seats: Change(f"run at most {seats:,} at once", {"max_num_seqs": seats}),
    )


def _caches(sizing: Sizing) -> Family:
    if sizing.kv_format.bits <= 8:
        return ()
    narrow = NARROW_CACHE.get(sizing.engine.name, {"kv_cache_dtype": "fp8"})
    return (Change(f"keep K and V in {narrow['kv_cache_dtype']}", dict(narrow)),)


def _published(sizing: Sizing) -> Family:
    """Checkpoints of the same model in fewer bits, that somebody has published."""
    options, card = sizing.deployment.options, sizing.deployment.accelerator
    if options.quantization or sizing.engine.name not in _LOADS_PUBLISHED:
        return ()
    found = published_variants(sizing.deployment.model)
    return [
        Change(f"take the {name} weights of {hf_id}", {}, model=hf_id)
        for hf_id, name in found
        if name != "nvfp4" or card.vendor == "NVIDIA"
    ]


def _weights(sizing: Sizing) -> Family:
    """Formats that an engine makes as it loads a checkpoint in 16 bits; llama.cpp's files."""
    model, options = sizing.deployment.model, sizing.deployment.options
    if model.quantization is not None or options.quantization is not None:
        return ()
    return [
        Change(f"quantize the weights to {name}", {"quantization": name})
        for name in WEIGHTS.get(sizing.engine.name, ("fp8",))
    ]


def _degrees(sizing: Sizing, kind: str, words: str, degrees: Sequence[int]) -> Family:
    name = f"{kind}_parallel_size"
    used = getattr(sizing.deployment.options, name)
    return [
        Change(f"{words} over {degree} devices", {name: degree})
        for degree in degrees
        if degree > used
    ]
