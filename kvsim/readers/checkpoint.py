"""A checkpoint's folder: what its config.json says, and what its tensors really weigh."""

from __future__ import annotations

import os
from pathlib import Path

from kvsim.errors import InputError
from kvsim.readers.huggingface.config import CONFIG_FILE, spec_from_json_file
from kvsim.readers.huggingface.overrides import Overrides
from kvsim.readers.safetensors import header_weight_bytes, index_total_bytes
from kvsim.specs.model import ModelSpec

__all__ = ["INDEX_FILE", "folder_weight_bytes", "spec_from_folder"]

INDEX_FILE = "model.safetensors.index.json"
_INDEX_FILES = (INDEX_FILE, "pytorch_model.bin.index.json")


def spec_from_folder(path: str | os.PathLike[str], overrides: Overrides | None = None) -> ModelSpec:
    """Read a folder as Hugging Face lays it out.

    Parameters
    ----------
    path : path
        A folder with a ``config.json``, and perhaps weights beside it.
    overrides : Overrides, optional
        Fields in place of the config's own.

    Returns
    -------
    ModelSpec
        With `weight_bytes_on_disk` where the folder tells it.

    Raises
    ------
    InputError
        When there is no usable config, or weights with a broken header.
    """
    folder = Path(path)
    config = folder / CONFIG_FILE
    if not config.is_file():
        found = next(iter(sorted(folder.glob("*.gguf"))), None)
        fix = f"give the file itself: {found}" if found else "give a folder that holds one"
        raise InputError(f"there is no {CONFIG_FILE} here", where=str(folder), fix=fix)
    spec = spec_from_json_file(config, overrides)
    return spec.model_copy(update={"weight_bytes_on_disk": folder_weight_bytes(folder)})


def folder_weight_bytes(folder: Path) -> int | None:
    """Bytes of a checkpoint's tensors: its index, else its headers; None without either.

    Only ``model*.safetensors`` count: the same weights may lie there a second time as
    ``consolidated.safetensors``, and adapters beside them.
    """
    for name in _INDEX_FILES:
        if (folder / name).is_file():
            return index_total_bytes(folder / name)
    shards = sorted(folder.glob("model*.safetensors"))
    return sum(header_weight_bytes(shard) for shard in shards) if shards else None
