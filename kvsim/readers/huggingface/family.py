"""What an architecture's name says that its config leaves out: the form of such facts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

__all__ = ["Family", "Layout"]

Layout = Literal[
    "uniform",
    "gemma4",
    "llama4",
    "nemotron_h",
    "mimo",
    "compressed",
    "sourced",
    "jamba",
    "bamba",
    "falcon_h1",
    "minimax_text",
    "kimi_linear",
    "glm5_next",
    "blocks",
    "minimax_m3",
    "t5",
    "seq2seq",
    "mllama",
]


class Family(NamedTuple):
    """Facts that all models of one ``model_type`` share.

    Parameters
    ----------
    layout : str
        Which rule tells the kind of each layer; see ``kvsim.readers.huggingface.layers``.
    linear : str or None
        What "linear_attention" means here.
    gated, mlp_bias : bool
        Whether the MLP has a third matrix, and biases.
    qkv_bias, output_bias : bool
        Biases of the attention projections where the config does not say.
    bias_covers_output : bool
        Whether a true ``attention_bias`` includes the output projection.
    output_gate : bool
        Whether queries are doubled to gate the attention output.
    rotary : bool
        Whether positions are rotary where there is no table of them.
    position_offset : int or None
        A learned position table has this many rows more than positions; None is no table.
    reads : tuple of str
        Attention-like fields that the layout understands beyond the common ones.
    defaults : mapping
        Defaults of the configuration class.
    """

    layout: Layout = "uniform"
    linear: str | None = None
    gated: bool = True
    mlp_bias: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    bias_covers_output: bool = True
    output_gate: bool = False
    rotary: bool = True
    position_offset: int | None = None
    reads: tuple[str, ...] = ()
    defaults: Mapping[str, object] = MappingProxyType({})
