"""Open-loop requests drawn from ServeGen's client descriptions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from kvsim.errors import InputError
from kvsim.workload.base import CHUNK_ROWS, Floats, RequestTable, cut, in_time_order, rechunked
from kvsim.workload.generated import Limits
from kvsim.workload.streams import Streams
from kvsim.workload.traces.formats.servegen import Client, Window, load_clients

__all__ = ["ServeGenWorkload"]

_MOST_IN_A_WINDOW = 10_000_000  # they are drawn together


@dataclass
class ServeGenWorkload:
    """Every client of a ServeGen folder sends what its windows say.

    Parameters
    ----------
    path : Path
        Folder or .tar.gz.
    time_scale : float
        Multiplies every time; 0.5 doubles the request rate.
    limits : Limits
        Where to end.

    Notes
    -----
    A window's rate times its length is the number of requests that were counted in it, and
    exactly that many are sent (a fraction is drawn). Their gaps have the window's family and
    shape and are scaled to fill it: the `n` requests divide the window into `n + 1` gaps::

        |--g1--*-g2-*---g3---*-...-*--g(n+1)--|     sum of gaps = window

    Starting a renewal process afresh in every window would send too many: by (CV**2 - 1)/2
    requests, 22 of 51 in a measured one with a CV of 6.7. Lengths come from the histograms in
    force, prompt and output apart. The session of a request is its client.
    """

    path: Path
    time_scale: float = 1.0
    limits: Limits = field(default_factory=Limits)

    @cached_property
    def clients(self) -> list[Client]:
        """The clients, read on first use."""
        return load_clients(self.path)

    def tables(self, streams: Streams, chunk_rows: int = CHUNK_ROWS) -> Iterator[RequestTable]:
        """Yield the requests in time order; see `kvsim.workload.base.Workload.tables`."""
        ordered = in_time_order(self._windows(streams))
        limited = cut(ordered, self.limits.requests, self.limits.duration_seconds)
        return rechunked(limited, chunk_rows)

    def _windows(self, streams: Streams) -> Iterator[tuple[RequestTable, float]]:
        starts = sorted({at.start_seconds for client in self.clients for at in client.windows})
        widths = np.diff(starts).tolist()
        widths.append(widths[-1] if widths else 600.0)
        by_start = [{at.start_seconds: at for at in client.windows} for client in self.clients]
        for start, width in zip(starts, widths, strict=True):
            parts = [
                self._sent(client, windows[start], width, streams)
                for client, windows in zip(self.clients, by_start, strict=True)
                if start in windows and windows[start].rate > 0
            ]
            if parts:
                yield RequestTable.merged(parts), (start + width) * self.time_scale

    def _sent(self, client: Client, window: Window, width: float, streams: Streams) -> RequestTable:
        own = streams.child(f"client {client.number}")
        rng = own.child(f"{window.start_seconds:g}").stream("arrivals")
        times = window.start_seconds + _spread(window, width, rng)
        prompt, output = client.lengths_at(window.start_seconds)
        return RequestTable(
            times * self.time_scale,
            prompt.draw(rng, len(times)),
            output.draw(rng, len(times)),
            session=np.full(len(times), client.number, np.int64),
        )


def _spread(window: Window, width: float, rng: np.random.Generator) -> Floats:
    """Return the window's arrivals in seconds from its start."""
    expected = window.rate * width
    if expected > _MOST_IN_A_WINDOW:
        raise InputError(
            f"{expected:.3g} requests in the window at {window.start_seconds:g} s",
            where="trace",
            fix=f"a window may send {_MOST_IN_A_WINDOW:,}",
        )
    count = math.floor(expected + 1e-6)
    count += int(rng.random() < expected - count)
    if window.family == "Gamma":
        gaps = rng.gamma(window.shape, 1.0, count + 1)
    else:
        gaps = rng.weibull(window.shape, count + 1)
    total = gaps.sum()
    if total == 0:  # every gap underflowed: a shape near 0 sends one burst
        return np.full(count, width * rng.random())
    return np.asarray(np.cumsum(gaps)[:-1] * (width / total))
