"""The header of a GGUF file through the package ``gguf``, made quick and safe to read.

The package turns each of a vocabulary's 150,000 tokens into numpy arrays (seconds), and
reads past the end of a cut-off file without noticing. Two of its steps are replaced here:
arrays are taken whole or skipped, and every read is checked against the file's size.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.errors import InputError, MissingExtraError
from kvsim.specs.files import read_start

__all__ = ["GgufHeader", "GgufTensor", "read_gguf_header"]

_LFS_POINTER = b"version https://git-lfs"
# What the package raises, or numpy in it, on lengths, types and names that make no sense.
_DAMAGE = (ArithmeticError, LookupError, MemoryError, TypeError, ValueError, struct.error)


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor as the header describes it.

    Parameters
    ----------
    kind : str
        ggml's name of its type: "F16", "Q4_K", ...
    shape : tuple of int
        Fastest dimension first, as ggml writes it.
    size_bytes : int
        Bytes in the file.
    """

    kind: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata and tensors of one file; arrays of strings are left out."""

    values: Mapping[str, object]
    tensors: Mapping[str, GgufTensor]


@functools.cache
def _reader_class() -> Any:
    """Make the package's reader with bounded reads and whole arrays, importing it late."""
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("gguf", "gguf", "reading a .gguf file") from None
    import numpy as np

    array, string = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING

    class Reader(gguf.GGUFReader):
        def __init__(self, path: Path) -> None:
            with np.errstate(over="raise"):  # offsets of a damaged file wrap around
                super().__init__(path)

        def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **more: Any) -> Any:
            end = int(offset) + np.dtype(dtype).itemsize * int(count)
            if end > len(self.data):
                raise EOFError(f"byte {end:,} is wanted of {len(self.data):,}")
            return super()._get(offset, dtype, count, *rest, **more)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != array:
                return super()._get_field_parts(orig_offs, raw_type)
            items = self._get(orig_offs, np.uint32)
            count = self._get(orig_offs + 4, np.uint64)
            kind, start, length = gguf.GGUFValueType(items[0]), orig_offs + 12, int(count[0])
            if kind is string:
                byte_order = ">" if self.byte_order == "S" else "<"
                end = _behind_strings(self.data.data, start, length, byte_order)
                return end - orig_offs, [items, count], [], [array, kind]
            content = self._get(start, self.gguf_scalar_to_np[kind], length)
            return 12 + int(content.nbytes), [items, count, content], [2], [array, kind]

    return Reader


def _behind_strings(view: memoryview, offset: int, count: int, byte_order: str) -> int:
    """Hop over strings, each a length and its bytes; return where they end."""
    length = struct.Struct(f"{byte_order}Q")
    for _ in range(count):
        offset += length.size + length.unpack_from(view, offset)[0]
    return offset


def read_gguf_header(path: Path) -> GgufHeader:
    """Read a GGUF file's metadata and tensor table; no tensor is loaded.

    Raises
    ------
    MissingExtraError
        Without the package gguf.
    InputError
        When the file cannot be opened, is no GGUF, a git-LFS pointer, or cut off.
    """
    reader_class = _reader_class()
    _check_magic(read_start(path, len(_LFS_POINTER)), path)
    try:
        reader = reader_class(path)
        return GgufHeader(_values(reader), _tensors(reader))
    except EOFError as error:
        raise InputError(f"is cut off: {error}", where=str(path), fix="fetch it again") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot be read: {reason}", where=str(path)) from None
    except (
        ArithmeticError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        line = str(error).partition("\n")[0][:120]
        raise InputError(f"is a damaged GGUF file: {line}", where=str(path)) from None


def _check_magic(start: bytes, path: Path) -> None:
    if start == _LFS_POINTER:
        raise InputError("is a git-LFS pointer, not the file", where=str(path), fix="git lfs pull")
    if not start.startswith(b"GGUF"):
        raise InputError("is not a GGUF file: it does not begin with GGUF", where=str(path))


def _values(reader: Any) -> dict[str, object]:
    fields = reader.fields.items()
    return {name: field.contents() for name, field in fields if not name.startswith("GGUF.")}


def _tensors(reader: Any) -> dict[str, GgufTensor]:
    return {
        tensor.name: GgufTensor(
            tensor.tensor_type.name, tuple(int(n) for n in tensor.shape), int(tensor.n_bytes)
        )
        for tensor in reader.tensors
    }
