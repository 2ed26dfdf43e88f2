"""What bounds a step, and what one computes."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.simulator.request import Request

__all__ = ["SchedulerLimits", "StepPlan", "longest_chunk"]


def longest_chunk(max_num_batched_tokens: int, long_prefill_token_threshold: int) -> int:
    """Most tokens of one prompt in a step of so many; a threshold of 0 is none."""
    return min(max_num_batched_tokens, long_prefill_token_threshold or max_num_batched_tokens)


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """The engine flags that bound a step, under vLLM's names.

    Parameters
    ----------
    max_num_seqs : int
        Sequences that may run at once.
    max_num_batched_tokens : int
        Tokens that one step may compute.
    long_prefill_token_threshold : int
        Most tokens of one prompt in one step; 0 is no limit of its own.
    max_model_len : int
        Longest prompt plus output, tokens.
    admission : str
        Order of the waiting queue: "fcfs", "priority", "shortest-first", or one of yours.
    preemption : str
        What becomes of a victim's cache: "recompute" or "swap".
    waives_threshold : bool
        Whether a request that is alone is not held to the threshold.
    scheduler_reserve_full_isl : bool
        Whether all of a prompt must have room before its first chunk is computed.
    goes_on_after_own_preemption : bool
        Whether those behind a request that gave way for itself still run in that step.
    skips_behind_idle_victims : bool
        Whether a victim with nothing to compute costs somebody behind it the step.
    async_scheduling : bool
        Whether a step is scheduled while the one before it is computed.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    long_prefill_token_threshold: int = 0
    admission: str = "fcfs"
    preemption: str = "recompute"
    waives_threshold: bool = True
    scheduler_reserve_full_isl: bool = True
    goes_on_after_own_preemption: bool = True
    skips_behind_idle_victims: bool = False
    async_scheduling: bool = False

    @property
    def longest_chunk(self) -> int:
        """Most tokens of one prompt in one step, threshold included."""
        return longest_chunk(self.max_num_batched_tokens, self.long_prefill_token_threshold)


@dataclass(slots=True)
class StepPlan:
    """What the next step computes, and for how many steps that stays right.

    Parameters
    ----------
    prefills : list of (Request, int)
        Prompt chunks, with their tokens.
    decodes : bool
        Whether the decoding sequences take part.
    steps : int
        Most steps before a completion, a shortage or a window changes the plan.
    moved_tokens : int
        Cached tokens that cross the host link for this step (swap in and out).
    opened_blocks, evicted_blocks : int
        Blocks of the first step's decodes that were allocated while it was planned, and how many
        of them were cached ones, if decodes were the last to be served.
    """

    prefills: list[tuple[Request, int]]
    decodes: bool
    steps: int = 1
    moved_tokens: int = 0
    opened_blocks: int = 0
    evicted_blocks: int = 0
