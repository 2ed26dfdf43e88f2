"""The way from a client to the engine's queue, and back: when a request is queued, and heard of.

::

    send ──transit──▶ | taken in, one after another | ──▶ queued      scheduled ... first token
                                                                                       |
    first chunk ◀──transit── | turned into text, one after another | ◀─────────────────'
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from kvsim.specs.hardware import FrontEnd

__all__ = ["Entrance", "text_delays"]

Floats = npt.NDArray[np.float64]
_ROUNDING = 1e-12


class Entrance:
    """One server that takes requests in, in the order in which they are sent.

    Parameters
    ----------
    front_end : FrontEnd
        What it takes.

    Attributes
    ----------
    free_seconds : float
        When it has taken in whoever came so far.
    """

    def __init__(self, front_end: FrontEnd) -> None:
        self.front_end = front_end
        self.free_seconds = -inf

    def queued_at(self, sent_seconds: float, prompt_tokens: int) -> float:
        """When a request would be queued if it were the next to be taken in, seconds."""
        front = self.front_end
        begun = max(sent_seconds + front.transit_seconds, self.free_seconds)
        return begun + front.request_seconds + front.token_seconds * prompt_tokens

    def take_in(self, sent_seconds: float, prompt_tokens: int) -> float:
        """Take a request in; return when it is queued, seconds."""
        self.free_seconds = self.queued_at(sent_seconds, prompt_tokens)
        return self.free_seconds

    def take_in_all(self, sent_seconds: Floats, prompt_tokens: npt.NDArray[Any]) -> Floats:
        """Take requests in, in order of time; return when each is queued (n,), seconds.

        ``queued[i] = max(sent[i] + transit, queued[i - 1]) + service[i]``, which is a running
        maximum: ``queued = S + max over j <= i of (sent[j] + transit - S[j - 1])`` with the
        sums ``S`` of service times.
        """
        if not len(sent_seconds):
            return sent_seconds
        front = self.front_end
        service = front.request_seconds + front.token_seconds * prompt_tokens
        total = np.cumsum(service)
        ready = np.maximum(sent_seconds + front.transit_seconds, self.free_seconds)
        queued: Floats = total + np.maximum.accumulate(ready - (total - service))
        self.free_seconds = float(queued[-1])
        return queued


def text_delays(front_end: FrontEnd, steps: dict[str, Floats], moments: Floats) -> Floats:
    """Seconds from a token's computation to the client that reads it, at some moments.

    Tokens leave the server that turns them into text one after another: what a run of steps gives
    it to do beyond its duration waits.

    Parameters
    ----------
    front_end : FrontEnd
        What it takes.
    steps : dict of str to float array (rows,)
        `kvsim.simulator.recorder.STEP_COLUMNS`, in order of time.
    moments : float array (n,)
        When tokens were computed, seconds; NaN: never.

    Returns
    -------
    float array (n,)
        Half of its own step's tokens leave before a token, on average.
    """
    each = front_end.output_token_seconds
    if not each or not len(moments):
        return np.where(np.isnan(moments), np.nan, front_end.transit_seconds)
    ends = steps["start_seconds"] + steps["seconds"]
    work = each * steps["steps"] * steps["sequences"]
    idle = np.diff(ends, prepend=steps["start_seconds"][0])
    surplus = np.cumsum(work - idle)
    # what is left of all work so far: a reflected sum
    left = surplus - np.minimum.accumulate(np.minimum(surplus, 0.0))
    at = np.clip(np.searchsorted(ends, moments - _ROUNDING), 0, len(ends) - 1)
    own = each * (1 + steps["sequences"][at])
    before = np.maximum(left[at], own) - own / 2
    return np.asarray(np.where(np.isnan(moments), np.nan, front_end.transit_seconds + before))
