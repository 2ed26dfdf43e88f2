"""The feed-forward block of each layer: dense, or a mixture of experts in some layers."""

from __future__ import annotations

from collections.abc import Callable

from kvsim.readers.huggingface.family import Family
from kvsim.readers.huggingface.fields import Fields
from kvsim.specs.model import DenseMlp, MoeMlp
from kvsim.specs.numbers import shown

__all__ = ["MlpPlan"]

_LATENT_SIZES = ("moe_latent_size", "routed_expert_hidden_size")


class MlpPlan:
    """Answers which MLP a layer has.

    Parameters
    ----------
    fields : Fields
        The config.
    family : Family
        Its architecture's facts.
    """

    def __init__(self, fields: Fields, family: Family) -> None:
        self._fields, self._family = fields, family
        self._is_moe = _moe_rule(fields)
        self._made: dict[bool, DenseMlp | MoeMlp] = {}

    def at(self, layer: int) -> DenseMlp | MoeMlp:
        """Return the block of one layer."""
        return self.of_kind(moe=self._is_moe(layer))

    def of_kind(self, *, moe: bool) -> DenseMlp | MoeMlp:
        """Return the dense or the expert block, whichever layer it is in."""
        if moe not in self._made:
            make = _moe if moe else _dense
            self._made[moe] = make(self._fields, self._family)
        return self._made[moe]


def _moe_rule(fields: Fields) -> Callable[[int], bool]:
    """Say which layers hold experts, in each of the ways that configs say it."""
    if "mlp_layer_types" in fields:
        return _by_words(fields)
    if not fields.first_integer("num_experts", default=0):
        return lambda layer: False
    if "moe_layers" in fields or "moe_layers_enum" in fields:
        chosen = frozenset(_listed(fields))
        return lambda layer: layer in chosen
    if isinstance(fields.get("moe_layer_freq"), list):
        return _by_list(fields)
    if "expert_layer_period" in fields:
        return _periodic(fields, "expert_layer_period", fields.integer("expert_layer_offset"))
    if "interleave_moe_layer_step" in fields:
        return _periodic(fields, "interleave_moe_layer_step", None)
    if "decoder_sparse_step" in fields or "mlp_only_layers" in fields:
        return _sparse_step(fields)
    return _after_the_first(fields)


def _after_the_first(fields: Fields) -> Callable[[int], bool]:
    dense = fields.first_integer("first_k_dense_replace", default=0)
    frequency = fields.integer("moe_layer_freq", 1)
    return lambda layer: layer >= dense and layer % frequency == 0


def _listed(fields: Fields) -> list[int]:
    """Layers with experts, as numbers or, in Step 3.5's spelling, "3,4,5"."""
    if "moe_layers" in fields:
        return fields.integers("moe_layers")
    enum = fields.get("moe_layers_enum")
    if not isinstance(enum, str):
        return fields.integers("moe_layers_enum")
    numbers = [part.strip() for part in enum.split(",")]
    if not all(part.isascii() and part.isdigit() for part in numbers):
        raise fields.error(f"moe_layers_enum is {shown(enum)}, not numbers with commas between")
    return [int(part) for part in numbers]


def _by_words(fields: Fields) -> Callable[[int], bool]:
    """Layer by layer; ``first_k_dense_replace`` beside it must say the same."""
    words = fields.words("mlp_layer_types")
    fields.per_layer("mlp_layer_types", words, fields.integer("num_hidden_layers"))
    strange = next((word for word in words if word not in {"dense", "sparse"}), None)
    if strange is not None:
        raise fields.error(f"mlp_layer_types names {strange[:20]!r}", "known are dense and sparse")
    chosen = [word == "sparse" for word in words]
    if "first_k_dense_replace" in fields:
        rule = _after_the_first(fields)
        odd = next((i for i, moe in enumerate(chosen) if moe != rule(i)), None)
        if odd is not None:
            raise fields.error(
                f"mlp_layer_types calls layer {odd} {words[odd]!r}, first_k_dense_replace"
                f" {fields.get('first_k_dense_replace')} does not"
            )
    return lambda layer: chosen[layer]


def _by_list(fields: Fields) -> Callable[[int], bool]:
    frequencies = fields.integers("moe_layer_freq")
    fields.per_layer("moe_layer_freq", frequencies, fields.integer("num_hidden_layers"))
    return lambda layer: bool(frequencies[layer])


def _periodic(fields: Fields, key: str, offset: int | None) -> Callable[[int], bool]:
    period = fields.integer(key)
    remainder = period - 1 if offset is None else offset
    return lambda layer: layer % period == remainder


def _sparse_step(fields: Fields) -> Callable[[int], bool]:
    step = fields.integer("decoder_sparse_step", 1)
    dense = frozenset(fields.integers("mlp_only_layers"))
    return lambda layer: layer not in dense and (layer + 1) % step == 0


def _dense(fields: Fields, family: Family) -> DenseMlp:
    return DenseMlp(
        intermediate_size=_dense_size(fields),
        gated=family.gated or fields.flag("is_gated_act"),
        bias=fields.flag("mlp_bias", default=_mlp_bias(fields, family)),
    )


def _dense_size(fields: Fields) -> int:
    """Width of the dense layers; the plain name is that of the experts where both are given."""
    named = ("intermediate_size_mlp", "dense_intermediate_size", "intermediate_size")
    for key in (*named, "shared_intermediate_size"):
        if key in fields:
            return fields.integer(key)
    if "expansion_ratio" in fields:
        return fields.integer("expansion_ratio") * fields.integer("hidden_size")
    return fields.integer("intermediate_size")


def _mlp_bias(fields: Fields, family: Family) -> bool:
    named = next((key for key in ("use_bias", "bias") if key in fields), None)
    return fields.flag(named) if named else family.mlp_bias


def _moe(fields: Fields, family: Family) -> MoeMlp:
    width = fields.first_integer("moe_intermediate_size", "intermediate_size", default=0)
    if not width:
        raise fields.error("the config has no moe_intermediate_size")
    experts, chosen = fields.integer("num_experts"), fields.integer("num_experts_per_tok")
    if chosen > experts:
        raise fields.error(f"{chosen} experts per token of only {experts}")
    return MoeMlp(
        experts=experts,
        experts_per_token=chosen,
        intermediate_size=width,
        shared_intermediate_size=_shared_size(fields, width),
        latent_size=fields.first_integer(*_LATENT_SIZES, default=0) or None,
        gated=family.gated,
        bias=family.mlp_bias,
    )


def _shared_size(fields: Fields, width: int) -> int:
    """Width of what every token passes through beside its experts."""
    if fields.flag("enable_moe_block") or "interleave_moe_layer_step" in fields:
        return fields.integer("intermediate_size")  # Gemma 4's dense block, Llama 4's expert
    count = fields.first_integer("n_shared_experts", "num_shared_experts", default=0)
    if "moe_shared_expert_intermediate_size" in fields:  # Nemotron: of each of them
        return count * fields.integer("moe_shared_expert_intermediate_size", at_least=0)
    named = (
        "shared_expert_intermediate_size",
        "share_expert_dim",
        "shared_intermediate_size",
    )
    given = next((key for key in named if key in fields), None)
    if given is not None:
        return fields.integer(given, at_least=0)
    return count * width
