"""Memory policies behind one protocol, one small file each."""

from __future__ import annotations

from kvsim.registry import Policies
from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.allocators.grow import Grow
from kvsim.simulator.allocators.no_cache import NoCache
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.prefix import Prefix
from kvsim.simulator.allocators.reserve import RESERVATIONS, Reserve
from kvsim.simulator.allocators.virtual import Virtual

__all__ = ["ALLOCATORS", "Allocator"]

# What is not built in makes itself, with a class method `from_setup(setup, **parameters)`.
ALLOCATORS: Policies[Allocator] = Policies(
    "allocator",
    "kvsim.allocators",
    Allocator,
    {
        "none": NoCache,
        **dict.fromkeys(RESERVATIONS, Reserve),
        "grow": Grow,
        "paged": Paged,
        "prefix": Prefix,
        "virtual": Virtual,
    },
    made_by="from_setup",
    arguments=1,
)
