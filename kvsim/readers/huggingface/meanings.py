"""What a config's fields mean for what a layer keeps, whatever the model is called.

::

    field ──▶ a kernel, a draft, training        cannot change what is kept: passed over
          ──▶ the family's layout reads it       passed on
          ──▶ "full attention", in its words     nothing to read
          ──▶ speaks of attention or its state,  refused by name: a guess would be a wrong number
              and nobody reads it, or nobody
              where it lies

A ``model_type`` that nobody knows is read by its fields alone, where they say everything that a
kind of layer needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from kvsim.readers.huggingface.families import DELTA_FIELDS, MLA_FIELDS
from kvsim.readers.huggingface.family import Family
from kvsim.readers.huggingface.fields import Fields

__all__ = ["family_by_fields", "refuse_beside", "refuse_unread"]

# Fields that speak of an attention kind, of a state, or of the width that something is kept in.
# One that is set, and that the family's layout does not read, means that the model is something
# else than it seems.
_TELLING = re.compile(
    r"window|pattern|mamba|ssm|conv_kernel|state_size|kv_lora|layer_types|block_type|attn_type"
    r"|attn_layer|attn_config|linear_(attn|attention|num|key|value|conv)|attention_chunk"
    r"|compress_ra|recurrent|retention|lru_|wkv|kv_shared|full_attention|global_head|index_topk"
    r"|local_attention|attention_type|sparse_attention|cross_attention"
    r"|indexer_types|index_kpool|source_layer|engram|block_configs|heads_per_layer"
    r"|attention_other|qk_(rope|nope)"
    r"|kv_(compress|cache_(compress|shar|ratio|budget)|shar|reuse|evict|budget|merg|group)|kv_lora"
    r"|cross_layer|shared_kv|evict|local_attn|sparse_attn|(^|_)(nsa|moba|yoco)(_|$)"
    r"|(attn|attention)_(kind|layers|sink|budget|block_size)"
)
# Fields that match, and can change nothing that is kept: which kernel runs, how the model was
# trained, what a draft layer is (engines drop those unless they speculate), biases, activations,
# and which layers hold experts, which is read for every family.
_IDLE = re.compile(
    r"^mlp_layer_types$|^mtp_|_mtp_|^num_mtp|^dspark_|^use_\w+_kernels$|^time_step_|^index_share_for_mtp"
    r"|^(mamba|ssm)\w*_chunk_size$|_(hidden_act|act|bias|dropout|rope_theta|rms_norm|norm_before_gate)$"
)
# All that an object about attention may say, of the configs that have one (Kimi Linear and K3,
# GLM-5.3-Flash; MiniMax-M3).
_INSIDE = {
    "linear_attn_config": frozenset(
        (
            "full_attn_layers",
            "gate_lower_bound",
            "head_dim",
            "kda_layers",
            "num_heads",
            "short_conv_kernel_size",
            "use_full_rank_gate",
        )
    ),
    "sparse_attention_config": frozenset(
        (
            "sparse_attention_freq",
            "sparse_block_size",
            "sparse_disable_index_value",
            "sparse_index_dim",
            "sparse_init_block",
            "sparse_local_block",
            "sparse_num_index_heads",
            "sparse_score_type",
            "sparse_topk_blocks",
            "use_sparse_attention",
        )
    ),
}
_WINDOW_FIELDS = ("layer_types", "sliding_window", "use_sliding_window", "max_window_layers")


class _Meaning(NamedTuple):
    """Fields that say all of one kind of layer together.

    Parameters
    ----------
    needs : tuple of str
        All of them must be set.
    reads : tuple of str
        What else is read beside them.
    linear : str or None
        What "linear_attention" means then.
    """

    needs: tuple[str, ...]
    reads: tuple[str, ...] = ()
    linear: str | None = None


_VOCABULARY = (
    _Meaning(("layer_types", "sliding_window"), _WINDOW_FIELDS),
    _Meaning(("sliding_window_pattern", "sliding_window"), _WINDOW_FIELDS),
    _Meaning(("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")),
    _Meaning(("kv_lora_rank", "index_topk", "index_head_dim", "index_n_heads"), reads=MLA_FIELDS),
    _Meaning(
        (
            "linear_key_head_dim",
            "linear_value_head_dim",
            "linear_num_key_heads",
            "linear_num_value_heads",
            "linear_conv_kernel_dim",
        ),
        reads=("layer_types", *DELTA_FIELDS),
        linear="gated_delta_net",
    ),
)


def family_by_fields(text: Mapping[str, object]) -> Family:
    """Make the family of a model that nobody knows, by what its fields say.

    A window without a list or a pattern of layers says nothing: which layers have it is in the
    model's code. Such fields are left for `refuse_unread`.

    Parameters
    ----------
    text : mapping
        The fields, in their canonical spelling.
    """
    said = [each for each in _VOCABULARY if all(text.get(key) is not None for key in each.needs)]
    linear = next((each.linear for each in said if each.linear), None)
    return Family(
        linear=linear,
        reads=tuple(key for each in said for key in (*each.needs, *each.reads)),
        gated=text.get("mlp_hidden_act") != "relu2",
    )


def refuse_unread(fields: Fields, family: Family, model_type: str, *, known: bool) -> None:
    """Refuse what hints at a kind of attention that nobody here will read.

    Raises
    ------
    InputError
        Naming the field.
    """
    read = frozenset((*family.reads, *_WINDOW_FIELDS)) if known else frozenset(family.reads)
    for name in read & _INSIDE.keys():
        unknown = sorted(set(fields.inner(name).names()) - _INSIDE[name])
        if unknown:
            raise fields.error(
                f"{name} says {unknown[0]!r}, which kvsim does not know",
                f"it knows {', '.join(sorted(_INSIDE[name]))}",
            )
    for key in fields.names():
        if key in read or not _TELLING.search(key) or _IDLE.search(key) or _is_plain(fields, key):
            continue
        raise fields.error(
            f"model_type {model_type!r} with the field {key!r} is a kind of attention that"
            " kvsim does not know",
            "kvsim never guesses; a plain decoder has no such field",
        )


def refuse_beside(beside: Fields) -> None:
    """Refuse fields around the language model's own that speak of its attention.

    Parameters
    ----------
    beside : Fields
        What the outer config says and the language model's own does not.

    Raises
    ------
    InputError
        Naming the field.
    """
    for key in beside.names():
        if _TELLING.search(key) and not _IDLE.search(key) and not _is_plain(beside, key):
            raise beside.error(
                f"the field {key!r} lies outside the language model's config: nothing reads it",
                "move it inside, or leave it out",
            )


def _is_plain(fields: Fields, key: str) -> bool:
    """Whether a field says that there is nothing special."""
    value = fields.get(key)
    if value is False or value in ([], {}, ""):
        return True
    if key == "layer_types":
        return value == ["full_attention"] * len(fields.words(key))
    # MiniMax: 0 is linear attention, 1 is full.
    return key == "attn_type_list" and isinstance(value, list) and set(map(str, value)) == {"1"}
