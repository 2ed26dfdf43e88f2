"""Small parts that the simulator's tests are assembled from, by hand and without a scenario."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.arrival_queue import arrival_queue
from kvsim.simulator.batch import DecodeBatch, decode_batch
from kvsim.simulator.clock import RecomputeClock, StepClock
from kvsim.simulator.recorder import ROW_COLUMNS, STEP_ROW, Recorder
from kvsim.simulator.replica import Replica, run_replica
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers import SCHEDULERS, Scheduler, SchedulerLimits, StepPlan
from kvsim.steptime.kv_reads import KVReadCurve
from kvsim.steptime.model import ConstantStepTime, StepCost, StepLoad
from kvsim.workload.base import ClosedLoop, NextRequest, RequestTable, Workload
from kvsim.workload.content import PrefixContent, SegmentContent
from kvsim.workload.streams import Streams
from tests import oracle
from tests.support.memories import Pool

TOKEN_BYTES = 1000
PLAIN_READS = KVReadCurve((), (1,), (TOKEN_BYTES,), (TOKEN_BYTES,))


@dataclass(frozen=True)
class CurvedStepTime:
    """A step-time model with every feature that the real one has, and odd constants.

    It bends in the tokens, is linear in KV bytes (slower beside prompts) and in pairs (which
    two pipeline stages share); all but its ends takes at least what it takes to launch it.
    """

    kv_seconds_per_byte: float = 1.7e-9
    launching_seconds: float = 0.0

    def cost(self, load: StepLoad) -> StepCost:
        """Terms of one step."""
        mixed = load.tokens > load.sequences
        factor = 1.31 if mixed else 1.0
        products = sqrt(1e-6 + (7.3e-5 * load.tokens) ** 2)
        reads = factor * self.kv_seconds_per_byte * load.kv_read_bytes
        pairs = 2.9e-7 * load.prefill_pairs / min(2, max(1, load.sequences))
        return StepCost(
            host_seconds=3.1e-3,
            roofline_seconds=products,
            kv_seconds=reads,
            prefill_attention_seconds=pairs,
            sequence_seconds=1.9e-5 * load.sequences,
            launch_seconds=max(0.0, self.launching_seconds - products - reads - pairs),
        )


def causal_pairs(start: int, count: int) -> float:
    """Query-key pairs of a chunk under full attention."""
    return count * start + count * (count + 1) / 2


def windowed_reads(window: int, wide: int, narrow: int) -> KVReadCurve:
    """Bytes read by layers that see everything (`wide` a token) and a window (`narrow`)."""
    total = wide + narrow
    full = window * total
    return KVReadCurve((window,), (1, window + 1), (total, full + wide), (total, wide))


def sawtooth_reads(chunk: int, wide: int, narrow: int) -> KVReadCurve:
    """Bytes read with chunked attention, whose mean after the first chunk is half of it."""
    total = wide + narrow
    after = (chunk + 1) * wide + narrow * (chunk + 1) // 2
    return KVReadCurve((chunk,), (1, chunk + 1), (total, after), (total, wide))


# ---- workloads --------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """An open-loop workload: these tables."""

    parts: Sequence[RequestTable]

    def tables(self, streams: Streams, chunk_rows: int = 0) -> Iterator[RequestTable]:
        """The tables as given."""
        yield from self.parts


def table(
    arrivals: Sequence[float],
    prompts: Sequence[int],
    outputs: Sequence[int],
    *,
    priority: Sequence[int] | None = None,
    samples: Sequence[int] | None = None,
    content: PrefixContent | None = None,
) -> RequestTable:
    """A table of requests."""
    return RequestTable(
        np.array(arrivals, dtype=float),
        np.array(prompts),
        np.array(outputs),
        priority=None if priority is None else np.array(priority),
        samples=None if samples is None else np.array(samples),
        content=content,
    )


@dataclass
class Talks:
    """A closed loop of clients, each with a list of turns ``(said, output, think seconds)``.

    The context of a talk grows turn by turn and is shared through `content`. Clients start
    `ramp` seconds apart, and one that has `twin` set starts two branches at its first answer.
    """

    clients: Sequence[Sequence[tuple[int, int, float]]]
    ramp: float = 0.0
    twin: bool = False
    samples: int = 1
    asker: list[int] = field(default_factory=list)
    said: list[int] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.segments = SegmentContent([], [], [])
        self.content: PrefixContent | None = self.segments

    def start(self, streams: Streams) -> RequestTable:
        """Every client's first request."""
        self.turn = [0] * len(self.clients)
        self.said = [0] * len(self.clients)
        rows = [self._ask(client, client * self.ramp) for client in range(len(self.clients))]
        return RequestTable.of_requests(rows, self.content)

    def _ask(self, client: int, at: float) -> NextRequest:
        said, output, _ = self.clients[client][self.turn[client]]
        prompt = self.said[client] + said
        self.said[client] = prompt + output
        self.turn[client] += 1
        self.asker.append(client)
        self.segments.shared_stream.append(0)
        self.segments.shared_tokens.append(0)
        self.segments.own_stream.append(1 + client)
        return NextRequest(at, prompt, output, client, self.samples)

    def following(self, row: int, finish_seconds: float) -> NextRequest | None:
        """The next turn, after a think."""
        client = self.asker[row]
        if self.turn[client] >= len(self.clients[client]):
            return None
        think = self.clients[client][self.turn[client] - 1][2]
        return self._ask(client, finish_seconds + think)

    def branches(self, row: int, finish_seconds: float) -> tuple[NextRequest, ...]:
        """A second turn at once, for the first client's first answer."""
        client = self.asker[row]
        if not self.twin or row or self.turn[client] >= len(self.clients[client]):
            return ()
        return (self._ask(client, finish_seconds),)


