"""The import layers of the design, enforced: who may import whom, and what from outside.

A module imports from its own layer and from those above it in ``LAYERS``, never from below.
"""

import ast
import sys
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Layer:
    """A row of the table: its modules, what they may import, what only inside functions."""

    name: str
    modules: frozenset[str]
    outside: frozenset[str] = frozenset()
    lazily: frozenset[str] = frozenset()


def layer(name, modules, outside="", lazily=""):
    return Layer(name, *(frozenset(words.split()) for words in (modules, outside, lazily)))


LAYERS = (
    layer("words", "errors units"),
    layer(
        "described",
        "checked precision attention model hardware readers catalog",
        "pydantic yaml",
        "gguf huggingface_hub numpy",
    ),
    layer(
        "derived",
        "footprint tensors weights loading retention engines kvreads rankwork"
        " steptime stepterms stepdefaults",
        "numpy pydantic yaml",  # yaml: engines carry their overheads as versioned data
    ),
    # The recorder is written to by what lives, so it is below time; results are above it.
    layer(
        "living",
        "streams request workload arrivals recorder camera allocators policies decoding schedulers"
        " stepclock",
        "numpy pydantic",
    ),
    # A scenario is described, but of things that are derived (flags) and alive (a workload);
    # its assembly picks the living parts that it names.
    layer("question", "overrides scenario assembly", "pydantic yaml"),
    layer("time", "replica cluster", "numpy simpy"),
    layer("recorded", "metrics accounts results outputs", "numpy pandas", "pandas pyarrow"),
    layer(
        "answers",
        "bench_result planning planner simulation comparison search sweep figures lessons"
        " tiers cells timebins",
        "numpy pydantic",
        "pandas plotly",
    ),
    layer("api", "__init__"),
    layer(
        "shells", "cli calibrate __main__", "click numpy pydantic yaml", "rich pandas scipy torch"
    ),
)

# Heavy or narrow libraries, each with the only modules that may name it.
ONLY_IN = {
    "simpy": {"replica", "cluster"},
    "plotly": {"figures"},
    "torch": {"calibrate"},
    "scipy": {"calibrate"},
    "click": {"cli", "calibrate"},
    "rich": {"cli"},
    "streamlit": set(),  # the app alone, which is outside the package
}

# Written in torch from the first line to the last; their commands import them when asked, which
# tests/test_twin.py checks.
MADE_OF_TORCH = ("kvsim.calibrate.twin.", "kvsim.calibrate.study.")


@dataclass(frozen=True)
class Import:
    """One import statement: who, whom, where, and whether it runs when the module loads."""

    importer: str
    imported: str
    line: int
    eager: bool
    typing_only: bool = field(default=False)

    @property
    def part(self):
        """The importer's place in the table: "engines" of "kvsim.engines.vllm"."""
        return part_of(self.importer)

    def __str__(self):
        return f"{self.importer}:{self.line} imports {self.imported}"


def part_of(module):
    return [*module.split("."), "__init__"][1]


class ImportFinder(ast.NodeVisitor):
    """Collect the imports of one module, knowing which are lazy and which for types only."""

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

    def add(self, name, node):
        eager = not self.depth and not self.typing
        self.found.append(Import(self.module, name, node.lineno, eager, self.typing))


def module_name(path, root):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(root, package="kvsim"):
    """Every import statement of a source tree."""
    paths = {module_name(path, root): path for path in sorted((root / package).rglob("*.py"))}
    found = []
    for module, path in paths.items():
        finder = ImportFinder(module, path.name == "__init__.py", paths.keys())
        finder.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        found += finder.found
    return found


