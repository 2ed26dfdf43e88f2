"""Hypothesis strategies: random small workloads, and engines that may be too small for them."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from kvsim.memory.growth import BlockCurve, Growth, Window
from kvsim.simulator.schedulers import SchedulerLimits
from kvsim.steptime.kv_reads import KVReadCurve
from kvsim.workload.content import SegmentContent
from tests.support.memories import Pool
from tests.support.parts import (
    PLAIN_READS,
    Case,
    Given,
    sawtooth_reads,
    table,
    windowed_reads,
)

TICK = 1.3717e-3 * np.sqrt(2)  # no multiple of a step time, so no arrival ties with a step's end


@dataclass(frozen=True)
class Menu:
    """What to choose from, the simplest first."""

    counts: tuple[int, ...]
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    gaps: tuple[int, ...]
    max_num_seqs: tuple[int, ...]
    budgets: tuple[int, ...]
    pressures: tuple[float, ...]  # blocks of the pool over those of the longest request


ANYTHING = Menu(
    counts=(5, 1, 2, 12, 20, 40),
    prompts=(40, 3, 80),
    outputs=(20, 1, 2, 60),
    gaps=(12, 0, 1, 300),
    max_num_seqs=(3, 1, 2, 5, 8),
    budgets=(64, 1, 8, 20, 400),
    pressures=(3.0, 0.7, 1.0, 50.0),
)
SCARCITY = Menu(
    counts=(12, 20, 40),
    prompts=(30, 40),
    outputs=(40, 60),
    gaps=(1, 3, 12),
    max_num_seqs=(4, 6, 8),
    budgets=(64, 400, 20),
    pressures=(1.1, 1.3, 1.7),
)


@st.composite
def limits(draw: st.DrawFn, menu: Menu, longest: int) -> SchedulerLimits:
    """Small engines: few sequences, small budgets, every queue and both ways to preempt."""
    seqs = draw(st.sampled_from(menu.max_num_seqs))
    return SchedulerLimits(
        max_num_seqs=seqs,
        max_num_batched_tokens=max(seqs, draw(st.sampled_from(menu.budgets))),
        max_model_len=longest + draw(st.sampled_from([20, 0, -1])),
        long_prefill_token_threshold=draw(st.sampled_from([0, 1, 7, 30])),
        admission=draw(st.sampled_from(["fcfs", "priority", "shortest-first"])),
        preemption=draw(st.sampled_from(["recompute", "swap"])),
        async_scheduling=draw(st.booleans()),
    )


@st.composite
def requests(draw: st.DrawFn, menu: Menu) -> Given:
    """Up to 40 requests, dense or sparse, some alike in their prefix, some sampled.

    What there is of everything is hypothesis' choice; the lengths come from a seed, because
    uniform lengths fill a small pool more often than the simplest ones do.
    """
    count = draw(st.sampled_from(menu.counts))
    dice = random.Random(draw(st.integers(0, 2**32)))

    def column(least: int, most: int) -> list[int]:
        return [dice.randint(least, most) for _ in range(count)]

    prompts = column(1, draw(st.sampled_from(menu.prompts)))
    outputs = column(1, draw(st.sampled_from(menu.outputs)))
    gaps = column(0, draw(st.sampled_from(menu.gaps)))
    content = None
    if draw(st.booleans()):
        streams = column(3, 6) if draw(st.booleans()) else [*range(9, 9 + count)]
        # an identity names all that is before it, so a stream always follows the same prefix
        opens = {one: (dice.randint(0, 2), dice.choice([5, 16, 33])) for one in streams}
        shared = [opens[one][1] for one in streams]
        prompts = [max(pair) for pair in zip(prompts, shared, strict=True)]
        content = SegmentContent([opens[one][0] for one in streams], shared, streams)
    rows = table(
        list(np.cumsum(gaps) * TICK),
        prompts,
        outputs,
        priority=column(0, 2),
        samples=column(1, 3) if draw(st.booleans()) else None,
        content=content,
    )
    cut = draw(st.integers(0, count))
    parts = [rows.rows(0, cut), rows.rows(cut, count)] if content is None else [rows]
    return Given(parts)


def longest_of(workload: Given) -> int:
    """Tokens of the longest request, samples side by side."""
    longest = [
        (part.prompt_tokens + part.output_tokens) * (1 if part.samples is None else part.samples)
        for part in workload.parts
        if len(part)
    ]
    return int(max(lengths.max() for lengths in longest))


@st.composite
def growths(draw: st.DrawFn, sizes: tuple[int, ...]) -> Growth:
    """A group of layers, or two alike, that grows, stops at a window, or does not grow at all."""
    size, width = draw(st.sampled_from(sizes)), draw(st.integers(1, 2))
    most = draw(st.sampled_from([None, 1, 2, 5]))
    made = [Growth(size, most, 0, width), Growth.constant(width)]
    return draw(st.sampled_from(made))


def curves(*sizes: int) -> st.SearchStrategy[BlockCurve]:
    """Up to four groups that draw from the same blocks, of any of these sizes."""
    groups = st.lists(growths(sizes), min_size=1, max_size=4)
    return groups.map(lambda some: BlockCurve.of(tuple(some)))


def hybrids(*sizes: int) -> st.SearchStrategy[BlockCurve]:
    """Groups of one block size, or of several."""
    return st.sampled_from(sizes).flatmap(curves) | curves(*sizes)


@st.composite
def pools_beside(
    draw: st.DrawFn, menu: Menu, longest: int
) -> tuple[tuple[int, BlockCurve, int], ...]:
    """One or two pools more, each under a pressure of its own: any may be the first to run out."""
    kinds = st.one_of(
        st.builds(BlockCurve, st.sampled_from([4, 1])),
        st.builds(BlockCurve, st.just(4), st.just(0), st.sampled_from([(20,), (2, 5), (3,)])),
        st.builds(BlockCurve, st.just(1), st.just(0), st.just(()), st.integers(1, 2)),
        hybrids(3, 4, 16),
    )
    beside = []
    for curve in draw(st.lists(kinds, min_size=1, max_size=2)):
        pressure = draw(st.sampled_from(menu.pressures)) * draw(st.sampled_from([1, 2, 6]))
        blocks = int(curve.blocks_at(longest) * pressure) + draw(st.integers(0, 2))
        beside.append((blocks, curve, draw(st.integers(1, 5))))
    return tuple(beside)


@st.composite
def pools(draw: st.DrawFn, menu: Menu, allocator: str, longest: int) -> Pool:
    """Pools from too small for the longest request to much too large for all of them."""
    curve = BlockCurve(draw(st.sampled_from([4, 1, 16])))
    if allocator in ("paged", "virtual", "apart") and draw(st.booleans()):
        curve = draw(hybrids(4, 1, 16, 6))
    pressure = draw(st.sampled_from(menu.pressures)) * (2 if allocator == "grow" else 1)
    per_token = sum(part.growing / part.block_size for part in curve.parts) or 1 / curve.block_size
    stopping = sum(len(part.caps) for part in curve.parts) + curve.fixed
    is_apart = allocator == "apart"
    roomy = draw(st.sampled_from([1, 3])) if is_apart else 1
    return Pool(
        allocator,
        (int(longest * per_token * pressure) + 3 * stopping + 1) * roomy,
        curve,
        eviction=draw(st.sampled_from(["lru", "fifo", "lfu"])),
        placement=draw(st.sampled_from(["first-fit", "best-fit", "buddy"])),
        compaction=draw(st.booleans()),
        weight=draw(st.integers(1, 5)) if is_apart else 1,
        beside=draw(pools_beside(menu, longest)) if is_apart else (),
    )


@st.composite
def with_windows(draw: st.DrawFn, pool: Pool, longest: int, budget: int) -> Pool:
    """Give its groups windows or chunks, and as many blocks as before a token, but for luck."""

    def window() -> Growth:
        size, span = draw(st.sampled_from([4, 1, 16, 8])), draw(st.sampled_from([8, 2, 17, 40]))
        is_chunk = draw(st.sampled_from([False, False, True]))
        admitted = -(-(span - 1 + 2 * budget) // size) + 1
        return Growth.moving(size, Window(span, is_chunk, admitted))

    full = [Growth.full(draw(st.sampled_from([4, 8])))] * draw(st.integers(0, 1))
    states = [Growth.constant(1)] * draw(st.integers(0, 1))
    growths = (*full, *(window() for _ in range(draw(st.integers(1, 2)))), *states)
    least = BlockCurve.of(growths).blocks_at(longest) + len(growths)
    more = draw(st.sampled_from([0, 1, least, 10 * least]))
    return replace(pool, blocks=least + more, growths=growths)


def read_curves() -> st.SearchStrategy[KVReadCurve]:
    """Plain attention, windows, chunks."""
    return st.sampled_from(
        [PLAIN_READS, windowed_reads(24, 400, 600), sawtooth_reads(16, 300, 700)]
    )


@st.composite
def cases(draw: st.DrawFn, menu: Menu, scheduler: str, allocator: str) -> tuple[Case, Given]:
    """A workload and an engine that may be too small for it."""
    workload = draw(requests(menu))
    longest = longest_of(workload)
    bounds = draw(limits(menu, longest))
    pool = replace(draw(pools(menu, allocator, longest)), max_model_len=bounds.max_model_len)
    if allocator == "windows":
        workload = Given([replace(part, samples=None) for part in workload.parts])
        pool = draw(with_windows(pool, longest_of(workload), bounds.max_num_batched_tokens))
    watermark = draw(st.sampled_from([0.01, 0.1, 0.3]))
    return Case(scheduler, pool, bounds, draw(read_curves()), watermark=watermark), workload


@st.composite
def talks(
    draw: st.DrawFn, *, in_ticks: bool
) -> tuple[list[list[tuple[int, int, float]]], float, bool]:
    """A few clients, their turns, when they start, and whether the first branches."""
    dice = random.Random(draw(st.integers(0, 2**32)))
    most_think = draw(st.sampled_from([0, 5, 100]))

    def turn() -> tuple[int, int, float]:
        think = dice.randint(0, most_think) if in_ticks else dice.uniform(0, most_think)
        return dice.randint(1, 25), dice.randint(1, 12), think * TICK

    turns = [[turn() for _ in range(dice.randint(1, 5))] for _ in range(draw(st.integers(1, 10)))]
    return turns, draw(st.sampled_from([0.0, 3 * TICK, 40 * TICK])), draw(st.booleans())
