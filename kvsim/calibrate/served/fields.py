"""Values out of a benchmark's JSON, each asked for by name and refused with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kvsim.errors import InputError, nearest
from kvsim.specs.numbers import finite, shown, whole

__all__ = ["Fields", "Outcome", "guidellm_requests", "of_one_key"]

Number = TypeVar("Number", int, float)
_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


class Outcome(NamedTuple):
    """One request that was answered: seconds and tokens; a first chunk of 0 s was not seen."""

    send_seconds: float
    prompt_tokens: int
    output_tokens: int
    ttft_seconds: float
    e2e_seconds: float


class Fields:
    """One JSON object, and the place that errors name.

    Parameters
    ----------
    values : mapping
        The object.
    where : str
        File and request.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    @classmethod
    def of(cls, value: object, where: str) -> Fields:
        """Take what should be an object.

        Raises
        ------
        InputError
            When it is none.
        """
        if not isinstance(value, dict):
            raise InputError(f"{shown(value)} should be a JSON object", where=where)
        return cls(value, where)

    def get(self, key: str) -> Any:
        """A value, None where there is none."""
        return self.values.get(key)

    def inner(self, key: str) -> Fields:
        """The object under a key."""
        return Fields.of(self._there(key), f"{self.where}: {key}")

    def number(self, key: str) -> float:
        """A finite number of at least 0."""
        return self._read(key, finite, least=0.0)

    def moment(self, key: str) -> float:
        """A time of some clock, which may begin anywhere."""
        return self._read(key, finite, least=-float("inf"))

    def tokens(self, key: str) -> int:
        """A whole number of at least 0."""
        return self._read(key, whole, least=0)

    def seconds(self, key: str) -> float:
        """A duration, whose unit stands beside it."""
        unit = self.values.get("unit", "s")
        if not isinstance(unit, str) or unit not in _SECONDS:
            raise self.wrong("unit", f"should be one of {', '.join(_SECONDS)}")
        return self.number(key) * _SECONDS[unit]

    def moments(self, key: str) -> list[float]:
        """A list of times; empty where there is none."""
        listed = self.values.get(key) or []
        if not isinstance(listed, list):
            raise self.wrong(key, "should be a list of seconds")
        return [Fields({key: value}, self.where).moment(key) for value in listed]

    def wrong(self, key: str, why: str) -> InputError:
        """What is said of a value that cannot be."""
        return InputError(f"{key} = {shown(self.values.get(key))}: {why}", where=self.where)

    def _there(self, key: str) -> Any:
        if key not in self.values:
            close = nearest(key, [name for name in self.values if isinstance(name, str)], 1)
            fix = f"near it stands {shown(close[0])}" if close else ""
            raise InputError(f"no {key}", where=self.where, fix=fix)
        return self.values[key]

    def _read(self, key: str, rule: Callable[[Any], Number], least: Number) -> Number:
        value = self._there(key)
        try:
            number = rule(value)
            if number < least:
                raise ValueError("should be at least 0")
        except ValueError as error:
            raise self.wrong(key, str(error)) from None
        return number


def of_one_key(fields: Fields, *names: str) -> str:
    """Which of a value's names in several releases this file has; the first where none."""
    return next((name for name in names if fields.get(name) is not None), names[0])


def guidellm_requests(path: Path, record: Mapping[str, Any]) -> Iterator[Fields | None]:
    """Yield the requests of every benchmark of a GuideLLM file; None of one that failed.

    Raises
    ------
    InputError
        When its shape is another, or it keeps a sample of the requests only: their load cannot
        be replayed.
    """
    benchmarks = record.get("benchmarks")
    if not isinstance(benchmarks, list):
        raise InputError("benchmarks should be a list", where=str(path))
    for at, benchmark in enumerate(benchmarks, start=1):
        listed = Fields.of(benchmark, f"{path}: benchmark {at}").inner("requests")
        answered = _list(listed, "successful")
        _refuse_sample(benchmark, len(answered), listed.where)
        for number, request in enumerate(answered, start=1):
            yield Fields.of(request, f"{listed.where}: successful request {number}")
        yield from [None] * (len(_list(listed, "errored")) + len(_list(listed, "incomplete")))


def _list(fields: Fields, key: str) -> list[Any]:
    listed = fields.get(key) or []
    if not isinstance(listed, list):
        raise fields.wrong(key, "should be a list of requests")
    return listed


def _refuse_sample(benchmark: Mapping[str, Any], listed: int, where: str) -> None:
    totals: Any = benchmark
    for key in ("metrics", "request_totals", "successful"):
        totals = totals.get(key) if isinstance(totals, Mapping) else None
    if isinstance(totals, int) and totals > listed:
        raise InputError(
            f"lists {listed:,} of {totals:,} requests: the others loaded the server too",
            where=where,
            fix="run guidellm without --sample-requests",
        )
