"""Which family a class of a config's ``architectures`` builds."""

from __future__ import annotations

from kvsim.readers.huggingface.families import FAMILIES

__all__ = ["model_type_of_class"]

# Classes that engines build a decoder from are named after its model_type: DeepseekV3ForCausalLM,
# GPTNeoXForCausalLM. Encoder-decoders have several classes a model, so they are left out.
_HEADS = ("ForCausalLM", "LMHeadModel")
_STEMS = {
    model_type.replace("_", ""): model_type
    for model_type, family in FAMILIES.items()
    if family.layout not in {"t5", "seq2seq"}
}


def model_type_of_class(name: str) -> str | None:
    """Say which family a class of ``architectures`` builds; None where none here does.

    Examples
    --------
    >>> model_type_of_class("DeepseekV4ForCausalLM"), model_type_of_class("GPT2LMHeadModel")
    ('deepseek_v4', 'gpt2')
    """
    head = next((head for head in _HEADS if name.endswith(head)), None)
    if head is None:
        return None
    return _STEMS.get(name.removesuffix(head).replace("_", "").lower())
