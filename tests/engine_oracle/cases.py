"""Random workloads by family and seed, small enough to press a pool of a few dozen blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

__all__ = ["FAMILIES", "Case", "Job", "case_of"]


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
        if position < self.shared:
            return (self.shared_stream * 1_000_003 + position * 7_919) % 90_000_019 + 1
        mixed = self.own_stream * 2_000_003 + position * 104_729 + 500_000_003
        return mixed % 900_000_019 + 100_000_000


@dataclass(frozen=True)
class Case:
    """A workload, and the settings that both are given; a step takes one second."""

    jobs: tuple[Job, ...]
    blocks: int
    block_size: int = 16
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 2048
    threshold: int = 0
    adaptive: bool = False
    caching: bool = False
    policy: str = "fcfs"
    asynchronous: bool = False
    watermark: float = 0.0
    active: int | None = None
    interval: int = 1
    reserve_full: bool = True
    windows: tuple[int, ...] = field(default=())

    @property
    def longest(self) -> int:
        """Blocks that the longest request needs."""
        return max(-(-(job.prompt + job.output) // self.block_size) for job in self.jobs)


def _draw(random: Random, *, tight: bool = True, shared: bool = False, turns: bool = False) -> Case:
    """Draw sizes, limits and requests."""
    size = random.choice([4, 8, 16])
    count = random.randint(4, 40)
    seqs = random.choice([2, 3, 4, 8, 16, 64])
    budget = max(seqs, random.choice([8, 16, 32, 64, 128, 512, 2048]))
    said, answered = random.choice([20, 60, 150]), random.choice([5, 30, 80])
    gap = random.choice([0, 1, 4, 15])
    draw = _turns if turns else _alone
    jobs = draw(random, count, said, answered, gap, shared)
    case = Case(tuple(jobs), 0, size, seqs, budget, caching=shared or turns)
    need = case.longest
    more = random.randint(0, max(2, need)) if tight else 5000
    return replace(case, blocks=need + more)


def _alone(
    random: Random, count: int, said: int, answered: int, gap: int, shared: bool
) -> list[Job]:
    """Requests that have nothing to do with one another, but maybe a prefix."""
    jobs, now = [], 0
    for at in range(count):
        now += random.randint(0, gap)
        prefix = random.choice([0, 16, 30, 48, 100]) if shared else 0
        prompt = prefix + random.randint(1, said)
        stream = random.randint(1, 3) if shared else 0
        jobs.append(Job(now, prompt, random.randint(1, answered), prefix, stream, 100 + at))
    return jobs


def _turns(
    random: Random, count: int, said: int, answered: int, gap: int, shared: bool
) -> list[Job]:
    """Conversations: a turn repeats all before it, and mostly comes when that has ended."""
    jobs: list[Job] = []
    sessions = random.randint(2, 8)
    past: dict[int, tuple[int, int, int]] = {}
    now = 0
    for _ in range(count):
        talk = random.randrange(sessions)
        prefix, told, free = past.get(talk, (random.choice([0, 5, 16, 40]), 0, 0))
        now += random.randint(0, gap)
        prompt = (told or prefix) + random.randint(1, said)
        output = random.randint(1, answered)
        if prompt + output > 900:
            continue
        at = max(now, free)
        jobs.append(Job(at, prompt, output, min(prefix, prompt), 1 + talk % 2, 100 + talk))
        after = at + 3 * (prompt + output) // 2 + random.randint(0, 30)
        past[talk] = prefix, prompt + output, after if random.random() < 0.9 else at
    return sorted(jobs, key=lambda job: job.arrival)


def _with(**settings: Callable[[Random, Case], object]) -> Callable[[Random, Case], Case]:
    """Draw further settings of a case."""

    def drawn(random: Random, case: Case) -> Case:
        return replace(case, **{name: draw(random, case) for name, draw in settings.items()})

    return drawn


def _prioritised(random: Random, case: Case) -> Case:
    jobs = tuple(replace(job, priority=random.randint(0, 3)) for job in case.jobs)
    return replace(case, jobs=jobs, policy="priority")


_threshold = _with(threshold=lambda random, _: random.choice([4, 8, 16, 33, 64]))
_settings = _with(
    threshold=lambda random, _: random.choice([0, 8, 33]),
    adaptive=lambda random, _: random.random() < 0.5,
    watermark=lambda random, _: random.choice([0.0, 0.05, 0.2]),
    active=lambda random, case: random.choice([None, max(1, case.max_num_seqs // 2)]),
    interval=lambda random, _: random.choice([1, 2, 5]),
    reserve_full=lambda random, _: random.random() < 0.7,
)

FAMILIES: dict[str, Callable[[Random], Case]] = {
    "free": lambda random: _draw(random, tight=False),
    "tight": _draw,
    "threshold": lambda random: _threshold(random, _draw(random)),
    "prefix": lambda random: _draw(random, shared=True),
    "turns": lambda random: _draw(random, turns=True),
    "priority": lambda random: _prioritised(random, _draw(random)),
    "priority-prefix": lambda random: _prioritised(random, _draw(random, shared=True)),
    "settings": lambda random: _settings(random, _draw(random)),
    "settings-prefix": lambda random: _settings(random, _draw(random, shared=True)),
}
FAMILIES |= {
    f"async-{name}": lambda random, draw=draw: replace(draw(random), asynchronous=True)
    for name, draw in FAMILIES.items()
}


def case_of(family: str, seed: int) -> Case:
    """The workload of a family with a seed."""
    return FAMILIES[family](Random(f"{family.removeprefix('async-')}-{seed}"))
