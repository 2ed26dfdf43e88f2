"""Frozen records whose values are checked as they are made: models, cards, flags.

::

    class Price(Checked):
        low: PositiveFloat            Price(low=-1)            low = -1: should be greater than 0
        note: str = ""                read(Price, {"lo": 1})   unknown key 'lo'; nearest valid: low

Annotations say what a field holds: ``str bool int float``, ``Literal``, a `Checked` class,
``tuple[X, ...]``, ``dict[K, X]``, a union of these, and ranges through ``Annotated``; ``Any`` where
somebody else judges the value.

This is pydantic's part, in as much of it as the records of ``kvsim plan`` need: pydantic
itself takes longer to load than all else in a plan (docs/design.md). Scenarios and
workloads, behind which seconds of simulation follow, are pydantic's and hold these records;
so that nobody has to know which is which, both answer the same words (`model_copy`,
`model_dump`, and iteration over names and values).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from inspect import isabstract
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NoReturn,
    Self,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from kvsim.errors import InputError, KVSimError, nearest
from kvsim.specs.numbers import finite, shown, whole

__all__ = [
    "Checked",
    "FieldError",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Parsed",
    "Place",
    "PositiveFloat",
    "PositiveInt",
    "Within",
    "defaults",
    "dotted",
    "read",
    "unknown_key",
]

Place = tuple[Any, ...]
Reader = Callable[[Any, Place], Any]


class FieldError(InputError, ValueError):
    """A field's value is wrong; a ValueError too, so that pydantic collects it.

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
    """A note in ``Annotated``: the range of a number, or of a tuple's length."""

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


class Parsed(NamedTuple):
    """A note in ``Annotated``: what turns text such as "80 GiB" into the value."""

    parse: Callable[[Any], Any]


PositiveInt = Annotated[int, Within(above=0)]
NonNegativeInt = Annotated[int, Within(least=0)]
PositiveFloat = Annotated[float, Within(above=0)]
NonNegativeFloat = Annotated[float, Within(least=0)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Checked:
    """Base of a frozen record, made by keywords: every value is read as its field says.

    Raises
    ------
    FieldError
        For the first key that is unknown (with the nearest that are not), missing or wrong.
    """

    def __init__(self, **given: Any) -> None:
        self._take(given, ())

    def _take(self, given: Mapping[str, Any], place: Place) -> None:
        readers = _readers(type(self))
        for key in given:
            if key not in readers:
                raise unknown_key((*place, key), readers)
        for name, reader in readers.items():
            here = (*place, name)
            if name not in given and not hasattr(type(self), name):
                raise FieldError(f"the key {dotted(here)!r} is missing", here)
            value = given[name] if name in given else getattr(type(self), name)
            self.__dict__[name] = reader(value, here)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return ((name, getattr(self, name)) for name in _readers(type(self)))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and dict(self) == dict(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self)})"

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} is frozen: use model_copy")

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        """Return the record with other values, which are checked."""
        return type(self)(**{**dict(self), **update})

    def model_dump(
        self,
        *,
        mode: Literal["python", "json"] = "python",
        exclude: Collection[str] = (),
        exclude_none: bool = False,
        exclude_defaults: bool = False,
    ) -> dict[str, Any]:
        """Return the values by name, inner records as dicts; mode "json" makes tuples lists."""

        def plain(value: Any) -> Any:
            if isinstance(value, Checked):
                return value.model_dump(
                    mode=mode, exclude_none=exclude_none, exclude_defaults=exclude_defaults
                )
            if isinstance(value, tuple):
                items = map(plain, value)
                return list(items) if mode == "json" else tuple(items)
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            return value

        fallback = defaults(type(self)) if exclude_defaults else {}
        return {
            name: plain(value)
            for name, value in self
            if name not in exclude
            and not (exclude_none and value is None)
            and not (name in fallback and value == fallback[name])
        }


Kind = TypeVar("Kind", bound=Checked)


def read(kind: type[Kind], content: Any, place: Place = ()) -> Kind:
    """Make a record from a mapping that somebody wrote; `place` is where it stands.

    An abstract class is read as the one below it whose `kind` word the mapping gives.

    Raises
    ------
    FieldError
        For the first key that is unknown, missing or wrong.
    """
    if not isinstance(content, Mapping):
        raise _wrong(place, content, "should be a mapping")
    concrete = _concrete(kind, content, place)
    record = concrete.__new__(concrete)
    record._take(content, place)
    return record


def _concrete(kind: type[Kind], content: Mapping[str, Any], place: Place) -> type[Kind]:
    """The class that a mapping is read as."""
    if not isabstract(kind):
        return kind
    here = (*place, "kind")
    if "kind" not in content:
        raise FieldError(f"the key {dotted(here)!r} is missing", here)
    kinds = {getattr(each, "kind", ""): each for each in _below(kind) if not isabstract(each)}
    return kinds[_one_of(tuple(kinds))(content["kind"], here)]


def _below(kind: type[Kind]) -> Iterator[type[Kind]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


def defaults(kind: type[Checked]) -> dict[str, Any]:
    """Values of the fields of a `Checked` class that need not be given, by name."""
    return {name: getattr(kind, name) for name in _readers(kind) if hasattr(kind, name)}


# --- one reader an annotation: value and place in, value or FieldError out -------------------


_READERS: dict[type[Checked], dict[str, Reader]] = {}


def _readers(kind: type[Checked]) -> dict[str, Reader]:
    """A reader for each field, in the order of the class; made when the class is first used."""
    if kind not in _READERS:
        hints = get_type_hints(kind, include_extras=True)
        _READERS[kind] = {name: _reader(annotation) for name, annotation in hints.items()}
    return _READERS[kind]


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
        return value if isinstance(value, kind) else read(kind, value, place)

    return record


def _text(value: Any, place: Place) -> str:
    if not isinstance(value, str):
        quoted = isinstance(value, int | float) and not isinstance(value, bool)
        raise _wrong(place, value, f"should be text{': put it in quotes' if quoted else ''}")
    return value


def _flag(value: Any, place: Place) -> bool:
    if not isinstance(value, bool):
        raise _wrong(place, value, "should be true or false")
    return value


def _number_by(rule: Callable[[Any], Any]) -> Reader:
    def number(value: Any, place: Place) -> Any:
        try:
            return rule(value)
        except ValueError as error:
            raise _wrong(place, value, str(error)) from None

    return number


_PLAIN: dict[Any, Reader] = {
    Any: lambda value, _place: value,
    str: _text,
    bool: _flag,
    int: _number_by(whole),
    float: _number_by(finite),
}


def unknown_key(place: Place, known: Collection[str]) -> FieldError:
    """Refuse the key at `place`, naming the nearest of those that are known there."""
    close = nearest(str(place[-1]), known) or sorted(known)
    fix = f"nearest valid: {', '.join(close)}"
    return FieldError(f"unknown key {dotted(place)!r}", place, fix=fix)


def _wrong(place: Place, value: Any, problem: str) -> FieldError:
    return FieldError(f"{dotted(place)} = {shown(value)}: {problem}", place)


def dotted(place: Place) -> str:
    """Write a place as people do: "workload.arrivals.rate"."""
    parts = map(str, place)
    return ".".join(part if part.isprintable() else repr(part) for part in parts)
