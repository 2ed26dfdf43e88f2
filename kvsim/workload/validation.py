"""What pydantic finds wrong with somebody's mapping, as one error of one line.

Of scenarios only: what ``kvsim plan`` reads does without pydantic (`kvsim.specs.checked`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from kvsim.errors import nearest
from kvsim.specs.checked import FieldError, Place, dotted, unknown_key
from kvsim.specs.numbers import shown

__all__ = ["field_error"]

Problem = Any  # pydantic_core.ErrorDetails, one of ValidationError.errors()


def field_error(error: ValidationError, content: Any, kind: type[BaseModel]) -> FieldError:
    """Return the first thing that is wrong with `content`, with the keys that lead to it.

    An unknown key comes first: it is often the misspelling behind a "missing" one.
    """
    problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    inner = problem.get("ctx", {}).get("error")
    if isinstance(inner, FieldError):
        return inner
    location = tuple(part for part in problem["loc"] if part != "[key]")
    place = tuple(_spelled(location, content))
    if problem["type"] == "extra_forbidden":
        return unknown_key(place, _keys_at(kind, location[:-1]))
    if problem["type"] == "missing":
        return _missing((*place, location[-1]))
    if problem["type"] == "union_tag_not_found":
        return _missing((*place, problem["ctx"]["discriminator"].strip("'")))
    if problem["type"] == "union_tag_invalid":
        place = (*place, problem["ctx"]["discriminator"].strip("'"))
        return _wrong(place, problem["ctx"]["tag"], problem["ctx"]["expected_tags"])
    if problem["type"] == "literal_error":
        return _wrong(place, problem["input"], problem["ctx"]["expected"])
    value = problem["input"]
    said = "" if isinstance(value, (dict, BaseModel)) else f" = {shown(value)}"
    return FieldError(f"{dotted(place)}{said}: {_message(problem)}", place)


def _missing(place: Place) -> FieldError:
    return FieldError(f"the key {dotted(place)!r} is missing", place)


def _wrong(place: Place, word: object, expected: str) -> FieldError:
    """Refuse a word that is none of the expected ones, given as pydantic lists them."""
    close = nearest(str(word), re.findall(r"'([^']*)'", expected))
    fix = f"nearest valid: {', '.join(close)}" if close else ""
    what = f"{dotted(place)} = {shown(word)}: should be one of {expected}"
    return FieldError(what, place, fix=fix)


def _message(problem: Problem) -> str:
    """What is wrong, in the words of somebody who writes YAML; pydantic's only for the rare."""
    plain = _PLAIN.get(problem["type"])
    if plain is not None:
        return plain.format(**problem.get("ctx", {}))
    message: str = problem["msg"]
    return message.removeprefix("Value error, ").replace("Input should", "should")


_PLAIN = {
    "int_from_float": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_type": "should be a whole number",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "finite_number": "should be a finite number",
    "greater_than": "should be greater than {gt:.16g}",
    "greater_than_equal": "should be at least {ge:.16g}",
    "less_than": "should be less than {lt:.16g}",
    "less_than_equal": "should be at most {le:.16g}",
    "string_type": "should be text",
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "tuple_type": "should be a list",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "model_attributes_type": "should be a mapping",
}


def _spelled(location: Sequence[str | int], content: Any) -> Iterator[str | int]:
    """Yield the parts of `location` that are keys: a union adds its kind, which none spells."""
    for part in location:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            continue
        yield part


def _keys_at(kind: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the field names of the model found by walking `location` down from `kind`."""
    found: list[type[BaseModel]] = [kind]
    for part in location:
        field = found[0].model_fields.get(str(part))
        inner = _models_in(field.annotation) if field else []
        found = inner or [one for one in found if part in _kinds_of(one)] or found
    return list(found[0].model_fields)


def _kinds_of(model: type[BaseModel]) -> tuple[Any, ...]:
    """Names by which a union knows the model: the values of its ``kind``."""
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the pydantic classes inside ``X``, ``X | Y | None`` or ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
