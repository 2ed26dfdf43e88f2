"""Every file that a user names is opened in `kvsim.specs.files`, which bounds it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOOR = "specs/files.py"

# What reads without the door, and why it may: `file: {call: how often}`.
OTHERS = {
    "catalog/models.py": {"read_text": 2},  # shipped with kvsim
    "engines/common.py": {"read_text": 1},  # shipped with kvsim
    "calibrate/public/aisimulate.py": {"read_parquet": 1},  # a table of a folder of tables
    "workload/traces/source.py": {"GzipFile": 1},  # around a stream from the door
    "workload/traces/formats/servegen.py": {"tarfile.open": 1},  # around a stream from the door
    "calibrate/measure/collective.py": {"read_text": 1},  # written by its own child processes
    "calibrate/measure/device.py": {"read_text": 1},  # a number that the kernel states in /sys
    "runs/copies.py": {"read_bytes": 1},  # written by its own child processes
    "results/outputs/folder.py": {"fdopen": 1, "os.open": 1},  # writes; holds a folder's lock
    "cli/__init__.py": {"os.open": 1},  # /dev/null in the place of a stdout that is gone
}
READERS = ("read_text", "read_bytes")
LIBRARIES = ("GzipFile", "read_csv", "read_json", "read_parquet", "memmap", "fromfile", "loadtxt")


def opened(call):
    """Name of a call that reads a file, or ""."""
    function = call.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    owner = getattr(getattr(function, "value", None), "id", "")
    method = isinstance(function, ast.Attribute)
    if name in READERS and method and (not call.args or isinstance(call.args[0], ast.Constant)):
        return name
    if name in LIBRARIES and ((method and owner) or name == "GzipFile"):
        return name
    if name == "fdopen":
        return name
    if name != "open":
        return ""
    if owner in ("gzip", "tarfile", "zipfile", "io", "os", "codecs", "bz2", "lzma"):
        return f"{owner}.open"
    mode = call.args[0 if method else 1 :][:1]
    writes = bool(mode) and str(getattr(mode[0], "value", "")).strip("bt+") in ("w", "x", "a")
    return "" if writes else "open"


def doors(root):
    """Every call that reads a file, counted by name, for each file of the package."""
    found = {}
    for path in sorted((root / "kvsim").rglob("*.py")):
        name = path.relative_to(root / "kvsim").as_posix()
        if name == DOOR:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = opened(node) if isinstance(node, ast.Call) else ""
            if called:
                calls = found.setdefault(name, {})
                calls[called] = calls.get(called, 0) + 1
    return found


def test_nothing_goes_around_the_door():
    assert doors(ROOT) == OTHERS


# --- the test is tested: a way around, in a small tree, is found ---


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("text = path.read_text()", "read_text"),
        ("text = path.read_text('utf-8')", "read_text"),
        ("text = path.read_text(encoding='utf-8')", "read_text"),
        ("data = self.path.read_bytes()", "read_bytes"),
        ("with open(name) as file:\n    pass", "open"),
        ("with open(name, 'rb') as file:\n    pass", "open"),
        ("with path.open() as file:\n    pass", "open"),
        ("with path.open('rb') as file:\n    pass", "open"),
        ("with path.open(newline='') as file:\n    pass", "open"),
        ("import gzip\ngzip.open(path)", "gzip.open"),
        ("import tarfile\ntarfile.open(path)", "tarfile.open"),
        ("import pandas as pd\npd.read_csv(path)", "read_csv"),
        ("import numpy as np\nnp.memmap(path)", "memmap"),
    ],
)
def test_a_way_around_is_found(tmp_path, source, name):
    (tmp_path / "kvsim").mkdir()
    (tmp_path / "kvsim" / "plain.py").write_text(source)
    assert doors(tmp_path) == {"plain.py": {name: 1}}


@pytest.mark.parametrize(
    "source",
    [
        "from kvsim.specs.files import read_text\ntext = read_text(path)",
        "with path.open('w', newline='') as file:\n    pass",
        "with open(name, 'wb') as file:\n    pass",
        "read = cache.read_bytes(fmt, context, rank)",
        "rows = read_csv(path, columns)",
    ],
)
def test_the_door_and_writing_pass(tmp_path, source):
    (tmp_path / "kvsim").mkdir()
    (tmp_path / "kvsim" / "plain.py").write_text(source)
    assert doors(tmp_path) == {}
