"""Which kernels rates stand for, in words: no torch is needed to say it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Kernels"]


class Kernels(NamedTuple):
    """What a device's attention and its norms, rotary positions and gates run on.

    Parameters
    ----------
    attention, elementwise : str
        What was chosen, best first.
    passed_over : tuple of str
        Better ones that are not to be had, and why, a line each.
    """

    attention: str
    elementwise: str
    passed_over: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Both in a line."""
        return f"attention: {self.attention}; norms, rotary, gates: {self.elementwise}"
