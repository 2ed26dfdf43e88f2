"""A card by its physics: what each kernel takes, and a host that launches ahead of it.

Nothing here knows the form that is fitted: a GEMM is the larger of its bytes, its FLOPs and a
kernel's least time, a layer is its kernels one after the other, and a launched step takes the
larger of the host's launches and of the device. The constants are assumptions, near an H100's.
"""

from dataclasses import dataclass

from kvsim.calibrate.measure.attention import (
    DecodeCase,
    LaunchedDecodeCase,
    PagedDecodeCase,
    PrefillCase,
)
from kvsim.calibrate.measure.bandwidth import CopyCase, ReadCase
from kvsim.calibrate.measure.case import Timing
from kvsim.calibrate.measure.gemm import GemmCase
from kvsim.calibrate.measure.kernels import Kernels
from kvsim.calibrate.measure.layers import LaunchedLayersCase, LayersCase
from kvsim.calibrate.measure.overhead import HostCase, ReplayCase
from kvsim.calibrate.shapes import DecoderShape

BYTES_PER_S = 3.35e12 * 0.92
FLOPS_PER_S = 989e12 * 0.78
ATTENTION_FLOPS_PER_S = 989e12 * 0.55
_LEAST = 2e-6  # of a kernel
_GAP = 0.3e-6  # between two of a graph
_FUSED = 4  # kernels of a layer without a matrix: two norms, rotary, gate
_WRITES = 2  # of K and V
_ENDS = 8  # kernels before and after the layers
_HOST, _EACH = 4e-4, 2.5e-5  # of a step, and of each of its sequences
_VOCABULARY = 128_256


@dataclass(frozen=True)
class Physics:
    """A card and the host beside it.

    Parameters
    ----------
    launch : float
        What the host takes to launch a kernel, seconds.
    captures : bool
        Whether CUDA graphs can be captured.
    gathered : int
        Kernels that attention launches for each sequence, beside those for all.
    """

    launch: float = 4.5e-6
    captures: bool = True
    gathered: int = 0
    notes = ()

    def release(self):
        """Hold nothing."""

    def memory(self):
        """Count nothing."""
        return ""

    def kernels(self, shape, dtype):
        """Name nothing that exists."""
        return Kernels("planted", "planted")

    def time(self, case):
        replayed = self.captures and case.captured
        seconds = self._seconds(case, replayed=replayed)
        return Timing(seconds, 0.99 * seconds, 1.01 * seconds, samples=9, captured=replayed)

    # ---- kernels ------------------------------------------------------------------------

    def gemm(self, m, n, k):
        """One product in bf16."""
        moved = 2 * (n * k + m * k + m * n)
        return max(moved / BYTES_PER_S, 2 * m * n * k / FLOPS_PER_S, _LEAST)

    def layer(self, shape, tokens):
        """A layer without attention: (device seconds, kernels)."""
        products = sum(self.gemm(tokens, n, k) for n, k in shape.gemms(1))
        width = 8 * shape.hidden_size + 2 * shape.heads * shape.head_dim
        moved = 2 * tokens * (width + 3 * shape.intermediate_size)
        others = max(_FUSED * _LEAST, moved / (0.8 * BYTES_PER_S))
        return products + others, _FUSED + len(shape.gemms(1))

    def decode(self, batch, context, kv_heads, head_dim):
        """Attention of one layer, K and V read once: (device seconds, kernels)."""
        moved = 4 * batch * context * kv_heads * head_dim
        return 7e-6 + moved / (0.85 * BYTES_PER_S) + 10e-9 * batch * kv_heads, 2

    def prefill(self, flops):
        """Causal attention of one layer."""
        return max(6e-6, flops / ATTENTION_FLOPS_PER_S) + 4e-6

    # ---- cases --------------------------------------------------------------------------

    def _seconds(self, case, *, replayed):
        match case:
            case LaunchedLayersCase():
                return self._stack(case)[1] * self.launch
            case LayersCase():
                device, count = self._stack(case)
                return self._run(device, count, replayed=replayed)
            case LaunchedDecodeCase():
                return self._attention(case)[1] * self.launch
            case DecodeCase():
                device, count = self._attention(case)
                return self._run(device, count, replayed=replayed)
            case GemmCase():
                gain = 1.5 if case.dtype == "fp8" else 1.0
                return self._run(self.gemm(case.m, case.n, case.k) / gain, 1, replayed=replayed)
            case PrefillCase():
                return self._run(self.prefill(case.flops), 1, replayed=replayed)
            case CopyCase() | ReadCase():
                return self._run(case.moved_bytes / BYTES_PER_S, 1, replayed=replayed)
            case HostCase():
                return _HOST + _EACH * case.sequences
            case ReplayCase():
                return self._run(_LEAST, 1, replayed=replayed)
            case _:
                return self.launch

    def _run(self, device, count, *, replayed):
        """Launched, whoever is slower decides; replayed, the device alone."""
        return device + count * _GAP if replayed else max(device, count * self.launch)

    def _stack(self, case):
        device, count = self.layer(case.shape, case.tokens)
        return case.layers * device + _ENDS * _LEAST, case.layers * count + _ENDS

    def _attention(self, case):
        device, count = self.decode(case.batch, case.context, case.kv_heads, case.head_dim)
        writes = 0 if type(case) is DecodeCase else _WRITES
        each = self.gathered * case.batch if isinstance(case, PagedDecodeCase) else 0
        return device + writes * _LEAST, count + writes + each

    # ---- steps of a model ---------------------------------------------------------------

    def decode_step(self, shape: DecoderShape, batch, context, *, replayed):
        """A step in which every sequence decodes a token."""
        layer, kernels = self.layer(shape, batch)
        attention, more = self.decode(batch, context, shape.kv_heads, shape.head_dim)
        attention = attention + _WRITES * _LEAST
        more += _WRITES + self.gathered * batch
        device = shape.layers * (layer + attention) + self.gemm(batch, _VOCABULARY, 4096)
        count = shape.layers * (kernels + more) + _ENDS
        return _HOST + _EACH * batch + self._run(device, count, replayed=replayed)

    def prefill_step(self, shape: DecoderShape, tokens, *, replayed):
        """A step that computes one whole prompt."""
        layer, kernels = self.layer(shape, tokens)
        pairs = tokens * (tokens + 1) / 2
        attention = self.prefill(4 * pairs * shape.heads * shape.head_dim)
        device = shape.layers * (layer + attention) + self.gemm(1, _VOCABULARY, 4096)
        count = shape.layers * (kernels + 2 + _WRITES) + _ENDS
        return _HOST + _EACH + self._run(device, count, replayed=replayed)
