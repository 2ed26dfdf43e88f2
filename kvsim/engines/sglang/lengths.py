"""The longest request that SGLang derives from a config, and what it refuses beyond.

Source: ``get_context_length`` (srt/utils/hf_transformers/common.py) and
``ModelConfig._derive_context_length`` (srt/configs/model_config.py) of 0.5.23.
"""

from __future__ import annotations

import os

from kvsim.engines.base import Deployment
from kvsim.errors import InputError
from kvsim.specs.model import ModelSpec

__all__ = ["ALLOWS_LONGER", "allows_longer", "check_length", "derived_length"]

ALLOWS_LONGER = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"


def derived_length(model: ModelSpec) -> int:
    """Positions times the factor of a scaling that does not name the positions it started from.

    Scalings by kind of layer state no factor of their own.
    """
    factor = 1.0
    if len(model.rope_scaling) == 1:
        (rope,) = model.rope_scaling
        if rope.original_positions is None and rope.kind != "llama3":
            factor = rope.factor or factor
    return int(factor * model.max_position_embeddings)


def allows_longer() -> bool:
    """Whether the environment lifts the limit, as SGLang reads it (srt/environ.py, `EnvBool`)."""
    return os.environ.get(ALLOWS_LONGER, "").lower() in ("true", "1", "yes", "y")


def check_length(deployment: Deployment) -> None:
    """Refuse a length beyond the derived one, in SGLang's words, unless the environment allows it.

    Raises
    ------
    InputError
        With the ways out.
    """
    asked, derived = deployment.options.max_model_len, derived_length(deployment.model)
    if asked is None or asked <= derived or allows_longer():
        return
    raise InputError(
        f"--context-length {asked} is greater than the derived context_length {derived} of"
        f" {deployment.model.name}",
        where="--max-model-len",
        fix=f"choose at most {derived}, or set {ALLOWS_LONGER}=1: outputs beyond may be wrong",
    )
