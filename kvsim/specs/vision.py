"""A model's vision tower, as far as the memory that encoding takes depends on it."""

from __future__ import annotations

from typing import Literal

from kvsim.specs.checked import Checked, PositiveInt

__all__ = ["VisionTower"]


class VisionTower(Checked):
    """A vision transformer that engines run on images and videos before the decoder.

    Parameters
    ----------
    kind : str
        Whose it is: engines run each family's in an own way.
    hidden_size, intermediate_size : int
        Widths of its residual stream and of its MLP.
    patch_elements : int
        Numbers that one patch is read from: channels * frames * height * width.
    patches_per_token : int
        Patches that are merged to one token of the decoder.
    output_size : int
        Elements of a token that the tower hands to the decoder.
    outputs : int
        Such vectors a token: one, and one a layer that is tapped on the way (DeepStack).
    """

    kind: Literal["qwen3_vl", "qwen2_5_vl", "gemma3"]
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    patch_elements: PositiveInt
    patches_per_token: PositiveInt
    output_size: PositiveInt
    outputs: PositiveInt = 1
