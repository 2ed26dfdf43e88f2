"""A kernel of decode attention: what it is asked, and what every layer then calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from kvsim.calibrate.twin.decodes import Decodes, Geometry
from kvsim.units import ceil_div

__all__ = ["Attend", "DecodeKernel"]

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``attend(query, keys, values)``: (sequences, heads, dim), and one layer's blocks."""


class DecodeKernel(ABC):
    """Attention of one token a sequence.

    Parameters
    ----------
    geometry : Geometry
        What it is for.

    Attributes
    ----------
    name : str
        What it is called in results.
    gathers : bool
        Whether it copies blocks together, instead of reading K and V where they lie.
    held_bytes : int
        What it holds on the device from its first use on.

    Raises
    ------
    ImportError
        When its library is not installed.
    """

    name: ClassVar[str]
    gathers: ClassVar[bool] = False
    held_bytes: ClassVar[int] = 0

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    @abstractmethod
    def plan(self, decodes: Decodes) -> Attend:
        """Lay out one step's attention; every layer then calls what is returned."""

    def tables(self, decodes: Decodes) -> tuple[Tensor, Tensor]:
        """Block tables (n, most), padded, and lengths (n), both int32."""
        size, device = self.geometry.block_size, self.geometry.device
        most = ceil_div(max(decodes.lengths), size)
        padded = [[*ids[:most], *[0] * (most - len(ids))] for ids in decodes.tables]
        tables = torch.tensor(padded, dtype=torch.int32, device=device)
        return tables, torch.tensor(decodes.lengths, dtype=torch.int32, device=device)

    def starts(self, decodes: Decodes) -> Tensor:
        """Where each sequence's one query begins in the batch, int32 (n + 1)."""
        count = len(decodes.lengths) + 1
        return torch.arange(count, dtype=torch.int32, device=self.geometry.device)
