"""The longest request: what vLLM derives from a config, and what it refuses beyond.

::

    max_position_embeddings x factor      linear, dynamic, ...    every release
    original positions x factor           yarn                    before 0.30
    max_position_embeddings               yarn                    from 0.30 on
    original_max_position_embeddings      longrope, unless asked  from 0.11.1 on

A config of transformers 5 (``rope_parameters``) is read in every release, although the first to
load one is 0.12. Source: ``_get_and_verify_max_len`` (config.py, from 0.11 config/model.py) of
0.4.3 to 0.33.0.
"""

from __future__ import annotations

import os

from kvsim.engines.base import Deployment
from kvsim.engines.vllm.rules import Rules
from kvsim.errors import InputError
from kvsim.specs.model import ModelSpec

__all__ = ["ALLOWS_LONGER", "allows_longer", "check_length", "default_length", "derived_length"]

ALLOWS_LONGER = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"


def derived_length(model: ModelSpec, rules: Rules) -> int:
    """The longest context that vLLM derives from the config, tokens.

    Raises
    ------
    InputError
        For yarn without ``original_max_position_embeddings`` in a release that multiplies them.
    """
    length, factor = model.max_position_embeddings, 1.0
    for rope in model.rope_scaling:
        if rope.kind in rules.value("ropes_as_stated"):
            continue
        factor = rope.factor or factor
        if rope.kind == "yarn":
            if rope.original_positions is None:
                raise InputError(
                    f"{model.name} has yarn rope scaling without original_max_position_embeddings,"
                    f" which vLLM {rules.said} multiplies",
                    fix="add it to the scaling",
                )
            length = rope.original_positions
    return int(length * factor)


def default_length(model: ModelSpec, rules: Rules) -> int:
    """``--max-model-len`` where nobody sets it."""
    derived = derived_length(model, rules)
    is_long = any(rope.kind == "longrope" for rope in model.rope_scaling)
    if is_long and rules.value("longrope_starts_short"):
        return model.original_positions or derived
    return derived


def allows_longer() -> bool:
    """Whether the environment lifts the limit, as vLLM reads it (vllm/envs.py)."""
    return os.environ.get(ALLOWS_LONGER, "0").strip().lower() in ("1", "true")


def check_length(deployment: Deployment, rules: Rules) -> None:
    """Refuse a length beyond the derived one, in vLLM's words, unless the environment allows it.

    Raises
    ------
    InputError
        With the ways out.
    """
    asked, model = deployment.options.max_model_len, deployment.model
    derived = derived_length(model, rules)
    if asked is None or asked <= derived:
        return
    can_lift = rules.value("long_max_model_len")
    if can_lift and allows_longer():
        return
    lift = f", or set {ALLOWS_LONGER}=1: positions beyond are nan or out of bounds"
    is_as_stated = any(rope.kind in rules.value("ropes_as_stated") for rope in model.rope_scaling)
    scale = (
        f"state max_position_embeddings {asked} beside the scaling, which multiplies nothing here"
        if is_as_stated
        else "scale its rope"
    )
    raise InputError(
        f"--max-model-len {asked} is greater than the derived max_model_len {derived} of"
        f" {model.name}{_how(model, derived)}",
        fix=f"choose at most {derived}, {scale}{lift if can_lift else ''}",
    )


def _how(model: ModelSpec, derived: int) -> str:
    stated = model.max_position_embeddings
    return "" if derived == stated else f" (max_position_embeddings={stated}, scaled by its rope)"
