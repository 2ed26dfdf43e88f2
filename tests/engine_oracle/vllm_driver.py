"""vLLM's V1 scheduler, driven step by step with a model that answers at once.

The loop is ``EngineCore.step`` or, asynchronously, ``EngineCore.step_with_batch_queue`` of
``vllm/v1/engine/core.py``, on a clock on which a step that computes anything takes a second.
"""

from __future__ import annotations

import inspect
from collections import deque
from functools import cache
from math import gcd, lcm
from typing import Any

from . import vllm_stub
from .jobs import Job
from .product import LONGEST
from .seen import Seen
from .vllm_cases import Case, Layers

vllm_stub.prepare()

import torch
from vllm.config import (
    CacheConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import (
    get_request_block_hasher,
    init_none_hash,
)
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import (
    ChunkedLocalAttentionSpec,
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    MambaSpec,
    SlidingWindowSpec,
)
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

__all__ = ["run"]

_STUCK = 5  # empty schedules in a row
init_none_hash(sha256)


@cache
def _model() -> ModelConfig:
    return ModelConfig(
        model=vllm_stub.model_folder(),
        dtype="float16",
        seed=42,
        skip_tokenizer_init=True,
        max_model_len=LONGEST,
    )


def _known(function: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What of the arguments a release knows."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in given.items() if name in names}


def _scheduler(case: Case) -> Scheduler:
    limits = SchedulerConfig(
        **_known(
            SchedulerConfig,
            {
                "max_num_seqs": case.max_num_seqs,
                "max_num_batched_tokens": case.max_num_batched_tokens,
                "max_model_len": LONGEST,
                "long_prefill_token_threshold": case.threshold,
                "enable_chunked_prefill": True,
                "async_scheduling": case.asynchronous,
                "is_encoder_decoder": False,
                "policy": case.policy,
            },
        ),
        **case.flags,
    )
    has_states = any(each.kind == "state" for each in case.layers)
    caching = CacheConfig(
        block_size=case.block_size,
        cache_dtype="auto",
        enable_prefix_caching=case.caching,
        **({"mamba_cache_mode": "align"} if has_states else {}),
    )
    config = VllmConfig(
        scheduler_config=limits,
        model_config=_model(),
        cache_config=caching,
        parallel_config=ParallelConfig(),
    )
    blocks = case.blocks + 1  # one is the null block
    caching.num_gpu_blocks = blocks
    vllm_stub.register_specs(config)
    given = {
        "vllm_config": config,
        "kv_cache_config": _cache(case, blocks),
        "log_stats": True,
        "structured_output_manager": StructuredOutputManager(config),
        "block_size": lcm(*case.block_sizes),
        "hash_block_size": gcd(*case.block_sizes),
    }
    kind = AsyncScheduler if case.asynchronous else Scheduler
    scheduler = kind(**_known(Scheduler.__init__, given))
    scheduler.use_v2_model_runner = False
    return scheduler


def _cache(case: Case, blocks: int) -> KVCacheConfig:
    given = {
        "num_blocks": blocks,
        "kv_cache_tensors": [],
        "kv_cache_groups": _groups(case),
        "prefix_cache_retention_interval": case.retention_interval,
    }
    return KVCacheConfig(**_known(KVCacheConfig, given))


def _groups(case: Case) -> list[KVCacheGroupSpec]:
    def spec(layers: Layers, size: int) -> KVCacheSpec:
        if layers.kind == "state":
            return MambaSpec(
                block_size=size,
                shapes=((1,),),
                dtypes=(torch.float32,),
                mamba_cache_mode="align",
                num_prefill_checkpoint_blocks=layers.span,
                prefill_checkpoint_alignment=1 if layers.span else None,
            )
        given = {"block_size": size, "num_kv_heads": 1, "head_size": 1, "dtype": torch.float32}
        if layers.kind == "window":
            return SlidingWindowSpec(**given, sliding_window=layers.span, dcp_sharded=False)
        if layers.kind == "chunk":
            return ChunkedLocalAttentionSpec(**given, attention_chunk_size=layers.span)
        return FullAttentionSpec(**given)

    pairs = zip(case.layers, case.block_sizes, strict=True)
    return [KVCacheGroupSpec([str(at)], spec(*pair)) for at, pair in enumerate(pairs)]


def _request(row: int, job: Job, case: Case) -> Request:
    hasher = get_request_block_hasher(gcd(*case.block_sizes), sha256) if case.caching else None
    given = {
        "request_id": str(row),
        "prompt_token_ids": [job.token(at) for at in range(job.prompt)],
        "sampling_params": SamplingParams(ignore_eos=True, max_tokens=job.output),
        "pooling_params": None,
        "eos_token_id": None,
        "arrival_time": job.arrival + row * 1e-6,
        "priority": job.priority,
        "block_hasher": hasher,
    }
    return Request(**_known(Request.__init__, given))


def _samples(request: Request) -> bool:
    """Whether the step that was just scheduled gives a token: it computes all that is there.

    Asynchronously one of the placeholders is that token's.
    """
    there = request.num_tokens + max(0, request.num_output_placeholders - 1)
    return bool(request.num_computed_tokens >= there)


class _Engine:
    """The engine's loop around its scheduler."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.scheduler = _scheduler(case)
        self.seen = Seen()
        self.now = 0  # when the loop comes round
        self.begins = 0  # when the step that is scheduled now begins
        self.coming = deque(sorted(enumerate(case.jobs), key=lambda pair: pair[1].arrival))
        self.requests: dict[str, Request] = {}
        self.answered: dict[int, int] = dict.fromkeys(range(len(case.jobs)), 0)
        self.queue: deque[tuple[int, Any, list[str]]] = deque()  # end, output, who samples
        memory = self.scheduler.kv_cache_manager
        free = memory.free

        def noted(request: Request) -> None:
            if request.status == RequestStatus.RUNNING:  # it has not ended
                row, tokens = int(request.request_id), request.num_computed_tokens
                self.seen.note(self.begins, "preempted", row, tokens)
            free(request)

        memory.free = noted

    def run(self) -> Seen:
        """Serve everything.

        Raises
        ------
        RuntimeError
            When the scheduler schedules nothing for ever.
        """
        depth = 2 if self.case.asynchronous else 1  # EngineCore.batch_queue_size
        empty = 0
        while True:
            self._arrive()
            if not self.scheduler.has_requests() and not self.queue:
                if not self.coming:
                    return self.seen
                self.now = self.coming[0][1].arrival
                continue
            moved = self.scheduler.has_requests() and self._schedule()
            empty = 0 if moved or self.queue else empty + 1
            if empty > _STUCK:
                raise RuntimeError(f"nothing is scheduled at {self.now} s")
            if self.queue and not (moved and len(self.queue) < depth):
                self._update(*self.queue.popleft())

    def _arrive(self) -> None:
        while self.coming and self.coming[0][1].arrival <= self.now:
            row, job = self.coming.popleft()
            self.requests[str(row)] = _request(row, job, self.case)
            self.scheduler.add_request(self.requests[str(row)])

    def _schedule(self) -> bool:
        """Schedule a step, which begins when the one before it ends; tell whether it computes."""
        self.begins = begins = max([self.now, *(end for end, _, _ in self.queue)])
        output = self.scheduler.schedule()
        if not output.total_num_scheduled_tokens:
            return False
        pool = self.scheduler.kv_cache_manager.block_pool
        self.seen.used[begins] = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
        for new in output.scheduled_new_reqs:
            self.seen.note(begins, "admitted", int(new.req_id), new.num_computed_tokens)
        again = output.scheduled_cached_reqs
        for at, name in enumerate(again.req_ids):
            if name in again.resumed_req_ids:
                self.seen.note(begins, "admitted", int(name), again.num_computed_tokens[at])
        samples = [name for name in output.num_scheduled_tokens if _samples(self.requests[name])]
        self.queue.append((begins + 1, output, samples))
        return True

    def _update(self, end: int, output: Any, samples: list[str]) -> None:
        """Hand a step's tokens to the scheduler, at its end."""
        self.now = end
        names = list(output.num_scheduled_tokens)
        tokens = []
        for name in names:
            row = int(name)
            job = self.case.jobs[row]
            tokens.append([job.token(job.prompt + self.answered[row])] if name in samples else [])
            self.answered[row] += name in samples
        given = {
            "req_ids": names,
            "req_id_to_index": {name: at for at, name in enumerate(names)},
            "sampled_token_ids": vllm_stub.sampled(tokens),
            "logprobs": None,
            "prompt_logprobs_dict": {},
            "pooler_output": [],
        }
        outputs = self.scheduler.update_from_output(
            output, ModelRunnerOutput(**_known(ModelRunnerOutput, given))
        )
        for one in (each for client in outputs.values() for each in client.outputs):
            row = int(one.request_id)
            if one.new_token_ids and self.answered[row] == 1:
                self.seen.note(end, "first", row)
            if one.finish_reason is not None:
                self.seen.note(end, "ended", row)


def run(case: Case) -> Seen:
    """Serve a case's requests with the engine's own scheduler."""
    return _Engine(case).run()
