"""Requests of a trace, one column a property: what the simulator's tables are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain, repeat
from typing import Any, NamedTuple

import numpy as np

from kvsim.workload.base import Floats, Ints

__all__ = ["Columns", "TraceRow"]


class TraceRow(NamedTuple):
    """One request of a trace, in kvsim's units.

    `arrival_seconds` is None in files that hold lengths only; `block_ids` are chained
    identities of `Reading.hash_block_size` tokens each.
    """

    line: int
    arrival_seconds: float | None
    prompt_tokens: int
    output_tokens: int
    block_ids: Sequence[int] | None = None
    session: int | None = None
    priority: int | None = None
    samples: int | None = None


@dataclass(frozen=True, eq=False)
class Columns:
    """Requests in the order of the file; each column as the field of `TraceRow`.

    A column is None where no row has the property; in `block_ids` a row alone may have none.
    """

    line: Sequence[int]
    arrival_seconds: Floats | None
    prompt_tokens: Ints
    output_tokens: Ints
    block_ids: Sequence[Sequence[int] | None] | None = None
    session: Ints | None = None
    priority: Ints | None = None
    samples: Ints | None = None

    @classmethod
    def of_rows(cls, rows: Sequence[TraceRow]) -> Columns:
        """Turn rows into columns; those behind `block_ids` are of all rows or of none."""
        line, arrival, prompt, output, ids, *more = zip(*rows, strict=True)
        return cls(
            line,
            None if arrival[0] is None else np.array(arrival, np.float64),
            np.array(prompt, np.int64),
            np.array(output, np.int64),
            ids,
            *(None if each[0] is None else np.array(each, np.int64) for each in more),
        )

    @classmethod
    def concat(cls, parts: Sequence[Columns]) -> Columns:
        """Return the requests of all parts, one after the other.

        Columns are in all parts or in none, but for `block_ids`.
        """
        if len(parts) == 1:
            return parts[0]
        named = any(part.block_ids is not None for part in parts)
        return cls(
            list(chain.from_iterable(part.line for part in parts)),
            _joined([part.arrival_seconds for part in parts]),
            np.concatenate([part.prompt_tokens for part in parts]),
            np.concatenate([part.output_tokens for part in parts]),
            list(chain.from_iterable(part.names() for part in parts)) if named else None,
            _joined([part.session for part in parts]),
            _joined([part.priority for part in parts]),
            _joined([part.samples for part in parts]),
        )

    def names(self) -> Sequence[Sequence[int] | None]:
        """Return `block_ids`, one entry a row, whether there are any or none."""
        return [None] * len(self) if self.block_ids is None else self.block_ids

    def __len__(self) -> int:
        return len(self.line)

    def rows(self) -> Iterator[TraceRow]:
        """Yield the requests one by one."""
        listed = (repeat(None) if each is None else _listed(each) for each in self._all())
        return map(TraceRow, *listed)

    def rows_from(self, start: int, stop: int) -> Columns:
        """Return the requests `start` up to, not including, `stop`."""
        chosen: list[Any] = [None if each is None else each[start:stop] for each in self._all()]
        return Columns(*chosen)

    def _all(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]


def _joined(columns: Sequence[Any]) -> Any:
    return None if columns[0] is None else np.concatenate(columns)


def _listed(column: Any) -> Any:
    return column.tolist() if isinstance(column, np.ndarray) else column
