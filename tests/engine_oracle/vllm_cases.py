"""Random workloads by family and seed, small enough to press a pool of a few dozen blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from .jobs import Job, drawn_jobs, drawn_limits

__all__ = ["FAMILIES", "Case", "case_of"]


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

    @property
    def least_blocks(self) -> int:
        """Blocks that the longest request needs."""
        return max(-(-(job.prompt + job.output) // self.block_size) for job in self.jobs)


def _draw(random: Random, *, tight: bool = True, shared: bool = False, turns: bool = False) -> Case:
    """Draw sizes, limits and requests."""
    size = random.choice([4, 8, 16])
    count = random.randint(4, 40)
    seqs = random.choice([2, 3, 4, 8, 16, 64])
    budget = max(seqs, random.choice([8, 16, 32, 64, 128, 512, 2048]))
    jobs = drawn_jobs(random, drawn_limits(random, count), shared=shared, turns=turns)
    case = Case(jobs, 0, size, seqs, budget, caching=shared or turns)
    need = case.least_blocks
    more = random.randint(0, max(2, need)) if tight else 5000
    return replace(case, blocks=need + more)


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
