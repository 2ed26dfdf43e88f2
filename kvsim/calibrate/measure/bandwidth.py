"""How fast memory is copied and read, far beyond what a cache could hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvsim.calibrate.measure.case import Call, LocalCase, halved
from kvsim.calibrate.measure.workspace import Tensor, Workspace
from kvsim.units import MIB

__all__ = ["CopyCase", "ReadCase"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyCase(LocalCase):
    """Copy one buffer into another.

    Parameters
    ----------
    buffer : int
        Bytes of each; one call reads and writes so many.
    """

    kind: ClassVar[str] = "copy"
    rotates: ClassVar[bool] = True
    buffer: int

    @property
    def moved_bytes(self) -> float:
        """Bytes read and bytes written."""
        return 2.0 * self.buffer

    @property
    def buffer_bytes(self) -> float:
        """Source and target."""
        return 2.0 * self.buffer

    def calls(self, space: Workspace) -> list[Call]:
        """One call that copies."""
        source, target = space.views(2, (self.buffer // self.element_bytes,), self.dtype)
        return [lambda: target.copy_(source)]

    def smaller(self) -> CopyCase | None:
        """Half the buffer."""
        return halved(self, "buffer")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCase(LocalCase):
    """Read one buffer: the largest element of each row is all that is written.

    Parameters
    ----------
    buffer : int
        Bytes read.
    """

    kind: ClassVar[str] = "read"
    rotates: ClassVar[bool] = True
    buffer: int

    @property
    def moved_bytes(self) -> float:
        """Bytes read."""
        return float(self.buffer)

    @property
    def buffer_bytes(self) -> float:
        """The buffer."""
        return float(self.buffer)

    def calls(self, space: Workspace) -> list[Call]:
        """One call that reads."""
        width = 4096
        shape = (self.buffer // self.element_bytes // width, width)
        rows: Tensor = space.views(1, shape, self.dtype)[0]
        return [lambda: rows.amax(dim=1)]

    def smaller(self) -> ReadCase | None:
        """Half the buffer, down to a mebibyte."""
        return halved(self, "buffer") if self.buffer >= 2 * MIB else None