def request(
    row: int,
    prompt: int,
    output: int,
    *,
    priority: int = 0,
    samples: int = 1,
    content: PrefixContent | None = None,
) -> Request:
    """A request that has just arrived."""
    made = Request(row, 0.0, prompt, output)
    made.priority, made.samples = priority, samples
    made.content, made.content_row = content, row
    return made


# ---- memory without a scheduler ----------------------------------------------------------


def admitted(memory: Allocator, *requests: Request) -> list[int | None]:
    """Admit whole prompts; return what was cached of each, None for no room."""
    found = []
    for one in requests:
        cached = memory.allocate(one, one.prefill_tokens)
        if cached is not None:
            one.computed_tokens = one.prefill_tokens
        found.append(cached)
    return found


def decoding(memory: Allocator, *requests: Request) -> DecodeBatch:
    """Let admitted requests decode."""
    batch = memory.batch = decode_batch(memory.growths, PLAIN_READS)
    for one in requests:
        one.generated_tokens = 1
        batch.join(one)
    return batch


def opened(memory: Allocator, batch: DecodeBatch, steps: int) -> int:
    """Blocks of the first pool that a run of steps takes."""
    before, opening = memory.free_blocks, batch.phases.blocks_for(batch.step, steps)
    memory.allocate_steps(batch, steps, opening)
    return before - memory.free_blocks


def finished(memory: Allocator, *requests: Request) -> None:
    """Let requests go."""
    for one in requests:
        memory.free(one)


# ---- a run ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One simulation: everything but the workload."""

    scheduler: str
    pool: Pool
    limits: SchedulerLimits
    reads: KVReadCurve = PLAIN_READS
    step_time: CurvedStepTime | ConstantStepTime = CurvedStepTime()
    watermark: float = 0.01
    link_seconds_per_token: float = 2.3e-5
    copy_seconds_per_token: float = 1.1e-6
    options: Mapping[str, object] = field(default_factory=dict)  # of the scheduler


class Log(Recorder):
    """A recorder that also writes the admissions down, and can be told of every run."""

    def __init__(self) -> None:
        super().__init__()
        self.admissions: list[tuple[int, float, int]] = []
        self.held_after: list[int] = []
        write = self.write_steps

        def told(row: bytes) -> None:
            write(row)
            self.run_begins(dict(zip(ROW_COLUMNS, STEP_ROW.unpack(row), strict=True)))

        self.write_steps = told

    def run_begins(self, row: Mapping[str, float]) -> None:
        """For those who want to know what a run of steps starts with."""

    def watch_admissions(self, scheduler: Scheduler) -> None:
        """Note row, time and hits of every one."""
        start = scheduler._start

        def noted(request: Request, cached_tokens: int, now: float) -> None:
            start(request, cached_tokens, now)
            self.admissions.append((request.row, now, cached_tokens))

        scheduler._start = noted  # type: ignore[method-assign]


def watch_laws(scheduler: Scheduler, log: Log) -> None:
    """Check every law after every event, and note the slots held then."""
    finish, decoded = scheduler.finish, scheduler.decoded

    def look() -> None:
        scheduler.check()
        allocator = scheduler.allocator
        log.held_after.append(allocator.held_slots - allocator.rounded_slots)

    def checked_finish(plan: StepPlan, steps: int, now: float) -> list[Request]:
        done = finish(plan, steps, now)
        look()
        return done

    def checked_decoded(steps: int, now: float) -> list[Request]:
        done = decoded(steps, now)
        look()
        return done

    scheduler.finish, scheduler.decoded = checked_finish, checked_decoded  # type: ignore[method-assign]


def build(case: Case, workload: Workload | ClosedLoop, log: Log | None = None) -> Replica:
    """Assemble a replica by hand."""
    log = log or Log()
    allocator = case.pool.simulated()
    batch = decode_batch(allocator.growths, case.reads)
    scheduler = SCHEDULERS.find(case.scheduler)(case.limits, allocator, batch, log, **case.options)
    log.watch_admissions(scheduler)
    clock = RecomputeClock if case.pool.allocator == "none" else StepClock
    timed = clock(
        case.step_time,  # type: ignore[arg-type]
        causal_pairs,
        link_seconds_per_token=case.link_seconds_per_token,
        copy_seconds_per_token=case.copy_seconds_per_token,
    )
    return Replica(scheduler, timed, arrival_queue(workload, Streams(0), log), log)


def simulated(case: Case, workload: Workload | ClosedLoop, *, checked: bool = True) -> Log:
    """Run the simulator; unless told otherwise, check its laws after every event."""
    log = Log()
    replica = build(case, workload, log)
    if checked:
        watch_laws(replica.scheduler, log)
    run_replica(replica)
    return log


def stepped(case: Case, workload: Workload | ClosedLoop) -> oracle.Engine:
    """Run the oracle."""
    limits = case.limits
    is_async = limits.async_scheduling and case.scheduler == "vllm-v1"
    memory = case.pool.plain(int(is_async))
    marked = {"vllm-v0", "sarathi"}
    bounds = oracle.Limits(
        limits.max_num_seqs,
        limits.max_num_batched_tokens,
        limits.max_model_len,
        limits.long_prefill_token_threshold,
        limits.waives_threshold,
        is_async,
        limits.admission,
        limits.preemption == "swap",
        int(case.watermark * case.pool.blocks) if case.scheduler in marked else 0,
    )
    costs = oracle.Costs(
        case.step_time,
        causal_pairs,
        case.reads.bytes_at,
        case.link_seconds_per_token,
        case.copy_seconds_per_token,
        case.pool.allocator == "none",
    )
    engine = oracle.ENGINES[case.scheduler](memory, bounds, costs, oracle.Arrivals(workload))
    return engine.run()
