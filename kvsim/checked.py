"""Frozen dataclasses whose values are checked as they are made: models, cards, flags.

::

    @dataclass(frozen=True, kw_only=True)
    class Price(Checked):
        low: PositiveFloat              Price(low=-1)           low = -1: should be more than 0
        note: str = ""                  read(Price, {"lo": 1})  unknown key 'lo'

Annotations say what a field holds: ``str bool int float``, ``Literal``, a `Checked` class,
``tuple[X, ...]``, ``dict[K, X]``, a union of these, and ranges through ``Annotated``.

This is pydantic's part, in as much of it as the records of ``kvsim plan`` need: pydantic
itself takes longer to load than all else in a plan (docs/design.md). Scenarios and
workloads, behind which seconds of simulation follow, are pydantic's, and hold these records.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from kvsim.errors import InputError, KVSimError, nearest

__all__ = [
    "Checked",
    "FieldError",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Parsed",
    "PositiveFloat",
    "PositiveInt",
    "Within",
    "read",
]

Place = tuple[str | int, ...]
Reader = Callable[[Any, Place], Any]


class FieldError(InputError, ValueError):
    """A field's value is wrong; a ValueError too, so that pydantic can place it.

    Parameters
    ----------
    what : str
        What is wrong, with the dotted key.
    place : tuple of str or int
        Keys and indices that lead to it.
    fix : str, optional
        What to do instead.
    """

    def __init__(self, what: str, place: Place, *, fix: str = "") -> None:
        super().__init__(what, fix=fix)
        self.place = place


class Within(NamedTuple):
    """A note in ``Annotated``: the range of a number, or the least length of a tuple."""

    above: float | None = None
    least: float | None = None
    most: float | None = None

    def problem(self, value: Any) -> str:
        """What is wrong with the value, or ""."""
        number = len(value) if isinstance(value, tuple) else value
        if self.above is not None and not number > self.above:
            return f"should be greater than {self.above}"
        if self.least is not None and not number >= self.least:
            return f"should be at least {self.least}"
        if self.most is not None and not number <= self.most:
            return f"should be at most {self.most}"
        return ""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Give pydantic the same range, where one of its models holds the field."""
        bounds = {"gt": self.above, "ge": self.least, "le": self.most}
        return handler(source) | {name: end for name, end in bounds.items() if end is not None}


class Parsed(NamedTuple):
    """A note in ``Annotated``: what turns text such as "80 GiB" into the value."""

    parse: Callable[[Any], Any]


PositiveInt = Annotated[int, Within(above=0)]
NonNegativeInt = Annotated[int, Within(least=0)]
PositiveFloat = Annotated[float, Within(above=0)]
NonNegativeFloat = Annotated[float, Within(least=0)]


class Checked:
    """Base of a frozen dataclass: every value is read as its field's annotation says.

    Raises
    ------
    FieldError
        For the first value that is of another type or out of range.
    """

    def __post_init__(self) -> None:
        for name, reader in _readers(type(self)).items():
            given = getattr(self, name)
            value = reader(given, (name,))
            if value is not given:
                object.__setattr__(self, name, value)


Kind = TypeVar("Kind", bound=Checked)


def read(kind: type[Kind], content: Mapping[str, Any], place: Place = ()) -> Kind:
    """Make a record from a mapping that somebody wrote.

    Raises
    ------
    FieldError
        For the first key that is unknown (with the nearest that are not), missing or wrong.
    """
    readers = _readers(kind)
    for key in content:
        if key not in readers:
            close = nearest(str(key), readers) or sorted(readers)
            fix = f"nearest valid: {', '.join(close)}"
            raise FieldError(f"unknown key {_dotted((*place, key))!r}", (*place, key), fix=fix)
    values = {name: readers[name](value, (*place, name)) for name, value in content.items()}
    for field in fields(kind):  # type: ignore[arg-type]
        required = field.default is MISSING and field.default_factory is MISSING
        if required and field.name not in values:
            missing = (*place, field.name)
            raise FieldError(f"the key {_dotted(missing)!r} is missing", missing)
    return kind(**values)


