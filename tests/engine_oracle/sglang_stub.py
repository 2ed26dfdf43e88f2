"""Make SGLang's own scheduler importable on a CPU: what is replaced, and nothing else.

=====================================  =====================================================
replaced                               by
=====================================  =====================================================
``sglang/__init__.py``                 not run: it patches transformers for models
``sglang.kernels``, ``.srt.layers``,   modules whose names are empty classes: kernels, layers
``.srt.models``, ``triton``            and models, of which a scheduler runs none
packages that are not installed        the same (`absent` lists them)
``ServerArgs.resolve_once``            not called: it asks for a GPU and a checkpoint; the
                                       options below are given, all others are the defaults
=====================================  =====================================================
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

__all__ = ["RELEASE", "VARIABLE", "absent", "missing", "prepare", "publish"]

VARIABLE = "KVSIM_SGLANG"
RELEASE = "0.5.23"
_REPLACED = ("sglang.kernels", "sglang.srt.layers", "sglang.srt.models", "triton")
absent: set[str] = set()


class _Empty(type):
    """A class whose every attribute is another such class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _empty(name)
        setattr(cls, name, made)
        return made


def _empty(name: str) -> type:
    """Make one whose instances decorate, call and index to no effect."""
    members = {
        "__init__": lambda self, *args, **kwargs: None,
        "__call__": lambda self, first=None, *args, **kwargs: first,
        "__getitem__": lambda self, key: self,
    }
    return _Empty(name, (), members)


class _Module(types.ModuleType):
    __path__: Sequence[str] = ()
    __getattr__ = _Empty.__getattr__


class _Finder:
    """Finds empty modules in the place of those replaced, and of those not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find one of them."""
        replaced = any(name == one or name.startswith(one + ".") for one in _REPLACED)
        if replaced or name.partition(".")[0] in absent:
            return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """Make it."""
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is in it."""


def missing() -> str | None:
    """Say in one line what the environment lacks to run the engine's scheduler, if anything."""
    named = os.environ.get(VARIABLE)
    if not named or not (Path(named) / "sglang" / "srt").is_dir():
        return (
            f"{VARIABLE} does not name a folder with the package sglang (pip download --no-deps"
            f" sglang=={RELEASE}, then unzip it there)"
        )
    if importlib.util.find_spec("torch") is None:
        return "the package torch is missing (pip install torch==2.13.0)"
    return None


def prepare() -> None:
    """Import the engine's scheduler, with what is missing replaced.

    Raises
    ------
    ModuleNotFoundError
        When a module of the engine itself is missing.
    """
    if "sglang.srt.managers.scheduler" in sys.modules:
        return
    for name in ("torch._dynamo", "torch._inductor.compile_fx"):  # before there is a triton
        importlib.import_module(name)
    os.environ["SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND"] = "python"
    sys.meta_path.insert(0, _Finder())
    while True:
        package = types.ModuleType("sglang")
        package.__path__ = [str(Path(os.environ[VARIABLE]) / "sglang")]
        package.__version__ = RELEASE  # type: ignore[attr-defined]
        sys.modules["sglang"] = package
        try:
            importlib.import_module("sglang.srt.managers.scheduler")
            return
        except ModuleNotFoundError as error:
            name = str(error.name).partition(".")[0]
            if name in absent or name == "sglang":
                raise
            absent.add(name)
            for loaded in [key for key in sys.modules if key.startswith("sglang")]:
                del sys.modules[loaded]


def publish(**options: object) -> None:
    """Give the engine its server's options, unresolved."""
    from sglang.srt.runtime_context import get_context
    from sglang.srt.server_args import ServerArgs

    given = {"model_path": "none", "device": "cpu", "attention_backend": "torch_native"}
    get_context().set_server_args(ServerArgs(**given, **options))
