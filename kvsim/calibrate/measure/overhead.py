"""What has nothing to do with the work itself: launches, and the host's part of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from kvsim.calibrate.measure.case import Call, LocalCase, halved
from kvsim.calibrate.measure.workspace import Workspace

__all__ = ["HostCase", "LaunchCase", "ReplayCase"]

_LAUNCHES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchCase(LocalCase):
    """Start a kernel that has next to nothing to do."""

    kind: ClassVar[str] = "launch"
    captured: ClassVar[bool] = False

    @property
    def buffer_bytes(self) -> float:
        """One element."""
        return float(self.element_bytes)

    def calls(self, space: Workspace) -> list[Call]:
        """As many calls as a few layers launch, all on the same element."""
        one = space.empty((1,), self.dtype)
        return [one.zero_] * _LAUNCHES


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayCase(LaunchCase):
    """The same kernels inside a CUDA graph."""

    kind: ClassVar[str] = "launch_graph"
    captured: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCase(LocalCase):
    """The ends of a step: lists become tensors, logits become tokens on the host.

    Parameters
    ----------
    sequences : int
        Sequences in the step.
    vocabulary : int
        Logits of each.
    """

    kind: ClassVar[str] = "host"
    captured: ClassVar[bool] = False
    sequences: int
    vocabulary: int

    @property
    def moved_bytes(self) -> float:
        """Bytes of the logits."""
        return float(self.sequences * self.vocabulary * self.element_bytes)

    @property
    def buffer_bytes(self) -> float:
        """The logits."""
        return self.moved_bytes

    def calls(self, space: Workspace) -> list[Call]:
        """One call: tokens, positions and slots go to the device, new tokens come back."""
        torch, device = space.torch, space.device
        logits = space.random((self.sequences, self.vocabulary), self.dtype)
        numbers = list(range(self.sequences))

        def ends() -> list[int]:
            for _ in range(3):
                torch.tensor(numbers, dtype=torch.int64, device=device)
            tokens: list[int] = logits.argmax(dim=-1).tolist()
            return tokens

        return [ends]

    def smaller(self) -> HostCase | None:
        """Fewer sequences."""
        sizes = halved(self, "sequences")
        return replace(self, **sizes) if sizes else None
