"""The kernels of a device, both choices together."""

from __future__ import annotations

from kvsim.calibrate.measure.kernels import Kernels
from kvsim.calibrate.twin.decodes import Geometry
from kvsim.calibrate.twin.elementwise import choose_elementwise
from kvsim.calibrate.twin.kernels import choose_kernel

__all__ = ["chosen_kernels"]


def chosen_kernels(geometry: Geometry) -> Kernels:
    """Name what a decoder of these heads runs on.

    Raises
    ------
    UnsupportedError
        When no attention runs.
    """
    attention = choose_kernel(geometry)
    elementwise = choose_elementwise(geometry.device, geometry.dtype)
    return Kernels(
        attention.kernel.name,
        elementwise.kernels.name,
        (*attention.passed_over, *elementwise.passed_over),
    )
