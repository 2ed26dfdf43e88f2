"""The families of policies that others can extend, and `kvsim.register`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, overload

from kvsim.engines.vllm.rules import Rules
from kvsim.errors import KVSimError
from kvsim.registry import Policies, Registry
from kvsim.simulator.allocators import ALLOCATORS
from kvsim.simulator.allocators.addresses import PLACEMENTS
from kvsim.simulator.allocators.idle import EVICTION_POLICIES
from kvsim.simulator.schedulers import SCHEDULERS
from kvsim.simulator.schedulers.queues import ADMISSION_POLICIES

__all__ = ["FAMILIES", "own_scheduler", "register"]

P = TypeVar("P", bound=type)

FAMILIES: Registry[Policies[Any]] = Registry(
    "family of policies",
    {
        "allocators": ALLOCATORS,
        "schedulers": SCHEDULERS,
        "evictions": EVICTION_POLICIES,
        "admissions": ADMISSION_POLICIES,
        "placements": PLACEMENTS,
    },
)


def own_scheduler(engine: str, version: str) -> str:
    """Name of the scheduler that stands for an engine's own in a release ("": the newest)."""
    if engine == "sglang":
        return "sglang"
    if engine == "vllm" and version:
        with suppress(KVSimError):  # the engine itself refuses what is no release
            if Rules.of(version).value("engine_core") == "v0":
                return "vllm-v0"
    return "vllm-v1"


@overload
def register(family: str, name: str, policy: P) -> P: ...
@overload
def register(family: str, name: str) -> Callable[[P], P]: ...
def register(family: str, name: str, policy: P | None = None) -> P | Callable[[P], P]:
    """Make a policy known by a name, to this process; scenarios can ask for it from then on.

    Parameters
    ----------
    family : str
        "allocators", "schedulers", "evictions", "admissions" or "placements".
    name : str
        What scenarios call it. The same class, defined again, takes its own place.
    policy : type, optional
        The policy; left out, this is a decorator.

    Returns
    -------
    type or callable
        The policy, as it was given; or the decorator.

    Raises
    ------
    InputError
        For an unknown family, a name that is taken, and a policy that lacks what the family
        asks for (docs/extending.md).

    Examples
    --------
    >>> from kvsim.simulator.schedulers.queues import SortedQueue
    >>> @register("admissions", "longest-first")
    ... class LongestFirst(SortedQueue):
    ...     def key(self, request):
    ...         return -request.prompt_tokens
    >>> del FAMILIES["admissions"]["longest-first"]
    """
    policies = FAMILIES.find(family)
    if policy is not None:
        policies.add(name, policy)
        return policy

    def named(decorated: P) -> P:
        policies.add(name, decorated)
        return decorated

    return named
