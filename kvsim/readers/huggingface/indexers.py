"""Which layers of a sparse latent model pick tokens by what an earlier layer's indexer found.

::

    indexer_types           ["full", "full", "full", "shared", ...]    layer by layer
    index_topk_pattern      "FFFSSSF..."     F has an indexer, S shares the last one's picks
    index_topk_freq         4                every fourth layer has one, counted from
    index_skip_topk_offset  3                this layer: 0, 1, 2, 6, 10, ...       GLM-5.2

A layer that shares has neither index keys in the cache nor an indexer's weights.
"""

from __future__ import annotations

from kvsim.readers.huggingface.fields import Fields

__all__ = ["shared_indexers"]

_WORDS = {"full": False, "shared": True}
_LETTERS = {"F": False, "S": True}
_RULES = ("index_topk_pattern", "index_topk_freq")


def shared_indexers(fields: Fields, count: int) -> list[bool]:
    """Say of every layer whether its indexer is an earlier layer's.

    Where the config lists the layers and states a rule too, both must say the same: an engine
    follows the rule (vLLM 0.33 reads it alone, ``models/deepseek_v32/attention.py``).

    Raises
    ------
    InputError
        For a word or letter that is not known, two statements that disagree, a first layer
        that shares, or sharing where nothing is picked.
    """
    listed, ruled = _listed(fields, count), _ruled(fields, count)
    if listed is not None and ruled is not None and listed != ruled:
        layer = next(i for i in range(count) if listed[i] != ruled[i])
        rule = next(key for key in _RULES if key in fields)
        raise fields.error(
            f"indexer_types calls layer {layer} {_word(listed[layer])!r}, and {rule} makes it"
            f" {_word(ruled[layer])!r}",
            "an engine follows the rule: state one of them",
        )
    shared = listed or ruled or [False] * count
    if any(shared) and "index_topk" not in fields:
        raise fields.error("layers share an indexer's picks, and the config has no index_topk")
    if shared[0]:
        raise fields.error("layer 0 shares an indexer, and no earlier layer has one")
    return shared


def _listed(fields: Fields, count: int) -> list[bool] | None:
    if "indexer_types" not in fields:
        return None
    words = fields.words("indexer_types")
    fields.per_layer("indexer_types", words, count)
    return [_known(fields, "indexer_types", word, _WORDS) for word in words]


def _ruled(fields: Fields, count: int) -> list[bool] | None:
    """The pattern decides where there is one; layers past its end have their own indexer."""
    if "index_topk_pattern" in fields:
        listed = isinstance(fields.get("index_topk_pattern"), list)
        read = fields.words if listed else fields.text
        letters = [*read("index_topk_pattern")[:count]]
        letters += "F" * (count - len(letters))
        return [_known(fields, "index_topk_pattern", letter, _LETTERS) for letter in letters]
    if "index_topk_freq" not in fields:
        return None
    period = fields.integer("index_topk_freq")
    offset = fields.integer("index_skip_topk_offset", 2, at_least=0)
    return [max(layer - offset + 1, 0) % period != 0 for layer in range(count)]


def _known(fields: Fields, key: str, word: str, meanings: dict[str, bool]) -> bool:
    if word not in meanings:
        raise fields.error(f"{key} names {word[:20]!r}", f"known are {', '.join(meanings)}")
    return meanings[word]


def _word(shares: bool) -> str:
    return "shared" if shares else "full"
