"""The public face: one export list, sorted, lazy, and each name from one home."""

import subprocess
import sys

import kvsim


def test_exports_are_sorted_and_unique():
    assert kvsim.__all__ == sorted(set(kvsim.__all__), key=lambda name: (name.casefold(), name))


def test_every_export_is_there_and_every_home_is_exported():
    assert set(kvsim.__all__) == set(kvsim._HOMES)
    for name in kvsim.__all__:
        value = getattr(kvsim, name)
        assert value.__name__ == name
        assert value.__module__.startswith("kvsim.")


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
