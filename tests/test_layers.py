"""The rooms and their order, enforced: who may import whom, and what from outside.

Rooms stand in ``ROOMS`` from top to bottom; a module imports from its own room and from those
above it, also lazily and for types alone. Only ``kvsim/__init__`` looks down: its names are
imported when they are first used.
"""

import ast
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Room:
    """A row of the table: where it is, its layer, what it may import from outside, what lazily."""

    name: str
    layer: str
    outside: frozenset[str]
    lazily: frozenset[str]


def room(name, layer, outside="", lazily=""):
    return Room(name, layer, frozenset(outside.split()), frozenset(lazily.split()))


ROOMS = (
    room("errors", "words"),
    room("units", "words"),
    room("registry", "words"),
    room("interrupts", "words"),
    room("csv_text", "words"),
    room("version", "words"),
    room("specs", "described", "yaml"),
    room("readers", "described", "", "gguf huggingface_hub numpy"),
    room("catalog", "described", "yaml"),
    room("memory", "derived"),
    room("engines", "derived", "yaml"),  # overheads and rules by release are data
    room("steptime", "derived"),
    room("planning", "closed answers", "", "pandas"),
    room("workload", "living", "numpy pydantic"),
    room("simulator", "living", "numpy pydantic simpy"),
    room("results", "recorded", "numpy", "pandas pyarrow"),
    room("runs", "answers", "numpy"),
    room("search", "answers", "numpy", "distributed optuna pyarrow"),
    room("studies", "answers"),
    room("figures", "answers", "numpy", "plotly"),
    room("calibrate", "shells", "numpy", "pandas pyarrow scipy torch vllm flashinfer flash_attn"),
    room("cli", "shells", "click", "rich"),
    room("__main__", "shells"),
)
LAYERS = tuple(dict.fromkeys(each.layer for each in ROOMS))
PLACE = {each.name: place for place, each in enumerate(ROOMS)}

# SimPy's environment is touched where time passes, and nowhere else.
SIMPY_IN = ("kvsim.simulator.replica",)

# Written in torch from the first line to the last; what starts them imports them when asked,
# which tests/calibrate/test_twin.py checks.
MADE_OF_TORCH = ("kvsim.calibrate.twin.", "kvsim.calibrate.study.")


@dataclass(frozen=True)
class Import:
    """One import statement: who, whom, where, and whether it runs when the module loads."""

    importer: str
    imported: str
    line: int
    eager: bool

    @property
    def top(self):
        """What is imported, by the name that would be installed: "numpy"."""
        return self.imported.split(".")[0]

    def __str__(self):
        return f"{self.importer}:{self.line} imports {self.imported}"


def room_of(module):
    """The room of a module: "engines" of "kvsim.engines.vllm"; "__init__" of "kvsim" itself."""
    return [*module.split("."), "__init__"][1]


