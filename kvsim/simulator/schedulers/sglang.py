"""SGLang: prompts first, in steps of their own, admitted by what all will still need."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from kvsim.errors import InputError
from kvsim.simulator.allocators.radix import Radix
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers.base import Scheduler
from kvsim.simulator.schedulers.queues import FirstComeQueue
from kvsim.simulator.schedulers.sglang_budget import PrefillBudget
from kvsim.simulator.schedulers.steps import StepPlan

__all__ = ["SGLang"]

# Environment variables of SGLang 0.5.23 (srt/environ.py), at their defaults.
_FIRST_RATIO = 0.7  # SGLANG_INIT_NEW_TOKEN_RATIO
_LEAST_SHARE = 0.14  # SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR
_DECAY_STEPS = 600  # SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS
_RETRACT_STEPS = 20  # SGLANG_RETRACT_DECODE_STEPS
_REFRESH_PASSES = 32  # WAITING_PREFIX_REFRESH_INTERVAL (managers/schedule_policy.py)
_REFRESHED = 128  # WAITING_QUEUE_PREFIX_MATCH_MAX


class _Queue(FirstComeQueue):
    """First come, first served; who was retracted comes again (``_add_request_to_queue``)."""

    push_back = FirstComeQueue.push


class SGLang(Scheduler):
    """The scheduler of SGLang 0.5 without overlap (``Scheduler.get_next_batch_to_run``).

    A step is either prefill or decode, and as long as a prompt can be admitted or one is under
    way, decoding stalls. An admission leaves room for what those that run may still produce: a
    share of their outputs, the new-token ratio, which decays with each decode step and is
    estimated anew when memory ran out. Then those with the fewest output tokens give way, and
    queue again behind all others.

    Parameters
    ----------
    conservativeness : float
        ``--schedule-conservativeness``: what the new-token ratio starts from, as a multiple
        of 0.7.
    ignore_eos : bool
        Whether requests ask for their length (the sampling parameter of that name): then the
        whole of it is reckoned with.
    scheduler_recv_interval : int
        ``--scheduler-recv-interval``: decode steps from one look at what arrived to the next; it
        looks after each step with prompts as well (``SchedulerRecvSkipper``).

    Notes
    -----
    A request that no estimate admits is admitted when nobody else runs; the engine itself
    cuts such an output short (``init_req_max_new_tokens``).

    Raises
    ------
    InputError
        For a conservativeness that is no positive number, or another wrong value.
    """

    mimics = "SGLang 0.5.23 (prefill first, new-token ratio, no overlap)"
    prefills_stop_decodes = True

    def __init__(
        self,
        *args: object,
        conservativeness: float = 1.0,
        ignore_eos: bool = False,
        scheduler_recv_interval: int = 1,
    ) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        if type(conservativeness) not in (int, float) or not 0 < conservativeness < float("inf"):
            raise InputError(
                f"conservativeness = {conservativeness!r:.60} is no positive number",
                fix="set 1.0, --schedule-conservativeness' default",
            )
        if type(ignore_eos) is not bool:
            raise InputError(f"ignore_eos = {ignore_eos!r:.60} should be true or false")
        if type(scheduler_recv_interval) is not int or scheduler_recv_interval < 1:
            raise InputError(
                f"scheduler_recv_interval = {scheduler_recv_interval!r:.60} is no whole number of"
                " at least 1",
                fix="set 1, its default: every step looks at what arrived",
            )
        if type(self.waiting) is FirstComeQueue:
            self.waiting = _Queue()
        self.ignore_eos = ignore_eos
        self._interval = scheduler_recv_interval
        self._decoded = 0  # steps since it last looked at what arrived
        self._listens = True
        self._unheard: list[Request] = []  # whoever came since
        self._first_ratio = min(_FIRST_RATIO * conservativeness, 1.0)
        self._least_ratio = min(self._first_ratio * _LEAST_SHARE, 1.0)
        self._decay = (self._first_ratio - self._least_ratio) / _DECAY_STEPS
        self._ratio = self._first_ratio
        self._full = False  # ScheduleBatch.batch_is_full: nobody is asked until somebody left
        self._retracted = False  # whether somebody was, in the step under way
        self._radix = self.allocator if isinstance(self.allocator, Radix) else None
        self._passes = 0  # over a queue that was not empty
        self._joins = 0
        self._joined: dict[Request, int] = {}  # the batch's order
        self._ended: list[Request] = []

    @property
    def queued(self) -> int:
        """Requests that wait, those included that it has not looked at."""
        return len(self.waiting) + len(self._unheard)

    def add_request(self, request: Request) -> bool:
        """As the base; an arrival waits for the next look at what came."""
        if (self._listens and not self._unheard) or not self.servable(request):
            return super().add_request(request)
        self._unheard.append(request)
        return True

    def schedule(self, now: float) -> StepPlan | None:
        """Compute prompts if any can be, else decode."""
        if self._unheard and self._listens:
            for request in self._unheard:
                self.waiting.push(request)
            self._unheard.clear()
        self._retracted = False
        prefills = self._prefill(now)
        if not prefills:
            self._retracted = self._retract()
            if self._retracted and not self.running:
                prefills = self._prefill(now)
        if prefills:
            return self._compute(prefills, decodes=False)
        if self.moved_tokens:
            return self._compute([], decodes=True)
        once = self._retracted or (bool(self.waiting) and not self._full)
        most = self._interval - self._decoded if self._unheard else 0
        plan = self._decode(1 if once else most)
        if plan is None:
            self._ratio = self._first_ratio  # `on_idle`
        return plan

    def decoded(self, steps: int, now: float) -> list[Request]:
        """As the base; the ratio decays with each step."""
        self._retracted = False
        self._decay_by(steps)
        done = super().decoded(steps, now)
        self._let_go(now)
        self._note_steps(steps)
        return done

    def finish(self, plan: StepPlan, steps: int, now: float) -> list[Request]:
        """As the base; the ratio decays with each step that decodes and retracted nobody."""
        if plan.decodes and not self._retracted:
            self._decay_by(steps)
        done = super().finish(plan, steps, now)
        self._let_go(now, [request for request, _ in plan.prefills])
        self._note_steps(0 if plan.prefills else steps)
        return done

    def _note_steps(self, decoded: int) -> None:
        """Count steps to the next look at what arrived: after prompts, or with nobody, at once."""
        self._decoded = (self._decoded + decoded) % self._interval if decoded else 0
        self._listens = not self._decoded or not self.running

    def _complete(self, request: Request, now: float) -> None:
        """Note who ends, until all of the step are known."""
        self._ended.append(request)

    def _let_go(self, now: float, computed: Sequence[Request] = ()) -> None:
        """Free those that end, in the batch's order, and let the tree have computed prompts."""
        ended, self._ended = self._ended, []
        self._full = self._full and not ended
        if self._radix is None:
            for request in ended:
                super()._complete(request, now)
            return
        for request in computed or sorted(ended, key=self._joined.__getitem__):
            if request in ended:
                super()._complete(request, now)
                self._joined.pop(request, None)
                continue
            self._radix.checkpoint(request)
            self._joins += 1
            self._joined[request] = self._joins  # a prompt under way joins again, later

    def _decay_by(self, steps: int) -> None:
        """``NewTokenRatioTracker.decay_step``, so many times."""
        for _ in range(steps):
            if self._ratio <= self._least_ratio:
                break
            self._ratio = max(self._ratio - self._decay, self._least_ratio)

    # ---- prefill: _get_new_batch_prefill_raw ----------------------------------------------

    def _prefill(self, now: float) -> list[tuple[Request, int]]:
        """Prompts of this step: the one under way, then new ones while the budget lasts."""
        prefills: list[tuple[Request, int]] = []
        if self.prefilling:
            self._full = False
        elif self.waiting and not self._full and not self._has_slot():
            self._full = True
        if self.prefilling or (self.waiting and not self._full):
            self._renew()
            budget = self._budget()
            for request in list(self.prefilling):
                prefills.append((request, self._continue(request, budget)))
            self._admit(prefills, budget, now)
            if self._radix:
                self._radix.settle()
        if not self.batch.sequences:  # the flag was that of a batch which is thrown away
            self._full = False
        return prefills

    def _renew(self) -> None:
        """Keep what waits from being evicted, now and then (``_touch_waiting_prefixes``)."""
        if not self._radix or not self.waiting:
            return
        if self._passes % _REFRESH_PASSES == 0:
            for request in reversed(list(islice(self.waiting, _REFRESHED))):
                self._radix.touch(request)
        self._passes += 1

    def _budget(self) -> PrefillBudget:
        """What this pass may spend."""
        running = ((each, self._produced(each)) for each in self.batch.members)
        ratio = 1.0 if self.ignore_eos else self._ratio
        return PrefillBudget(self.allocator, self.limits.max_num_batched_tokens, ratio, running)

    def _continue(self, request: Request, budget: PrefillBudget) -> int:
        """The next chunk of a prompt under way (``add_chunked_req``)."""
        tokens = budget.go_on(request)
        end = request.computed_tokens + tokens
        free = self.allocator.free_blocks
        while not self.allocator.append_slots(request, end):
            self._preempt(self._victim())
        budget.handed_out((free - self.allocator.free_blocks) * self.allocator.block_size)
        budget.take(request, tokens, last=end == request.prefill_tokens)
        return tokens

    def _admit(
        self, prefills: list[tuple[Request, int]], budget: PrefillBudget, now: float
    ) -> None:
        """Admit from the head of the queue (``add_one_req``) until a budget is spent."""
        while self.waiting and (budget.chunk > 0 or not budget.has_room):
            request = self.waiting.head()
            if not self._has_slot():
                self._full = True
                break
            if request.swapped or self.moved_tokens:
                if prefills or not request.swapped:
                    break  # who comes back decodes at once, in a step without prompts
                if not self._resume(request, self.batch.opening):
                    self._full = bool(self.running)
                    break
                continue
            cached = self._radix.look_up(request) if self._radix else 0
            tokens = self._fit(request, cached, budget)
            if not tokens and self._radix:
                self._radix.forget(request)
            if tokens == 0:
                break  # the next step has more
            tokens = tokens and self._begin(request, tokens, budget, now)
            if tokens is None:
                self._full = bool(self.running)
                break
            prefills.append((request, tokens))
            if not budget.has_room:
                self._full = True
                break

    def _fit(self, request: Request, cached: int, budget: PrefillBudget) -> int | None:
        """Tokens of the head of the queue that this step may compute; None: no memory."""
        if self.ignore_eos and not self.allocator.shares_prefixes:
            tokens = budget.fit_whole(request)
        else:
            tokens = budget.fit(request, cached)
        if tokens is None and not self.running:
            return budget.chunk_of(request, cached)
        return tokens

    def _begin(
        self, request: Request, tokens: int, budget: PrefillBudget, now: float
    ) -> int | None:
        """Admit the head of the queue with a chunk; None: the memory has no room for it."""
        free = self.allocator.free_blocks
        cached = self.allocator.allocate(request, tokens)
        if cached is None:
            return None
        self._start(request, cached, now)
        self.prefilling[request] = None
        rest = request.prefill_tokens - cached
        budget.handed_out((free - self.allocator.free_blocks) * self.allocator.block_size)
        budget.take(request, min(tokens, rest), last=tokens >= rest)
        return min(tokens, rest)

    # ---- retraction: retract_decode -------------------------------------------------------

    def _retract(self) -> bool:
        """Send requests back until the others can decode, at least one; tell whether any was.

        The last one stays, unless it lies in memory that no page more can be added to.
        """
        members, can_decode = self.batch.members, self.allocator.can_decode
        retracted = False
        while members and not can_decode(self.batch):
            self._preempt(self._victim())
            retracted = True
            if self._radix:
                self._radix.evict_until(
                    -(-_RETRACT_STEPS * len(members) // self.allocator.block_size)
                )
        if retracted:
            self._full = False
            produced = sum(map(self._produced, members))
            expected = sum(request.output_tokens for request in members)
            produced += _RETRACT_STEPS * len(members)
            self._ratio = min(1.0, produced / (expected + 1))
        return retracted

    def _victim(self) -> Request:
        """The fewest output tokens, then the longest prompt, then the newest in the batch."""
        newest_first = reversed(self.batch.members)
        return min(newest_first, key=lambda each: (self._produced(each), -each.prompt_tokens))

    def _produced(self, request: Request) -> int:
        """Output tokens so far, of a decoding request."""
        return self.batch.cached_tokens(request) - request.prompt_tokens + 1
