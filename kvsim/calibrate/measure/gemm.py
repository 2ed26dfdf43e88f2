"""Matrix products: of few rows they read weights, of many rows they compute."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from kvsim.calibrate.measure.case import Call, LocalCase, halved
from kvsim.calibrate.measure.workspace import Tensor, Workspace

__all__ = ["GemmCase"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmCase(LocalCase):
    """``(m, k) @ (n, k).T``, the product of a linear layer.

    Parameters
    ----------
    m, n, k : int
        Tokens, outputs, inputs.
    sets : int
        Weight matrices that take turns, so that none is found in a cache.
    """

    kind: ClassVar[str] = "gemm"
    rotates: ClassVar[bool] = True
    m: int
    n: int
    k: int
    sets: int = 1

    @property
    def moved_bytes(self) -> float:
        """Weights and inputs read, outputs written; 8-bit products write 16 bits."""
        written = max(2, self.element_bytes) * self.m * self.n
        return float(self.element_bytes * (self.n * self.k + self.m * self.k) + written)

    @property
    def flops(self) -> float:
        """Two per multiplication."""
        return 2.0 * self.m * self.n * self.k

    @property
    def buffer_bytes(self) -> float:
        """All weights, one input, one output."""
        return self.moved_bytes + (self.sets - 1) * self.element_bytes * self.n * self.k

    def calls(self, space: Workspace) -> list[Call]:
        """One call per weight matrix."""
        weights = space.views(self.sets, (self.n, self.k), self.dtype)
        inputs = space.random((self.m, self.k), self.dtype)
        if self.dtype == "fp8":
            return _scaled_calls(space, inputs, weights)
        linear = space.torch.nn.functional.linear
        return [partial(linear, inputs, weight) for weight in weights]

    def smaller(self) -> GemmCase | None:
        """Fewer weight matrices, then fewer tokens."""
        return halved(self, "sets", "m")


def _scaled_calls(space: Workspace, inputs: Tensor, weights: list[Tensor]) -> list[Call]:
    """Products in e4m3 with one scale per tensor, as torch has them since 2.5.

    Engines let tensor cores add up in fewer bits (vLLM's cutlass kernels, `use_fast_accum`); to be
    exact takes Hopper a third more time.
    """
    torch = space.torch
    one = torch.ones((), dtype=torch.float32, device=space.device)
    left = inputs.view(torch.float8_e4m3fn)
    rights = [weight.view(torch.float8_e4m3fn).t() for weight in weights]

    def product(right: Tensor) -> Tensor:
        return torch._scaled_mm(
            left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return [partial(product, right) for right in rights]
