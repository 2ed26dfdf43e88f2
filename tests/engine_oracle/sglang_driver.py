"""SGLang's own scheduler, step by step on a CPU: a step takes a second, and no model runs.

The engine's own code decides: ``Scheduler.get_next_batch_to_run`` (with
``_get_new_batch_prefill_raw``, ``update_running_batch``), ``PrefillAdder``, ``SchedulePolicy``,
``ScheduleBatch`` (``prepare_for_extend``, ``prepare_for_decode``, ``retract_decode``), the
token-to-KV allocators, ``UnifiedRadixCache`` with its Python core, ``NewTokenRatioTracker`` and
``SchedulerBatchResultProcessor``. Ours are only the parts around it: arrivals, a forward pass that
gives each request its next token, and services that nobody asks here (grammars, metrics, LoRA).
The loop is ``Scheduler.event_loop_normal``; `_Quiet` answers for what is left out.

Overlap scheduling (``event_loop_overlap``, the server's default) is not driven. It processes a
step's result while the next one runs, so that a request which ends is still a row of the step
after, and its memory comes back a step later.
"""

from __future__ import annotations

from array import array
from typing import Any

import torch
from sglang.srt.disaggregation.utils import DisaggregationMode
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.managers.schedule_policy import PrefillAdder
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components.batch_result_processor import (
    SchedulerBatchResultProcessor,
)
from sglang.srt.managers.utils import GenerationBatchResult
from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
from sglang.srt.mem_cache.unified_cache.component_type import ComponentType
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

from .jobs import Job
from .seen import Seen
from .sglang_cases import Case
from .sglang_stub import publish

__all__ = ["run"]

_LONGEST = 4000
_VOCABULARY = 1 << 40


class _Quiet:
    """Answers every question with itself, which is false."""

    def __getattr__(self, name: str) -> _Quiet:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: object, **kwargs: object) -> _Quiet:
        return self

    def __bool__(self) -> bool:
        return False

    def __add__(self, other: int) -> int:
        return other

    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def __len__(self) -> int:
        return 0


class _Passing(_Quiet):
    """Hands a batch on as it is."""

    def __call__(self, batch: object = None, **kwargs: object) -> Any:
        return batch

    def __getattr__(self, name: str) -> Any:
        return super().__call__ if name.startswith("__") else self.__call__


class _Beams(_Quiet):
    """No request searches with beams."""

    def pending_member_rows(self, batch: object) -> int:
        return 0

    def commit_decode(self, batch: object) -> set[int]:
        return set()


class _Model:
    """What a scheduler asks of a model."""

    is_encoder_decoder = False
    is_multimodal = False
    vocab_size = _VOCABULARY
    think_end_id = think_end_ids = self_opened_think_start_ids = None


