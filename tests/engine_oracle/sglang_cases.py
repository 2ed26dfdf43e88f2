"""Random workloads by family and seed, small enough to press a pool of a few dozen pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from .jobs import Job, drawn_jobs, drawn_limits

__all__ = ["ALONE", "FAMILIES", "Case", "case_of"]


@dataclass(frozen=True)
class Case:
    """A workload, and the settings that both are given; a step takes one second.

    Parameters
    ----------
    jobs : tuple of Job
        The requests, in order of arrival.
    blocks, block_size : int
        The pool: ``--max-total-tokens`` is their product, ``--page-size``.
    running : int
        ``--max-running-requests``.
    chunk : int
        ``--chunked-prefill-size``.
    caching : bool
        False: ``--disable-radix-cache``.
    ignore_eos : bool
        Of every request's sampling parameters.
    conservativeness : float
        ``--schedule-conservativeness``.
    """

    jobs: tuple[Job, ...]
    blocks: int
    block_size: int = 1
    running: int = 16
    chunk: int = 2048
    caching: bool = False
    ignore_eos: bool = False
    conservativeness: float = 1.0

    @property
    def least_blocks(self) -> int:
        """Pages with which the engine cuts no output short.

        ``BaseTokenToKVPoolAllocator.max_new_tokens_for_memory`` leaves an output of capacity -
        prompt in whole pages - a page - 1. Of an output that is asked for to the last token and
        leaves no more than that, ``add_one_req_ignore_eos`` never admits the request.
        """
        size, more = self.block_size, 2 if self.ignore_eos else 1
        needs = (-(-job.prompt // size) * size + size + job.output + more for job in self.jobs)
        return -(-max(needs) // size)


def _draw(
    random: Random, *, tight: bool = True, shared: bool = False, turns: bool = False, size: int = 1
) -> Case:
    """Draw limits and requests."""
    count = random.randint(4, 40)
    running = random.choice([2, 3, 4, 8, 16, 64])
    chunk = size * max(1, random.choice([8, 16, 32, 64, 128, 512, 2048]) // size)
    jobs = drawn_jobs(random, drawn_limits(random, count), shared=shared, turns=turns)
    case = Case(jobs, 0, size, running, chunk, caching=shared or turns)
    need = case.least_blocks
    more = random.randint(0, max(2, 2 * need)) if tight else 20_000 // size
    return replace(case, blocks=need + more)


def _conservative(random: Random, case: Case) -> Case:
    """Another estimate of what running requests will still need, and much that they will."""
    longer = tuple(replace(job, output=job.output + random.randint(10, 120)) for job in case.jobs)
    case = replace(case, jobs=longer, conservativeness=random.choice([0.05, 0.1, 0.3, 0.8, 1.3]))
    return replace(case, blocks=case.least_blocks + random.randint(0, case.least_blocks))


def _fixed(case: Case) -> Case:
    """Outputs that are asked for to the last token."""
    case = replace(case, ignore_eos=True)
    return replace(case, blocks=max(case.blocks, case.least_blocks))


_PAGES = {"": 1, "-pages": 16}
FAMILIES: dict[str, Callable[[Random], Case]] = {}
for _name, _size in _PAGES.items():
    FAMILIES |= {
        f"free{_name}": lambda random, size=_size: _draw(random, tight=False, size=size),
        f"tight{_name}": lambda random, size=_size: _draw(random, size=size),
        f"settings{_name}": lambda random, size=_size: _conservative(
            random, _draw(random, size=size)
        ),
        f"fixed{_name}": lambda random, size=_size: _fixed(_draw(random, size=size)),
        f"prefix{_name}": lambda random, size=_size: _draw(random, shared=True, size=size),
        f"turns{_name}": lambda random, size=_size: _draw(random, turns=True, size=size),
        f"pressed{_name}": lambda random, size=_size: _conservative(
            random, _draw(random, shared=True, turns=random.random() < 0.5, size=size)
        ),
        f"cached{_name}": lambda random, size=_size: replace(
            _draw(random, size=size), caching=True
        ),
    }

_SHARING = ("prefix", "turns", "pressed", "cached")
ALONE = [name for name in FAMILIES if not name.startswith(_SHARING)]  # nothing is cached


def case_of(family: str, seed: int) -> Case:
    """The workload of a family with a seed."""
    return FAMILIES[family](Random(f"{family}-{seed}"))
