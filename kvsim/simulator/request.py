"""The one living record of a request, from its arrival to its last token.

::

    arrival     scheduled      first token                     finish
       |  queue     |   prefill     |  decode ... decode  ...     |
       WAITING ---- PREFILLING ---- DECODING -------------------- FINISHED
          ^______________|______________|   preempted: back to the queue

``computed_tokens`` counts those whose K and V are in the cache. Producing the last token
writes nothing, so a request ends with ``prompt_tokens + output_tokens - 1`` of them.
"""

from __future__ import annotations

from kvsim.workload.content import PrefixContent, Segments

__all__ = ["Request"]

_OWN_SPAN = 1 << 48  # identities of one request's blocks, where nobody else has any of them


class Request:
    """A request's progress. Its owner is the scheduler; allocators only read it.

    Attributes
    ----------
    row : int
        Position in the order of arrival, which is also its row in the results.
    prompt_tokens, output_tokens : int
        Lengths asked for; ``output_tokens >= 1``.
    samples : int
        Parallel sequences that share the prompt and advance together. After a preemption
        they are computed again as one sequence, which leaves out the others' outputs.
    priority, arrival_seconds
        As the workload gave them.
    generated_tokens : int
        Tokens produced before the last preemption (they are recomputed with the prompt).
    prefill_tokens : int
        Tokens to compute before the next token can be produced: the prompt, and after a
        preemption what had been generated as well.
    computed_tokens : int
        Tokens in the cache while the request is not decoding; a decoding request's count
        is ``base + step`` (see `kvsim.simulator.batch`).
    base, finish_step, bend_step : int, int or None, int or None
        Kept by `kvsim.simulator.batch` while decoding; the steps are None at any other time.
    preemptions : int
        How often it was preempted.
    seat : int
        Number of its last admission.
    swapped : bool
        Whether its cached tokens wait on the host.
    blocks : object
        The allocator's own note (a block list, an address, ...).
    segments : Segments or None
        The allocator's note of the identities of its blocks; see `PrefixContent.segments`.
    content, content_row : PrefixContent or None, int
        Who knows the identities of the request's blocks, and by which row; None shares
        nothing.
    """

    # What is read once per request or less has its default here; an instance's own is read faster.
    priority = 0
    base = 0
    seat = 0
    finish_step: int | None = None
    bend_step: int | None = None
    blocks: object = None
    segments: Segments | None = None
    content: PrefixContent | None = None
    content_row = 0

    def __init__(
        self, row: int, arrival_seconds: float, prompt_tokens: int, output_tokens: int
    ) -> None:
        self.row = row
        self.arrival_seconds = arrival_seconds
        self.prompt_tokens = prompt_tokens
        self.prefill_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.samples = 1
        self.generated_tokens = 0
        self.computed_tokens = 0
        self.preemptions = 0
        self.swapped = False

    def __repr__(self) -> str:
        return f"Request(row={self.row}, {self.prompt_tokens}+{self.output_tokens} tokens)"

    def identities(self, block_size: int) -> Segments:
        """Where the identities of its blocks begin anew; its own where it shares nothing."""
        if self.content is not None:
            return self.content.segments(self.content_row, block_size)
        return ((0, -(self.row + 1) * _OWN_SPAN),)

    @property
    def final_tokens(self) -> int:
        """Tokens of one sequence that are in the cache when the request ends."""
        return self.prompt_tokens + self.output_tokens - 1
