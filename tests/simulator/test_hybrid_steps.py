"""Prefixes of windows, chunks and recurrent states: the plain stepping engine beside the product.

Neither knows the other's code. vLLM's own runs are beside the product in ``tests/engine_oracle``.
"""

from __future__ import annotations

from functools import partial

import pytest

from kvsim.engines.vllm.rules import Rules
from kvsim.steptime.model import ConstantStepTime
from tests import oracle
from tests.engine_oracle import vllm_ours
from tests.engine_oracle.product import LONGEST, table_of
from tests.engine_oracle.seen import Seen, differences
from tests.engine_oracle.vllm_cases import Case, Layers, case_of
from tests.support.needs import examples
from tests.support.parts import Given

FAMILIES = ["windows-prefix", "windows-turns", "states-prefix", "states-turns"]


class Stepping(oracle.ENGINES["vllm-v1"]):  # type: ignore[misc]
    """Notes who is sent back."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)
        self.seen_events = Seen()

    def preempt(self, job: oracle.Job) -> None:
        """When, and how much is thrown away."""
        self.seen_events.note(self.now, "preempted", job.row, job.computed)
        super().preempt(job)


def plain(layers: Layers, size: int, case: Case) -> oracle.Layers:
    """Layers of a case, for the stepping engine."""
    flying = (2 if case.asynchronous else 1) * case.max_num_batched_tokens
    match layers.kind:
        case "window":
            admitted = -(-min(layers.span - 1 + flying, LONGEST) // size) + 1
            return oracle.Layers(size, window=layers.span, admitted=admitted)
        case "chunk":
            admitted = -(-min(layers.span + flying, LONGEST) // size)
            return oracle.Layers(size, chunk=layers.span, admitted=admitted)
        case "state":
            return oracle.Layers(size, checkpoints=layers.span)
    return oracle.Layers(size)


def stepped(case: Case) -> Seen:
    """Serve a case step by step."""
    threshold = case.threshold or case.max_num_batched_tokens
    memory = oracle.HybridBlocks(
        case.blocks,
        [plain(*pair, case) for pair in zip(case.layers, case.block_sizes, strict=True)],
        interval=case.retention_interval,
        unknown=int(case.asynchronous),
        longest=min(threshold, case.max_num_batched_tokens),
    )
    bounds = oracle.Limits(
        case.max_num_seqs,
        case.max_num_batched_tokens,
        LONGEST,
        case.threshold,
        asynchronous=case.asynchronous,
    )
    costs = oracle.Costs(ConstantStepTime(1.0), lambda start, count: 0.0, lambda tokens: tokens)
    engine = Stepping(memory, bounds, costs, oracle.Arrivals(Given([table_of(case)])))
    engine.run()
    seen = engine.seen_events
    for row, at, cached in engine.admissions:
        seen.note(at, "admitted", row, cached)
    for word, seconds in (("first", engine.first_token), ("ended", engine.finished)):
        for row, at in seconds.items():
            seen.note(at, word, row)
    seen.used = {round(row.start): row.held + row.grown for row in engine.rows}
    return seen


@pytest.mark.parametrize("family", [*FAMILIES, *(f"async-{each}" for each in FAMILIES)])
def test_steps_agree_with_what_the_product_does(family: str) -> None:
    """Admissions with their hits, preemptions, first tokens, ends, and the blocks held."""
    ours = partial(vllm_ours.run, rules=Rules.of("0.33.0"))
    cases = {seed: case_of(family, seed) for seed in range(examples(40))}
    found = {seed: differences(ours(case), stepped(case)) for seed, case in cases.items()}
    assert {seed: said for seed, said in found.items() if said} == {}
