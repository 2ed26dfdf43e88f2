"""A GGUF file: its keys are renamed to a config.json's, its tensors weighed to the byte.

There is one path from facts to a `ModelSpec`, `spec_from_config`; this module only adds
what a config cannot say: the exact size of the tensors and how they are stored.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from kvsim.errors import InputError
from kvsim.readers.gguf.fields import config_from_metadata
from kvsim.readers.gguf.header import GgufTensor, read_gguf_header
from kvsim.readers.huggingface.config import spec_from_config
from kvsim.specs.model import QUANTISED_FAMILIES, FamilyFormat, ModelSpec
from kvsim.specs.precision import WEIGHT_FORMATS

__all__ = ["spec_from_gguf"]

_PART = re.compile(r"(?P<stem>.*)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf")
_LARGEST_SPLIT = 1000
_PLAIN_KINDS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


def spec_from_gguf(path: str | os.PathLike[str]) -> ModelSpec:
    """Read a GGUF file, or all parts of one that was split.

    Parameters
    ----------
    path : path
        A ``.gguf`` file; any part of a split one (``-00001-of-00003.gguf``).

    Returns
    -------
    ModelSpec
        With the exact bytes of all tensors in `weight_bytes_on_disk`.

    Raises
    ------
    MissingExtraError
        Without the package gguf.
    InputError
        When the file, or another part of it, is missing, damaged or cut off.
    UnsupportedError
        For an architecture that kvsim cannot translate.
    """
    parts = _parts(Path(path))
    headers = [read_gguf_header(part) for part in parts]
    tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
    where = str(parts[0])
    config = config_from_metadata(headers[0].values, where)
    config.setdefault("vocab_size", _vocabulary(tensors, where))
    config["tie_word_embeddings"] = "output.weight" not in tensors
    spec = spec_from_config(config, name=where, source=f"read from {where}")
    return spec.model_copy(
        update={
            "name": _name(headers[0].values, parts[0]),
            "weight_bytes_on_disk": sum(tensor.size_bytes for tensor in tensors.values()),
            **_storage(tensors.values()),
        }
    )


def _parts(path: Path) -> list[Path]:
    """All files of a split GGUF, the first one first; the file itself when it is whole."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["parts"])
    if not 1 <= count <= _LARGEST_SPLIT:
        raise InputError(f"is one of {count} parts, which cannot be", where=str(path))
    names = [f"{match['stem']}-{part:05}-of-{count:05}.gguf" for part in range(1, count + 1)]
    parts = [path.with_name(name) for name in names]
    missing = next((part.name for part in parts if not part.is_file()), None)
    if missing is not None:
        fix = "fetch all parts into one folder"
        raise InputError(f"part {missing} is not beside it", where=str(path), fix=fix)
    return parts


def _vocabulary(tensors: Mapping[str, GgufTensor], where: str) -> int:
    """Rows of the embedding: the slow dimension, which ggml writes last."""
    table = tensors.get("token_embd.weight")
    if table is None:
        raise InputError("has neither a vocab_size nor an embedding tensor", where=where)
    return table.shape[-1]


def _name(values: Mapping[str, object], path: Path) -> str:
    """What the file calls itself, else the file's own name."""
    given = values.get("general.name")
    return given if isinstance(given, str) and given.strip() else path.stem


def _storage(tensors: Iterable[GgufTensor]) -> dict[str, object]:
    """Name the format of most weights: its own, or the ggml mixture nearest in bits.

    Sizes do not depend on the name, because the tensors' real bytes are kept; shares of
    the families and arithmetic rates do.
    """
    sizes: Counter[str] = Counter()
    elements = 0
    for tensor in tensors:
        sizes[tensor.kind] += tensor.size_bytes
        elements += tensor.elements
    if not elements:
        return {}
    main = sizes.most_common(1)[0][0]
    if main in _PLAIN_KINDS:
        return {"dtype": _PLAIN_KINDS[main], "quantization": None, "family_formats": ()}
    if main == "MXFP4":
        others = [family for family in QUANTISED_FAMILIES if family != "experts"]
        plain = tuple(FamilyFormat(family=family, format=None) for family in others)
        return {"quantization": "mxfp4", "family_formats": plain}
    return {"dtype": "fp16", "quantization": _nearest_mixture(8 * sizes.total() / elements)}


def _nearest_mixture(bits_per_weight: float) -> str:
    mixtures = [fmt for fmt in WEIGHT_FORMATS.values() if fmt.quantises_head]
    return min(mixtures, key=lambda fmt: abs(fmt.bits_per_weight - bits_per_weight)).name
