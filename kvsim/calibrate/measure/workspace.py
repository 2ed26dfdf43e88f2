"""The tensors that cases work on: one pool of random numbers, cut into views."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeAlias

from kvsim.errors import MissingExtraError

__all__ = ["TORCH_DTYPES", "Tensor", "Workspace", "load_torch", "steady_torch"]

# torch is absent from most installations, so its types are not named here.
Tensor: TypeAlias = Any

# fp8 is kept as bytes: torch copies and gathers those on every device.
TORCH_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "uint8"}
_SPREAD = 0.04  # small enough that a product of thousands stays finite in fp16
_LARGEST_BYTE = 0x60  # an fp8 of 32: never the codes of NaN
_SEED = 20


def load_torch() -> Any:
    """Import torch.

    Raises
    ------
    MissingExtraError
        When it is not installed.
    """
    try:
        return import_module("torch")
    except ImportError:
        raise MissingExtraError("torch", "calibrate", "measuring a device") from None


@contextmanager
def steady_torch(torch: Any, kind: str) -> Iterator[None]:
    """Hold still, for as long as something is timed, what torch would choose by itself.

    On a CPU one thread, whose own seconds count. On CUDA no attention of cuDNN's: it plans
    every new shape anew, which takes longer than the step of a decode loop that it is in.
    """
    threads, cuda = torch.get_num_threads(), torch.backends.cuda
    plans = kind == "cuda" and hasattr(cuda, "cudnn_sdp_enabled") and cuda.cudnn_sdp_enabled()
    if kind == "cpu":
        torch.set_num_threads(1)
    if plans:
        cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if plans:
            cuda.enable_cudnn_sdp(True)


class Workspace:
    """Tensors of one device; the pool grows when a case asks for more.

    Parameters
    ----------
    name : str
        "cuda:0", "cpu" or "mps".

    Attributes
    ----------
    torch : module
        torch itself.
    device : torch.device
        Where the tensors lie.
    """

    def __init__(self, name: str) -> None:
        self.torch = load_torch()
        self.device = self.torch.device(name)
        if self.device.type == "cuda":
            self.torch.cuda.set_device(self.device)  # streams, graphs and events are this one's
        self._pool: Tensor = None
        self._decoder: tuple[Any, Any] | None = None
        self._keeps = False
        self.torch.manual_seed(_SEED)

    def dtype(self, name: str) -> Any:
        """Return torch's dtype for kvsim's name of it."""
        return getattr(self.torch, TORCH_DTYPES[name])

    def views(self, count: int, shape: Sequence[int], dtype: str) -> list[Tensor]:
        """Cut `count` random tensors of one shape, none overlapping another, from the pool."""
        each = math.prod(shape)
        pool = self._pool_of(count * each, dtype)
        return [pool[at * each : (at + 1) * each].view(*shape) for at in range(count)]

    def random(self, shape: Sequence[int], dtype: str) -> Tensor:
        """Return a fresh random tensor, outside the pool."""
        return self._fill(self.torch.empty(*shape, dtype=self.dtype(dtype), device=self.device))

    def empty(self, shape: Sequence[int], dtype: str) -> Tensor:
        """Return an uninitialised tensor, outside the pool."""
        return self.torch.empty(*shape, dtype=self.dtype(dtype), device=self.device)

    def decoder(self, blueprint: Any, dtype: str) -> Any:
        """Return the twin's decoder of a shape; the last one is kept."""
        key = (blueprint, dtype)
        if self._decoder is None or self._decoder[0] != key:
            from kvsim.calibrate.twin.decoder import Decoder

            self._decoder = None
            self._decoder = (key, Decoder(blueprint, self.device, self.dtype(dtype)))
        return self._decoder[1]

    def release(self) -> None:
        """Give everything back to the device."""
        self._pool = self._decoder = None
        gc.collect()  # an error that is gone may still hold its tensors, in a circle
        self.trim()

    def keep_memory(self) -> None:
        """Leave to torch from now on what no tensor holds any more.

        After a failed capture ``empty_cache`` asserts (torch before 2.13, `captures_underway`).
        """
        self._keeps = True

    def trim(self) -> None:
        """Give what no tensor holds any more back to the device."""
        if self._keeps:
            return
        module = getattr(self.torch, self.device.type, None)
        empty_cache = getattr(module, "empty_cache", None)
        if empty_cache is not None:
            empty_cache()

    def _pool_of(self, elements: int, dtype: str) -> Tensor:
        wanted = self.dtype(dtype)
        pool = self._pool
        if pool is None or pool.dtype != wanted or pool.numel() < elements:
            if pool is not None:  # two at once would need twice the memory
                self._pool = pool = None
                self.trim()
            self._pool = pool = self._fill(
                self.torch.empty(elements, dtype=wanted, device=self.device)
            )
        return pool

    def _fill(self, tensor: Tensor) -> Tensor:
        """Fill with random numbers: zeros would draw less power and run faster."""
        if tensor.dtype == self.torch.uint8:
            return tensor.random_(0, _LARGEST_BYTE)
        return tensor.uniform_(-_SPREAD, _SPREAD)
