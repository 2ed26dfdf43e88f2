"""What every scheduler shares: who waits, who prefills, who decodes, and how one gives way.

A scheduler answers one question at each step boundary, with a `StepPlan`; the replica makes
time pass and hands the plan back to ``finish``::

    add_request() ──▶ waiting ──schedule()──▶ prefilling ──finish()──▶ batch ──▶ done
                           ▲                    │                      │
                           └────── preempt ─────┴──────────────────────┘

A plan that only decodes stays right until something changes, and says for how many steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import inf
from operator import attrgetter
from typing import ClassVar

from kvsim.errors import InvariantError
from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.batch import DecodeBatch, HybridBatch
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers.queues import ADMISSION_POLICIES, WaitingQueue, importance
from kvsim.simulator.schedulers.steps import SchedulerLimits, StepPlan

__all__ = ["Scheduler"]

_seat = attrgetter("seat")  # order of admission, the last one of a request


class Scheduler(ABC):
    """One replica's scheduler: owns the queue and the running requests.

    Parameters
    ----------
    limits : SchedulerLimits
        What bounds a step.
    allocator : Allocator
        The memory.
    batch : DecodeBatch
        The decoding sequences.
    recorder : Recorder
        Where the moments of a request's life are written down.

    Attributes
    ----------
    mimics : str
        Which engine's release it follows.
    claimed_slots : int
        Slots that running requests are due, by what each has cached or computes in this step:
        a ledger beside the memory's own count of what is held.
    heeds_arrivals : bool
        Whether an arrival may change a plan that leaves others waiting.
    gave_way : bool
        Whether somebody was preempted in the plan made last and nobody admitted for it, so that
        one that has nothing to compute is made again at once.
    steps_taken : int
        Steps that have computed anything.
    resting : list of Request
        Decoding requests that this step has no tokens for.
    leaving : dict of Request to None
        Requests that have ended, and keep seat and memory until the next step is scheduled.
    watermark : float
        Share of the pool that an admission leaves free beside others that run.
    """

    mimics: ClassVar[str] = "no engine"
    watermark: ClassVar[float] = 0.0
    bounds_step_tokens: ClassVar[bool] = True  # whether a full step keeps requests out
    prefills_stop_decodes: ClassVar[bool] = False  # whether steps that prefill decode nobody
    keeps_batch_closed: ClassVar[bool] = False  # whether requests wait for a batch to end
    in_chunks: ClassVar[bool] = True  # whether no step computes more of a prompt than its budget
    plans_ahead: ClassVar[bool] = False  # whether asynchronous scheduling is heeded
    is_async = False  # whether a step is planned while the one before it is computed

    def __init__(
        self, limits: SchedulerLimits, allocator: Allocator, batch: DecodeBatch, recorder: Recorder
    ) -> None:
        self.limits = limits
        self.allocator = allocator
        self.batch = allocator.batch = batch
        allocator.in_chunks = self.in_chunks
        self.recorder = recorder
        self._watermark_blocks = int(self.watermark * allocator.total_blocks)
        self._seats_taken = self.steps_taken = 0
        self._follows = allocator.gives_back
        self._by_importance = limits.admission == "priority"
        self.waiting: WaitingQueue = ADMISSION_POLICIES.find(limits.admission)()
        self.heeds_arrivals = self.waiting.arrivals_can_overtake
        self.gave_way = False
        self.running: dict[Request, None] = {}
        self.running_sequences = 0
        self.claimed_slots = 0
        self.prefilling: dict[Request, None] = {}
        self.resting: list[Request] = []
        self.leaving: dict[Request, None] = {}
        self.moved_tokens = 0
        self._decode_plan = StepPlan([], decodes=True)
        self._step_plan = StepPlan([], decodes=True)

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self.waiting)

    # ---- a request's life -------------------------------------------------------------

    def add_request(self, request: Request) -> bool:
        """Queue an arrival; refuse one that the pool or the limits can never serve.

        Returns
        -------
        bool
            Whether it was queued.
        """
        if self.servable(request):
            self.waiting.push(request)
            return True
        self.recorder.reject(request.row)
        return False

    def servable(self, request: Request) -> bool:
        """Whether the request fits the length limit and an empty pool."""
        total = request.prompt_tokens + request.output_tokens
        if total > self.limits.max_model_len or request.samples > self.limits.max_num_seqs:
            return False
        return self.allocator.can_allocate(request)

    @abstractmethod
    def schedule(self, now: float) -> StepPlan | None:
        """Decide the next step; None when nothing can run until an arrival."""

    def decoded(self, steps: int, now: float) -> list[Request]:
        """Apply `steps` decode steps that have just ended; return the finished requests."""
        self.steps_taken += steps
        done = self.batch.advance(steps)
        if len(done) > 1:
            done.sort(key=_seat)
        for request in done:
            self._complete(request, now)
        return done

    def settle(self) -> bool:
        """Take back what requests hold that have left; tell whether there were any."""
        return False

    def finish(self, plan: StepPlan, steps: int, now: float) -> list[Request]:
        """Apply a plan whose `steps` steps have just ended; return the finished requests."""
        self.steps_taken += steps
        done: list[Request] = []
        if plan.decodes and self.batch.sequences:
            done = self.batch.advance(steps)
        for request, tokens in plan.prefills:
            request.computed_tokens += tokens
            if request.computed_tokens < request.prefill_tokens:
                continue
            del self.prefilling[request]  # its prompt is complete, and has given a token
            if not request.generated_tokens:
                self.recorder.first_token_seconds[request.row] = now
            request.generated_tokens += 1
            if request.generated_tokens == request.output_tokens:
                done.append(request)
            else:
                self._join(request, tokens)
        self._wake()
        if len(done) > 1:
            done.sort(key=_seat)
        for request in done:
            self._complete(request, now)
        return done

    def _wake(self) -> None:
        """Let those decode again who sat a step out."""
        if self.resting:
            for request in self.resting:
                self._join(request)
            self.resting.clear()

    def _join(self, request: Request, in_flight_tokens: int = 0) -> None:
        """Let a request decode from the next step on."""
        self.batch.join(request)
        if self._follows:
            self.allocator.follow(request, in_flight_tokens)

    def _complete(self, request: Request, now: float) -> None:
        """Free everything that a finished request holds."""
        self.recorder.finish_seconds[request.row] = now
        self._leave(request)

    def _leave(self, request: Request) -> None:
        """Take a finished request's seat and memory back."""
        del self.running[request]
        self.running_sequences -= request.samples
        allocator = self.allocator
        self.claimed_slots -= allocator.claim(request, request.computed_tokens)
        allocator.free(request)

    def _decode(self, most_steps: int = 0, opened_blocks: int = 0) -> StepPlan | None:
        """Plan to decode on until something changes; None when nothing decodes.

        After a preemption that is one step: nobody was admitted beside it, and its room may let
        somebody in at the next. The plan is one object, filled in anew: most are this one.

        Parameters
        ----------
        most_steps : int
            Steps after which something changes that the batch does not know; 0: nothing does.
        opened_blocks : int
            Blocks of the first step that are allocated already.
        """
        batch, plan = self.batch, self._decode_plan
        if not batch.sequences:
            return None
        limit = batch.steps_to_change()
        if self._has_slot():
            limit = min(limit, self.allocator.steps_to_more(self.waiting.head()) or limit)
        if most_steps and most_steps < limit:
            limit = most_steps
        plan.opened_blocks, plan.evicted_blocks = opened_blocks, 0
        if opened_blocks:
            self.allocator.free_blocks += opened_blocks
            plan.steps = self.allocator.decode_steps(batch, limit)
            self.allocator.free_blocks -= opened_blocks
        else:
            plan.steps = self.allocator.decode_steps(batch, limit)
        return plan

    # ---- admission ----------------------------------------------------------------------

    def _start(self, request: Request, cached_tokens: int, now: float) -> None:
        """Take the admitted head out of the queue; the first admission ends its queueing."""
        self._enter()
        request.computed_tokens = cached_tokens
        if not request.preemptions:
            self.recorder.scheduled_seconds[request.row] = now
        if cached_tokens:
            self.claimed_slots += self.allocator.claim(request, cached_tokens)
        if self.allocator.shares_prefixes:
            self.recorder.look_up(request, cached_tokens)

    def _enter(self) -> None:
        """Move the head of the queue among the running requests."""
        request = self.waiting.pop()
        self._seats_taken += 1
        request.seat = self._seats_taken
        self.running[request] = None
        self.running_sequences += request.samples

    def _resume(self, request: Request, spare_blocks: int) -> bool:
        """Bring the swapped-out head back, if its tokens have room; it decodes at once."""
        if not self.allocator.swap_in(request, spare_blocks=spare_blocks):
            return False
        self._enter()
        self.moved_tokens += request.computed_tokens * request.samples
        self.claimed_slots += self.allocator.claim(request, request.computed_tokens)
        request.swapped = False
        self._join(request)
        return True

    def _has_slot(self) -> bool:
        """Whether the head of the queue may take a place among the running sequences."""
        if not self.waiting:
            return False
        return self.running_sequences + self.waiting.head().samples <= self.limits.max_num_seqs

    # ---- preemption ---------------------------------------------------------------------

    def _make_room_to_decode(self) -> bool:
        """Preempt running requests, the newest first, until every decoding one can take a step.

        Returns
        -------
        bool
            Whether anything was preempted.
        """
        preempted = False
        self.allocator.turn = 0
        while self.batch.sequences and not self.allocator.can_decode(self.batch):
            self._preempt(self._victim())
            preempted = True
        self.allocator.turn = inf
        return preempted

    def _victim(self) -> Request:
        """Who gives way: the request admitted last; under priorities the least important."""
        if self._by_importance:
            return max(self.running, key=importance)
        return next(reversed(self.running))

    def _preempt(self, request: Request, planned_tokens: int = 0) -> None:
        """Take a request's memory away and put it back in the queue.

        That includes the blocks of what it was to compute in this step, if it was planned.
        """
        sequences = 1
        if request in self.batch.members:
            sequences = request.samples
            self.batch.leave(request)
            # All that was generated is in the cache, but for the newest token.
            request.generated_tokens = request.computed_tokens - request.prompt_tokens + 1
        else:
            self.prefilling.pop(request, None)
        del self.running[request]
        self.running_sequences -= request.samples
        self.claimed_slots -= self.allocator.claim(request, request.computed_tokens)
        self.allocator.free(request, preempted=True, planned_tokens=planned_tokens)
        self.recorder.preempt(request)
        request.preemptions += 1
        self._forget_or_swap(request, sequences)
        self.waiting.push_back(request)

    def _forget_or_swap(self, request: Request, sequences: int) -> None:
        """Drop the cache of a victim's sequences, to be recomputed, or move it to the host."""
        tokens = request.computed_tokens * sequences
        if self.limits.preemption == "swap" and request.generated_tokens:
            request.swapped = True
            self.moved_tokens += tokens
            self.recorder.swapped_tokens += tokens
        else:
            self.recorder.recomputed_tokens += tokens
            request.prefill_tokens = request.prompt_tokens + request.generated_tokens
            request.computed_tokens = 0

    def _compute(self, prefills: list[tuple[Request, int]], *, decodes: bool) -> StepPlan:
        """Plan one step: these prompt chunks, and the tokens that cross the host link."""
        plan = self._step_plan
        plan.prefills, plan.decodes = prefills, decodes
        plan.moved_tokens, self.moved_tokens = self.moved_tokens, 0
        plan.opened_blocks = plan.evicted_blocks = 0
        return plan

    # ---- laws ---------------------------------------------------------------------------

    def cached_tokens_in_all(self) -> int:
        """Cached tokens of all running requests, samples counted each."""
        tokens = self.batch.tokens
        for request in self.prefilling:
            tokens += request.computed_tokens
        for request in (*self.leaving, *self.resting):
            tokens += request.computed_tokens * request.samples
        return tokens

    def _still(self) -> Iterator[Request]:
        """Requests that hold memory and compute nothing in this step."""
        yield from self.leaving
        yield from self.resting

    def filled_slots(self) -> int:
        """Slots that the cached tokens of all running requests fill, samples counted each."""
        batch = self.batch
        decoding = batch.filled_slots if isinstance(batch, HybridBatch) else batch.tokens
        slots_of = batch.slots_of
        still = sum(slots_of(each.computed_tokens) * each.samples for each in self._still())
        return decoding + still + sum(slots_of(each.computed_tokens) for each in self.prefilling)

    def shared_slots(self) -> int:
        """Slots that the samples of a request fill together, for every sample but the first."""
        shared = self.batch.shared_slots
        for request in (*self.leaving, *self.resting):
            if request.samples > 1:
                shared += self.batch.shared_slots_of(request)
        return shared

    def cached_tokens(self, request: Request) -> int:
        """Cached tokens per sequence, of a running request."""
        if request in self.batch.members:
            return self.batch.cached_tokens(request)
        return request.computed_tokens

    def check(self) -> None:
        """Check the laws of the scheduler, its batch and its memory (tests call this).

        Raises
        ------
        InvariantError
            When a running request is counted twice or not at all.
        """
        held = len(self.prefilling) + len(self.batch.members) + sum(1 for _ in self._still())
        if len(self.running) != held:
            raise InvariantError("a running request neither prefills nor decodes, or does both")
        self._check_memory()

    def _check_memory(self) -> None:
        """Check the laws of the batch and of the memory."""
        if self.running_sequences != sum(request.samples for request in self.running):
            raise InvariantError("the count of running sequences has drifted")
        self.batch.check()
        allocator = self.allocator
        allocator.check((request, self.cached_tokens(request)) for request in self.running)
        shared = allocator.slots(self.cached_tokens_in_all(), None).shared
        due, held = self.claimed_slots - shared, allocator.held_slots - allocator.rounded_slots
        if due != held:
            raise InvariantError(
                f"running requests hold {held} slots, and are due {due}: by the memory's count of"
                " what is free, and by the claim of each"
            )
