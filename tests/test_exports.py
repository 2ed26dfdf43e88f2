"""The public face: one export list, sorted, lazy, and each name from one home."""

import ast
import subprocess
import sys
from pathlib import Path

import kvsim


def test_exports_are_sorted_and_unique():
    assert kvsim.__all__ == sorted(set(kvsim.__all__), key=lambda name: (name.casefold(), name))


def test_every_export_is_there_and_from_its_home():
    assert kvsim.__all__
    for name in kvsim.__all__:
        value = getattr(kvsim, name)
        assert value.__name__ == name
        assert value.__module__.startswith("kvsim.")


def test_what_a_type_checker_sees_is_what_is_imported():
    """The imports for types and the homes for running name the same things at the same places."""
    tree = ast.parse(Path(kvsim.__file__).read_text("utf-8"))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname: node.module for node in typed.body for alias in node.names}
    assert seen == kvsim._HOMES


def test_exports_are_listed_by_dir():
    assert set(kvsim.__all__) <= set(dir(kvsim))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(kvsim, "nonsense")


def test_import_loads_no_module_of_its_own():
    code = "import sys, kvsim; print([m for m in sys.modules if m.startswith('kvsim.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_export_is_imported_once():
    assert kvsim.plan is kvsim.plan
    assert "plan" in vars(kvsim)
