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

from kvsim.errors import InvariantError

__all__ = ["POOL_PARTS", "pool_parts"]

_SLOT = 1e-3  # counts of slots are whole, and sums of them exact to far less
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
        The parts of `POOL_PARTS`, in slots, and "free", by what is neither held nor set apart:
        together the pool, unless something was counted twice or not at all. Shared blocks
        are held once while several requests count their tokens, so token states end at
        what is held.

    Raises
    ------
    InvariantError
        When the parts are more or less than the pool, or more than the pool is held.
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
    free = (
        pool_slots - held[0] - external[0] - cached[0],
        pool_slots - held[1] - external[1] - cached[1],
    )
    parts = (tokens, reserved, internal, external, cached, free)
    for end in (0, 1):
        _check_whole(np.sum([part[end] for part in parts], axis=0), free[end], pool_slots)
    return dict(zip((*POOL_PARTS, "free"), parts, strict=True))


def _check_whole(whole: Floats, free: Floats, pool_slots: float) -> None:
    """State that parts, each counted by itself, are the pool, and that none is owed."""
    wrong = (np.abs(whole - pool_slots) > _SLOT) | (free < -_SLOT)
    if wrong.any():
        row = int(wrong.argmax())
        raise InvariantError(
            f"the parts of the pool are {whole[row]:,.0f} of {pool_slots:,.0f} slots, of which"
            f" {free[row]:,.0f} are free"
        )
