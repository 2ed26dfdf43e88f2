"""Steps in which a window gives back more than a block: what its prompt left behind, or a chunk.

Within a run of steps what is held grows evenly, so such a step is a run by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from kvsim.memory.growth import Growth
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.request import Request

__all__ = ["Cuts"]


class Cuts:
    """When decoding requests give much back.

    Parameters
    ----------
    groups : iterable of Growth
        Groups of layers.
    """

    def __init__(self, groups: Iterable[Growth]) -> None:
        windows = (growth.window for growth in groups)
        self._spans = {each.tokens for each in windows if each is not None and each.is_chunk}
        self._steps: list[tuple[int, int, int, int, Request]] = []  # step, row, base, span

    def foresee(self, request: Request, step: int, late: int) -> None:
        """Note when a request that decodes from a step on gives much back.

        Parameters
        ----------
        request : Request
            Its ``computed_tokens`` and ``base`` are up to date.
        step : int
            Step of the batch.
        late : int
            Newest tokens that a step under way computes.
        """
        for ahead in range(late + 1):
            heappush(self._steps, (step + ahead, request.row, request.base, 0, request))
        for span in self._spans:
            ahead = (late - request.computed_tokens) % span
            heappush(self._steps, (step + ahead, request.row, request.base, span, request))

    def steps_before(self, batch: DecodeBatch) -> int:
        """Steps before the next such step; 1 if it is the very next; 0: there is none."""
        steps = self._steps
        while steps:
            step, row, base, span, request = steps[0]
            stands = request in batch.members and request.base == base
            if stands and step >= batch.step:
                return max(1, step - batch.step)
            heappop(steps)
            if stands and span:
                heappush(steps, (step + span, row, base, span, request))
        return 0
