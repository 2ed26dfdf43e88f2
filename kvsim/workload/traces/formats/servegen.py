"""ServeGen's production clients: rates, CVs and length histograms by window, not requests.

A folder (or .tar.gz) of ``chunk-N-trace.csv`` (no header: window start s, rate req/s, CV,
Gamma or Weibull, shape, scale; idle windows have no pattern) and ``chunk-N-dataset.json``
(window start -> histograms written as Python dicts in strings, parsed as literals only).

Source: alibaba/ServeGen, Apache-2.0; arXiv 2505.09999.
"""

from __future__ import annotations

import ast
import math
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from kvsim.errors import InputError, UnsupportedError
from kvsim.specs.files import open_binary, reading
from kvsim.specs.numbers import finite, seconds, shown
from kvsim.workload.base import Floats, Ints
from kvsim.workload.distributions import cumulated_shares, drawn_places
from kvsim.workload.traces.base import Reading, TraceFormat, TraceRow, json_object, length
from kvsim.workload.traces.source import unpacking

__all__ = ["SERVEGEN", "Client", "Histogram", "Window", "is_servegen", "load_clients"]

_TRACE = re.compile(r"chunk-(\d{1,6})-trace\.csv")
_DATASET = re.compile(r"chunk-(\d{1,6})-dataset\.json")
_NOT_A_HISTOGRAM = (
    ValueError, SyntaxError, KeyError, TypeError, ArithmeticError, MemoryError, RecursionError,
)  # fmt: skip
_MAX_MEMBER_BYTES = 64 * 2**20
_MAX_TOTAL_BYTES = 2**30


@dataclass(frozen=True)
class Window:
    """A client's arrivals from `start_seconds` to the next window: requests/s, family, shape."""

    start_seconds: float
    rate: float
    family: str
    shape: float


@dataclass(frozen=True)
class Histogram:
    """Lengths in tokens and their cumulated shares."""

    lengths: Ints
    shares: Floats

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Return `count` lengths, at least 1."""
        return np.maximum(self.lengths[drawn_places(self.shares, rng, count)], 1)

    @cached_property
    def mean(self) -> float:
        """Mean length in tokens."""
        return float(np.diff(self.shares, prepend=0.0) @ self.lengths)


@dataclass(frozen=True)
class Client:
    """One production client: windows in order of time and histograms by start."""

    number: int
    windows: tuple[Window, ...]
    histograms: tuple[tuple[float, Histogram, Histogram], ...]

    def lengths_at(self, seconds: float) -> tuple[Histogram, Histogram]:
        """Return the (prompt, output) histograms in force; the first where none has begun."""
        begun = [entry for entry in self.histograms if entry[0] <= seconds]
        return (begun[-1] if begun else self.histograms[0])[1:]


def is_servegen(path: Path) -> bool:
    """Whether `path` is a folder, or a tar archive, with ServeGen's files."""
    if path.is_dir():
        return any(_TRACE.fullmatch(entry.name) for entry in path.rglob("chunk-*-trace.csv"))
    if not path.is_file():
        return False
    with open_binary(path) as file, unpacking(path):
        return tarfile.is_tarfile(file)


def load_clients(path: Path) -> list[Client]:
    """Read every client of a folder or archive, in order of their numbers.

    Raises
    ------
    InputError
        For a malformed row or histogram (with its file and line), a client without lengths,
        or nothing to read.
    """
    with reading(path), unpacking(path):
        texts = dict(_members(path))
    clients = [
        _client(path, int(match[1]), texts)
        for match in map(_TRACE.fullmatch, sorted(texts))
        if match is not None
    ]
    if not any(window.rate > 0 for client in clients for window in client.windows):
        raise InputError("no chunk-N-trace.csv with a rate above 0", where=str(path))
    return sorted(clients, key=lambda client: client.number)


def _members(path: Path) -> Iterator[tuple[str, str]]:
    total = 0
    for name, size, read in _folder(path) if path.is_dir() else _archive(path):
        if not (_TRACE.fullmatch(name) or _DATASET.fullmatch(name)):
            continue
        total += size
        if size > _MAX_MEMBER_BYTES or total > _MAX_TOTAL_BYTES:
            raise InputError(f"{name} and the files before it are too large", where=str(path))
        yield name, read().decode("utf-8", errors="replace")


