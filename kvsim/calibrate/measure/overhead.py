"""What has nothing to do with the work itself: launches, and the host's part of a step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

from kvsim.calibrate.measure.attention import BLOCK_SIZE
from kvsim.calibrate.measure.case import Call, LocalCase, halved
from kvsim.calibrate.measure.workspace import Workspace
from kvsim.units import ceil_div

__all__ = ["HostCase", "LaunchCase", "ReplayCase"]

_LAUNCHES = 64
_WIDTH = 64  # so narrow that neither end computes anything to speak of
_CONTEXT = 1024
_HEADS, _HEAD_DIM = 8, 128  # of no layer: what attention would be planned for


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
    """A step of the twin's own loop without any layer: what the host does, and the two ends.

    Block tables are brought up to date, lists become tensors, logits become tokens. Of the
    scheduler only what the loop asks is there: nobody is admitted or finishes.

    Parameters
    ----------
    sequences : int
        Decoding sequences of a thousand tokens.
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
        """The logits, and a table of tokens."""
        return self.moved_bytes + self.vocabulary * _WIDTH * self.element_bytes

    def calls(self, space: Workspace) -> list[Call]:
        """One call: a step of decodes."""
        from kvsim.calibrate.twin.blueprint import Blueprint
        from kvsim.calibrate.twin.engine import TwinEngine
        from kvsim.calibrate.twin.paged import BlockPool
        from kvsim.simulator.schedulers import StepPlan

        shape = Blueprint(
            layers=0,
            hidden=_WIDTH,
            intermediate=_WIDTH,
            vocabulary=self.vocabulary,
            heads=_HEADS,
            kv_heads=_HEADS,
            head_dim=_HEAD_DIM,
            longest=_CONTEXT,
        )
        decoder = space.decoder(shape, self.dtype)
        members = _idle_scheduler(self.sequences)
        blocks = members.allocator.total_blocks
        pool = BlockPool(
            shape, blocks, BLOCK_SIZE, device=space.device, dtype=space.dtype(self.dtype)
        )
        engine = TwinEngine(decoder, pool, members)
        engine.texts.update({row: [1] * _CONTEXT for row in range(self.sequences)})
        return [partial(engine.step, StepPlan([], decodes=True))]

    def smaller(self) -> HostCase | None:
        """Fewer sequences."""
        return halved(self, "sequences")


def _idle_scheduler(sequences: int) -> Any:
    """Stand in for a scheduler whose batch neither grows nor shrinks."""
    from kvsim.simulator.request import Request

    members = [Request(row, 0.0, _CONTEXT, _CONTEXT) for row in range(sequences)]
    each = ceil_div(_CONTEXT, BLOCK_SIZE)
    return SimpleNamespace(
        running=members,
        cached_tokens=lambda request: _CONTEXT - 1,
        batch=SimpleNamespace(
            members=members, opening=0, cached_tokens=lambda request: _CONTEXT - 1
        ),
        allocator=SimpleNamespace(
            total_blocks=sequences * each,
            free_blocks=0,
            blocks_of=lambda request, tokens: ceil_div(tokens, BLOCK_SIZE),
        ),
    )
