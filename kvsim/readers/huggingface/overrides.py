"""Fields of a config that a flag overrides, merged as the engine merges them.

::

    {"rope_theta": 1e6}                  a value: set
    {"rope_parameters": {...}}           an object: in place of the old one, or merged (SGLang)
    {"text_config": {"head_dim": 64}}    a config inside: its own fields are set, the others stay

Sources: vLLM, ``ModelConfig._apply_dict_overrides`` and ``_update_nested`` (config/model.py);
SGLang, ``get_config`` (srt/utils/hf_transformers/config.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kvsim.errors import InputError
from kvsim.readers.huggingface.rope import ROPE_FIELDS

__all__ = ["Overrides"]

# Objects of a config.json that the engine's config classes make a config of their own of.
_INNER_CONFIGS = (
    "text_config",
    "llm_config",
    "language_config",
    "thinker_config",
    "talker_config",
    "vision_config",
    "audio_config",
    "attn_config",
    "ffn_config",
)


def _deep(current: object, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Merge objects into objects; what is none is replaced."""
    merged = dict(current) if isinstance(current, Mapping) else {}
    for key, value in fields.items():
        merged[key] = _deep(merged.get(key), value) if isinstance(value, Mapping) else value
    return merged


class Overrides(NamedTuple):
    """What is overridden, and by which rules.

    Parameters
    ----------
    fields : mapping
        Values by the config's own names.
    flag : str
        The flag that says so; errors name it.
    merges_rope : bool
        Whether a rope scaling is merged into the config's own.
    merges_deep : bool
        Whether objects inside an inner config are merged too.
    """

    fields: Mapping[str, Any]
    flag: str
    merges_rope: bool = False
    merges_deep: bool = True

    def apply(self, config: Mapping[str, object]) -> dict[str, object]:
        """Return the config as the engine has it then.

        Raises
        ------
        InputError
            For fields of an inner config that there is none of.
        """
        merged = dict(config)
        for key, value in self.fields.items():
            if key not in _INNER_CONFIGS or not isinstance(value, Mapping):
                self._set(merged, key, value, merges=self.merges_rope)
                continue
            inner = merged.get(key)
            if not isinstance(inner, Mapping):
                fix = "name its fields without one around them"
                raise InputError(f"the config has no {key}", where=self.flag, fix=fix)
            merged[key] = self._inner(inner, value)
        return merged

    def _inner(self, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
        merged = dict(config)
        for key, value in fields.items():
            if self.merges_deep and isinstance(value, Mapping) and key not in ROPE_FIELDS:
                merged[key] = _deep(merged.get(key), value)
            else:
                self._set(merged, key, value, merges=self.merges_deep)
        return merged

    def _set(self, config: dict[str, Any], key: str, value: Any, *, merges: bool) -> None:
        """Set one field; the two names of rope scaling are one, and need a kind."""
        if key in ROPE_FIELDS and isinstance(value, Mapping):
            names = [name for name in ROPE_FIELDS if isinstance(config.get(name), Mapping)]
            current = config[names[0]] if names else {}
            value = {**current, **value} if merges else dict(value)
            for name in ROPE_FIELDS:
                config.pop(name, None)
            kinds = ("rope_type", "type") if merges else ("rope_type",)
            flat = not all(isinstance(each, Mapping) for each in value.values())
            if flat and not any(kind in value for kind in kinds):
                raise InputError(
                    f"{key} has no rope_type", where=self.flag, fix='add "rope_type": "yarn", ...'
                )
        config[key] = value

    def paths(self) -> Iterator[tuple[str, ...]]:
        """Every field that is overridden, those of an inner config one by one."""
        for key, value in self.fields.items():
            if key in _INNER_CONFIGS and isinstance(value, Mapping):
                yield from ((key, name) for name in value)
            else:
                yield (key,)

    def without(self, path: tuple[str, ...]) -> Overrides:
        """The same less one field."""
        key, *inner = path
        rest = {name: value for name, value in self.fields.items() if name != key}
        if inner:
            kept = {name: each for name, each in self.fields[key].items() if name != inner[0]}
            rest |= {key: kept} if kept else {}
        return self._replace(fields=rest)
