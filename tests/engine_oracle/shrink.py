"""Make a disagreeing case small while it goes on disagreeing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

__all__ = ["shrunk"]

_TRIES = 400


def shrunk(case: Any, disagrees: Callable[[Any], bool]) -> Any:
    """Drop requests, shorten them, and take blocks away, as long as the two still differ."""
    tries, smaller = 0, True
    while smaller and tries < _TRIES:
        smaller = False
        for one in _smaller(case):
            tries += 1
            if one.jobs and one.least_blocks <= one.blocks and disagrees(one):
                case, smaller = one, True
                break
    return case


def _smaller(case: Any) -> Iterator[Any]:
    """Cases that are a little smaller."""
    jobs = case.jobs
    half = len(jobs) // 2
    if half:
        yield replace(case, jobs=jobs[:half])
        yield replace(case, jobs=jobs[half:])
    for at in reversed(range(len(jobs))):
        yield replace(case, jobs=jobs[:at] + jobs[at + 1 :])
    for at, job in enumerate(jobs):
        for name, least in (("output", 1), ("prompt", max(1, job.shared)), ("arrival", 0)):
            value = getattr(job, name)
            for less in {least, (value + least) // 2, value - 1}:
                earlier = name == "arrival" and at and less < jobs[at - 1].arrival
                if least <= less < value and not earlier:
                    changed = replace(job, **{name: less})
                    yield replace(case, jobs=(*jobs[:at], changed, *jobs[at + 1 :]))
    yield replace(case, blocks=case.blocks - 1)
    yield replace(case, blocks=case.blocks // 2)