class ImportFinder(ast.NodeVisitor):
    """Collect the imports of one module, knowing which run when it loads."""

    def __init__(self, module, is_package, known):
        self.module, self.is_package, self.known = module, is_package, known
        self.found, self.depth, self.typing = [], 0, False

    def visit_FunctionDef(self, node):
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - ast's name

    def visit_If(self, node):
        before, self.typing = self.typing, self.typing or "TYPE_CHECKING" in ast.dump(node.test)
        for child in node.body:
            self.visit(child)
        self.typing = before
        for child in node.orelse:
            self.visit(child)

    def visit_Import(self, node):
        for alias in node.names:
            self.add(alias.name, node)

    def visit_ImportFrom(self, node):
        base = node.module or ""
        if node.level:
            package = self.module.split(".")
            up = package[: len(package) - node.level + self.is_package]
            base = ".".join([*up, *filter(None, [base])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            self.add(inner if inner in self.known else base, node)

    def visit_Call(self, node):
        """``import_module("a.b")`` is an import too; a name made while running is not seen."""
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if called in {"import_module", "__import__"} and node.args:
            name = getattr(node.args[0], "value", None)
            if isinstance(name, str):
                self.add(name, node)
        self.generic_visit(node)

    def add(self, name, node):
        eager = not self.depth and not self.typing
        self.found.append(Import(self.module, name, node.lineno, eager))


def module_name(path, root):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(root, package="kvsim"):
    """Every module of a source tree, and its file."""
    return {module_name(path, root): path for path in sorted((root / package).rglob("*.py"))}


def imports_of(root, package="kvsim"):
    """Every import statement of a source tree."""
    known = modules_of(root).keys()
    found = []
    for module, path in modules_of(root, package).items():
        finder = ImportFinder(module, path.name == "__init__.py", known)
        finder.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        found += finder.found
    return found


def rooms_there(root):
    """The rooms of a tree: its folders of modules, and its single modules."""
    return {room_of(module) for module in modules_of(root)} - {"__init__"}


def may_import_inside(entry):
    """Whether an import of kvsim by kvsim runs down the table, or stays in its room."""
    here, there = room_of(entry.importer), room_of(entry.imported)
    if here == "__init__":
        return not entry.eager
    if there == "__init__":  # the public list: for those who are outside it
        return ROOMS[PLACE[here]].layer == "shells"
    return PLACE.get(there, len(ROOMS)) <= PLACE[here]


def may_import_outside(entry):
    """Whether a room may use a library, at that moment."""
    row = ROOMS[PLACE[room_of(entry.importer)]] if entry.importer != "kvsim" else None
    if row is None:
        return False
    if entry.top == "simpy":
        return entry.importer in SIMPY_IN
    when_asked = not entry.eager or entry.importer.startswith(MADE_OF_TORCH)
    return entry.top in row.outside | (row.lazily if when_asked else frozenset())


def violations(root):
    """One line for each import that the table forbids."""
    problems = set()
    for entry in imports_of(root):
        here = room_of(entry.importer)
        if here not in PLACE and here != "__init__":
            problems.add(f"{entry.importer}: {here!r} is no room of the table")
        elif entry.top == "kvsim":
            problems |= set() if may_import_inside(entry) else {f"{entry}, which is not above it"}
        elif entry.top not in sys.stdlib_module_names and not may_import_outside(entry):
            problems.add(f"{entry}, which its room may not")
    return sorted(problems)


def cycle(root):
    """Modules that import each other, at whatever moment, or an empty list."""
    graph = {}
    for entry in imports_of(root):
        if entry.top == "kvsim" and entry.importer != "kvsim":
            graph.setdefault(entry.importer, set()).add(entry.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_room_of_the_table_is_there_and_every_room_there_is_in_the_table():
    assert rooms_there(ROOT) == set(PLACE)


def test_the_rooms_of_a_layer_stand_together():
    assert [each.layer for each in ROOMS] == sorted(
        (each.layer for each in ROOMS), key=LAYERS.index
    )


def test_nothing_imports_what_stands_below_it():
    assert violations(ROOT) == []


def test_what_the_table_allows_is_used():
    """A library that a room has given up leaves the table too."""
    used = {(room_of(entry.importer), entry.top) for entry in imports_of(ROOT)}
    allowed = {(each.name, name) for each in ROOMS for name in each.outside | each.lazily}
    assert sorted(allowed - used) == []


def test_no_module_imports_itself_through_others():
    assert cycle(ROOT) == []


def test_what_may_use_simpy_does():
    assert {entry.importer for entry in imports_of(ROOT) if entry.top == "simpy"} == set(SIMPY_IN)


def private_uses(root):
    """One line for each import of the app that is no public list of kvsim's, nor an app's."""
    public = {"kvsim", "kvsim.figures", "kvsim.studies.lessons"}
    return [
        str(entry)
        for entry in imports_of(root, "app")
        if entry.top in {"simpy", "torch", "scipy"}
        or (entry.top == "kvsim" and entry.imported not in public)
    ]


def test_the_app_is_a_shell_over_the_public_api():
    """It uses kvsim's own list, and the public lists of figures and lessons."""
    assert private_uses(ROOT) == []


# --- the test is tested: a bad import in a small tree is found ---


@pytest.fixture
def tree(tmp_path):
    """Return a function that writes ``{path: source}`` below a root, and the root."""

    def write(files):
        for name, source in files.items():
            path = tmp_path / "kvsim" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("errors.py", "import kvsim.specs"),
        ("errors.py", "from kvsim import specs"),
        ("specs/model.py", "from kvsim.memory.footprint import bytes_per_token"),
        ("specs/model.py", "def f():\n    from kvsim.planning.planner import plan"),
        (
            "memory/weights.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import kvsim.engines",
        ),
        ("simulator/replica.py", "from ..results import result"),
        ("workload/base.py", "from kvsim.simulator.request import Request"),
        ("engines/vllm.py", "from kvsim import plan"),
        ("figures/plan.py", "from kvsim.calibrate import served"),
        ("memory/footprint.py", "import pandas"),
        ("units.py", "import numpy as np"),
        ("results/result.py", "import pandas as pd"),
        ("planning/planner.py", "def f():\n    import plotly.graph_objects"),
        ("simulator/recorder.py", "import simpy"),
        ("cli/plan.py", "import rich.table"),
        ("figures/plan.py", "def f():\n    import streamlit"),
        ("cli/plan.py", "def f():\n    import torch"),
        ("calibrate/fit.py", "import torch"),
        ("__init__.py", "from kvsim.cli import main"),
        ("novelty.py", "import os"),
        ("specs/hardware.py", "if True:\n    import requests"),
        ("errors.py", "import importlib\ndef f():\n    importlib.import_module('kvsim.specs')"),
        ("cli/plan.py", "from importlib import import_module as im\nX = __import__('torch')"),
    ],
)
def test_a_forbidden_import_is_found(tree, name, source):
    there = {"specs/__init__.py": "", "results/result.py": "", "calibrate/served.py": ""}
    assert len(violations(tree(there | {name: source}))) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("specs/model.py", "import yaml, json\nfrom kvsim.errors import InputError"),
        ("engines/vllm.py", "from .base import Engine\nfrom kvsim.memory.footprint import x"),
        ("simulator/replica.py", "import simpy"),
        ("figures/plan.py", "def f():\n    import plotly.graph_objects"),
        ("__init__.py", "def __getattr__(name):\n    import kvsim.planning"),
        ("cli/plan.py", "from kvsim import plan\nimport click"),
        ("calibrate/measure.py", "def f():\n    import torch"),
        ("calibrate/twin/decoder.py", "import torch"),
    ],
)
def test_a_rightful_import_passes(tree, name, source):
    assert violations(tree({"engines/base.py": "", name: source})) == []


