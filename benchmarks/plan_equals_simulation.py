"""Does the simulator hold as many requests as the plan says? The whole catalogue, every engine.

    python benchmarks/plan_equals_simulation.py [MODEL ...]

For each model, engine and number of devices: the plan's requests at a length, against the most
requests of that length that a simulation holds at once when all of them arrive together and
nothing but memory limits them (scheduler `orca`, one token of output, no limit of sequences).
Where windows give blocks back while a prompt is computed in chunks, its memory is asked instead:
prompt after prompt, chunk by chunk, until one is refused.
What a plan refuses must be refused by the simulation too, in the same words.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

import kvsim
from kvsim.catalog.models import model_names
from kvsim.engines import engine_names
from kvsim.errors import KVSimError
from kvsim.memory.footprint import layer_caches
from kvsim.planning.plan_types import Plan
from kvsim.simulator.allocators import Allocator
from kvsim.simulator.assemble import make_scheduler
from kvsim.simulator.prepare import Setup, prepare
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.request import Request
from kvsim.simulator.scenario import Scenario

GPU = "h200"
DEGREES = (1, 2, 4)
LONGEST = 8192
# More sequences than nearly every pool holds; the few that hold more are compared up to here.
SEATS = 4096
# Tokens short of the longest length, so that windows straddle as many blocks as they ever do.
SHORT = 6


class Pair(NamedTuple):
    """One model under one engine on so many devices.

    Parameters
    ----------
    model, engine : str
        Names.
    devices : int
        Tensor-parallel ranks; pipeline stages under llama.cpp, which has no other.
    planned, resident : int
        Requests at once: the plan's (at most `SEATS`), and the most that the simulation held.
    refused : str
        Why neither has an answer, or "".
    is_least : bool
        Whether one more may fit: the plan sets aside for the last request all recurrent states
        that the engine's start-up charges it, and how its prompt is cut may take fewer.
    """

    model: str
    engine: str
    devices: int
    planned: int
    resident: int
    refused: str = ""
    is_least: bool = False

    @property
    def is_equal(self) -> bool:
        """Whether the two say the same."""
        return self.resident in (self.planned, self.planned + self.is_least)


def options_of(model: str, engine: str, devices: int) -> dict[str, Any]:
    """Flags that leave nothing but memory to limit a request."""
    kind = "pipeline" if engine == "llama.cpp" else "tensor"
    length = min(LONGEST, kvsim.find_model(model).max_position_embeddings)
    return {
        f"{kind}_parallel_size": devices,
        "max_model_len": length,
        "max_num_seqs": SEATS,
        "max_num_batched_tokens": SEATS,
    }


def compared(model: str, engine: str, devices: int) -> Pair:
    """Plan, then simulate."""
    try:
        flags = options_of(model, engine, devices)
        tokens = flags["max_model_len"] - SHORT
        answer = kvsim.plan(model, GPU, engine=engine, context_len=tokens, **flags)
    except KVSimError as error:
        return Pair(model, engine, devices, 0, 0, _reason(str(error)))
    question = scenario(model, engine, flags, planned(answer, tokens) + 3)
    try:
        resident = peak_residents(question)
    except KVSimError as error:
        same = not answer.fits and answer.verdict in str(error)
        return Pair(model, engine, devices, 0, 0, "does not fit" if same else f"! {error}")
    is_least = keeps_states(model, engine)
    return Pair(model, engine, devices, planned(answer, tokens), resident, is_least=is_least)


def planned(answer: Plan, tokens: int) -> int:
    """The plan's requests of so many tokens."""
    row = next(row for row in answer.concurrency if row.context_len == tokens)
    return min(row.requests, SEATS)


def keeps_states(model: str, engine: str) -> bool:
    """Whether recurrent states are kept for later prompts."""
    layers = layer_caches(kvsim.find_model(model))
    return engine == "vllm" and any(cache.fixed_bytes() for _, cache in layers)


