"""Models that can keep nothing between steps, and why.

A cache of K and V is right only while what was computed for earlier tokens stays true. In a
causal decoder it does: a token never looks ahead. In a bidirectional encoder every token
looks at every other, so a new one changes the K and V of all earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvsim.errors import UnsupportedError

__all__ = ["BIDIRECTIONAL", "refuse_bidirectional"]

BIDIRECTIONAL = frozenset(
    {
        "albert",
        "bert",
        "bert-generation",
        "big_bird",
        "camembert",
        "canine",
        "clip",
        "data2vec-text",
        "deberta",
        "deberta-v2",
        "diffullama",
        "diffusion_gemma",
        "diffusion_gemma_text",
        "distilbert",
        "dream",
        "electra",
        "ernie",
        "esm",
        "flaubert",
        "llada",
        "longformer",
        "megatron-bert",
        "mobilebert",
        "modernbert",
        "mpnet",
        "neobert",
        "new",
        "nomic_bert",
        "roberta",
        "roberta-prelayernorm",
        "roformer",
        "siglip",
        "squeezebert",
        "vit",
        "xlm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xlnet",
    }
)
_ARCHITECTURES = ("ForMaskedLM", "ForBlockDiffusion")


def refuse_bidirectional(
    text: Mapping[str, object], model_type: str, architecture: str, name: str
) -> None:
    """Refuse encoders and diffusion models.

    Parameters
    ----------
    text : mapping
        Fields of the config's language model.
    model_type, architecture : str
        What the config calls itself.
    name : str
        The model's name in the error.

    Raises
    ------
    UnsupportedError
        With the reason.
    """
    encoder_only = model_type in BIDIRECTIONAL and text.get("is_decoder") is not True
    told = text.get("use_bidirectional_attention") is True or text.get("is_causal") is False
    if encoder_only or told or architecture.endswith(_ARCHITECTURES):
        raise UnsupportedError(
            f"{name}: {architecture or model_type} uses bidirectional attention: every new token"
            " changes the K and V of all earlier tokens, so nothing can be kept in a KV cache"
        )