@pytest.mark.parametrize(
    "closing",
    [
        "import kvsim.a",
        "def f():\n    import kvsim.a",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import kvsim.a",
    ],
    ids=["when it loads", "lazily", "for types alone"],
)
def test_a_cycle_is_found(tree, closing):
    files = {"a.py": "import kvsim.b", "b.py": "from kvsim import c", "c.py": closing}
    assert set(cycle(tree(files))) == {"kvsim.a", "kvsim.b", "kvsim.c"}
    assert cycle(tree({"c.py": "import os"})) == []


def test_a_room_that_nobody_listed_is_found(tree):
    files = ("attic/__init__.py", "cellar/deep/wine.py", "errors.py", "__init__.py")
    assert rooms_there(tree(dict.fromkeys(files, ""))) == {"attic", "cellar", "errors"}


@pytest.mark.parametrize(
    "source",
    [
        "from kvsim import planning",
        "from kvsim.planning.planner import plan",
        "import importlib\nPLAN = importlib.import_module('kvsim.planning.planner')",
        "def f():\n    import torch",
    ],
)
def test_an_app_that_looks_behind_the_public_list_is_found(tree, source):
    app = {"__init__.py": "", "planning/__init__.py": "", "../app/view.py": source}
    assert len(private_uses(tree(app))) == 1
