"""``--hf-overrides`` and ``--rope-scaling``: which releases have them, and how they merge.

Source: ``ModelConfig`` (config.py, from 0.11 config/model.py) and engine/arg_utils.py of 0.4.3 to
0.33.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kvsim.engines.vllm.rules import Rules
from kvsim.errors import InputError
from kvsim.readers.huggingface.overrides import Overrides
from kvsim.specs.engine_options import EngineOptions

__all__ = ["overrides_of"]

_FLAG = "--hf-overrides"


def overrides_of(options: EngineOptions, rules: Rules) -> Overrides | None:
    """What the flags make of a config; None where they say nothing.

    Raises
    ------
    InputError
        For a flag, or a field in it, that the release does not have or look at.
    """
    if options.rope_scaling is None and options.hf_overrides is None:
        return None
    if options.hf_overrides is not None and not rules.value("hf_overrides"):
        raise InputError(
            f"vLLM {rules.said} has no {_FLAG}, which came with 0.6.4",
            fix="edit the config.json, or set --rope-scaling",
        )
    fields: dict[str, Any] = json.loads(options.hf_overrides or "{}")
    _check_rope(fields, rules)
    _check_inner(fields, rules)
    if options.rope_scaling is not None:
        fields |= {"rope_scaling": _flagged_scaling(options.rope_scaling, rules)}
    return Overrides(fields, _FLAG if options.hf_overrides else "--rope-scaling")


def _flagged_scaling(text: str, rules: Rules) -> dict[str, Any]:
    word = str(rules.value("rope_field"))
    if not rules.value("rope_scaling_flag"):
        raise InputError(
            f"vLLM {rules.said} has no --rope-scaling, which 0.11.0 was the last to have",
            fix=f"write {_FLAG} '{json.dumps({word: json.loads(text)})}'",
        )
    scaling: dict[str, Any] = json.loads(text)
    if "type" in scaling:  # these releases rename it before they look
        scaling.setdefault("rope_type", scaling.pop("type"))
    return scaling


def _check_rope(fields: Mapping[str, Any], rules: Rules) -> None:
    """Refuse the other transformers' word for rope scaling: it would change nothing."""
    word = rules.value("rope_field")
    other = {"rope_scaling": "rope_parameters", "rope_parameters": "rope_scaling"}[word]
    for part in (fields, *(each for each in fields.values() if isinstance(each, Mapping))):
        if other in part:
            raise InputError(
                f"vLLM {rules.said} looks at {word}, not at {other}",
                where=_FLAG,
                fix=f"write {word}",
            )


def _check_inner(fields: Mapping[str, Any], rules: Rules) -> None:
    """Refuse fields of an inner config where a release would replace all of it by them."""
    inner = [name for name, value in fields.items() if name.endswith("_config")]
    objects = [name for name in inner if isinstance(fields[name], Mapping)]
    if objects and not rules.value("overrides_merge"):
        raise InputError(
            f"vLLM {rules.said} puts {objects[0]} in place of the config's own, and cannot start",
            where=_FLAG,
            fix="edit the config.json, or choose a release from 0.11.1 on",
        )