# --- one reader an annotation: value and place in, value or FieldError out -------------------


@cache
def _readers(kind: type[Checked]) -> dict[str, Reader]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: _reader(hints[field.name]) for field in fields(kind)}  # type: ignore[arg-type]


@cache
def _reader(annotation: Any) -> Reader:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _noted(_reader(arguments[0]), arguments[1:])
    if origin in (Union, UnionType):
        return _either(arguments)
    if origin is Literal:
        return _one_of(arguments)
    if origin is tuple:
        return _tuple_of(_reader(arguments[0]))
    if origin is dict:
        return _dict_of(*map(_reader, arguments))
    return _PLAIN.get(annotation) or _record(annotation)


def _noted(inner: Reader, notes: tuple[Any, ...]) -> Reader:
    parsers = [note.parse for note in notes if isinstance(note, Parsed)]
    ranges = [note for note in notes if isinstance(note, Within)]

    def noted(value: Any, place: Place) -> Any:
        for parse in parsers:
            try:
                value = parse(value)
            except KVSimError as error:
                raise _wrong(place, value, str(error)) from None
        value = inner(value, place)
        for each in ranges:
            problem = each.problem(value)
            if problem:
                raise _wrong(place, value, problem)
        return value

    return noted


def _either(members: tuple[Any, ...]) -> Reader:
    kinds = tuple(member for member in members if isinstance(member, type))
    readers = [_reader(member) for member in members if member is not NoneType]

    def either(value: Any, place: Place) -> Any:
        if len(readers) > 1 and isinstance(value, kinds):
            return value
        if value is None and NoneType in members:
            return None
        return readers[0](value, place)

    return either


def _one_of(words: tuple[Any, ...]) -> Reader:
    def one_of(value: Any, place: Place) -> Any:
        if value not in words:
            raise _wrong(place, value, f"should be {' or '.join(map(repr, words))}")
        return value

    return one_of


def _tuple_of(inner: Reader) -> Reader:
    def tuple_of(value: Any, place: Place) -> Any:
        if not isinstance(value, (list, tuple)):
            raise _wrong(place, value, "should be a list")
        return tuple(inner(item, (*place, index)) for index, item in enumerate(value))

    return tuple_of


def _dict_of(read_key: Reader, inner: Reader) -> Reader:
    def dict_of(value: Any, place: Place) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(place, value, "should be a mapping")
        return {
            read_key(key, (*place, key)): inner(item, (*place, key)) for key, item in value.items()
        }

    return dict_of


def _record(kind: type[Checked]) -> Reader:
    def record(value: Any, place: Place) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise _wrong(place, value, f"should be the keys of a {kind.__name__}")
        return read(kind, value, place)

    return record


def _text(value: Any, place: Place) -> str:
    if not isinstance(value, str):
        raise _wrong(place, value, "should be text")
    return value


def _flag(value: Any, place: Place) -> bool:
    if not isinstance(value, bool):
        raise _wrong(place, value, "should be true or false")
    return value


def _int(value: Any, place: Place) -> int:
    if not isinstance(value, bool):
        try:
            return int(value) if isinstance(value, str) else operator.index(value)
        except (TypeError, ValueError):
            pass
    raise _wrong(place, value, "should be a whole number")


def _float(value: Any, place: Place) -> float:
    # YAML takes 3.35e12, without a sign in the exponent, for text.
    if isinstance(value, str) or (hasattr(value, "__float__") and not isinstance(value, bool)):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise _wrong(place, value, "should be a finite number")


_PLAIN: dict[Any, Reader] = {str: _text, bool: _flag, int: _int, float: _float}


def _wrong(place: Place, value: Any, problem: str) -> FieldError:
    return FieldError(f"{_dotted(place)} = {value!r:.60}: {problem}", place)


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))
