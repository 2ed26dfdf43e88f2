r"""The parts of the pool over a run of steps: tokens, reserved, wasted, kept.

Within a run every decoding sequence writes one token per step, so each part changes linearly
between the two ends of a step row::

    tokens     ____/     written: sequences * steps + prefill tokens; less what windows leave
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
_ALL_PARTS = (*POOL_PARTS, "free")


def pool_parts(steps: Columns, pool_slots: float) -> dict[str, Ends]:
    """Say where the pool's slots are at the start and the end of every run of steps.

    Each part is counted by itself, so the sum can be wrong: what is held and what is free by
    the pool's own count, what lies in it by what each live request has cached and was promised.
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
        The parts of `POOL_PARTS`, in slots, and "free". Together they are the pool. What
        several requests share counts once.

    Raises
    ------
    InvariantError
        When the parts are more or less than the pool, or one of them is negative: slots
        were lost, taken twice, or written by somebody who does not hold them.
    """
    held = steps["held_slots"], steps["held_slots"] + steps["grown_slots"]
    written = steps["filling_slots"]
    tokens = steps["filled_slots"], steps["filled_slots"] + written - steps["left_slots"]
    reserved = steps["reserved_slots"], np.maximum(0, steps["reserved_slots"] - written)
    unused = steps["claimed_slots"] - tokens[0] - reserved[0]
    beyond = written - (reserved[0] - reserved[1])  # written into blocks that were not full
    opened = steps["grown_slots"] + steps["left_slots"]
    internal = unused, unused + opened - beyond
    left = np.maximum(0, pool_slots - held[1])
    external = steps["external_slots"], np.minimum(steps["external_slots"], left)
    cached = steps["cached_slots"], np.minimum(steps["cached_slots"], left - external[1])
    free = (
        pool_slots - held[0] - external[0] - cached[0],
        pool_slots - held[1] - external[1] - cached[1],
    )
    parts = (tokens, reserved, internal, external, cached, free)
    for end in (0, 1):
        _check_whole([part[end] for part in parts], pool_slots)
    return dict(zip(_ALL_PARTS, parts, strict=True))


def _check_whole(parts: list[Floats], pool_slots: float) -> None:
    """State that parts, each counted by itself, are the pool, and that none is owed."""
    whole, least = np.sum(parts, axis=0), np.min(parts, axis=0)
    wrong = (np.abs(whole - pool_slots) > _SLOT) | (least < -_SLOT)
    if wrong.any():
        row = int(wrong.argmax())
        each = zip(_ALL_PARTS, parts, strict=True)
        counted = ", ".join(f"{name} {part[row]:,.0f}" for name, part in each)
        raise InvariantError(
            f"the parts of the pool are {whole[row]:,.0f} of {pool_slots:,.0f} slots: {counted}"
        )
