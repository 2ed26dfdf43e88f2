"""Laws of a run, read from what it recorded and published; none asks the engine itself.

Each is a function of a `Told` that raises `LawError`, in words. A request is in the system from its
arrival to its finish::

    arrival        scheduled          first token                finish
       | waits, is counted   | prefills       | decodes, is counted  |
       | in `waiting`        |                | in `sequences`       |
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kvsim.results.result import SimulationResult
from kvsim.simulator.prepare import Setup

__all__ = ["CHECKERS", "LawError", "Told", "is_prefix", "same"]

Floats = npt.NDArray[np.float64]
ROUNDING = 1e-9


class LawError(AssertionError):
    """A law is broken."""


def hold(law: object, words: str) -> None:
    """Raise what is wrong unless a law holds."""
    if not law:
        raise LawError(words)


@dataclass(frozen=True)
class Told:
    """What a run told, and whether it came to its end."""

    result: SimulationResult
    whole: bool = True

    @property
    def setup(self) -> Setup:
        """The question."""
        return self.result.setup

    @cached_property
    def requests(self) -> dict[str, Floats]:
        """Columns of the table of requests."""
        return {name: column.to_numpy() for name, column in self.result.requests.items()}

    @cached_property
    def steps(self) -> dict[str, Floats]:
        """Columns of the table of steps, and where each row ends."""
        columns = {name: column.to_numpy() for name, column in self.result.steps.items()}
        return columns | {"end": columns["start_seconds"] + columns["seconds"]}

    @property
    def samples(self) -> int:
        """Parallel sequences of each request."""
        return self.setup.scenario.workload.samples

    @property
    def preemptions(self) -> int:
        """Of all requests."""
        return int(self.requests["preemptions"].sum())

    @cached_property
    def served(self) -> npt.NDArray[np.bool_]:
        """Requests that were not refused."""
        return ~self.requests["rejected"].astype(bool)

    @cached_property
    def done(self) -> npt.NDArray[np.bool_]:
        """Requests that finished."""
        return ~np.isnan(self.requests["finish_seconds"])

    def moment(self, name: str) -> Floats:
        """When something happened to each request; infinite: never."""
        return np.nan_to_num(self.requests[f"{name}_seconds"], nan=np.inf)

    def between(self, start: str, end: str) -> npt.NDArray[np.int64]:
        """Served requests that are between two moments, at the start of every row."""
        at = self.steps["start_seconds"][:, None]
        begun = self.moment(start)[self.served] <= at
        return (begun & (self.moment(end)[self.served] > at)).sum(axis=1)

    @cached_property
    def plans_ahead(self) -> bool:
        """Whether a step is planned while the one before it is computed."""
        setup = self.setup
        return setup.scheduler.plans_ahead and bool(setup.deployment.options.async_scheduling)

    @property
    def leaving(self) -> npt.NDArray[np.int64]:
        """Requests that ended as a row began, and keep their memory until it is planned."""
        at = self.steps["start_seconds"][:, None]
        ended = (self.moment("finish")[self.served] == at).sum(axis=1)
        return ended if self.plans_ahead else np.zeros_like(ended)

    def seen(self, at: float) -> float:
        """Until when arrivals were known, at the least, to the plan of the row that began then."""
        if not self.plans_ahead:
            return at
        starts = self.steps["start_seconds"]
        row = int(np.searchsorted(starts, at)) - 1
        return float(starts[row]) if row >= 0 else -np.inf

    @property
    def unseen(self) -> npt.NDArray[np.int64]:
        """Most served requests that came before a row, and that its plan did not know of yet."""
        starts = self.steps["start_seconds"]
        if not self.plans_ahead:
            return np.zeros(len(starts), dtype=np.int64)
        came = np.searchsorted(np.sort(self.moment("queued")[self.served]), starts, side="right")
        return came - np.concatenate([[0], came[:-1]])


# ---- nothing is lost ------------------------------------------------------------------------


def every_request_once(told: Told) -> None:
    """Finished, refused, or, in a run that was cut, unfinished: each request is one of them."""
    rows, summary = told.requests["row"], told.result.summary
    hold((np.diff(rows) > 0).all(), "the table of requests has a row twice or out of order")
    hold(not (told.done & ~told.served).any(), "a refused request finished")
    refused, done = int((~told.served).sum()), int(told.done.sum())
    left = len(rows) - refused - done
    counts = {"completed": done, "rejected": refused, "unfinished": left}
    for name, count in counts.items():
        hold(summary[name] == count, f"{summary[name]} {name} in the summary, {count} in the table")
    if told.whole:
        hold(left == 0, f"{left} requests never finished")
        asked = told.setup.scenario.workload.requests
        hold(asked in (None, len(rows)), f"{asked} requests were asked for, {len(rows)} came")


def every_token_once(told: Told) -> None:
    """What was computed or found is what finished requests keep, and what preemptions lost.

    A finished sequence has ``prompt + output - 1`` tokens in the cache; samples share the
    prompt's. After a preemption they are computed as one, so their sum has no closed form.
    """
    if told.samples > 1 and told.preemptions:
        return
    steps, summary = told.steps, told.result.summary
    written = int((steps["steps"] * steps["sequences"] + steps["prefill_tokens"]).sum())
    written += summary["prefix_cache"]["hits"]
    prompts = told.requests["prompt_tokens"][told.done]
    outputs = told.requests["output_tokens"][told.done]
    kept = int((prompts + told.samples * (outputs - 1)).sum())
    kept += summary["recomputed_tokens"]
    if told.whole:
        hold(written == kept, f"{written} tokens were written, {kept} are accounted for")
    else:
        hold(written >= kept, f"{written} tokens were written, of which {kept} were finished")


# ---- order ------------------------------------------------------------------------------------


def a_life_in_order(told: Told) -> None:
    """Arrival, admission, first token, finish, all before the end."""
    requests = told.requests
    arrival, scheduled = told.moment("queued"), told.moment("scheduled")
    first, finish = told.moment("first_token"), told.moment("finish")
    hold((arrival <= scheduled).all(), "a request was scheduled before it arrived")
    admitted = np.isfinite(first)
    hold((scheduled < first)[admitted].all(), "a first token came without a step")
    hold((first <= finish).all(), "a request finished before its first token")
    longer = told.done & (requests["output_tokens"] > 1)
    hold((first < finish)[longer].all(), "a second token came with the first")
    end = told.result.recording.end_seconds
    last = max(float(each[np.isfinite(each)].max(initial=0)) for each in (first, finish))
    hold(last <= end, f"something happened at {last}, after the end at {end}")
    refused = ~told.served
    hold(np.isinf(scheduled[refused]).all(), "a refused request was scheduled")


def admissions_in_order(told: Told) -> None:
    """Nobody is admitted while somebody waits who has precedence.

    Of two requests, the one with precedence was there when the other was first admitted, so
    its own first admission is not later. Who looks at arrivals now and then knows but of those
    that came before the last look, which keeps the order of arrival alone.
    """
    spec = told.setup.scenario.scheduler
    if "scheduler_recv_interval" in spec.policy.parameters and str(spec.admission) != "fcfs":
        return
    arrival, scheduled = told.moment("queued"), told.moment("scheduled")
    keys = _precedence(told)
    order = [row for row in np.lexsort((keys, scheduled)) if told.served[row]]
    for place, later in enumerate(order):
        for earlier in order[:place]:
            at = scheduled[earlier]
            there = arrival[later] <= told.seen(at) and at < scheduled[later]
            if there and keys[later] < keys[earlier]:
                raise LawError(
                    f"request {earlier} was admitted at {at} while {later}, before it in the"
                    f" order {told.setup.scenario.scheduler.admission}, waited"
                )


def _precedence(told: Told) -> Floats:
    """A number by request, the smallest to be admitted first."""
    tables = told.result.recording.recorder.tables
    rows = told.requests["row"].astype(int)
    marks = [np.zeros(len(each)) if each.priority is None else each.priority for each in tables]
    priority = np.concatenate(marks)[rows]
    prompts = told.requests["prompt_tokens"].astype(float)
    by_order = {
        "fcfs": np.lexsort((rows, told.moment("queued"))),
        "priority": np.lexsort((rows, priority)),
        "shortest-first": np.lexsort((rows, prompts)),
        "soak-longest-first": np.lexsort((rows, -prompts)),
    }
    order = by_order[str(told.setup.scenario.scheduler.admission)]
    place = np.empty(len(order))
    place[order] = np.arange(len(order))
    return place


# ---- time -------------------------------------------------------------------------------------


def time_adds_up(told: Told) -> None:
    """Steps do not overlap; between them the replica idles only when nobody is there."""
    steps = told.steps
    start, end = steps["start_seconds"], steps["end"]
    hold((steps["seconds"] >= 0).all() and (steps["steps"] >= 1).all(), "a step went back in time")
    hold((start[1:] >= end[:-1]).all(), "two steps overlap")
    gaps = np.flatnonzero(start[1:] > end[:-1])
    arrival, finish = told.moment("queued")[told.served], told.moment("finish")[told.served]
    for row in gaps:
        there = (arrival < start[row + 1]) & (finish > end[row])
        hold(not there.any(), f"the replica idles from {end[row]}, while a request is there")
    if told.whole and len(end):
        last = told.result.recording.end_seconds
        hold(end[-1] <= last, "the last step ends after the run")
        if not told.setup.scenario.run.warmup_fraction:
            totals = told.result.totals
            _close(totals.busy_seconds, steps["seconds"].sum(), "busy seconds")
            _close(totals.span_seconds, last, "the span of the run")


def constant_steps_are_constant(told: Told) -> None:
    """With a constant step time a run of k steps takes k of them, unless tokens are moved."""
    spec, scenario, steps = told.setup.scenario.step_time, told.setup.scenario, told.steps
    if spec.seconds is None:
        return
    works = (steps["sequences"] > 0) | (steps["prefill_tokens"] > 0)
    least = np.where(works, steps["steps"] * spec.seconds, 0.0)
    slack = ROUNDING * np.maximum(least, 1)
    hold((steps["seconds"] >= least - slack).all(), "a run of steps is too short for its steps")
    copies = scenario.memory.compaction or scenario.memory.allocator == "grow"
    if not copies and scenario.scheduler.preemption == "recompute":
        hold((steps["seconds"] <= least + slack).all(), "a run of steps is too long for its steps")


def littles_law(told: Told) -> None:
    """The queue that steps counted is the one that requests stood in, at every step.

    Little's law equates the means of the two; here it holds moment by moment. A preempted
    request waits again, which its row does not say, so then it is a bound; and so it is where a
    step is planned while the one before it is computed.
    """
    steps = told.steps
    waiting = told.between("queued", "scheduled")
    again = told.preemptions
    least, most = waiting - told.unseen, waiting + again
    counted = steps["waiting"]
    lasting = steps["seconds"] > 0  # a step without work ends a batch in no time at all
    wrong = np.flatnonzero(lasting & ((counted < least) | (counted > most)))
    if len(wrong):
        row = wrong[0]
        raise LawError(
            f"{counted[row]:g} requests wait in step row {row}, by their own times {waiting[row]}"
        )
    decoding = told.samples * told.between("first_token", "finish")
    most_decode = (steps["sequences"] <= decoding).all()
    hold(most_decode, "more sequences decode than have had their first token")
    scheduler = told.setup.scheduler
    held_back = told.setup.scenario.scheduler.long_prefill_token_threshold > 0
    if not again and not scheduler.keeps_batch_closed and not held_back:
        lazy = steps["sequences"] < decoding
        if scheduler.prefills_stop_decodes:
            lazy &= steps["prefill_tokens"] == 0
        hold(not lazy.any(), "a sequence that had its first token does not decode")


# ---- memory -------------------------------------------------------------------------------------


def the_pool_is_never_over_its_size(told: Told) -> None:
    """Held, kept and free slots are counts, and add up to the pool."""
    pool, steps, memory = told.setup.pool_slots, told.steps, told.result.memory
    taken = steps["grown_slots"] + steps["left_slots"]
    least = min(slots.min(initial=0) for slots in (steps["held_slots"], taken))
    hold(least >= 0, f"{least:g} slots are held or allocated")
    most = (steps["held_slots"] + steps["grown_slots"]).max(initial=0)
    hold(most <= pool, f"{most:g} slots are held of {pool}")
    parts = memory.drop(columns="start_seconds").to_numpy()
    lowest = parts.min(initial=0)
    hold(lowest >= -ROUNDING * pool, f"a part of the pool has {lowest:g} slots")
    cache = told.result.kv_cache()
    mean, peak = cache["usage_mean"], cache["usage_peak"]
    in_order = 0 <= mean <= peak + ROUNDING <= 1 + 2 * ROUNDING
    hold(in_order, f"usage is {mean} on average and {peak} at the peak")
    _close(sum(cache["waste"].values()), 1.0, "the parts of the pool")


def no_block_is_held_by_nobody(told: Told) -> None:
    """What pages hold beyond their tokens is less than a block for every running sequence.

    Samples that are computed again after a preemption hold what only one of them has written.
    """
    if told.samples > 1 and told.preemptions:
        return
    memory = told.setup.scenario.memory.allocator
    pools = told.setup.pools
    is_plain = len(pools.pools) == 1 and pools.main.is_plain
    if not is_plain or memory not in ("paged", "prefix", "soak-thrifty"):
        return
    steps = told.steps
    running = told.samples * (told.between("scheduled", "finish") + told.leaving)
    beyond = steps["held_slots"] - steps["filled_slots"] - steps["prefill_tokens"]
    size = pools.main.curve.block_size
    least = 0 if told.samples > 1 else 1  # written of a block; a copy is made empty
    leaked = (beyond - running * (size - least)).max(initial=0)
    hold(leaked <= 0, f"{leaked:g} slots are held that belong to nobody")


# ---- preemption -------------------------------------------------------------------------------


def preemptions_are_accounted_for(told: Told) -> None:
    """Each happened to somebody who was running; what it moved or lost was somebody's cache."""
    recorder, summary = told.result.recording.recorder, told.result.summary
    events = recorder.preempted
    hold(summary["preemptions"] == told.preemptions == len(events), "preemptions are miscounted")
    starts, rows = told.steps["start_seconds"], told.requests["row"].astype(int)
    places = {row: place for place, row in enumerate(rows)}
    scheduled, finish = told.moment("scheduled"), told.moment("finish")
    for row, step in events:
        if step < len(starts):
            at, place = starts[step], places[row]
            hold(
                scheduled[place] <= at < finish[place]
                or (told.plans_ahead and at == finish[place]),
                f"{row} was preempted while it did not run",
            )
    if not events:
        hold(not summary["recomputed_tokens"], "tokens are recomputed, and nobody was preempted")
    if not events or told.setup.scenario.scheduler.preemption == "recompute":
        hold(not summary["swapped_tokens"], "tokens were swapped, and nobody was")