def _folder(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    for entry in sorted(path.rglob("chunk-*")):
        yield entry.name, entry.stat().st_size, partial(_read_member, entry)


def _read_member(path: Path) -> bytes:
    """Read a file that may have grown since its size was asked."""
    with open_binary(path) as file:
        return file.read(_MAX_MEMBER_BYTES)


def _archive(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    try:
        with open_binary(path) as file, tarfile.open(fileobj=file) as archive:
            for member in archive:
                if member.isfile():
                    inner = archive.extractfile(member)
                    yield Path(member.name).name, member.size, inner.read  # type: ignore[union-attr]
    except tarfile.TarError as error:
        what = str(error).splitlines()[0]
        raise InputError(f"not a readable tar archive: {what}", where=str(path)) from error


def _client(path: Path, number: int, texts: dict[str, str]) -> Client:
    name = f"chunk-{number}-trace.csv"
    windows = []
    for line, text in enumerate(texts[name].splitlines(), start=1):
        try:
            windows.append(_window(text))
        except ValueError as error:
            raise InputError(str(error), where=f"{path}/{name}:{line}") from error
    starts = [window.start_seconds for window in windows]
    if starts != sorted(starts):
        raise InputError("windows go back in time", where=f"{path}/{name}")
    active = any(window.rate > 0 for window in windows)
    dataset = f"chunk-{number}-dataset.json"
    histograms = _histograms(path, dataset, texts.get(dataset, "{}"))
    if active and not histograms:
        raise InputError("no lengths for a client that sends", where=f"{path}/{dataset}")
    return Client(number, tuple(windows), histograms)


def _window(text: str) -> Window:
    fields = text.split(",")
    if len(fields) != 6:
        raise ValueError(f"{len(fields)} fields, not 6")
    try:
        start, rate, shape = seconds(fields[0]), finite(fields[1]), finite(fields[4])
    except ValueError as error:
        said = ", ".join(shown(fields[at], 20) for at in (0, 1, 4))
        raise ValueError(f"start, rate and shape {said}: each {error}") from error
    family = fields[3].strip()
    if rate < 0:
        raise ValueError(f"a rate of {rate:g} is below 0")
    if rate > 0 and not (family in ("Gamma", "Weibull") and 1e-6 <= shape <= 1e6):
        raise ValueError(f"pattern {family!r} with shape {fields[4]} is not Gamma or Weibull")
    return Window(start, rate, family, shape)


def _histograms(path: Path, name: str, text: str) -> tuple[tuple[float, Histogram, Histogram], ...]:
    found = []
    try:
        for start, entry in json_object(text).items():
            pair = [_histogram(entry[key]) for key in ("input_tokens", "output_tokens")]
            if pair[0] is not None and pair[1] is not None:
                found.append((seconds(start), pair[0], pair[1]))
    except _NOT_A_HISTOGRAM as error:
        raise InputError(f"not a histogram: {str(error)[:80]}", where=f"{path}/{name}") from error
    return tuple(sorted(found, key=lambda entry: entry[0]))


def _histogram(text: str) -> Histogram | None:
    """Parse "{length: share, ...}"; None for an idle window's empty one."""
    pairs = ast.literal_eval(text)
    if not isinstance(pairs, dict):
        raise ValueError("not a dict")
    if not pairs:
        return None
    lengths = np.array([length(key, "the length") for key in pairs], dtype=np.int64)
    weights = np.array([finite(share) for share in pairs.values()])
    if not (weights.min() >= 0 and 0 < weights.sum() < math.inf):
        raise ValueError("shares are not numbers of 0 or more with a sum above 0")
    if lengths.min() < 0 or lengths.max() > 2**31:
        raise ValueError("lengths are not between 0 and 2**31")
    return Histogram(lengths, cumulated_shares(weights))


def _rows(reading: Reading) -> Iterator[TraceRow]:
    raise UnsupportedError(
        f"{reading.path}: ServeGen describes clients, not requests; use it as a workload's trace"
    )


SERVEGEN = TraceFormat("servegen", "ServeGen folder or .tar.gz", lambda head: False, _rows, "rates")
