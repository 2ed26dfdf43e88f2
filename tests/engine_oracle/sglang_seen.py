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
        Pages held in the step that began at a second.
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
    only_ours -= both
    only_theirs -= both
    used = ((at, n, theirs.used.get(at)) for at, n in ours.used.items())
    used_otherwise = [(at, n, other) for at, n, other in used if n != other]
    seconds = [event[0] for event in (*only_ours, *only_theirs)]
    seconds += [at for at, _, _ in used_otherwise]
    if not seconds:
        return None
    first = min(seconds)
    parts = []
    for whose, events in (("ours", only_ours), ("theirs", only_theirs)):
        said = [f"{word}({row}, {n})" for at, word, row, n in sorted(events) if at == first]
        parts += [f"{whose} {' '.join(said)}"] if said else []
    parts += [f"pages {n}, theirs {other}" for at, n, other in used_otherwise if at == first]
    return f"at {first} s: {'; '.join(parts)}"
