"""A model's name, alias or path in, a `ModelSpec` out.

::

    llama2-7b                          a file of kvsim/catalog/data, by its name
    meta-llama/Llama-2-7b-hf, LLAMA2_7B  by alias or hub id; case, "-", "_", "." do not matter
    RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic    a variant: base model and weight format
    ./folder, config.json, model.gguf  what lies on disk
    hf:org/name                        the hub

An entry's head may list `published` checkpoints of it in other formats, such as a variant's name.

Every entry holds a small config in Hugging Face's words and goes through the same reader as
a config.json on disk. A lookup parses the heads of the entries only: the lines above
``config:``.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kvsim.errors import InputError, UnknownNameError
from kvsim.readers.huggingface.config import spec_from_config, spec_from_json_file
from kvsim.readers.huggingface.overrides import Overrides
from kvsim.specs.model import ModelSpec
from kvsim.specs.precision import weight_format

if TYPE_CHECKING:
    from kvsim.catalog.variants import Variant

__all__ = ["describe_models", "find_model", "model_names", "published_variants"]

_FOLDER = Path(__file__).resolve().parent / "data"
_CONFIG_LINE = "\nconfig:"
_FIX = "see `kvsim models`, or give a config.json, its folder, a .gguf file or hf:org/name"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def model_names() -> list[str]:
    """Names of the catalogue's entries, sorted."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def describe_models() -> list[dict[str, Any]]:
    """Describe every entry for a listing, without building it.

    Returns
    -------
    list of dict
        ``name, hf_id, aliases, parameters`` (billions, as published), ``source`` and
        ``confidence``, in the order of the names.
    """
    return [dict(_heads()[name]) for name in model_names()]


def find_model(
    name_or_path: str | os.PathLike[str], overrides: Overrides | None = None
) -> ModelSpec:
    """Find a model.

    Parameters
    ----------
    name_or_path : str or path
        A catalogue name, alias or hub id; a quantised variant of one; a ``config.json``, its
        folder or a ``.gguf`` file; ``hf:org/name``.
    overrides : Overrides, optional
        Fields in place of those of its config.

    Returns
    -------
    ModelSpec
        Its `source` says how the name was understood where that took a rule.

    Raises
    ------
    UnknownNameError
        When nothing has that name; the nearest names are listed.
    InputError
        When a file cannot be read, or a name fits several models.
    UnsupportedError
        For a model that can keep nothing (encoder-only).
    """
    name = os.fspath(name_or_path).strip()
    if not name:
        raise InputError("a model needs a name", fix=_FIX)
    if overrides is None:
        return _find(name, None)
    plain, spec = _find(name, None), _find(name, overrides)
    idle = [
        path for path in overrides.paths() if _alike(spec, _find(name, overrides.without(path)))
    ]
    # The engine loads the shapes that it is told: what lies on disk is another model's then.
    resized = _shapes(spec) != _shapes(plain)
    update: dict[str, Any] = {
        "idle_overrides": tuple(map(".".join, idle)),
        "source": f"{spec.source}; with {overrides.flag} {json.dumps(overrides.fields)}",
    }
    update |= {"weight_bytes_on_disk": None} if resized else {}
    return spec.model_copy(update=update)


def _find(name: str, overrides: Overrides | None) -> ModelSpec:
    if name in _files():
        return _entry(name, overrides)
    if name.lower().startswith("hf:"):
        return _from_hub(name[3:], overrides)
    if _looks_like_path(name):
        return _from_path(Path(name), overrides)
    entry = _entry_of(name)
    return _entry(entry, overrides) if entry else _variant(name, overrides)


def _shapes(model: ModelSpec) -> tuple[object, ...]:
    """What the number of a model's parameters follows from."""
    sizes = model.hidden_size, model.vocab_size, model.position_embeddings
    return *sizes, model.tie_embeddings, model.layer_groups, model.other_parameters


def _alike(one: ModelSpec, other: ModelSpec) -> bool:
    return one.model_copy(update={"source": other.source}) == other


@functools.cache
def _files() -> frozenset[str]:
    return frozenset(model_names())


def published_variants(model: ModelSpec) -> list[tuple[str, str]]:
    """Published checkpoints of a catalogue's model in fewer bits: hub id and weight format.

    The widest first; none for a model that is not the catalogue's own.
    """
    entry = _entry_of(model.name) if model.name else None
    if entry is None or _load(entry) != model:
        return []
    own = weight_format(model.quantization or model.dtype).bits_per_weight
    named = {
        hf_id: find_model(hf_id).quantization for hf_id in _heads()[entry].get("published", ())
    }
    bits = {hf_id: weight_format(str(name)).bits_per_weight for hf_id, name in named.items()}
    fewer = sorted((hf_id for hf_id in bits if bits[hf_id] < own), key=lambda hf_id: -bits[hf_id])
    return [(hf_id, str(named[hf_id])) for hf_id in fewer]


def _looks_like_path(name: str) -> bool:
    if name.lower().endswith((".json", ".gguf")) or name.startswith((".", "~", os.sep)):
        return True
    return _asks(Path(name).exists)


def _asks(question: Callable[[], bool]) -> bool:
    """Ask the file system; what it cannot even be asked (a name too long) is no."""
    try:
        return question()
    except (OSError, ValueError):
        return False


