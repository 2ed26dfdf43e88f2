"""YAML as its core schema of 1.2 reads it: what is a number, and what stays text."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.specs.yaml_files import dump_yaml, parse_yaml, read_yaml
from tests.support.needs import examples
from tests.support.refusals import read_or_refused

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("hardware_profiles", "scenarios", "kvsim")
    for path in (ROOT / folder).rglob("*.yaml")
)


def test_there_is_shipped_yaml_to_read():
    assert len(SHIPPED) > 50


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_means_the_same_in_yaml_1_1_and_1_2(name):
    """The loaders of shipped data are PyYAML's own: no file may need to know which reads it."""
    old = yaml.load((ROOT / name).read_text("utf-8"), Loader=yaml.CSafeLoader)
    assert repr(read_yaml(ROOT / name)) == repr(old)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("-7", -7),
        ("+7", 7),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("OFF", "OFF"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("~", None),
        ("Null", None),
        ("", None),
        ("nil", "nil"),
        ("1e5", 1e5),
        ("3.35e12", 3.35e12),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("inf", "inf"),
        ("2024-02-31", "2024-02-31"),
        ("2024-02-28", "2024-02-28"),
        ("=", "="),
        ("!!str 10", "10"),
        ("!!int 0x10", 16),
        ("!!float 3", 3.0),
        ("'10'", "10"),
        ("[<<, 1]", ["<<", 1]),
    ],
)
def test_a_plain_value(text, value):
    read = parse_yaml(text, "here")
    assert (read, type(read)) == (value, type(value))


def test_nan_is_a_float_to_yaml():
    assert math.isnan(parse_yaml(".NaN", "here"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: " + "9" * 400, "here, line 1: is not valid YAML: a number of 400 digits"),
        ("a: 0x" + "f" * 9000, "here, line 1: is not valid YAML: a number of 9,002 digits"),
        ("a: 1\na: 2", "here, line 2: is not valid YAML: the key 'a' is given twice"),
        ("1: a\n01: b", "here, line 2: is not valid YAML: the key '01' is given twice"),
        ("true: a\nTRUE: b", "here, line 2: is not valid YAML: the key 'TRUE' is given twice"),
        ("? [a]\n: b", "here, line 1: is not valid YAML: a list or a mapping is no key"),
        ("a: !!int 1_000", "here, line 1: is not valid YAML: '1_000' is no int"),
        ("a: !!bool yes", "here, line 1: is not valid YAML: 'yes' is no bool"),
        (
            "a: !!timestamp 2024-01-01",
            "here, line 1: has the tag 'tag:yaml.org,2002:timestamp';"
            " remove it: only plain values are read",
        ),
        ("a: &x 1", "here, line 1: anchors and aliases are not accepted"),
        ("[" * 40, "here, line 1: nests deeper than 32"),
    ],
)
def test_a_wrong_value_is_one_line(text, line):
    with pytest.raises(InputError) as error:
        parse_yaml(text, "here")
    assert str(error.value) == line


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["1e5", "0o17", "yes", "1:30", "010", "~", "<<", "=", "2024-01-01", ".nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=examples(150))
@given(content=plain)
@example(content={"\x85": "\u2028", "a\ufeff": "b\u2029c"})
def test_what_is_written_is_read_back_by_both_schemas(content):
    text = dump_yaml(content)
    assert repr(parse_yaml(text, "here")) == repr(content)
    assert repr(yaml.safe_load(text)) == repr(content)


@settings(max_examples=examples(300))
@given(
    text=st.text(max_size=60) | st.text("-:?{}[],&*!|>'\"%@`#~0123456789abxoe._\n ", max_size=60)
)
def test_any_text_is_read_or_refused_in_one_line(text):
    read_or_refused(parse_yaml, text, "here")
