"""Exact weight bytes from a safetensors header or index; the tensors are never read.

::

    ┌─ 8 bytes ─┬──── n bytes ────┬─ tensors, not read ─ ...
    │ n, u64 LE │ JSON header     │
    └───────────┴─────────────────┴─

The header maps each tensor's name to its dtype, shape and ``data_offsets`` (begin, end)
in the part behind it: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from kvsim.errors import InputError
from kvsim.specs.files import read_start
from kvsim.specs.numbers import shown
from kvsim.units import format_bytes

__all__ = ["LARGEST_HEADER_BYTES", "header_weight_bytes", "index_total_bytes"]

# The format's own limit on a header; the index of the largest checkpoints is some 20 MB.
LARGEST_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_LFS_POINTER = b"version https://git-lfs"


def header_weight_bytes(path: str | os.PathLike[str]) -> int:
    """Sum the bytes of all tensors that a safetensors file's header describes.

    Only the header is read, so that a file cut off behind it will do.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file.

    Returns
    -------
    int
        Bytes of tensor data, without the header.

    Raises
    ------
    InputError
        When the file is missing, a git-LFS pointer, cut off inside its header, claims a
        header above 100 MB, or describes tensors that overlap or leave holes.
    """
    where = os.fspath(path)
    header = _parse(_read_header(Path(path)), where)
    spans = [_span(name, entry, where) for name, entry in header.items() if name != "__metadata__"]
    total_bytes = sum(end - begin for begin, end in spans)
    if total_bytes != max((end for _, end in spans), default=0):
        raise InputError("describes tensors that overlap or leave holes", where=where)
    return total_bytes


def index_total_bytes(path: str | os.PathLike[str]) -> int:
    """Read ``metadata.total_size`` of a sharded checkpoint's index.

    Parameters
    ----------
    path : path
        A ``model.safetensors.index.json`` (or ``pytorch_model.bin.index.json``).

    Returns
    -------
    int
        Bytes of all tensors in all shards.

    Raises
    ------
    InputError
        When the file is not such an index, or states no size.
    """
    where = os.fspath(path)
    index = _parse(_read(Path(path), LARGEST_HEADER_BYTES), where)
    metadata = index.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    # Some indices were written with a float, such as 2.6e10.
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < 2**63:
        raise InputError(
            f"metadata.total_size is {shown(size, 40)}, not a size in bytes",
            where=where,
            fix="delete the index to count the shards' own headers",
        )
    return int(size)


def _read_header(path: Path) -> bytes:
    prefix = _read(path, _LENGTH_BYTES, more_follows=True)
    if prefix == _LFS_POINTER[:_LENGTH_BYTES]:
        raise InputError("is a git-LFS pointer, not the file", where=str(path), fix="git lfs pull")
    length = int.from_bytes(prefix, "little")
    if len(prefix) < _LENGTH_BYTES or length < 2:
        raise InputError("is too short to be a safetensors file", where=str(path))
    if length > LARGEST_HEADER_BYTES:
        raise InputError(
            f"claims a header of {format_bytes(length)}; safetensors allows 100 MB",
            where=str(path),
            fix="the file is damaged or something else: fetch it again",
        )
    content = _read(path, _LENGTH_BYTES + length, more_follows=True)
    if len(content) < _LENGTH_BYTES + length:
        raise InputError(
            f"is cut off: {len(content):,} bytes of a header of {length:,}",
            where=str(path),
            fix="fetch it again",
        )
    return content[_LENGTH_BYTES:]


def _read(path: Path, limit_bytes: int, *, more_follows: bool = False) -> bytes:
    """Read at most so many bytes; a longer file is an error unless more may follow."""
    content = read_start(path, limit_bytes + 1)
    if len(content) > limit_bytes and not more_follows:
        raise InputError(f"is larger than {format_bytes(limit_bytes)}", where=str(path))
    return content[:limit_bytes]


def _parse(content: bytes, where: str) -> dict[str, object]:
    if content.startswith(_LFS_POINTER):
        raise InputError("is a git-LFS pointer, not the file", where=where, fix="git lfs pull")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise InputError("does not hold the JSON that safetensors writes", where=where) from None
    if not isinstance(document, dict):
        raise InputError("does not hold the JSON that safetensors writes", where=where)
    return document


def _span(name: str, entry: object, where: str) -> tuple[int, int]:
    """Return one tensor's (begin, end) in bytes."""
    match entry:
        case {"data_offsets": [int(begin), int(end)]} if 0 <= begin <= end < 2**63:
            if not isinstance(begin, bool) and not isinstance(end, bool):
                return begin, end
    raise InputError(f"tensor {name[:60]!r} has no usable data_offsets", where=where)
