"""vLLM V1: one token budget, running requests first, chunked prefill, last-in recompute.

Every rule is that of ``Scheduler.schedule`` in ``vllm/v1/core/sched/scheduler.py`` (and of what
it calls), beside which ``tests/engine_oracle`` runs this module.

Asynchronous scheduling (``AsyncScheduler``, ``EngineCore.step_with_batch_queue``) plans a step
while the one before it is computed. Of that step it knows everything but the tokens, so the plan
is the same, made with what was known a step earlier::

    step s              |----- computed -----|
    step s + 1 planned  ^                    |----- computed -----|
                        arrivals until here   a request that ends in s keeps seat and memory
                        are seen by s + 1     until s + 1 is planned
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers.base import Scheduler
from kvsim.simulator.schedulers.steps import SchedulerLimits, StepPlan
from kvsim.simulator.schedulers.vllm_settings import Pace, VLLMv1Settings

__all__ = ["VLLMv1"]


class VLLMv1(Scheduler):
    """The scheduler of vLLM's V1 engine.

    Every step has ``max_num_batched_tokens`` to spend: on running requests in the order of their
    admission (a token for each that decodes, a chunk of each prompt that was begun), then on
    new ones, first come first served. A new prompt is admitted only when all of it fits in the
    free blocks, and only in a step that preempted nobody. When blocks run out, the request that
    was admitted last (under priorities, the least important) gives its own up and is computed
    again later.

    Parameters
    ----------
    watermark : float
        ``--watermark`` (from 0.24): share of the pool's blocks that an admission leaves free
        beside others that run.
    max_num_active_seqs : int, optional
        ``--max-num-active-seqs`` (from 0.31): most sequences that run, where fewer than
        ``max_num_seqs``, for which graphs and buffers are made.
    long_prefill_token_threshold_adaptive : bool
        ``--long-prefill-token-threshold-adaptive`` (from 0.31): whether the threshold is at
        least a fair share of a step's tokens.
    prefill_schedule_interval : int
        ``--prefill-schedule-interval`` (0.33): steps from one that computes prompts to the next
        that may, while somebody decodes and the queue is short.
    scheduler_reserve_full_isl : bool, optional
        ``--scheduler-reserve-full-isl`` (from 0.19): whether all of a prompt must have room
        before its first chunk is computed; left out, what the release does.

    Raises
    ------
    InputError
        For values that the engine refuses.
    """

    plans_ahead = True
    mimics = "vLLM's V1 scheduler (running first, chunked prefill)"

    def __init__(
        self,
        limits: SchedulerLimits,
        allocator: Allocator,
        batch: DecodeBatch,
        recorder: Recorder,
        *,
        watermark: float = 0.0,
        max_num_active_seqs: int | None = None,
        long_prefill_token_threshold_adaptive: bool = False,
        prefill_schedule_interval: int = 1,
        scheduler_reserve_full_isl: bool | None = None,
    ) -> None:
        settings = VLLMv1Settings(
            watermark,
            max_num_active_seqs,
            long_prefill_token_threshold_adaptive,
            prefill_schedule_interval,
            scheduler_reserve_full_isl,
        )
        settings.check(limits)
        limits = settings.within(limits)
        super().__init__(limits, allocator, batch, recorder)
        if watermark:  # KVCacheManager counts the null block in
            self._watermark_blocks = int(watermark * (allocator.total_blocks + 1))
        self.is_async = limits.async_scheduling and self.plans_ahead
        allocator.planned_tokens, allocator.unknown_tokens = 1, int(self.is_async)
        allocator.longest_chunk = limits.longest_chunk
        # whose blocks are all alike, and who gives way newest first, may be asked in any order
        self._order_matters = allocator.running_first or self._by_importance
        has_rules = prefill_schedule_interval > 1 or limits.long_prefill_token_threshold > 0
        self._pace = Pace(limits, settings) if has_rules else None
        # who is blocked waits for a larger share of the step where a share is all that must fit
        if long_prefill_token_threshold_adaptive and not limits.scheduler_reserve_full_isl:
            self.heeds_arrivals = True
        # of the step that is planned
        self._planned: dict[Request, int] = {}  # tokens of those planned so far
        self._opened = 0  # blocks of its decodes that are allocated

    # ---- a step -------------------------------------------------------------------------

    def schedule(self, now: float) -> StepPlan | None:
        """Spend the budget on who runs, then on who waits."""
        allocator, batch = self.allocator, self.batch
        if not (self.waiting or self.prefilling or self.moved_tokens):
            self.gave_way = False
            if self._pace is not None:
                self._pace.is_bound_by_capacity = False
            if allocator.can_decode(batch):
                self._planned = {}
                return self._decode(1 if self.leaving else 0)
        evictions = allocator.evictions
        held_back = self._spend(now)
        planned, opened, gave_way = self._planned, self._opened, self.gave_way
        plan: StepPlan | None
        if planned or self.moved_tokens or (gave_way and batch.sequences):
            prefilling = self.prefilling
            chunks = [pair for pair in planned.items() if pair[0] in prefilling]
            plan = self._compute(chunks, decodes=True)
        elif gave_way or not batch.sequences:
            self._wake()
            return None
        else:
            plan = self._decode(1 if self.leaving else held_back, opened)
        if opened and plan is not None:
            plan.opened_blocks = opened
            plan.evicted_blocks = min(opened, allocator.evictions - evictions)
        return plan

    def _spend(self, now: float) -> int:
        """Spend the step's tokens; return the steps for which prompts are held back."""
        if self.is_async:
            self.allocator.in_flight = self._planned
        if self.allocator.aligns_chunks:
            self.allocator.begin_step()
        planned = self._planned = {}
        self._opened, self.gave_way = 0, False
        longest, held_back, pace = self.limits.max_num_batched_tokens, 0, self._pace
        if pace is not None:
            decodes = len(self.running) > len(self.prefilling)
            held_back = pace.steps_held_back(self.steps_taken) if decodes else 0
            longest = pace.longest_chunk(len(self.running) + len(self.waiting))
        if self.prefilling or not self.allocator.can_decode(self.batch):
            together = self._suffices(longest, held_back)
            run = self._run_together if together else self._run_one_by_one
            run(longest, held_back)
        went_on = bool(planned) and not self.prefilling.keys().isdisjoint(planned)
        if self.waiting and not self.gave_way:
            went_on = self._admit(longest, held_back, now) or went_on
        if pace is not None:
            if not self.gave_way and not held_back:
                pace.is_bound_by_capacity = bool(self.waiting)
            if went_on:
                pace.last_prefill_step = self.steps_taken + 1
        return held_back

    # ---- who runs -----------------------------------------------------------------------

    def _suffices(self, longest: int, held_back: int) -> bool:
        """Whether tokens and blocks suffice for all who run, so that their order is no matter."""
        allocator, batch, prefilling = self.allocator, self.batch, self.prefilling
        if not allocator.grows_by_blocks:
            return True  # no order to keep: what does not fit gives way newest first
        blocks, tokens = batch.opening, batch.sequences
        if prefilling and not held_back:
            for request in prefilling:
                done = request.computed_tokens
                chunk = min(request.prefill_tokens - done, longest)
                tokens += chunk
                blocks += allocator.new_blocks(request, done, done + chunk)
        if blocks > allocator.free_blocks and self._order_matters:
            return False
        fits = tokens <= self.limits.max_num_batched_tokens and not allocator.gives_back
        return fits or self._prompts_come_last()

    def _prompts_come_last(self) -> bool:
        """Whether everybody who decodes was admitted before those whose prompt is computed."""
        left = len(self.prefilling)
        for request in reversed(self.running):
            if request in self.leaving:
                continue
            if not left:
                return True
            if request not in self.prefilling:
                return False
            left -= 1
        return True

    def _run_together(self, longest: int, held_back: int) -> None:
        """Let all decode, and give each prompt already begun its next chunk."""
        if not self.allocator.can_decode(self.batch):
            self.gave_way = self._make_room_to_decode()
        if self.allocator.running_first:
            self._open()
        budget = self.limits.max_num_batched_tokens - self.batch.sequences
        for request in () if held_back else list(self.prefilling):
            if request not in self.prefilling:
                continue  # it was preempted for one before it
            rest = request.prefill_tokens - request.computed_tokens
            tokens = min(rest, budget, longest)
            if tokens <= 0:
                break
            if chunk := self.allocator.chunk(request, tokens):
                budget -= self._fit(request, chunk, self._extend)

    def _run_one_by_one(self, longest: int, held_back: int) -> None:
        """Give every running request its tokens and blocks, in the order of admission.

        This is the loop of the engine, word by word; a request for which no token is left sits
        this step out.
        """
        limits, skipped = self.limits, 0
        budget = limits.max_num_batched_tokens
        for request in list(self.running):
            if request not in self.running:
                continue
            is_skipped = skipped > 0
            skipped -= is_skipped
            if request in self.leaving:
                continue
            decodes = request in self.batch.members
            tokens = request.samples
            if not decodes:
                if held_back:
                    continue
                tokens = min(request.prefill_tokens - request.computed_tokens, budget, longest)
                tokens = self.allocator.chunk(request, tokens)
            if 0 < tokens <= budget and not is_skipped:
                ahead = self._idle_ahead(request)
                budget -= self._fit(request, tokens, self._grow)
                if request not in self.running and not limits.goes_on_after_own_preemption:
                    budget = 0
                if limits.skips_behind_idle_victims:
                    skipped += ahead - self._idle_ahead(request)
            elif decodes:
                self._rest(request)

    def _idle_ahead(self, request: Request) -> int:
        """Requests that have ended and were admitted before this one."""
        return sum(each.seat < request.seat for each in self.leaving)

    def _fit(self, request: Request, tokens: int, grow: Callable[[Request, int], bool]) -> int:
        """Plan a running request's tokens; whoever must give way for them does.

        Returns
        -------
        int
            Tokens that the step has less, those that victims had been promised taken back.
        """
        spent, allocator = 0, self.allocator
        while not grow(request, tokens):
            self.gave_way, allocator.turn = True, request.seat
            victim = self._victim()
            spent -= self._give_way(victim)
            allocator.turn = inf
            if victim is request:
                return spent
        self._planned[request] = tokens
        return spent + tokens

    def _grow(self, request: Request, tokens: int) -> bool:
        """Make room for a request's next tokens, alone."""
        allocator = self.allocator
        if request in self.prefilling:
            return allocator.append_slots(request, request.computed_tokens + tokens)
        done = self.batch.cached_tokens(request)
        opening = allocator.new_blocks(request, done, done + 1)
        if not (opening or allocator.gives_back):
            return True  # its last block has room
        request.computed_tokens = done
        if not allocator.append_slots(request, done + 1):
            return False
        self._opened += opening
        return True

    def _give_way(self, victim: Request) -> int:
        """Preempt a request; return the tokens that were planned for it."""
        tokens = self._planned.pop(victim, 0)
        if not tokens or victim in self.prefilling:
            self._preempt(victim, tokens)
            return tokens
        cached = self.batch.cached_tokens(victim)
        self._opened -= self.allocator.new_blocks(victim, cached, cached + 1)
        self._preempt(victim, 1)
        return tokens

    def _rest(self, request: Request) -> None:
        """Let a decoding request sit this step out."""
        self.batch.leave(request)
        request.generated_tokens = request.computed_tokens - request.prompt_tokens + 1
        self.resting.append(request)

    def _extend(self, request: Request, tokens: int) -> bool:
        """Grow a prompt by a chunk, leaving the blocks that this step's decodes will open."""
        end = request.computed_tokens + tokens
        spare = self.batch.opening - self._opened
        return self.allocator.append_slots(request, end, spare_blocks=spare)

    # ---- who waits ----------------------------------------------------------------------

    def _admit(self, longest: int, held_back: int, now: float) -> bool:
        """Admit from the head of the queue while slots, budget and blocks last.

        Returns
        -------
        bool
            Whether more than the last token of a prompt is computed.
        """
        waiting, seats, allocator = self.waiting, self.limits.max_num_seqs, self.allocator
        whole, went_on = self.limits.scheduler_reserve_full_isl, False
        budget = self._left()
        if allocator.running_first and budget > 0 and not self._opened and not self.resting:
            self._open()  # what decodes evict is not found
        opening = self.batch.opening - self._opened
        while waiting and budget > 0:
            request = waiting.head()
            if self.running_sequences + request.samples > seats:
                break
            spare = opening + (self._watermark_blocks if self.running else 0)
            if request.swapped:
                if not self._bring_back(request, spare):
                    break
                budget -= request.samples
                opening = self.batch.opening - self._opened
                continue
            if held_back and allocator.cached_tokens(request) < request.prefill_tokens - 1:
                break
            chunk = min(request.prefill_tokens, budget, longest)
            cached = allocator.allocate(request, chunk, spare_blocks=spare, whole=whole)
            if cached is None:
                break
            self._start(request, cached, now)
            rest = request.prefill_tokens - cached
            tokens = allocator.chunk(request, chunk if chunk < rest else rest)
            self.prefilling[request] = None
            self._planned[request] = tokens
            budget -= tokens
            went_on = went_on or rest > 1
        return went_on

    def _left(self) -> int:
        """Tokens of this step that nobody has."""
        budget = self.limits.max_num_batched_tokens - self.batch.sequences
        for request, tokens in self._planned.items():
            if request in self.prefilling:
                budget -= tokens
        return budget

    def _bring_back(self, request: Request, spare_blocks: int) -> bool:
        """Resume a swapped-out head, if there is room; it decodes in this step."""
        if not self._resume(request, spare_blocks):
            return False
        if self._opened or self.allocator.running_first:
            self._open()
        return True

    def _open(self) -> None:
        """Allocate the blocks that this step's decodes open and have not yet."""
        more = self.batch.opening - self._opened
        self.allocator.allocate_steps(self.batch, 1, more)
        self._opened += more

    # ---- who leaves ---------------------------------------------------------------------

    def _complete(self, request: Request, now: float) -> None:
        """Asynchronously, a request that ended stays until the next step is scheduled."""
        if not self.is_async:
            super()._complete(request, now)
            return
        self.recorder.finish_seconds[request.row] = now
        self.leaving[request] = None

    def settle(self) -> bool:
        """Take back what those hold who ended with the step before the one just scheduled."""
        gone, self.leaving = self.leaving, {}
        for request in gone:
            self._leave(request)
        return bool(gone)

    def _preempt(self, request: Request, planned_tokens: int = 0) -> None:
        """As the base; one that has ended gives its memory up early and does not come back."""
        if request not in self.leaving:
            super()._preempt(request, planned_tokens)
            return
        del self.leaving[request], self.running[request]
        self.running_sequences -= request.samples
        self.claimed_slots -= self.allocator.claim(request, request.computed_tokens)
        self.allocator.free(request, preempted=True)
        self.recorder.preempt(request)
