"""What random workloads are drawn from, whichever engine serves them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

__all__ = ["Case", "Job", "Limits", "drawn_jobs", "drawn_limits"]

_MOST_TOKENS = 900


@dataclass(frozen=True)
class Job:
    """One request; its first `shared` tokens are those of a stream that others begin with too.

    Streams are numbers; the token at a position follows from the stream and the position.
    """

    arrival: int
    prompt: int
    output: int
    shared: int = 0
    shared_stream: int = 0
    own_stream: int = 0
    priority: int = 0

    def token(self, position: int) -> int:
        """Token at a position of the prompt, or of the output behind it."""
        stream = self.shared_stream if position < self.shared else self.own_stream
        return stream * 10_000 + position + 1


class Case(Protocol):
    """A workload and its pool; each engine adds the settings that it has."""

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The requests, in order of arrival."""

    @property
    def blocks(self) -> int:
        """Blocks of the pool."""

    @property
    def block_size(self) -> int:
        """Tokens of one."""

    @property
    def caching(self) -> bool:
        """Whether prefixes are kept."""

    @property
    def least_blocks(self) -> int:
        """Blocks with which every request can be served."""


@dataclass(frozen=True)
class Limits:
    """How many, how long and how often."""

    count: int
    said: int
    answered: int
    gap: int


def drawn_limits(random: Random, count: int) -> Limits:
    """Draw lengths and gaps."""
    said, answered = random.choice([20, 60, 150]), random.choice([5, 30, 80])
    return Limits(count, said, answered, random.choice([0, 1, 4, 15]))


def drawn_jobs(random: Random, limits: Limits, *, shared: bool, turns: bool) -> tuple[Job, ...]:
    """Draw requests: conversations, or such as have nothing to do with one another."""
    return tuple(_turns(random, limits) if turns else _alone(random, limits, shared=shared))


def _alone(random: Random, limits: Limits, *, shared: bool) -> Iterable[Job]:
    """Requests that share nothing, but maybe a prefix."""
    now = 0
    for at in range(limits.count):
        now += random.randint(0, limits.gap)
        prefix = random.choice([0, 16, 30, 48, 100]) if shared else 0
        prompt = prefix + random.randint(1, limits.said)
        stream = random.randint(1, 3) if shared else 0
        yield Job(now, prompt, random.randint(1, limits.answered), prefix, stream, 100 + at)


def _turns(random: Random, limits: Limits) -> Sequence[Job]:
    """Conversations: a turn repeats all before it, and mostly comes when that has ended."""
    jobs: list[Job] = []
    sessions = random.randint(2, 8)
    past: dict[int, tuple[int, int, int]] = {}
    now = 0
    for _ in range(limits.count):
        talk = random.randrange(sessions)
        prefix, told, free = past.get(talk, (random.choice([0, 5, 16, 40]), 0, 0))
        now += random.randint(0, limits.gap)
        prompt = (told or prefix) + random.randint(1, limits.said)
        output = random.randint(1, limits.answered)
        if prompt + output > _MOST_TOKENS:
            continue
        at = max(now, free)
        jobs.append(Job(at, prompt, output, min(prefix, prompt), 1 + talk % 2, 100 + talk))
        after = at + 3 * (prompt + output) // 2 + random.randint(0, 30)
        past[talk] = prefix, prompt + output, after if random.random() < 0.9 else at
    return sorted(jobs, key=lambda job: job.arrival)
