"""One engine step for real: a scheduler's plan becomes tensors, tokens come out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kvsim.calibrate.twin.attention import (
    PlannedDecodes,
    PrefillChunk,
    StepAttention,
    causal_after,
)
from kvsim.calibrate.twin.decoder import Decoder
from kvsim.calibrate.twin.decodes import Decodes
from kvsim.calibrate.twin.kernels import choose_kernel
from kvsim.calibrate.twin.paged import BlockPool
from kvsim.errors import InvariantError
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers import Scheduler, StepPlan

__all__ = ["TwinEngine"]


@dataclass(slots=True)
class _Batch:
    """A step's flat batch as it is put together; chunks first, decodes after them."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    speakers: list[Request] = field(default_factory=list)
    speaking_rows: list[int] = field(default_factory=list)


class TwinEngine:
    """Executes the plans of a simulator's scheduler on a real decoder.

    Parameters
    ----------
    decoder : Decoder
        The model.
    pool : BlockPool
        Its KV cache, as many blocks as the scheduler's allocator has.
    scheduler : Scheduler
        Whose plans are run; its allocator says how many blocks each request holds.
    seed : int
        Of the prompts' random tokens.

    Attributes
    ----------
    texts : dict of int to list of int
        Prompt and generated tokens by request row.
    """

    def __init__(
        self, decoder: Decoder, pool: BlockPool, scheduler: Scheduler, seed: int = 0
    ) -> None:
        self.decoder, self.pool, self.scheduler = decoder, pool, scheduler
        self.texts: dict[int, list[int]] = {}
        self._seed = seed
        self._kernel = choose_kernel(pool.geometry(decoder.shape.heads)).kernel

    def step(self, plan: StepPlan) -> None:
        """Run one step and append a token to every sequence that produced one."""
        decoding = list(self.scheduler.batch.members) if plan.decodes else []
        self._allocate_blocks(plan, decoding)
        batch = _Batch()
        chunks = [self._add_chunk(batch, request, count) for request, count in plan.prefills]
        decodes = self._add_decodes(batch, decoding) if decoding else None
        with torch.inference_mode():
            attend = StepAttention(self.pool, self._tensor(batch.slots), chunks, decodes)
            logits = self.decoder.logits(
                self._tensor(batch.tokens),
                self._tensor(batch.positions),
                attend,
                self._tensor(batch.speaking_rows),
            )
            spoken: list[int] = logits.argmax(dim=-1).tolist()
        for request, token in zip(batch.speakers, spoken, strict=True):
            self.texts[request.row].append(token)

    # ---- blocks -------------------------------------------------------------------------

    def _allocate_blocks(self, plan: StepPlan, decoding: list[Request]) -> None:
        """Bring the tables to what the allocator has promised for this step.

        The allocator has taken the prompts' blocks when it was asked; those that decodes open
        it takes as time passes, so they are counted beside.
        """
        scheduler, pool = self.scheduler, self.pool
        allocator = scheduler.allocator
        pool.free_all_but(scheduler.running)
        coming: dict[Request, int] = {request: tokens for request, tokens in plan.prefills}
        coming |= dict.fromkeys(decoding, 1)
        for request in scheduler.running:
            tokens = scheduler.cached_tokens(request) + coming.get(request, 0)
            pool.allocate(request, allocator.blocks_of(request, tokens))
        opening = scheduler.batch.opening if decoding else 0
        pool.check(allocator.total_blocks - allocator.free_blocks + opening)

    # ---- tensors ------------------------------------------------------------------------

    def _add_chunk(self, batch: _Batch, request: Request, count: int) -> PrefillChunk:
        """Put a chunk of a prompt into the batch."""
        start = request.computed_tokens
        table, size = self.pool.tables[request], self.pool.block_size
        first_row, span = len(batch.tokens), range(start, start + count)
        batch.tokens += self._text(request)[start : start + count]
        batch.positions += span
        batch.slots += [table.slot(token, size) for token in span]
        if start + count == request.prefill_tokens:
            self._let_speak(batch, request)
        mask = causal_after(start, count, self.decoder.device)
        return PrefillChunk(first_row, count, start, self._tensor(table.block_ids), mask)

    def _add_decodes(self, batch: _Batch, decoding: list[Request]) -> PlannedDecodes:
        """Put the next input token of every decoding sequence into the batch."""
        first_row, size = len(batch.tokens), self.pool.block_size
        contexts = []
        for request in decoding:
            cached = self.scheduler.batch.cached_tokens(request)
            batch.tokens.append(self.texts[request.row][cached])
            batch.positions.append(cached)
            batch.slots.append(self.pool.tables[request].slot(cached, size))
            self._let_speak(batch, request)
            contexts.append(cached + 1)
        tables = [self.pool.tables[request].block_ids for request in decoding]
        return PlannedDecodes.of(self._kernel, Decodes(tables, contexts), first_row)

    def _let_speak(self, batch: _Batch, request: Request) -> None:
        """Note that the batch's last token asks for its successor."""
        batch.speakers.append(request)
        batch.speaking_rows.append(len(batch.tokens) - 1)

    def _tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.decoder.device)

    def _text(self, request: Request) -> list[int]:
        """A request's tokens: a random prompt, and what was generated before a preemption."""
        text = self.texts.setdefault(request.row, [])
        if not text:
            random = torch.Generator().manual_seed(self._seed * 1_000_003 + request.row)
            size = (request.prompt_tokens,)
            text += torch.randint(self.decoder.shape.vocabulary, size, generator=random).tolist()
        if len(text) < request.prefill_tokens:
            raise InvariantError(f"{request} is to compute more tokens than it has")
        return text
