"""What a scenario asks of the simulator that no launch line of its engine says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvsim.simulator.families import own_scheduler

if TYPE_CHECKING:
    from kvsim.simulator.scenario import Scenario

__all__ = ["unsaid"]

_SAID = ("paged", "prefix")  # by --enable-prefix-caching
_OF_THE_MACHINE = ("host_link_bytes_per_s",)


def unsaid(scenario: Scenario) -> Iterator[str]:
    """Yield the keys of memory and scheduler that are not the engine's own, with their values.

    An engine that is launched by its line goes its own way in these.
    """
    own = own_scheduler(scenario.engine.name, scenario.engine.version)
    for section in ("scheduler", "memory"):
        spec = getattr(scenario, section)
        for name, field in type(spec).model_fields.items():
            value, usual = getattr(spec, name), own if name == "policy" else field.default
            said = name in _OF_THE_MACHINE or (name == "allocator" and str(value) in _SAID)
            if value is not None and str(value) != str(usual) and not said:
                yield f"{section}.{name}={value}"
