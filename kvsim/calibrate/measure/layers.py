"""Whole decoder layers without attention: what GEMMs, norms and launches cost together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from kvsim.calibrate.measure.case import Call, LocalCase, halved
from kvsim.calibrate.measure.workspace import Workspace
from kvsim.calibrate.shapes import DecoderShape

__all__ = ["LaunchedLayersCase", "LayersCase", "ReplayedLayersCase"]

_VOCABULARY = 128  # so small that embedding and output head cost a launch and no more


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersCase(LocalCase):
    """A stack of the twin's own decoder layers over a flat batch, launched one by one.

    Parameters
    ----------
    shape : DecoderShape
        Widths; its depth does not count.
    layers, tokens : int
        Layers, each with weights of its own, and rows of every GEMM.
    """

    kind: ClassVar[str] = "layers"
    rotates: ClassVar[bool] = True
    captured: ClassVar[bool] = False
    shape: DecoderShape
    layers: int
    tokens: int

    @property
    def parameters(self) -> int:
        """Weights of the stack."""
        return self.layers * self.shape.layer_parameters(1)

    @property
    def moved_bytes(self) -> float:
        """Bytes of the weights."""
        return float(self.parameters * self.element_bytes)

    @property
    def flops(self) -> float:
        """FLOPs of the GEMMs."""
        return 2.0 * self.parameters * self.tokens

    @property
    def elementwise_bytes(self) -> float:
        """What kernels without a matrix read and write, as `RankWork.elementwise_bytes` has it."""
        shape = self.shape
        width = 8 * shape.hidden_size + 2 * shape.heads * shape.head_dim
        width += 3 * shape.intermediate_size
        return float(self.layers * self.tokens * width * self.element_bytes)

    @property
    def buffer_bytes(self) -> float:
        """Weights, and the widest activations of one layer."""
        widest = 2 * self.shape.intermediate_size + 6 * self.shape.hidden_size
        return self.moved_bytes + self.tokens * widest * self.element_bytes

    def calls(self, space: Workspace) -> list[Call]:
        """One call, the whole stack: its layers are the rotation."""
        torch, device = space.torch, space.device
        decoder = space.decoder(self._blueprint(), self.dtype)
        ids = torch.randint(_VOCABULARY, (self.tokens,), device=device)
        positions = torch.zeros(self.tokens, dtype=torch.int64, device=device)
        last = torch.zeros(1, dtype=torch.int64, device=device)
        return [lambda: decoder.logits(ids, positions, _attend_to_nothing, last)]

    def smaller(self) -> LayersCase | None:
        """Fewer tokens, then fewer layers."""
        return halved(self, "tokens", "layers")

    def sizes(self) -> dict[str, Any]:
        """Name the shape, and say how deep the stack is and how many tokens pass it."""
        return {"model": self.shape.name, "layers": self.layers, "tokens": self.tokens}

    def _blueprint(self) -> Any:
        from kvsim.calibrate.twin.blueprint import Blueprint

        shape = self.shape
        return Blueprint(
            layers=self.layers,
            hidden=shape.hidden_size,
            intermediate=shape.intermediate_size,
            vocabulary=_VOCABULARY,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            longest=1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedLayersCase(LayersCase):
    """The same stack replayed from a CUDA graph, as serving engines run theirs."""

    kind: ClassVar[str] = "layers_graph"
    captured: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchedLayersCase(LayersCase):
    """What the host takes to launch the stack, while the device has nothing else to do."""

    kind: ClassVar[str] = "layers_host"
    rotates: ClassVar[bool] = False
    hosted: ClassVar[bool] = True


def _attend_to_nothing(layer: int, query: Any, key: Any, value: Any) -> Any:
    """Stand in for attention, which is measured by itself."""
    return query