class _Driven(Scheduler):
    """The engine's scheduler, of which only what its decisions read is made."""

    def __init__(self, case: Case, seen: Seen) -> None:
        self.case, self.seen, self.second = case, seen, 0
        self.__dict__ |= dict.fromkeys(_SERVICES, _Quiet()) | dict.fromkeys(_FEATURES, False)
        self.__dict__ |= dict.fromkeys(_NOTHING)
        self.dp_attn_adapter = self.ngram_embedding_manager = _Passing()
        self.beam_coordinator = _Beams()
        self.model_config, self.device = _Model(), "cpu"
        self.disaggregation_mode = DisaggregationMode.NULL
        self.spec_algorithm = SpeculativeAlgorithm.NONE
        self.forward_ct = self.processed_tokens_counter = 0
        self.max_running_requests = case.running
        self.schedule_policy, self.page_size = "fcfs", case.block_size
        self.schedule_low_priority_values_first = False
        self.priority_scheduling_preemption_threshold = 0
        self.max_prefill_tokens = _prefill_tokens(case)
        self._make_memory(case)
        self._make_processor()
        self.init_running_parts()

    def _make_memory(self, case: Case) -> None:
        """As ``kv_cache_builder.build_kv_cache``: rows, slots, and the tree."""
        size, tokens = case.block_size, case.blocks * case.block_size
        self.req_to_token_pool = ReqToTokenPool(case.running, _LONGEST, "cpu", False)
        if size == 1:
            slots: Any = TokenToKVPoolAllocator(tokens, torch.float16, "cpu", None, False)
        else:
            slots = PagedTokenToKVPoolAllocator(tokens, size, torch.float16, "cpu", None, False)
        self.token_to_kv_pool_allocator = slots
        self.max_total_num_tokens = tokens
        self.tree_cache = UnifiedRadixCache(
            CacheInitParams(
                disable=not case.caching,
                req_to_token_pool=self.req_to_token_pool,
                token_to_kv_pool_allocator=slots,
                page_size=size,
                tree_components=(ComponentType.FULL,),
                chunked_prefill_size=case.chunk,
            )
        )

    def init_running_parts(self) -> None:
        """The state between steps, as the engine's own initialisers make it."""
        self.waiting_queue: list[Req] = []
        self.running_batch = ScheduleBatch(reqs=[], batch_is_full=False)
        self.last_batch = None
        self.result_queue: list[object] = []
        self.chunked_prefill_size: int | None = self.case.chunk
        self.prefill_decode_interval = self._prefill_decode_interval_remaining = 0
        self.prefill_decode_interval_min_bs = 0
        self.init_schedule_policy()

    def _make_processor(self) -> None:
        self.init_beam_coordinator = lambda: None  # type: ignore[method-assign]
        self.batch_result_processor = processor = object.__new__(SchedulerBatchResultProcessor)
        for name in SchedulerBatchResultProcessor.__annotations__:
            value = self.__dict__.get(name, _Quiet())
            object.__setattr__(processor, name, value)
        for name, value in (("is_generation", True), ("enable_overlap", False)):
            object.__setattr__(processor, name, value)

    # ---- what is ours -------------------------------------------------------------------

    def arrive(self, row: int, job: Job) -> None:
        """As ``_handle_generate_request``, from the tokens on."""
        sampling = SamplingParams(
            max_new_tokens=job.output, ignore_eos=self.case.ignore_eos, temperature=0
        )
        sampling.normalize(None)
        prompt = array("q", map(job.token, range(job.prompt)))
        req = Req(str(row), "", prompt, sampling, vocab_size=_VOCABULARY)
        self.max_req_len = _LONGEST
        self.init_req_max_new_tokens(req)
        assert req.sampling_params.max_new_tokens == job.output, "the output was cut short"
        self._add_request_to_queue(req)

    def step(self) -> bool:
        """One turn of ``event_loop_normal``; False when there was nothing to run."""
        plan = self.get_next_batch_to_run(self.running_batch, self.last_batch)
        self.running_batch = plan.running_batch
        batch = plan.batch_to_run
        if batch:
            self._note_step(batch)
            self.second += 1
            self._forward(batch)
        else:  # `on_idle`
            if self.is_fully_idle():
                self.new_token_ratio_tracker.reset()
        self.last_batch = batch
        return batch is not None

    def _note_step(self, batch: ScheduleBatch) -> None:
        """Note who is new in it, and the slots that requests hold."""
        slots, tree = self.token_to_kv_pool_allocator, self.tree_cache
        kept = tree.evictable_size() if self.case.caching else 0
        self.seen.used[self.second] = (
            self.max_total_num_tokens - slots.available_size() - kept
        ) // self.page_size
        if batch.forward_mode.is_extend():
            for req, cached in zip(batch.reqs, batch.prefix_lens, strict=True):
                if req is not self.continued:
                    self.seen.note(self.second, "admitted", int(req.rid), cached)

    def get_new_batch_prefill(self, running_batch: ScheduleBatch) -> Any:
        """As the engine's, knowing whose prompt goes on."""
        self.continued = self.chunked_req
        return super().get_new_batch_prefill(running_batch)

    def _add_request_to_queue(self, req: Req, is_retracted: bool = False) -> None:
        if is_retracted:
            tokens = len(req.origin_input_ids) + len(req.output_ids) - 1
            self.seen.note(self.second, "preempted", int(req.rid), tokens)
        super()._add_request_to_queue(req, is_retracted)

    def _forward(self, batch: ScheduleBatch) -> None:
        """A forward pass, and ``process_batch_result`` for prefill and decode."""
        jobs = self.case.jobs
        tokens = [jobs[int(req.rid)].token(req.seqlen) for req in batch.reqs]
        result = GenerationBatchResult(next_token_ids=torch.tensor(tokens))
        batch.input_ids = result.next_token_ids
        before = {req: len(req.output_ids) for req in batch.reqs}
        if batch.forward_mode.is_extend():
            self.batch_result_processor.process_batch_result_prefill(batch, result)
        else:
            self.batch_result_processor.process_batch_result_decode(batch, result)
        for req, count in before.items():
            if not count and req.output_ids:
                self.seen.note(self.second, "first", int(req.rid))
            if req.finished():
                self.seen.note(self.second, "ended", int(req.rid))

    def get_prefill_adder_class(self) -> type[PrefillAdder]:
        return PrefillAdder