def _from_path(path: Path, overrides: Overrides | None) -> ModelSpec:
    try:
        path = path.expanduser()
    except RuntimeError as error:  # ~somebody who has no home here
        raise InputError(str(error), where=str(path)) from None
    if _asks(path.is_dir):
        from kvsim.readers.checkpoint import spec_from_folder

        return spec_from_folder(path, overrides)
    if path.suffix.lower() == ".gguf":
        from kvsim.readers.gguf.file import spec_from_gguf

        if overrides:
            fix = "give the config.json that it was made from"
            raise InputError(f"{path} has no config to override", where=overrides.flag, fix=fix)
        return spec_from_gguf(path)
    return spec_from_json_file(path, overrides)


def _from_hub(repo_id: str, overrides: Overrides | None) -> ModelSpec:
    from kvsim.readers.hub import spec_from_hub

    return spec_from_hub(repo_id, overrides=overrides)


def _entry(entry: str, overrides: Overrides | None) -> ModelSpec:
    return _load(entry) if overrides is None else _build(entry, overrides)


@functools.cache
def _load(entry: str) -> ModelSpec:
    return _build(entry, None)


def _build(entry: str, overrides: Overrides | None) -> ModelSpec:
    """Build one entry of the catalogue.

    Raises
    ------
    InputError
        For overrides of a model that has no published config.
    """
    content = yaml.load((_FOLDER / f"{entry}.yaml").read_text("utf-8"), Loader=_Loader)
    config = content["config"]
    if overrides and not content.get("hf_id"):
        fix = "give the path of a config.json"
        raise InputError(f"{entry} has no published config", where=overrides.flag, fix=fix)
    config = overrides.apply(config) if overrides else config
    spec = spec_from_config(config, name=entry, source=content["source"])
    update = {"hf_id": content.get("hf_id", "")}
    if "other_parameters" in content:
        update["other_parameters"] = content["other_parameters"]
    return spec.model_copy(update=update)


@functools.cache
def _heads() -> dict[str, dict[str, Any]]:
    """What stands above ``config:`` in each entry."""
    return {file.stem: _head(file) for file in sorted(_FOLDER.glob("*.yaml"))}


def _head(file: Path) -> dict[str, Any]:
    text = file.read_text("utf-8").partition(_CONFIG_LINE)[0]
    head: dict[str, Any] = yaml.load(text, Loader=_Loader)
    return head


def _squeeze(name: str, *, dots: bool) -> str:
    """Reduce a name to what tells models apart, with or without its dots.

    Examples
    --------
    >>> _squeeze("Llama-3.1_8B Instruct", dots=True), _squeeze("OPT-1.3b", dots=False)
    ('llama3.18binstruct', 'opt13b')
    """
    return re.sub(r"[-_ ]+" if dots else r"[-_ .]+", "", name.lower())


@functools.cache
def _index(*, dots: bool) -> dict[str, frozenset[str]]:
    """Every squeezed spelling, with and without the organisation, to the entries it names."""
    index: dict[str, frozenset[str]] = {}
    for entry, head in _heads().items():
        for spelling in (entry, head.get("hf_id", ""), *head.get("aliases", ())):
            for key in _keys(spelling, dots=dots):
                index[key] = index.get(key, frozenset()) | {entry}
    return index


def _keys(spelling: str, *, dots: bool) -> list[str]:
    """The whole spelling, then without its organisation; duplicates and nothing left out."""
    both = (_squeeze(part, dots=dots) for part in (spelling, spelling.rpartition("/")[2]))
    return [key for key in dict.fromkeys(both) if key]


def _entry_of(name: str) -> str | None:
    """The entry that a spelling names, whatever organisation stands before it.

    Dots count at first, so that opt-13b is not opt-1.3b; then they do not.
    """
    for dots in (True, False):
        for key in _keys(name, dots=dots):
            entries = sorted(_index(dots=dots).get(key, ()))
            if len(entries) > 1:
                raise InputError(
                    f"{name!r} names several models", fix=f"say {' or '.join(entries)}"
                )
            if entries:
                return entries[0]
    return None


def _variant(name: str, overrides: Overrides | None) -> ModelSpec:
    """A hub id that adds a weight format, or an instruction tuning, to a known model."""
    from kvsim.catalog.variants import variants_of

    for variant in variants_of(name):
        entry = _entry_of(variant.base)
        if entry:
            return _as_variant(_entry(entry, overrides), name, variant)
    raise UnknownNameError("model", name, _known_spellings(), fix=_FIX)


def _as_variant(spec: ModelSpec, name: str, variant: Variant) -> ModelSpec:
    from kvsim.catalog.variants import spared_parameters

    update: dict[str, Any] = {
        "name": name,
        "hf_id": name if "/" in name else spec.hf_id,
        "source": f"{spec.source}; {name} read as {spec.name}{variant.reading}",
    }
    if variant.changes_format:
        update |= {
            "quantization": variant.weight_format,
            "family_formats": (),
            "spared_parameters": spared_parameters(name),
        }
    return spec.model_copy(update=update)


def _known_spellings() -> list[str]:
    heads = _heads().values()
    aliases = (alias for head in heads for alias in head.get("aliases", ()))
    return [*model_names(), *(head["hf_id"] for head in heads if head.get("hf_id")), *aliases]