# ---- what is published ---------------------------------------------------------------------------


def the_summary_is_of_the_tables(told: Told) -> None:
    """Finite numbers in valid JSON, percentiles in order, totals of the tables."""
    summary = json.loads(json.dumps(told.result.summary, allow_nan=False))
    requests, done = told.requests, told.done
    for name in ("ttft", "tpot", "itl", "e2el", "queue"):
        points = [summary[f"{point}_{name}_ms"] for point in ("p50", "p90", "p95", "p99")
                  if f"{point}_{name}_ms" in summary]  # fmt: skip
        known = [point for point in points if point is not None]
        hold(known == sorted(known), f"percentiles of {name} are not in order: {points}")
        hold(all(point >= -ROUNDING for point in known), f"a negative {name}")
    tokens = int(requests["output_tokens"][done].sum())
    hold(summary["total_output_tokens"] == tokens, "output tokens of the summary and the table")
    if done.any() and summary["duration"] > 0:
        _close(summary["request_throughput"] * summary["duration"], done.sum(), "throughput")
    waits = told.moment("first_token") - told.requests["queued_seconds"]
    waits = waits[told.result.judged]
    waits = waits[np.isfinite(waits)]
    if len(waits) and summary["mean_engine_ttft_ms"] is not None:
        _close(summary["mean_engine_ttft_ms"], 1e3 * waits.mean(), "mean TTFT of the engine")
        hold(summary["mean_ttft_ms"] >= summary["mean_engine_ttft_ms"] - ROUNDING, "TTFT")
    if summary["request_goodput"] is not None:
        hold(summary["request_goodput"] <= summary["request_throughput"], "goodput over throughput")


