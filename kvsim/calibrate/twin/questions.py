"""What the twin is asked when nobody gives it a scenario: a few loads up to saturation."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.simulator.prepare import Setup
from kvsim.simulator.scenario import EngineSpec, Scenario
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.model import ModelSpec
from kvsim.steptime.kv_reads import prefill_pairs
from kvsim.steptime.model import StepLoad
from kvsim.workload.spec import parse_workload

__all__ = ["GPU_SECONDS", "Question", "capacity_requests_per_s", "question_for"]

_FEWEST_REQUESTS = 48
GPU_SECONDS = {False: 40.0, True: 12.0}  # over which requests arrive; quick or not
_GPU_TOKENS, _CPU_TOKENS = 4096, 512  # tokens of the longest sequence
_POOL_SHARE = 0.35  # of what the largest batch could need: then memory limits, now and then


@dataclass(frozen=True, slots=True)
class Question:
    """A workload by its size; lengths are uniform between the two ends, tokens.

    Parameters
    ----------
    requests : int
        How many.
    prompt, output : (int, int)
        Shortest and longest.
    max_num_seqs, max_num_batched_tokens : int
        The engine's limits.
    num_blocks : int or None
        Pool; None takes what the plan says the device has room for.
    seconds : float or None
        Time over which requests arrive, where it leaves fewer of them; None: all come.
    """

    requests: int
    prompt: tuple[int, int]
    output: tuple[int, int]
    max_num_seqs: int
    max_num_batched_tokens: int
    num_blocks: int | None
    seconds: float | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest request."""
        return self.prompt[1] + self.output[1]

    def scenario(self, model: ModelSpec, dtype: str, rate: float | None = None) -> Scenario:
        """Spell the question out; without a rate, all requests arrive at once."""
        arrivals = {"kind": "poisson", "rate": rate} if rate else {"kind": "at_once"}
        ends = {"prompt": self.prompt, "output": self.output}
        lengths = {
            name: {"kind": "uniform", "low": low, "high": high}
            for name, (low, high) in ends.items()
        }
        options = EngineOptions(
            dtype=dtype,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.longest,
            num_gpu_blocks_override=self.num_blocks,
            block_size=16,
            enable_prefix_caching=False,  # the twin finds none
        )
        return Scenario(
            name="twin",
            model=model.name,
            accelerator="this device",
            engine=EngineSpec(**options.model_dump()),
            workload=parse_workload(
                {"arrivals": arrivals, "lengths": lengths, "requests": self._count(rate)}
            ),
        )

    def _count(self, rate: float | None) -> int:
        """Requests that come at a rate in the time there is: enough to say anything at least."""
        if rate is None or self.seconds is None:
            return self.requests
        return min(self.requests, max(_FEWEST_REQUESTS, round(rate * self.seconds)))


def question_for(model: ModelSpec, *, on_gpu: bool, quick: bool) -> Question:
    """Choose a workload that suits the device and the time there is."""
    longest = min(model.max_position_embeddings, _GPU_TOKENS if on_gpu else _CPU_TOKENS)
    prompt, output = (longest // 16, longest // 2), (longest // 32, longest // 4)
    most = (16 if quick else 32) if not on_gpu else 128
    blocks = None if on_gpu else round(_POOL_SHARE * most * longest / 16)
    if not on_gpu:
        return Question(40 if quick else 120, prompt, output, most, 256, blocks)
    # a GPU is lent by the minute: three loads of two models are to fit into nine
    seconds = GPU_SECONDS[quick]
    return Question(500, prompt, output, most, 2048, blocks, seconds=seconds)


def capacity_requests_per_s(setup: Setup, question: Question) -> float:
    """Estimate the rate at which the step-time model saturates on a question.

    A request costs its prompt's share of a step, and its share of a full batch for every
    token that it is given::

        seconds per request = prefill(prompt) + output * decode(batch) / batch
    """
    prompt, output = sum(question.prompt) // 2, sum(question.output) // 2
    slots = setup.num_blocks * setup.curve.block_size
    batch = max(1, min(question.max_num_seqs, slots // (prompt + output)))
    read = batch * (prompt + output // 2) * setup.token_bytes
    decode = setup.step_time.cost(StepLoad(batch, batch, read)).seconds
    pairs = prefill_pairs(setup.deployment.model, 0, prompt)
    both = setup.step_time.cost(StepLoad(batch + prompt, batch + 1, read, pairs)).seconds
    return 1 / (both - decode + output * decode / batch)
