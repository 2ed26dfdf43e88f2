"""What pydantic finds wrong with somebody's mapping, as one `InputError` of one line.

Of scenarios only: what ``kvsim plan`` reads does without pydantic (`kvsim.checked`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from kvsim.catalog.yaml_files import located
from kvsim.checked import FieldError, Place
from kvsim.errors import nearest

__all__ = ["described", "place_of"]

Problem = Any  # pydantic_core.ErrorDetails, one of ValidationError.errors()
Described = TypeVar("Described", bound=BaseModel)


def described(content: dict[str, Any], path: Path, kind: type[Described]) -> Described:
    """Validate what was read from `path` (and perhaps overridden since) as `kind`.

    Raises
    ------
    InputError
        For the first key that is unknown, missing or out of range, with its line.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        # An unknown key first: it is often the misspelling behind a "missing" one.
        problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        with located(path):
            raise _field_error(problem, content, kind) from None


def place_of(problem: Problem) -> Place:
    """Keys that lead to one of pydantic's problems, into a `Checked` record too."""
    inner = _inner(problem)
    return inner.place if inner else tuple(part for part in problem["loc"] if part != "[key]")


def _inner(problem: Problem) -> FieldError | None:
    error = problem.get("ctx", {}).get("error")
    return error if isinstance(error, FieldError) else None


def _field_error(problem: Problem, content: Any, kind: type[BaseModel]) -> FieldError:
    inner = _inner(problem)
    if inner is not None:
        return inner
    place = place_of(problem)
    key = ".".join(_spelled(place, content))
    if problem["type"] == "extra_forbidden":
        known = _keys_at(kind, place[:-1])
        close = nearest(str(place[-1]), known) or sorted(known)
        return FieldError(f"unknown key {key!r}", place, fix=f"nearest valid: {', '.join(close)}")
    if problem["type"] == "missing":
        return FieldError(f"the key {key!r} is missing", place)
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return FieldError(f"{key} = {problem['input']!r:.60}: {message}", place)


def _spelled(location: Sequence[str | int], content: Any) -> Iterator[str]:
    """Yield the parts of `location` that are keys: a union adds its kind, which none spells."""
    for part in location:
        inside = isinstance(part, int) or (isinstance(content, dict) and part in content)
        if inside or part is location[-1]:
            yield str(part)
        content = content[part] if inside else content


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
