"""Random workloads by family and seed, small enough to press a pool of a few dozen blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Literal, NamedTuple

from kvsim.engines.vllm.pages import PageSpec, Reserve
from kvsim.engines.vllm.rules import Rules
from kvsim.memory.growth import Growth

from .jobs import Job, drawn_jobs, drawn_limits
from .product import LONGEST

__all__ = ["FAMILIES", "Case", "Layers", "case_of", "lacks"]

_FLAGS = {  # fields of a case that are flags of some releases alone
    "adaptive": "long_prefill_token_threshold_adaptive",
    "watermark": "watermark",
    "active": "max_num_active_seqs",
    "interval": "prefill_schedule_interval",
    "reserve_full": "scheduler_reserve_full_isl",
}


class Layers(NamedTuple):
    """Layers that share a table: "full", or those of a "window" or "chunk" of so many tokens.

    Those of a recurrent "state" leave so many checkpoints behind. Blocks are `factor` times as
    long as the case's.
    """

    kind: Literal["full", "window", "chunk", "state"] = "full"
    span: int = 0
    factor: int = 1

    def page(self, size: int) -> PageSpec:
        """What the product makes of them."""
        if self.kind == "state":
            return PageSpec("state", size, 1, 2, checkpoints=self.span)
        return PageSpec(self.kind, size, 1, self.span)


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
    reserve_full: bool | None = None  # what the release does
    layers: tuple[Layers, ...] = (Layers(),)
    retention_interval: int | None = 0

    @property
    def flags(self) -> dict[str, object]:
        """Flags that are not at their default, by the engine's names, which are ours."""
        plain = {each.name: each.default for each in fields(self)}
        said = {name: getattr(self, name) for name in _FLAGS}
        if not self.threshold:
            said["adaptive"] = False  # there is nothing that it raises
        return {_FLAGS[name]: value for name, value in said.items() if value != plain[name]}

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Tokens of a block, by layers."""
        return tuple(self.block_size * each.factor for each in self.layers)

    @property
    def growths(self) -> tuple[Growth, ...]:
        """What the product makes of the layers."""
        in_flight = Reserve((2 if self.asynchronous else 1) * self.max_num_batched_tokens)
        return tuple(
            each.page(size).growth(LONGEST, in_flight)
            for each, size in zip(self.layers, self.block_sizes, strict=True)
        )

    @property
    def least_blocks(self) -> int:
        """Blocks that the request in most need of them needs."""

        def blocks(growth: Growth, tokens: int) -> int:
            most = -(-tokens // growth.block_size)
            if growth.window is None:
                return most
            least = min(most, growth.window.admitted_blocks)
            if growth.is_state and self.asynchronous and len(self.layers) == 1:
                least += 2  # nothing of a chunk under way is found by who gives way for itself
            return least

        longest = max(job.prompt + job.output for job in self.jobs)
        return sum(blocks(growth, longest) for growth in self.growths)


Settings = dict[str, Callable[[Random, Case], object]]


def _draw(random: Random, *, tight: bool = True, shared: bool = False, turns: bool = False) -> Case:
    """Draw sizes, limits and requests."""
    size = random.choice([4, 8, 16])
    count = random.randint(4, 40)
    seqs = random.choice([2, 3, 4, 8, 16, 64])
    budget = max(seqs, random.choice([8, 16, 32, 64, 128, 512, 2048]))
    jobs = drawn_jobs(random, drawn_limits(random, count), shared=shared, turns=turns)
    case = Case(jobs, 0, size, seqs, budget, caching=shared or turns)
    return _pressed(random, case) if tight else replace(case, blocks=5000)


def _pressed(random: Random, case: Case) -> Case:
    """Give it a pool that holds few requests."""
    need = case.least_blocks
    return replace(case, blocks=need + random.randint(0, max(2, need)))


def _set(settings: Settings, random: Random, case: Case) -> Case:
    """Draw further settings of a case."""
    return replace(case, **{name: draw(random, case) for name, draw in settings.items()})


def _prioritised(random: Random, case: Case) -> Case:
    jobs = tuple(replace(job, priority=random.randint(0, 3)) for job in case.jobs)
    return replace(case, jobs=jobs, policy="priority")


def _alike(random: Random, case: Case) -> Case:
    """Several requests write the same at once, some of them a token a step."""
    twins = (random.randint(101, 104) for _ in case.jobs)
    jobs = (
        replace(job, shared=32, shared_stream=twin % 2, own_stream=twin, prompt=32 + job.prompt % 9)
        for job, twin in zip(case.jobs, twins, strict=True)
    )
    case = replace(case, jobs=tuple(jobs), threshold=random.choice([0, 1, 1, 4]))
    return _pressed(random, case)


def _layered(random: Random, case: Case) -> Case:
    """Give the model windows or chunks, mostly beside full attention."""
    one, other = (Layers("window", random.choice([2, 8, 17, 32, 100])) for _ in range(2))
    chunk = Layers("chunk", case.block_size * random.choice([1, 2, 5]))
    full = Layers()
    layers = random.choice(
        [(full, one), (full, one, one), (full, one, other), (one,), (full, chunk)]
    )
    interval = random.choice([None, 0, case.block_size * random.randint(1, 4)])
    if layers[-1].kind == "chunk":
        interval = 0  # the engine refuses others
    elif random.random() < 0.3:
        layers = tuple(each._replace(factor=random.choice([1, 2, 4])) for each in layers)
        longest = case.block_size * max(each.factor for each in layers)
        interval = random.choice([None, 0, longest * random.randint(1, 4)])
    return _pressed(random, replace(case, layers=layers, retention_interval=interval))


def _recurrent(random: Random, case: Case) -> Case:
    """Give the model recurrent states, mostly beside full attention, in blocks that may be long."""
    state = Layers("state", random.choice([0, 1, 1]))
    full, window = Layers(), Layers("window", random.choice([2, 17, 32]))
    layers = random.choice(
        [(full, state), (full, state), (state, full, state), (full, window, state), (state,)]
    )
    size = case.block_size * random.choice([1, 2, 4])
    interval = random.choice([0, 0, None, size * random.randint(1, 4)])
    case = replace(case, layers=layers, block_size=size, retention_interval=interval)
    return _pressed(random, _set(_THRESHOLD, random, case) if random.random() < 0.3 else case)


_THRESHOLD: Settings = {"threshold": lambda random, _: random.choice([4, 8, 16, 33, 64])}
_FIRST_CHUNK: Settings = {"reserve_full": lambda random, _: False}
_SETTINGS: Settings = {
    "threshold": lambda random, _: random.choice([0, 8, 33]),
    "adaptive": lambda random, _: random.random() < 0.5,
    "watermark": lambda random, _: random.choice([0.0, 0.05, 0.2]),
    "active": lambda random, case: random.choice([None, max(1, case.max_num_seqs // 2)]),
    "interval": lambda random, _: random.choice([1, 2, 5]),
    "reserve_full": lambda random, _: random.random() < 0.7,
}


FAMILIES: dict[str, Callable[[Random], Case]] = {
    "free": lambda random: _draw(random, tight=False),
    "tight": _draw,
    "threshold": lambda random: _set(_THRESHOLD, random, _draw(random)),
    "prefix": lambda random: _draw(random, shared=True),
    "turns": lambda random: _draw(random, turns=True),
    "priority": lambda random: _prioritised(random, _draw(random)),
    "priority-prefix": lambda random: _prioritised(random, _draw(random, shared=True)),
    "first-chunk": lambda random: _set(_FIRST_CHUNK, random, _draw(random)),
    "first-chunk-prefix": lambda random: _set(_FIRST_CHUNK, random, _draw(random, shared=True)),
    "settings": lambda random: _set(_SETTINGS, random, _draw(random)),
    "settings-prefix": lambda random: _set(_SETTINGS, random, _draw(random, shared=True)),
    "alike": lambda random: _alike(random, _draw(random, shared=True)),
    "windows": lambda random: _layered(random, _draw(random)),
    "windows-prefix": lambda random: _layered(random, _draw(random, shared=True)),
    "windows-turns": lambda random: _layered(random, _draw(random, turns=True)),
    "states-prefix": lambda random: _recurrent(random, _draw(random, shared=True)),
    "states-turns": lambda random: _recurrent(random, _draw(random, turns=True)),
}
FAMILIES |= {
    f"async-{name}": lambda random, draw=draw: _asynchronous(draw(random))
    for name, draw in FAMILIES.items()
}


def _asynchronous(case: Case) -> Case:
    """Windows wait for the step in flight, and so need more."""
    case = replace(case, asynchronous=True)
    return replace(case, blocks=max(case.blocks, case.least_blocks))


def case_of(family: str, seed: int) -> Case:
    """The workload of a family with a seed."""
    return FAMILIES[family](Random(f"{family.removeprefix('async-')}-{seed}"))


def lacks(family: str, rules: Rules) -> str | None:
    """Name the flags of a family that a release has not, if there are any."""
    kind = family.removeprefix("async-").removesuffix("-prefix")
    if (
        kind.startswith(("windows", "states"))
        and rules.value("prefix_cache_retention_interval") is None
    ):
        return f"{kind} of vLLM {rules.said} are not compared: it keeps all of their blocks"
    drawn = {"first-chunk": _FIRST_CHUNK, "settings": _SETTINGS}.get(kind, {})
    needed = [flag for name, flag in _FLAGS.items() if name in drawn]
    absent = [flag for flag in needed if flag not in rules.value("scheduler_flags")]
    return f"vLLM {rules.said} has no {', '.join(absent)}" if absent else None
