"""Bytes of a trace, line by line, with the guards that untrusted files need.

A line or an unpacked file beyond a cap, a binary file, a truncated archive and a git-LFS
pointer each raise one `InputError`; of what is read a block or one line is in memory.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

from kvsim.errors import InputError
from kvsim.specs.files import LFS_POINTER, open_binary, reading

__all__ = ["MAX_LINE_BYTES", "LineSource", "lines_of", "unpacking"]

MAX_LINE_BYTES = 64 * 2**20
_HEAD_BYTES = 2**16
_BLOCK_BYTES = 2**20
# DEFLATE packs at most about 1,032 to 1; traces in use pack 5 to 30 to 1.
_MAX_PACKING = 200
_PACKING_ALLOWANCE = 64 * 2**20
_GZIP = b"\x1f\x8b"
_BINARY = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "a bzip2 file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"\xfd7zXZ": "an xz file",
}


@contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Turn what a damaged archive brings about into one clear line."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"the compressed file is damaged: {error}", where=str(path)) from error


@dataclass(frozen=True)
class LineSource:
    """A text file, plain or gzipped (told by its first bytes, not by its name)."""

    path: Path

    @cached_property
    def _packed(self) -> bool:
        with open_binary(self.path) as file:
            return file.read(2) == _GZIP

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        packed = self._packed
        with open_binary(self.path) as plain:
            if packed:
                with unpacking(self.path), gzip.GzipFile(fileobj=plain) as unpacked:
                    yield cast(BinaryIO, unpacked)
            else:
                yield plain

    @cached_property
    def head(self) -> str:
        """The first 64 KiB as text.

        Raises
        ------
        InputError
            For an empty file, a git-LFS pointer, binary content, or line ends of another age.
        """
        with self._open() as file:
            start = file.read(_HEAD_BYTES)
        self._refuse(start)
        return start.decode("utf-8-sig", errors="replace")

    def _refuse(self, start: bytes) -> None:
        where = str(self.path)
        if not start.strip():
            raise InputError("the file is empty", where=where)
        if start.startswith(LFS_POINTER):
            raise InputError(
                "this is a git-LFS pointer, not the trace itself",
                where=where,
                fix="fetch the content with `git lfs pull`",
            )
        for magic, name in _BINARY.items():
            if start.startswith(magic):
                raise InputError(
                    f"this is {name}; traces are read as text or gzip", where=where, fix="unpack it"
                )
        if b"\0" in start:
            raise InputError("the file is binary, not text", where=where)
        if b"\n" not in start and b"\r" in start.strip():
            raise InputError(
                "its lines end in a bare carriage return",
                where=where,
                fix="convert it: tr '\\r' '\\n' < FILE > NEW",
            )

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (line number from 1, text without its line end).

        Raises
        ------
        InputError
            As `blocks`.
        """
        for number, block in self.blocks():
            yield from lines_of(number, block)

    def blocks(self, skip_lines: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (number of the first line, whole lines of about 1 MiB together).

        Parameters
        ----------
        skip_lines : int
            Lines of a header to leave out, 0 or 1.

        Raises
        ------
        InputError
            For a line over 64 MiB, or a gzip file that unpacks over 200 to 1.
        """
        most = self._most_bytes()
        seen, number = 0, 1
        with self._open() as file:
            begun = file.read(_BLOCK_BYTES)
            while begun:
                whole, rest = self._parted(file, begun, number)
                seen += len(whole)
                if seen > most:
                    self._too_large("the unpacked file", most)
                if number == 1:
                    whole = whole.removeprefix(codecs.BOM_UTF8)
                if number <= skip_lines:
                    whole, number = whole.partition(b"\n")[2], number + 1
                if whole:
                    yield number, whole
                number += whole.count(b"\n")
                begun = rest + file.read(_BLOCK_BYTES)

    def _parted(self, file: BinaryIO, begun: bytes, number: int) -> tuple[bytes, bytes]:
        """Part whole lines from the start of another; a line that fills it all is read on."""
        whole, end, rest = begun.rpartition(b"\n")
        if not end:
            whole, rest = begun + file.readline(max(MAX_LINE_BYTES + 1 - len(begun), 0)), b""
        if len(whole) >= MAX_LINE_BYTES:
            for at, line in enumerate(whole.split(b"\n"), start=number):
                if len(line) >= MAX_LINE_BYTES:
                    self._too_large(f"line {at}", MAX_LINE_BYTES)
        return whole + end, rest

    def text(self, max_bytes: int = 512 * 2**20) -> str:
        """Return the whole file: for formats that are one JSON value."""
        most = min(self._most_bytes(), max_bytes)
        with self._open() as file:
            raw = file.read(int(most) + 1)
        if len(raw) > most:
            self._too_large("the file", most)
        return raw.decode("utf-8-sig", errors="replace")

    def _most_bytes(self) -> float:
        if not self._packed:
            return float("inf")
        with reading(self.path):
            return self.path.stat().st_size * _MAX_PACKING + _PACKING_ALLOWANCE

    def _too_large(self, what: str, most: float) -> None:
        raise InputError(f"{what} is over {most / 2**20:,.0f} MiB; not read", where=str(self.path))


def lines_of(number: int, block: bytes) -> Iterator[tuple[int, str]]:
    """Yield (line number, text without its line end) of whole lines; `number` is the first's."""
    lines = block.split(b"\n")
    if not lines[-1]:  # behind the last line's end
        lines.pop()
    for at, raw in enumerate(lines, start=number):
        yield at, raw.decode("utf-8", errors="replace").rstrip("\r")
