"""What ``kvsim study cache`` does: check, time, fit, simulate, and draw the conclusions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvsim.calibrate.study.plan import StudyPlan
from kvsim.calibrate.twin.blueprint import Blueprint
from kvsim.calibrate.twin.validate import require_torch
from kvsim.catalog.models import find_model
from kvsim.errors import InputError
from kvsim.specs.attention import FullAttention
from kvsim.specs.model import DenseMlp, ModelSpec

if TYPE_CHECKING:
    from kvsim.calibrate.study.findings import Study

__all__ = ["shrunk", "study_caches"]

Say = Callable[[str], None]

_SMALL_HEADS = 4
_SMALL_LAYERS = 4
_SMALL_VOCABULARY = 8192


def study_caches(plan: StudyPlan, say: Say = lambda line: None) -> Study:
    """Generate with four caches and simulate the same.

    Parameters
    ----------
    plan : StudyPlan
        What to generate.
    say : callable
        Told what is being done, a line at a time.

    Raises
    ------
    MissingExtraError
        Without torch or scipy.
    InputError
        For lengths that the model's positions do not reach.
    UnsupportedError
        For a model that the twin cannot build, or that does not fit the device.
    InvariantError
        When two caches generate different tokens.
    """
    require_torch("the study")
    from kvsim.calibrate.study.run import run_study

    model = find_model(plan.model)
    model = shrunk(model) if plan.quick else model
    _check(plan, model)
    return run_study(plan, model, say)


def _check(plan: StudyPlan, model: ModelSpec) -> None:
    longest = plan.prompt_tokens + max(plan.tokens)
    if longest > model.max_position_embeddings:
        raise InputError(
            f"{longest} tokens exceed the {model.max_position_embeddings} positions of"
            f" {model.name}",
            where="--tokens",
            fix=f"ask for at most {model.max_position_embeddings - plan.prompt_tokens}",
        )


def shrunk(model: ModelSpec) -> ModelSpec:
    """Return a model of the same kind with 4 layers, 4 heads and widths to match."""
    shape = Blueprint.of(model)
    factor = max(1, shape.heads // _SMALL_HEADS)
    heads = shape.heads // factor
    cache = FullAttention(
        heads=heads,
        kv_heads=max(1, shape.kv_heads // factor),
        key_dim=shape.head_dim,
        value_dim=shape.head_dim,
        bias=shape.attention_bias,
        output_bias=shape.output_bias,
    )
    mlp = DenseMlp(
        intermediate_size=max(1, shape.intermediate // factor),
        gated=shape.gated,
        bias=shape.mlp_bias,
    )
    group = model.layer_groups[0].model_copy(
        update={
            "layers": tuple(range(min(shape.layers, _SMALL_LAYERS))),
            "caches": (cache,),
            "mlp": mlp,
        }
    )
    changes = {
        "name": f"{model.name}, shrunk",
        "hidden_size": max(1, shape.hidden // factor),
        "vocab_size": min(shape.vocabulary, _SMALL_VOCABULARY),
        "layer_groups": (group,),
        "weight_bytes_on_disk": None,
    }
    return model.model_copy(update=changes)
