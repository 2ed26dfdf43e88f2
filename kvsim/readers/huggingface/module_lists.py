"""Lists of modules as quantisation tools write them, each matched as vLLM 0.33 matches it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable

from kvsim.readers.huggingface.modules import ROOTS, Module, bare_name

__all__ = ["Covers", "ModuleList", "exactly", "like_modelopt", "whole_words"]

# Whether an entry of a list covers a module's name.
Covers = Callable[[str], bool]

_LAYER = re.compile(r"layers\.(\d+)")
_WILD = re.compile(r"[*?[]")
_REGEX = "re:"
# Hundreds of names in some lists are of parts that have no module of the decoder.
_OTHER_PARTS = ("visual.", "vision_tower.", "vision_model.", "audio_tower.")


class ModuleList:
    """Entries of a list, found by the modules that they cover.

    A checkpoint lists thousands of modules, nearly all by the number of their layer: only
    those whose number begins as the module's own does can cover it.

    Parameters
    ----------
    entries : iterable of str
        Names and patterns as the checkpoint spells them.
    meaning : callable
        What an entry covers: one of the functions below.

    Raises
    ------
    re.error
        For an entry that is no regular expression where it should be one.
    """

    def __init__(self, entries: Iterable[str], meaning: Callable[[str], Covers]) -> None:
        self._by_layer: dict[str, list[tuple[str, Covers]]] = {}
        for entry in entries:
            name = bare_name(entry)
            if name.startswith(_OTHER_PARTS):
                continue
            layer = _LAYER.match(name)
            number = layer[1] if layer else ""
            self._by_layer.setdefault(number, []).append((entry, meaning(entry)))

    def entry_of(self, module: Module) -> str | None:
        """Return the first entry that covers a module, as the checkpoint spells it."""
        number = "" if module.layer is None else str(module.layer)
        for end in range(len(number) + 1):
            for entry, covers in self._by_layer.get(number[:end], ()):
                if any(map(covers, module.names)):
                    return entry
        return None

    def __contains__(self, module: Module) -> bool:
        return self.entry_of(module) is not None


def whole_words(entry: str) -> Covers:
    """Whole words of a dotted name: what fp8, AWQ, GPTQ and bitsandbytes lists mean.

    vLLM compares FP8's names exactly, and others' as any part of a name; transformers takes
    beginnings and ends. Whole words are what real lists have in common.

    Examples
    --------
    >>> whole_words("self_attn")("layers.0.self_attn.q_proj")
    True
    >>> whole_words("model.layers.*.mlp.gate")("layers.0.mlp.gate_proj")
    False
    """
    words = bare_name(entry).strip(".")
    if not _WILD.search(words):
        return lambda name: f".{words}." in f".{name}."
    pattern = re.compile(fnmatch.translate(f"*.{words}.*"))
    return lambda name: pattern.match(f".{name}.") is not None


def like_modelopt(entry: str) -> Covers:
    """Any part of a name, or a wildcard; ``X*`` is ``X`` and all beneath it.

    vLLM's `ModelOptQuantConfigBase.is_layer_excluded` and `apply_vllm_mapper`.

    Examples
    --------
    >>> like_modelopt("model.layers.0.mlp.shared_expert*")("layers.0.mlp.shared_experts.up_proj")
    True
    >>> like_modelopt("*.attn.*")("layers.0.attn.wq_b")
    True
    """
    stem = bare_name(entry)
    if stem.endswith("*") and not stem.endswith(".*"):
        stem = stem[:-1]
    if not _WILD.search(stem):
        return lambda name: bool(stem) and stem in name
    pattern = re.compile("|".join(map(fnmatch.translate, (stem, f"{stem}.*"))))
    return lambda name: pattern.match(name) is not None


def exactly(entry: str) -> Covers:
    r"""A whole name, or ``re:`` and a pattern of its beginning (compressed-tensors).

    vLLM's `compressed_tensors.utils.find_matching_patterns`.

    Examples
    --------
    >>> exactly(r"re:model\.layers\.0\..*")("layers.0.mlp.up_proj")
    True
    """
    if not entry.startswith(_REGEX):
        return bare_name(entry).__eq__
    pattern = re.compile(entry.removeprefix(_REGEX))
    roots = ("",) if pattern.pattern.startswith(".*") else ROOTS
    return lambda name: any(pattern.match(root + name) for root in roots)
