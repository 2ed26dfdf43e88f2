r"""The parts of the pool over a run of steps: tokens, reserved, wasted, kept.

Within a run every decoding sequence writes one token per step, so each part changes linearly
between the two ends of a step row::

    tokens     ____/     written: sequences * steps + prefill tokens
    reserved   ‾‾‾‾\     what is written was reserved (contiguous), or
    held       ____/     lies in blocks that the run allocates (paged: stairs; the ends are exact)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["POOL_PARTS", "pool_parts"]

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, Floats]
Ends = tuple[Floats, Floats]

POOL_PARTS = ("token_states", "reserved", "internal", "external", "cached")
"""The PagedAttention paper's split, and finished prefixes that may be evicted."""


def pool_parts(steps: Columns, pool_slots: float) -> dict[str, Ends]:
    """Say where the pool's slots are at the start and the end of every run of steps.

    What a run allocates beyond the free slots is evicted from what is kept: at its end,
    finished prefixes fill no more than what is not held.

    Parameters
    ----------
    steps : dict of str to float array (rows,)
        The columns of `kvsim.simulator.recorder.STEP_COLUMNS`.
    pool_slots : float
        Token slots of the pool.

    Returns
    -------
    dict of str to pair of float arrays (rows,)
        The parts of `POOL_PARTS`, in slots; what they leave of the pool is free. Shared blocks
        are held once while several requests count their tokens, so token states end at
        what is held.
    """
    held = steps["held_slots"], steps["held_slots"] + steps["grown_slots"]
    written = steps["filling_slots"]
    tokens = (
        np.minimum(steps["filled_slots"], held[0]),
        np.minimum(steps["filled_slots"] + written, held[1]),
    )
    reserved = (
        np.minimum(steps["reserved_slots"], held[0] - tokens[0]),
        np.maximum(0, steps["reserved_slots"] - written),
    )
    internal = (
        np.maximum(0, held[0] - tokens[0] - reserved[0]),
        np.maximum(0, held[1] - tokens[1] - reserved[1]),
    )
    left = np.maximum(0, pool_slots - held[1])
    external = steps["external_slots"], np.minimum(steps["external_slots"], left)
    cached = steps["cached_slots"], np.minimum(steps["cached_slots"], left - external[1])
    parts = (tokens, reserved, internal, external, cached)
    return dict(zip(POOL_PARTS, parts, strict=True))
