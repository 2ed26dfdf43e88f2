"""The KV cache format that a quantised checkpoint asks for.

::

    kv_cache_scheme: {num_bits: 8, type: float, dynamic: false}     ModelOpt, compressed-tensors
    kv_cache_quant_algo: FP8                                        hf_quant_config.json

Engines keep to it where they are not told otherwise, each by the methods that it knows.
"""

from __future__ import annotations

from typing import Literal

from kvsim.readers.huggingface.fields import Fields
from kvsim.specs.model import DeclaredKV

__all__ = ["declared_kv"]

_Format = Literal["fp8_e4m3", "nvfp4"]
_SCHEME, _ALGORITHM = "kv_cache_scheme", "kv_cache_quant_algo"
_NAMES: dict[str, _Format] = {"fp8": "fp8_e4m3", "nvfp4": "nvfp4"}


def declared_kv(config: Fields) -> DeclaredKV | None:
    """Read what a ``quantization_config``, or ModelOpt's file in its place, says of the KV cache.

    A scheme that is none of fp8 and nvfp4 is no declaration: engines then keep the compute dtype
    (vLLM 0.33, ``get_kv_cache_quant_algo_string`` in utils/torch_utils.py).

    Raises
    ------
    InputError
        When a field is not what it should be.
    """
    inner = config.inner("quantization")  # empty but in hf_quant_config.json, which is ModelOpt's
    method = "modelopt" if inner.names() else config.text("quant_method").lower().replace("_", "-")
    if method.startswith("modelopt"):
        said = _format(inner) or _format(config)
        return DeclaredKV(format=said, method="modelopt") if said else None
    if method == "compressed-tensors" and _SCHEME in config:
        config.inner(_SCHEME)  # whatever it says, vLLM takes it for fp8
        return DeclaredKV(format="fp8_e4m3", method="compressed-tensors")
    return None


def _format(config: Fields) -> _Format | None:
    if _SCHEME in config and not isinstance(config.get(_SCHEME), str):
        scheme = config.inner(_SCHEME)
        bits, is_float = scheme.integer("num_bits", 0, at_least=0), scheme.text("type") == "float"
        if bits == 8 and is_float and not scheme.flag("dynamic", default=True):
            return "fp8_e4m3"
        return "nvfp4" if bits == 4 and is_float else None
    key = _SCHEME if _SCHEME in config else _ALGORITHM
    return _NAMES.get(config.text(key).lower())
