"""What encoding images takes while vLLM profiles, counted tensor by tensor.

vLLM encodes a batch of the largest items before its dummy step (``profile_run`` of
v1/worker/gpu_model_runner.py), and keeps what went in and what came out until the step ends::

    encoder   |= pixels =|= patches * (residual streams + attention or MLP) =|
    step      |= pixels =|= outputs =|= the decoder's own peak =|

The larger of the two is the peak. The towers run eagerly, so that each block's live tensors are
those that its ``forward`` and its callers' frames still name; they are counted in
``data/vllm_rules.yaml`` (`encoders`), and nothing is fitted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kvsim.engines.base import ResolvedDeployment
from kvsim.engines.vllm.rules import Rules
from kvsim.memory.rank import Rank
from kvsim.specs.vision import VisionTower

__all__ = ["EncoderProfile", "encoder_profile"]


class EncoderProfile(NamedTuple):
    """Bytes that the profiled encoder takes on one rank.

    Parameters
    ----------
    peak_bytes : int
        While the tower runs.
    held_bytes : int
        Its inputs and outputs, while the decoder runs after it.
    """

    peak_bytes: int
    held_bytes: int


def encoder_profile(
    deployment: ResolvedDeployment, rank: Rank, rules: Rules, element: int
) -> EncoderProfile | None:
    """Size the profiled encoder; None without a tower whose profile this release is known for.

    Parameters
    ----------
    element : int
        Bytes of a number of the tower's dtype.
    """
    tower = deployment.model.vision
    if tower is None:
        return None
    rule = rules.value("encoders").get(tower.kind)
    if rule is None:
        return None
    if rank.stage:
        return EncoderProfile(0, 0)
    is_v0 = rules.is_v0(deployment.model, deployment.accelerator)
    tokens = _profiled_tokens(deployment, rule, 1 if is_v0 else rule["most_frames"])
    patches = tokens * tower.patches_per_token
    pixels = patches * tower.patch_elements
    output = tokens * tower.output_size
    tapped = output * (tower.outputs - 1)
    block = patches * _widest(tower, rule, rank.tp)
    # V0 embeds in the step itself, and its frame names what it embedded until the layers end.
    embedded = deployment.options.max_num_batched_tokens * deployment.model.hidden_size * is_v0
    return EncoderProfile(
        peak_bytes=(pixels + block + tapped) * element,
        held_bytes=(pixels + output + tapped + embedded) * element,
    )


def _profiled_tokens(deployment: ResolvedDeployment, rule: dict[str, Any], most_frames: int) -> int:
    """Tokens of as many of the largest items as a step may encode (``MultiModalBudget``)."""
    options = deployment.options
    longest = options.max_model_len // rule["item_tokens"]
    item_tokens: int = rule["item_tokens"] * min(max(1, longest), most_frames)
    in_prompt = max(1, options.max_model_len // item_tokens)
    encoded = options.max_num_batched_tokens // item_tokens
    return item_tokens * max(1, min(encoded, options.max_num_seqs * in_prompt))


def _widest(tower: VisionTower, rule: dict[str, Any], tp: int) -> int:
    """Elements that live at once for a patch: in the attention or in the MLP."""
    attention = rule["attention"]["whole"] + rule["attention"]["split"] / tp
    mlp = rule["mlp"]["whole"] * tower.hidden_size
    mlp += rule["mlp"]["inner"] * tower.intermediate_size // tp
    beside = rule["beside"] * tower.hidden_size
    return int(beside + max(attention * tower.hidden_size, mlp))
