"""What decode attention is asked: heads and blocks, and the sequences of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

__all__ = ["Decodes", "Geometry"]


class Geometry(NamedTuple):
    """What a kernel is chosen for.

    Parameters
    ----------
    heads, kv_heads, head_dim : int
        Query heads, KV heads and their size.
    block_size : int
        Tokens of a block.
    dtype, device
        Of queries and blocks.
    """

    heads: int
    kv_heads: int
    head_dim: int
    block_size: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class Decodes:
    """Sequences that decode one token each.

    Parameters
    ----------
    tables : sequence of sequence of int
        Blocks of each, as many as its context needs or more.
    lengths : sequence of int
        Context of each, the new token included.
    """

    tables: Sequence[Sequence[int]]
    lengths: Sequence[int]
