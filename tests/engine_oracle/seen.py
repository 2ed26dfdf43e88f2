"""What both sides note of a run, and where they first differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Seen", "differences"]

Event = tuple[int, str, int, int]


@dataclass
class Seen:
    """What happened, by the second in which a step began (or, for tokens, ended).

    Parameters
    ----------
    events : list of (second, word, row, number)
        Admissions with their cached tokens, preemptions with the tokens thrown away, first
        tokens and ends.
    used : dict of int to int
        Blocks held in the step that began at a second.
    """

    events: list[Event] = field(default_factory=list)
    used: dict[int, int] = field(default_factory=dict)

    def note(self, second: float, word: str, row: int, number: int = 0) -> None:
        """Add an event."""
        self.events.append((round(second), word, row, number))


def differences(ours: Seen, theirs: Seen) -> str | None:
    """Say what differs at the first second in which anything does; None: nothing does.

    Steps of a run that ours takes at once are compared at its last one.
    """
    only_ours, only_theirs = Counter(ours.events), Counter(theirs.events)
    both = only_ours & only_theirs
    lists = {"ours": sorted(only_ours - both), "theirs": sorted(only_theirs - both)}
    blocks = {
        at: (held, theirs.used.get(at))
        for at, held in ours.used.items()
        if theirs.used.get(at) != held
    }
    seconds = [event[0] for events in lists.values() for event in events] + list(blocks)
    if not seconds:
        return None
    first = min(seconds)
    parts = []
    for whose, events in lists.items():
        said = [f"{word}({row}, {number})" for at, word, row, number in events if at == first]
        parts += [f"{whose} {' '.join(said)}"] if said else []
    if first in blocks:
        parts.append("blocks {}, theirs {}".format(*blocks[first]))
    return f"at {first} s: {'; '.join(parts)}"
