"""Reading YAML that somebody else wrote: shipped data, a user's profile, a hostile file.

::

    path ──read_text──▶ text ──read_yaml──▶ mapping ──read_described──▶ frozen record
          exists, small,     no anchors, tags,        keys, units and ranges; an error
          text, no pointer   duplicates, deep nests   names file, line, key, nearest key

Every failure is one `InputError` of one line.

Plain values mean what YAML 1.2's core schema says, https://yaml.org/spec/1.2.2/#103-core-schema:
``1:30``, ``1_000``, ``yes`` and a date are text, ``010`` is ten and ``1e5`` a number. PyYAML by
itself reads YAML 1.1, in which they are 90, 1000, true, a date, eight and text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kvsim.errors import InputError
from kvsim.specs.checked import Checked, FieldError, read
from kvsim.specs.files import read_text
from kvsim.specs.numbers import LONGEST_NUMBER

__all__ = [
    "data_folder",
    "dump_yaml",
    "line_of",
    "located",
    "parse_yaml",
    "read_described",
    "read_yaml",
]

_MAX_DEPTH = 32

Described = TypeVar("Described", bound=Checked)
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _ForeignTagError(yaml.constructor.ConstructorError):
    """A value has a tag that is none of plain YAML's."""


# Tag, what is written so, and the characters that it may begin with.
_CORE_SCHEMA = (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", tuple("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        tuple("-+.0123456789"),
    ),
)
_TAG = "tag:yaml.org,2002:"
_LINE_ENDS = frozenset("\x85\u2028\u2029\ufeff")
_PATTERNS = {tag: re.compile(rf"(?:{pattern})\Z") for tag, pattern, _ in _CORE_SCHEMA}


def _core_resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """What PyYAML asks of each plain scalar, by its first character."""
    resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, _, firsts in _CORE_SCHEMA:
        for first in firsts:
            resolvers.setdefault(first, []).append((_TAG + tag, _PATTERNS[tag]))
    return resolvers


class _StrictLoader(_SafeLoader):  # type: ignore[misc]
    """YAML 1.2's core schema, nothing else; a key counts once."""

    yaml_implicit_resolvers = _core_resolvers()
    yaml_constructors: dict[str | None, Any] = {}  # noqa: RUF012 - PyYAML reads this attribute

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a list or a mapping is no key", key.start_mark
                )
            read = self.construct_object(key)
            if read in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r:.60} is given twice", key.start_mark
                )
            seen.add(read)
        # past SafeConstructor, which would look for YAML 1.1's merge keys
        mapping: dict[Hashable, Any] = yaml.constructor.BaseConstructor.construct_mapping(
            self, node, deep=deep
        )
        return mapping

    def construct_undefined(self, node: yaml.Node) -> None:
        raise _ForeignTagError(None, None, f"has the tag {node.tag!r:.60}", node.start_mark)

    def core_scalar(self, node: yaml.Node) -> str:
        """What a plain value, or one with its tag written out, says."""
        tag = node.tag.removeprefix(_TAG)
        text = str(self.construct_scalar(node))
        if len(text) > LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(text):,} digits", node.start_mark
            )
        if not _PATTERNS[tag].match(text):
            raise yaml.constructor.ConstructorError(
                None, None, f"{text!r:.60} is no {tag}", node.start_mark
            )
        return text

    def construct_int(self, node: yaml.Node) -> int:
        text = self.core_scalar(node)
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:], base) if base != 10 else int(text)

    def construct_float(self, node: yaml.Node) -> float:
        return float(self.core_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))

    def construct_bool(self, node: yaml.Node) -> bool:
        return self.core_scalar(node).lower() == "true"

    def construct_null(self, node: yaml.Node) -> None:
        self.core_scalar(node)


_StrictLoader.add_constructor(None, _StrictLoader.construct_undefined)
for _name, _construct in (
    ("null", _StrictLoader.construct_null),
    ("bool", _StrictLoader.construct_bool),
    ("int", _StrictLoader.construct_int),
    ("float", _StrictLoader.construct_float),
    ("str", _StrictLoader.construct_yaml_str),
    ("seq", _StrictLoader.construct_yaml_seq),
    ("map", _StrictLoader.construct_yaml_map),
):
    _StrictLoader.add_constructor(_TAG + _name, _construct)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would take for something else: both read what it writes."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Escape what only YAML 1.1 takes for a line end: PyYAML would write, and lose, it plain."""
    style = '"' if _LINE_ENDS.intersection(text) else None
    return dumper.represent_scalar(f"{_TAG}str", text, style=style)


_Dumper.add_representer(str, _quoted)
for _tag, _, _firsts in _CORE_SCHEMA:
    _Dumper.add_implicit_resolver(_TAG + _tag, _PATTERNS[_tag], list(_firsts))


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


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping with text keys.

    Raises
    ------
    InputError
        For what `read_text` refuses, and for broken YAML, anchors and aliases, tags other
        than plain YAML's, a key given twice, deep nesting, or something other than a mapping.
    """
    content = parse_yaml(read_text(path), str(path))
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        found = type(content).__name__ if content is not None else "nothing"
        raise InputError(f"holds {found}, not `key: value` lines", where=str(path))
    return content


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML of one value, whatever it is; `where` is what errors name.

    Raises
    ------
    InputError
        As `read_yaml`.

    Examples
    --------
    >>> parse_yaml("[1:30, 010, yes, 1e3, 0x10, ~, true]", "here")
    ['1:30', 10, 'yes', 1000.0, 16, None, True]
    """
    try:
        _refuse_hostile(text, where)
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise _yaml_error(error, where) from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"is not usable YAML ({error})", where=where) from None


def dump_yaml(content: Any, **style: Any) -> str:
    """Write plain values as YAML that readers of 1.1 and of 1.2 understand alike.

    Examples
    --------
    >>> print(dump_yaml({"model": "1e5", "note": "yes", "rate": 0.5}), end="")
    model: '1e5'
    note: 'yes'
    rate: 0.5
    """
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style)
    return text


def _refuse_hostile(text: str, where: str) -> None:
    """Walk the events, which costs no memory, before anything is built from them."""
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError("anchors and aliases are not accepted", where=f"{where}, line {line}")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise InputError(f"nests deeper than {_MAX_DEPTH}", where=f"{where}, line {line}")


def _yaml_error(error: yaml.YAMLError, where: str) -> InputError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    where = f"{where}, line {mark.line + 1}" if mark else where
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