_SERVICES = (
    "metrics_reporter", "grammar_manager", "load_inquirer", "tp_worker", "policy_metrics",
    "hisparse_coordinator_", "dllm_manager", "output_streamer", "model_worker", "draft_worker",
    "logprob_result_processor", "metrics_collector", "session_controller", "memory_metrics",
)  # fmt: skip
_FEATURES = (
    "enable_hierarchical_cache", "enable_hicache_storage", "enable_lmcache", "enable_hisparse",
    "enable_priority_scheduling", "enable_priority_preemption", "enable_lora", "enable_overlap",
    "enable_overlap_mlx", "enable_fpm", "enable_unified_memory", "is_hybrid_swa", "is_mixed_chunk",
    "enable_unified_cache_external_linker", "require_mlp_sync", "enable_skip_finishing_decode",
    "abort_on_priority_when_disabled",
)  # fmt: skip
_NOTHING = (
    "scheduler_stage_metrics", "chunked_req", "_pending_chunked_abort_req", "dllm_config",
    "dynamic_chunk_sizer",
    "min_free_slots_delayer", "prefill_delayer", "truncation_align_size", "decode_offload_manager",
    "hisparse_coordinator", "max_queued_requests", "max_new_tokens_limit", "sliding_window_size",
)  # fmt: skip


def _prefill_tokens(case: Case) -> int:
    """``--max-prefill-tokens``: its default, and never less than a chunk."""
    return max(16384, case.chunk)


def run(case: Case) -> Seen:
    """Serve a case's requests with the engine's own scheduler."""
    publish(
        page_size=case.block_size,
        chunked_prefill_size=case.chunk,
        disable_overlap_schedule=True,
        disable_radix_cache=not case.caching,
        schedule_conservativeness=case.conservativeness,
        pp_max_micro_batch_size=case.running,
    )
    seen = Seen()
    engine = _Driven(case, seen)
    coming = list(enumerate(case.jobs))
    left = len(coming)
    while True:
        while coming and coming[0][1].arrival <= engine.second:
            engine.arrive(*coming.pop(0))
        if engine.step():
            continue
        if engine.waiting_queue:
            raise AssertionError(f"at {engine.second} s nothing runs, while requests wait")
        engine.step()  # the second idle turn sees that the last batch is gone
        if not coming:
            break
        engine.second = coming[0][1].arrival
    ended = sum(word == "ended" for _, word, _, _ in seen.events)
    assert ended == left, f"{ended} of {left} requests ended"
    return seen
