"""Requests as a prefix cache sees them: block identities, read from a trace or generated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.errors import InputError, UnknownNameError
from kvsim.workload.base import Workload
from kvsim.workload.spec import build_workload, parse_workload
from kvsim.workload.streams import Streams
from kvsim.workload.traces import open_trace

__all__ = ["PrefixTrace", "example_prefix_names", "example_prefixes", "read_prefixes"]

MOST_REFERENCES = 1_000_000
_EXAMPLE_BLOCK_TOKENS = 256

# Small, made by the same generator as any workload; a study of real traffic needs a trace.
_EXAMPLES: dict[str, dict[str, Any]] = {
    "conversations": {
        "arrivals": {"kind": "poisson", "rate": 0.5},
        "lengths": {
            "prompt": {"kind": "lognormal", "mean": 700, "cv": 1.2, "max": 8000},
            "output": {"kind": "lognormal", "mean": 300, "cv": 0.9, "max": 2000},
        },
        "prefix": {
            "kind": "conversations",
            "turns": {"kind": "exponential", "mean": 6, "min": 1},
            "think": {"kind": "lognormal", "mean": 90, "cv": 1.5, "max": 1800},
            "groups": 4,
            "tokens": 1500,
            "max_context_tokens": 32000,
        },
        "requests": 1000,
    },
    "documents": {
        "arrivals": {"kind": "poisson", "rate": 1},
        "lengths": {
            "prompt": {"kind": "lognormal", "mean": 200, "cv": 0.8, "max": 2000},
            "output": {"kind": "lognormal", "mean": 250, "cv": 0.8, "max": 1000},
        },
        "prefix": {"kind": "groups", "groups": 300, "tokens": 6000, "exponent": 0.9},
        "requests": 800,
    },
}


@dataclass(frozen=True)
class PrefixTrace:
    """Block identities of requests, in order of arrival.

    Parameters
    ----------
    name : str
        File or example.
    block_tokens : int
        Tokens behind an identity.
    requests : tuple of sequence of int
        Identities of each request, from its head.
    is_cut : bool
        Whether requests were left out because of the limit on references.
    notes : tuple of str
        What the reader left out or changed.
    """

    name: str
    block_tokens: int
    requests: tuple[Sequence[int], ...]
    is_cut: bool = False
    notes: tuple[str, ...] = ()

    @property
    def references(self) -> int:
        """Blocks that the requests ask for, repeats included."""
        return sum(map(len, self.requests))

    @property
    def distinct_blocks(self) -> int:
        """Blocks that ever need to be kept."""
        return len({block for ids in self.requests for block in ids})


def example_prefix_names() -> list[str]:
    """Names of the small generated traces."""
    return list(_EXAMPLES)


def example_prefixes(
    name: str = "conversations", *, seed: int = 0, most_references: int = MOST_REFERENCES
) -> PrefixTrace:
    """Make one of the small synthetic traces.

    Parameters
    ----------
    name : str
        "conversations" (chats that grow turn by turn behind a few system prompts) or
        "documents" (questions about documents of Zipf-like popularity).
    seed : int
        Seed of every random stream.
    most_references : int
        Cut after the last whole request within so many block references.

    Raises
    ------
    UnknownNameError
        For another name.
    """
    if name not in _EXAMPLES:
        raise UnknownNameError("example", name, _EXAMPLES)
    workload = build_workload(parse_workload(_EXAMPLES[name]))
    if not isinstance(workload, Workload):
        raise InputError(f"the example {name!r} is a closed loop")
    made = _generated(workload, seed)
    requests, is_cut = _limited(made, most_references)
    return PrefixTrace(name, _EXAMPLE_BLOCK_TOKENS, requests, is_cut)


def _generated(workload: Workload, seed: int) -> Iterator[Sequence[int]]:
    size = _EXAMPLE_BLOCK_TOKENS
    for table in workload.tables(Streams(seed)):
        if table.content is not None:
            for row, tokens in enumerate(table.prompt_tokens.tolist()):
                yield table.content.block_ids(row, size, tokens)


def read_prefixes(
    path: Path | str, format_name: str | None = None, *, most_references: int = MOST_REFERENCES
) -> PrefixTrace:
    """Read the block identities of a trace, in the order of the file.

    Parameters
    ----------
    path : Path or str
        A trace whose requests name their blocks: Mooncake's, Bailian's, WEKA's or kvsim's.
    format_name : str, optional
        By default told by the content.
    most_references : int
        Cut after the last whole request within so many block references.

    Raises
    ------
    InputError
        As `kvsim.workload.traces.open_trace`; and when no request names its blocks.
    """
    trace = open_trace(path, format_name)
    if trace.format.arrivals == "rates":
        raise InputError("describes clients, not requests", where=str(path))
    reading = trace.reading()
    named = (row.block_ids for row in trace.rows(reading) if row.block_ids)
    requests, is_cut = _limited(named, most_references)
    if not requests or reading.hash_block_size is None:
        raise InputError(
            f"no request names its prefix blocks (read as {trace.format.name})",
            where=str(path),
            fix="give a trace with hash_ids or block_ids, such as Mooncake's",
        )
    notes = tuple(reading.report.lines())
    return PrefixTrace(trace.path.name, reading.hash_block_size, requests, is_cut, notes)


def _limited(
    requests: Iterable[Sequence[int]], most: int
) -> tuple[tuple[Sequence[int], ...], bool]:
    """The first requests that name no more than `most` blocks, and whether any is left out."""
    kept: list[Sequence[int]] = []
    left = most
    for ids in requests:
        left -= len(ids)
        if left < 0 and not kept:
            raise InputError(
                f"the first request names {len(ids):,} blocks, more than the {most:,} to be read",
                fix="raise the limit on references",
            )
        if left < 0:
            return tuple(kept), True
        kept.append(ids)
    return tuple(kept), False
