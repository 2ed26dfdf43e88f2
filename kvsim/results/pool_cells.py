"""A frame of the pool as a row of cells: one per block, or per bin of blocks.

Contiguous memory has addresses, and a cell is where it says it is. A paged pool has none (any
free block will do), so its blocks are laid out here the way an engine with a first-in,
first-out list of free blocks might: *which* cell holds a request's block is reconstructed,
*how many* it holds is exact. Laid out frame after frame, a block stays where it is for as long
as it is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from kvsim.simulator.camera import Camera, Frame
from kvsim.units import ceil_div

__all__ = ["MOST_CELLS", "Cells", "Use", "pool_cells"]

Ints = npt.NDArray[np.int64]

MOST_CELLS = 4096


class Use(IntEnum):
    """What a cell is used for."""

    FREE = 0
    CACHED = 1
    SHARED = 2
    WRITTEN = 3
    COMING = 4
    UNUSED = 5


# A cell's code: FREE, CACHED or SHARED, or a request's row beside one of its three uses.
_OWN = 3


@dataclass(frozen=True)
class Cells:
    """The pool at one moment.

    Parameters
    ----------
    frame : Frame
        The moment.
    use : int array (cells,)
        A `Use` each: what most of the cell's blocks are for.
    row : int array (cells,)
        The request that holds it; meaningless where nobody alone does.
    blocks_per_cell : int
        Blocks a cell stands for (the last one may stand for fewer).
    block_size : int
        Tokens per block.
    exact : bool
        Whether a cell's place is its address; else places are reconstructed.
    """

    frame: Frame
    use: Ints
    row: Ints
    blocks_per_cell: int
    block_size: int
    exact: bool


def pool_cells(camera: Camera, number: int, *, most_cells: int = MOST_CELLS) -> Cells:
    """Lay out the pool of one of a camera's frames.

    Parameters
    ----------
    camera : Camera
        What was seen of a run.
    number : int
        Which of its frames.
    most_cells : int
        A pool of more blocks is binned.
    """
    frame = camera.frames[number]
    exact = any(holding.address is not None for seen in camera.frames for holding in seen.holdings)
    if exact:
        codes = _addressed(frame, camera.total_blocks)
    else:
        codes = _laid_out(camera.frames[: number + 1], camera.total_blocks)
    group = ceil_div(camera.total_blocks, most_cells)
    codes = _mostly(codes, group)
    own = codes >= _OWN
    use = np.where(own, _OWN + codes % 3, codes)
    return Cells(frame, use, codes // 3 - 1, group, camera.block_size, exact)


def _code(row: int, use: Use) -> int:
    return 3 * (row + 1) + use - _OWN


def _addressed(frame: Frame, blocks: int) -> Ints:
    """Paint every region where it lies."""
    codes = np.full(blocks, Use.FREE, dtype=np.int64)
    for holding in frame.holdings:
        at = holding.address or 0
        parts = (holding.written, holding.coming, holding.unused)
        for use, length in zip((Use.WRITTEN, Use.COMING, Use.UNUSED), parts, strict=True):
            codes[at : at + length] = _code(holding.row, use)
            at += length
    return codes


def _laid_out(frames: Sequence[Frame], blocks: int) -> Ints:
    """Give blocks places, frame after frame: what shrinks lets go, what grows takes."""
    free = np.arange(blocks)
    places: dict[int, Ints] = {}
    for frame in frames:
        wanted = _wanted(frame)
        gone = [_shrink(places, key, wanted.get(key, 0)) for key in list(places)]
        free = np.concatenate([free, *gone])
        for key, count in wanted.items():
            held = places.get(key, free[:0])
            need = count - len(held)
            # What is kept of finished requests was let go last; others take what is oldest.
            took, free = _split(free, need, last=key == Use.CACHED)
            places[key] = np.concatenate([held, took])
    codes = np.full(blocks, Use.FREE, dtype=np.int64)
    for key, held in places.items():
        codes[held] = key
    return codes


def _wanted(frame: Frame) -> dict[int, int]:
    """Blocks of a frame by the code of what they are for."""
    own = {_code(each.row, Use.WRITTEN): each.written for each in frame.holdings}
    return {Use.SHARED: frame.shared, Use.CACHED: frame.cached, **own}


def _shrink(places: dict[int, Ints], key: int, count: int) -> Ints:
    """Cut a holder's places down to `count`; return those that it let go."""
    held = places[key]
    places[key] = held[:count]
    if not count:
        del places[key]
    return held[count:]


def _split(free: Ints, count: int, *, last: bool) -> tuple[Ints, Ints]:
    if last:
        return free[len(free) - count :], free[: len(free) - count]
    return free[:count], free[count:]


def _mostly(codes: Ints, group: int) -> Ints:
    """Bin codes: each bin shows the one that most of it has, the smallest of equals."""
    if group == 1:
        return codes
    bins = np.arange(len(codes)) // group
    pairs, counts = np.unique(np.stack([bins, codes]), axis=1, return_counts=True)
    order = np.lexsort((-pairs[1], counts, pairs[0]))
    last = np.flatnonzero(np.diff(pairs[0][order], append=-1))
    chosen: Ints = pairs[1][order][last]
    return chosen
