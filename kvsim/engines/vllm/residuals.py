"""How far vLLM's predicted KV sizes were from what it printed, and so how sure the next one is.

::

    error  = (predicted - printed) / the card's memory, per cent
    sigma² = plain + a share for each trait that the start-up has
    band   = quantile x sigma

What errs is the prediction of everything but KV, so errors are shares of the card and not of what
is left of it. A *plain* start-up is of a kind that the overheads were fitted on: a dense model of
text on one card or on switched ones. Every trait of `TRAITS` that it has beside adds the variance
that start-ups with it had. The quantile is that of conformal prediction (Vovk et al., Algorithmic
Learning in a Random World, 2005): so many of the start-ups that were compared lie within.
`benchmarks/fit_bands.py` writes the numbers; a row that the overheads were fitted on enters with
the error that it has when the fit never saw it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kvsim.engines.base import Band, MemoryBudget, ResolvedDeployment
from kvsim.engines.common import RESIDUALS, band_of, read_data
from kvsim.engines.vllm.rules import Rules, kernel_class
from kvsim.memory.footprint import layer_caches
from kvsim.specs.model import MoeMlp

__all__ = ["TRAITS", "kv_band", "traits_of", "variance"]

_PLAIN = "dense, of text, on one card or behind NVSwitches"
_DESKTOP = ("RTX", "GB10")  # cards that draw a screen too


class Start(NamedTuple):
    """What a trait looks at: a resolved deployment, its release, and what was compared."""

    deployment: ResolvedDeployment
    rules: Rules
    data: dict[str, Any]


def _is_newer(start: Start) -> bool:
    return start.rules.release[:2] > tuple(start.data["fitted_to"])


def _is_desktop(start: Start) -> bool:
    return start.deployment.accelerator.name.upper().startswith(_DESKTOP)


def _is_of_another_vendor(start: Start) -> bool:
    return start.deployment.accelerator.vendor != "NVIDIA"


def _is_uncompared(start: Start) -> bool:
    return kernel_class(start.deployment.accelerator) not in start.data["cards"]


def _lacks_switches(start: Start) -> bool:
    options, accelerator = start.deployment.options, start.deployment.accelerator
    ranks = options.tensor_parallel_size * options.pipeline_parallel_size
    return ranks > 1 and not accelerator.interconnect.is_switched


def _has_states(start: Start) -> bool:
    return any(cache.keeps("state") for _, cache in layer_caches(start.deployment.model))


def _has_indexer(start: Start) -> bool:
    return any(cache.keeps("indexer") for _, cache in layer_caches(start.deployment.model))


def _has_experts(start: Start) -> bool:
    return any(isinstance(g.mlp, MoeMlp) for g in start.deployment.model.layer_groups)


def _has_encoder(start: Start) -> bool:
    return start.deployment.model.other_parameters > 0


# Each with its words; "{}" is the last release that was fitted, or the card.
TRAITS: dict[str, tuple[str, Callable[[Start], bool]]] = {
    "newer": ("a release after {fitted_to}", _is_newer),
    "desktop": ("a desktop card", _is_desktop),
    "vendor": ("a device that is not NVIDIA's", _is_of_another_vendor),
    "uncompared": ("no card like {card} was compared", _is_uncompared),
    "unswitched": ("ranks without NVSwitches between them", _lacks_switches),
    "states": ("recurrent layers", _has_states),
    "indexer": ("a sparse indexer", _has_indexer),
    "experts": ("experts", _has_experts),
    "encoder": ("an encoder of images", _has_encoder),
}


def traits_of(
    deployment: ResolvedDeployment, rules: Rules, data: dict[str, Any]
) -> tuple[str, ...]:
    """Name the traits of a start-up, in the order of `TRAITS`.

    Parameters
    ----------
    deployment : ResolvedDeployment
        What is started.
    rules : Rules
        The release's.
    data : dict
        "fitted_to" and "cards" of the data file.
    """
    start = Start(deployment, rules, data)
    return tuple(name for name, (_, has) in TRAITS.items() if has(start))


def kv_band(deployment: ResolvedDeployment, rules: Rules, budget: MemoryBudget) -> Band:
    """How far the budget's KV size may be from what vLLM prints."""
    data = read_data(RESIDUALS)
    traits = traits_of(deployment, rules, data)
    named = {
        "fitted_to": ".".join(map(str, data["fitted_to"])),
        "card": deployment.accelerator.name,
    }
    return band_of(
        data,
        variance(traits, data["percent_squared"]),
        budget,
        start_ups=sum(set(row["traits"]) == set(traits) for row in data["start_ups"]),
        like=tuple(TRAITS[each][0].format(**named) for each in traits) or (_PLAIN,),
        unlike=not {"vendor", "uncompared"}.isdisjoint(traits),
    )


def variance(traits: tuple[str, ...], shares: dict[str, float]) -> float:
    """Add up squared per cents of the card's memory."""
    return shares["plain"] + sum(shares[each] for each in traits)
