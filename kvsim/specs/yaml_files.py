"""Reading YAML that somebody else wrote: shipped data, a user's profile, a hostile file.

::

    path ──read_text──▶ text ──read_yaml──▶ mapping ──read_described──▶ frozen record
          exists, small,     no anchors, tags,        keys, units and ranges; an error
          text, no pointer   duplicates, deep nests   names file, line, key, nearest key

Every failure is one `InputError` of one line.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kvsim.errors import InputError
from kvsim.specs.checked import Checked, FieldError, read

__all__ = [
    "MAX_YAML_BYTES",
    "data_folder",
    "line_of",
    "read_described",
    "read_text",
    "read_yaml",
]

MAX_YAML_BYTES = 2**20
_MAX_DEPTH = 32
_LFS_POINTER = "version https://git-lfs.github.com/spec/"

Described = TypeVar("Described", bound=Checked)
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _ForeignTagError(yaml.constructor.ConstructorError):
    """A value has a tag that is none of plain YAML's."""


class _StrictLoader(_SafeLoader):  # type: ignore[misc]
    """YAML's safe subset, less two surprises: dates stay text, a key counts once."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML reads this class attribute
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_undefined(self, node: yaml.Node) -> None:
        raise _ForeignTagError(None, None, f"has the tag {node.tag!r:.60}", node.start_mark)


_StrictLoader.add_constructor(None, _StrictLoader.construct_undefined)


def data_folder(name: str) -> Path:
    """Return the folder of shipped data called `name` ("hardware_profiles", "scenarios").

    A wheel carries it inside the package; a source checkout has it beside the package.

    Raises
    ------
    InputError
        When the installation lacks it.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "data" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise InputError(f"this installation of kvsim has no {name}/", fix="install it again")


def read_text(path: Path, *, max_bytes: int = MAX_YAML_BYTES) -> str:
    """Read a small text file.

    Parameters
    ----------
    path : Path
        File to read.
    max_bytes : int
        Largest size accepted, in bytes.

    Raises
    ------
    InputError
        When it is missing, a folder, unreadable, too large, binary, or a git-LFS pointer.
    """
    where = str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
        text = content[:max_bytes].decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", where=where) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as text ({_reason(error)})", where=where) from None
    if len(content) > max_bytes:
        raise InputError(f"is larger than {max_bytes:,} bytes", where=where)
    if "\0" in text:
        raise InputError("is a binary file, not text", where=where)
    if text.startswith(_LFS_POINTER):
        raise InputError("is a git-LFS pointer", where=where, fix="run `git lfs pull` to fetch it")
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return getattr(error, "strerror", None) or str(error)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping with text keys.

    Raises
    ------
    InputError
        For what `read_text` refuses, and for broken YAML, anchors and aliases, tags other
        than plain YAML's, a key given twice, deep nesting, or something other than a mapping.
    """
    text = read_text(path)
    try:
        _refuse_hostile(text, path)
        content = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise _yaml_error(error, path) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not usable YAML ({error})", where=str(path)) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        found = type(content).__name__ if content is not None else "nothing"
        raise InputError(f"holds {found}, not `key: value` lines", where=str(path))
    return content


def _refuse_hostile(text: str, path: Path) -> None:
    """Walk the events, which costs no memory, before anything is built from them."""
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError("anchors and aliases are not accepted", where=f"{path}, line {line}")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise InputError(f"nests deeper than {_MAX_DEPTH}", where=f"{path}, line {line}")


def _yaml_error(error: yaml.YAMLError, path: Path) -> InputError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    where = f"{path}, line {mark.line + 1}" if mark else str(path)
    if isinstance(error, _ForeignTagError):
        return InputError(problem, where=where, fix="remove it: only plain values are read")
    return InputError(f"is not valid YAML: {problem}", where=where)


def read_described(path: Path, kind: type[Described]) -> Described:
    """Read a YAML file as the frozen object `kind`.

    Raises
    ------
    InputError
        For what `read_yaml` refuses, and for the first key that is unknown, missing or out
        of range, with its line and the nearest valid key.

    Examples
    --------
    >>> from kvsim.specs.hardware import AcceleratorProfile
    >>> path = data_folder("hardware_profiles") / "h200.yaml"
    >>> read_described(path, AcceleratorProfile).vendor
    'NVIDIA'
    """
    content = read_yaml(path)
    with located(path):
        return read(kind, content)


@contextmanager
def located(path: Path) -> Iterator[None]:
    """Say of a wrong field in which line of the file it stands."""
    try:
        yield
    except FieldError as error:
        line = line_of(path, error.place)
        where = f"{path}, line {line}" if line else str(path)
        raise InputError(error.what, where=where, fix=error.fix) from None


def line_of(path: Path, location: Sequence[str | int]) -> int | None:
    """Return the line (from 1) of the innermost part of `location` that the file has.

    Parts that it lacks are passed over: the kind of a union is one that no key spells.
    """
    node = yaml.compose(read_text(path), Loader=_StrictLoader) if path.is_file() else None
    line = None
    for part in location:
        found = next((pair for pair in _children(node) if pair[0] == str(part)), None)
        if found is not None:
            _, line, node = found
    return line


def _children(node: yaml.Node | None) -> Iterator[tuple[str, int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield str(index), item.start_mark.line + 1, item