CHECKERS: tuple[Callable[[Told], None], ...] = (
    every_request_once,
    every_token_once,
    a_life_in_order,
    admissions_in_order,
    time_adds_up,
    constant_steps_are_constant,
    littles_law,
    the_pool_is_never_over_its_size,
    no_block_is_held_by_nobody,
    preemptions_are_accounted_for,
    the_summary_is_of_the_tables,
)


def _close(one: float, other: float, what: str) -> None:
    hold(abs(one - other) <= ROUNDING * max(1.0, abs(other)), f"{what}: {one} and {other}")


# ---- two runs ------------------------------------------------------------------------------------


def same(one: Told, other: Told, what: str) -> None:
    """Two runs of one world told the same, to the last bit."""
    for name in ("requests", "steps"):
        mine, others = getattr(one, name), getattr(other, name)
        for column, values in mine.items():
            alike = np.array_equal(values, others[column], equal_nan=values.dtype.kind == "f")
            hold(alike, f"{what}: {name} differ in {column}")


def is_prefix(part: Told, whole: Told, until: float) -> None:
    """A run that was cut tells what the whole run tells, up to a moment, and nothing else."""
    rows = part.requests["row"].astype(int)
    for name in ("arrival", "queued", "scheduled", "first_token", "finish"):
        mine, all_of_it = part.moment(name), whole.moment(name)[rows]
        told = np.isfinite(mine)
        hold((mine == all_of_it)[told].all(), f"a cut run has another {name} than the whole one")
        if name == "queued":  # of a closed loop it is known when its turn comes, at a later step
            continue
        missed = ~told & (all_of_it < until)
        hold(not missed.any(), f"a cut run lost a {name} that came before its end")
    count = len(part.steps["steps"])
    for name, column in part.steps.items():
        known = whole.steps[name][:count]
        hold(np.array_equal(column, known), f"a cut run has other steps: {name}")
