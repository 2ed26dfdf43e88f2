"""Linear attention and state-space layers: a fixed state instead of a growing cache."""

from __future__ import annotations

from typing import Literal, Self

from kvsim.specs.attention.base import Entry, Formula, LoadedUnknown, Vectors, Weights
from kvsim.specs.checked import NonNegativeInt, PositiveInt
from kvsim.specs.precision import KVFormat
from kvsim.units import ceil_div

__all__ = ["RecurrentState"]

_FP32_BYTES = 4


class RecurrentState(LoadedUnknown):
    """A state that each token changes and none makes longer.

    Parameters
    ----------
    flavour : str
        "mamba2", "mamba", "gated_delta_net" or "lightning".
    conv_elements, recurrent_elements : int
        Elements of the rolling convolution input and of the recurrent matrix, all heads.
    conv_element_bytes : int
        Bytes per element of the convolution's input.
    recurrent_element_bytes : int or None
        Bytes per element of the recurrent matrix; None where the config leaves that to the
        engine, which keeps fp32 unless its rules say otherwise (vLLM: the model's dtype).
    parameters : int
        Weights of the layer's mixer.
    chunk : int or None
        Tokens of which an engine may keep a state each, or a multiple of them; None where kernels
        compute no such states.
    groups : int
        Groups of heads that share what a rank keeps whole (keys, or Mamba-2's B and C): ranks
        divide them, or each has a copy of the only one. 0 where heads share nothing.
    group_elements : int
        Elements of the convolution's input that one group shares.
    exporter : str or None
        Kernels that can save the state from inside a prefill: "flash_kda" (Kimi's delta attention
        in heads of 128 with a bounded gate), "flashinfer" (Qwen's gated delta nets with keys of
        128) or "mamba2".

    Examples
    --------
    Qwen3.5-27B: (2 * 16 + 48) heads * 128 * 3 taps in bf16 and 48 * 128 * 128 in fp32.

    >>> RecurrentState(flavour="gated_delta_net", conv_elements=30720,
    ...     recurrent_elements=786432, parameters=0).fixed_bytes()
    3207168
    """

    kind: Literal["recurrent"] = "recurrent"
    flavour: Literal["mamba", "mamba2", "gated_delta_net", "lightning"]
    conv_elements: NonNegativeInt
    recurrent_elements: PositiveInt
    conv_element_bytes: PositiveInt = 2
    recurrent_element_bytes: PositiveInt | None = None
    parameters: NonNegativeInt
    chunk: PositiveInt | None = None
    groups: NonNegativeInt = 0
    group_elements: NonNegativeInt = 0
    exporter: Literal["flash_kda", "flashinfer", "mamba2"] | None = None

    @property
    def label(self) -> str:
        """The flavour in words."""
        return self.flavour.replace("_", " ")

    def entries(self, fmt: KVFormat, tp: int = 1) -> tuple[Entry, ...]:
        """One state, whatever the KV format."""
        return (Entry("state", self.fixed_bytes(tp), "fixed", 1),)

    def fixed_bytes(self, tp: int = 1) -> int:
        """Convolution and recurrent state, split by heads over the ranks.

        Notes
        -----
        Source: vLLM 0.33.0, ``model_executor/layers/mamba/mamba_utils.py``
        (extra_groups_for_head_shards).
        """
        copies = tp - 1 if self.groups == 1 else 0
        elements = self.conv_elements + copies * self.group_elements
        conv = ceil_div(elements, tp) * self.conv_element_bytes
        element_bytes = self.recurrent_element_bytes or _FP32_BYTES
        return conv + ceil_div(self.recurrent_elements, tp) * element_bytes

    def with_state_elements(self, element_bytes: int) -> Self:
        """The recurrent matrix, unless its own dtype was named."""
        if self.recurrent_element_bytes is not None:
            return self
        return self.model_copy(update={"recurrent_element_bytes": element_bytes})

    @property
    def saves_in_prefill(self) -> str | None:
        """As given."""
        return self.exporter

    @property
    def state_chunk(self) -> int | None:
        """As given."""
        return self.chunk

    @property
    def state_elements(self) -> tuple[int, int]:
        """As given."""
        return self.conv_elements, self.recurrent_elements

    @property
    def vectors(self) -> Vectors:
        """None."""
        return Vectors(0, 0, 0)

    @property
    def query_heads(self) -> int:
        """None that attend."""
        return 0

    @property
    def query_groups(self) -> int:
        """Those that ranks divide: of a single one each has a copy."""
        return self.groups if self.groups > 1 else 0

    def read_bytes(self, fmt: KVFormat, context: int, tp: int = 1) -> int:
        """The state, read and written."""
        return 2 * self.fixed_bytes(tp)

    @property
    def read_bend(self) -> None:
        """Nowhere: every step moves the same."""
        return

    def pairs(self, start: int, count: int) -> float:
        """None: a token meets the state, not other tokens."""
        return 0.0

    @property
    def pair_flops(self) -> int:
        """None."""
        return 0

    def decode_flops(self, context: int) -> int:
        """Decay, update and read: about six operations per element."""
        return 6 * self.recurrent_elements

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        """As given."""
        return (Weights(self.parameters, "tp", family="recurrent"),)

    @property
    def rotary_dim(self) -> int:
        """No rotation."""
        return 0

    @property
    def activation_width(self) -> int:
        """The convolution's input."""
        return self.conv_elements

    def formula(self, fmt: KVFormat, tp: int = 1) -> Formula:
        """The plain size of the state."""
        fixed_bytes = self.fixed_bytes(tp)
        return Formula(f"{fixed_bytes:,} bytes of state", fixed_bytes, "per sequence")
