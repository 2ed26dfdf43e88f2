"""Frames of the pool: who held how much at a few hundred moments of a run.

A camera looks between two runs of steps, when every count is exact, about every `gap` seconds.
The length of a run is not known before its end, so the film is thinned whenever it gets too
long, and from then on the camera looks half as often::

    gap 1   | | | | | | | |            film full
    gap 2   |   |   |   |    |    |    ...
"""

from __future__ import annotations

from typing import NamedTuple

from kvsim.simulator.allocators.base import Holding
from kvsim.simulator.schedulers.base import Scheduler

__all__ = ["Camera", "Frame"]

_FIRST_GAP_SECONDS = 0.125


class Frame(NamedTuple):
    """The pool at one moment, exactly.

    Parameters
    ----------
    seconds : float
        Simulated time.
    holdings : tuple of Holding
        What every running request holds alone, in the order of admission.
    shared, cached, free : int
        Blocks that several running requests hold together, that keep a finished prefix, and
        that hold nothing.
    waiting : int
        Requests in the queue.
    """

    seconds: float
    holdings: tuple[Holding, ...]
    shared: int
    cached: int
    free: int
    waiting: int

    @property
    def held(self) -> int:
        """Blocks that running requests hold."""
        return self.shared + sum(h.written + h.coming + h.unused for h in self.holdings)


class Camera:
    """Keeps frames of a run, evenly spaced, at most so many.

    Parameters
    ----------
    most_frames : int
        At the end there are between half as many and as many, in a run without long pauses.

    Attributes
    ----------
    frames : list of Frame
        In order of time.
    next_seconds : float
        When to look again.
    total_blocks, block_size : int
        The pool that was seen, in blocks of so many tokens (1 for contiguous memory).
    """

    def __init__(self, most_frames: int = 200) -> None:
        self.frames: list[Frame] = []
        self.next_seconds = 0.0
        self.total_blocks = 0
        self.block_size = 1
        self._most = most_frames
        self._gap = _FIRST_GAP_SECONDS

    def shoot(self, now: float, scheduler: Scheduler) -> None:
        """Keep a frame of the moment between two runs of steps."""
        allocator = scheduler.allocator
        self.total_blocks, self.block_size = allocator.total_blocks, allocator.block_size
        cached = allocator.slots(0, None).cached // allocator.block_size
        live = [(request, scheduler.cached_tokens(request)) for request in scheduler.running]
        frame = Frame(
            now,
            tuple(allocator.holdings(live)),
            allocator.shared_blocks,
            cached,
            allocator.free_blocks - cached,
            scheduler.queued,
        )
        self.frames.append(frame)
        if len(self.frames) > self._most:
            self._thin()
        self.next_seconds = (now // self._gap + 1) * self._gap

    def _thin(self) -> None:
        """Look half as often, and keep of what was seen the first in every gap."""
        while len(self.frames) > self._most:
            self._gap *= 2
            first = {frame.seconds // self._gap: frame for frame in reversed(self.frames)}
            self.frames = sorted(first.values(), key=lambda frame: frame.seconds)