def scenario(model: str, engine: str, flags: dict[str, Any], requests: int) -> Scenario:
    """So many requests at once, a little short of the longest that is served.

    The one token that a request answers with is never cached. vLLM keeps recurrent states for
    later prompts, as the plan has it, only under its own scheduler.
    """
    keeps = keeps_states(model, engine)
    return Scenario(
        name="plan-equals-simulation",
        model=model,
        accelerator=GPU,
        engine={"name": engine, **flags},
        workload={
            "arrivals": {"kind": "at_once"},
            "lengths": {
                "prompt": {"kind": "fixed", "tokens": flags["max_model_len"] - SHORT},
                "output": {"kind": "fixed", "tokens": 1},
            },
            "requests": requests,
        },
        scheduler={"policy": "vllm-v1" if keeps else "orca"},
        step_time={"kind": "constant", "seconds": 1.0},
    )


def admitted_at_once(setup: Setup, tokens: int, most: int) -> int:
    """Requests of so many tokens that the memory itself admits, chunk by chunk, up to a number."""
    memory = make_scheduler(setup, Recorder()).allocator
    step = setup.deployment.options.max_num_batched_tokens
    chunk = step if memory.gives_back else tokens
    live: list[tuple[Request, int]] = []
    for row in range(most):
        request = Request(row, 0.0, tokens, 1)
        if memory.allocate(request, chunk) is None or not _grows(request, memory, chunk):
            break
        live.append((request, tokens))
    memory.check(live)
    return len(live)


def _grows(request: Request, memory: Allocator, chunk: int) -> bool:
    """Compute a prompt chunk by chunk; False: it was given up, as its last one has no room.

    An admission asks for all that attention needs. Of recurrent states it asks for those of one
    chunk, while the next one needs the newest before it, too.
    """
    while rest := request.prompt_tokens - request.computed_tokens:
        request.computed_tokens += memory.chunk(request, min(chunk, rest))
        coming = min(chunk, request.prompt_tokens - request.computed_tokens)
        end = request.computed_tokens + (memory.chunk(request, coming) if coming else 0)
        if not memory.append_slots(request, end):
            assert memory.aligns_chunks, "who is admitted has room to its last chunk"
            memory.free(request)
            return False
    return True


def peak_residents(question: Scenario) -> int:
    """Most requests that were admitted and not yet finished at one moment."""
    setup = prepare(question)
    if any(group.growth.window for group in setup.pools.main.groups):
        lengths = question.workload.lengths
        return admitted_at_once(setup, lengths.prompt.least_tokens, question.workload.requests)
    requests = kvsim.simulate(question).requests
    starts = np.sort(requests["scheduled_seconds"].to_numpy())
    ends = np.sort(requests["finish_seconds"].to_numpy())
    running = np.arange(1, len(starts) + 1) - np.searchsorted(ends, starts, side="right")
    return int(running.max())


def pairs(models: Iterable[str]) -> Iterator[Pair]:
    """Every model under every engine on every number of devices."""
    for model in models:
        for engine in engine_names():
            for devices in DEGREES:
                yield compared(model, engine, devices)


def _reason(said: str) -> str:
    """A refusal without its numbers, so that the same reasons count together."""
    return said.split(";")[0].split(":")[0][:60]


def main(models: list[str]) -> None:
    """Print a table by engine, every pair that differs, and why others were refused."""
    found = list(pairs(models or model_names()))
    print(f"{'engine':14} {'pairs':>6} {'equal':>6} {'differ':>6} {'refused':>8}")
    for engine in (*engine_names(), "all"):
        mine = [pair for pair in found if engine in (pair.engine, "all")]
        asked = [pair for pair in mine if not pair.refused]
        equal = sum(pair.is_equal for pair in asked)
        print(
            f"{engine:14} {len(mine):6} {equal:6} {len(asked) - equal:6} {len(mine) - len(asked):8}"
        )
    for pair in found:
        if not pair.refused and not pair.is_equal:
            print(f"  {pair.model} {pair.engine} x{pair.devices}: {pair.planned} {pair.resident}")
    reasons = Counter(pair.refused.split("!")[0] or pair.refused for pair in found if pair.refused)
    for reason, count in reasons.most_common(12):
        print(f"  refused {count:4}  {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