def violations(root):
    """One line for each import that the table forbids."""
    level = {module: n for n, row in enumerate(LAYERS) for module in row.modules}
    problems = []
    for entry in imports_of(root):
        if entry.part not in level:
            problems.append(f"{entry.importer}: give {entry.part!r} a layer in LAYERS")
            continue
        row = LAYERS[level[entry.part]]
        top = entry.imported.split(".")[0]
        if top == "kvsim":
            target = part_of(entry.imported)
            if target == "__init__":
                allowed = row.name in ("api", "shells") or entry.imported == entry.importer
            else:
                lazy_api = row.name == "api" and not entry.eager
                allowed = lazy_api or level.get(target, len(LAYERS)) <= level[entry.part]
        elif top in sys.stdlib_module_names:
            allowed = True
        else:
            when_asked = not entry.eager or entry.importer.startswith(MADE_OF_TORCH)
            may = row.outside | (row.lazily if when_asked else frozenset())
            allowed = top in may and entry.part in ONLY_IN.get(top, {entry.part})
        if not allowed:
            problems.append(f"{entry}, which the layer {row.name!r} may not")
    return sorted(set(problems))


def cycle(root):
    """Modules that import each other when they load, or an empty list."""
    graph = {}
    for entry in imports_of(root):
        if entry.eager and entry.imported.split(".")[0] == "kvsim":
            graph.setdefault(entry.importer, set()).add(entry.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_the_package_keeps_its_layers():
    assert violations(ROOT) == []


def test_no_module_imports_itself_through_others():
    assert cycle(ROOT) == []


def test_every_module_of_the_table_is_in_one_layer():
    modules = [module for row in LAYERS for module in row.modules]
    assert len(modules) == len(set(modules))


def test_the_app_is_a_shell_over_the_public_api():
    found = imports_of(ROOT, "app")
    inner = [str(entry) for entry in found if entry.imported.startswith("kvsim.")]
    heavy = {"simpy", "torch", "scipy"}
    assert inner == []
    assert [str(entry) for entry in found if entry.imported.split(".")[0] in heavy] == []


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
        ("errors.py", "import kvsim.model"),
        ("errors.py", "from kvsim import model"),
        ("model.py", "from kvsim.footprint import bytes_per_token"),
        ("model.py", "def f():\n    from kvsim.planner import plan"),
        ("engines/vllm.py", "from ..request import Request"),
        ("engines/vllm.py", "from kvsim import plan"),
        ("footprint.py", "import pandas"),
        ("units.py", "import numpy as np"),
        ("planner.py", "import pandas as pd"),
        ("planner.py", "def f():\n    import plotly.graph_objects"),
        ("recorder.py", "import simpy"),
        ("cli/plan.py", "import rich.table"),
        ("figures.py", "def f():\n    import streamlit"),
        ("cli/plan.py", "def f():\n    import torch"),
        ("calibrate/fit.py", "import torch"),
        ("__init__.py", "from kvsim.cli import main"),
        ("novelty.py", "import os"),
        ("hardware.py", "if True:\n    import requests"),
    ],
)
def test_a_forbidden_import_is_found(tree, name, source):
    root = tree({name: source, "model.py": "", "request.py": ""} | {name: source})
    assert len(violations(root)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("model.py", "import pydantic, json\nfrom kvsim.errors import InputError"),
        ("engines/vllm.py", "from .base import Engine\nfrom kvsim.footprint import x"),
        ("replica.py", "import simpy"),
        ("figures.py", "def f():\n    import plotly.graph_objects"),
        ("__init__.py", "def __getattr__(name):\n    import kvsim.planner"),
        ("cli/plan.py", "from kvsim import plan\nimport click"),
        ("calibrate/measure.py", "def f():\n    import torch"),
        ("calibrate/twin/decoder.py", "import torch"),
    ],
)
def test_a_rightful_import_passes(tree, name, source):
    assert violations(tree({"engines/base.py": "", name: source})) == []


def test_a_cycle_is_found_and_a_lazy_import_breaks_it(tree):
    files = {"a.py": "import kvsim.b", "b.py": "from kvsim import c", "c.py": "import kvsim.a"}
    assert set(cycle(tree(files))) == {"kvsim.a", "kvsim.b", "kvsim.c"}
    assert cycle(tree({"c.py": "def f():\n    import kvsim.a"})) == []
    typing = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import kvsim.a"
    assert cycle(tree({"c.py": typing})) == []
