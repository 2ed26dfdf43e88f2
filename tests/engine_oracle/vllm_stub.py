"""Make vLLM's pure-Python core importable without a GPU and without its compiled extension.

What is replaced, by release, and nothing else:

=================  ==========================================================================
all                ``current_platform.device_type`` says "cuda": devices are asked for by name
0.33.0             managers of layers are registered (`register_specs`), as its engine does
0.11.2             sampled tokens are arrays (`sampled`), as its model runner returns them
=================  ==========================================================================

Each runs with torch 2.13 and whatever transformers its requirements allow, not with the torch that
it pins: the scheduler computes nothing.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from . import RELEASES

__all__ = [
    "VARIABLE",
    "missing",
    "model_folder",
    "prepare",
    "register_specs",
    "release",
    "sampled",
]

VARIABLE = "KVSIM_VLLM"
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_hidden_layers": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def missing() -> str | None:
    """Say in one line what the environment lacks to run the engine's scheduler, if anything."""
    named = os.environ.get(VARIABLE)
    if not named or not (Path(named) / "vllm").is_dir():
        return (
            f"{VARIABLE} does not name a folder with the package vllm (make oracle sets one up; or"
            f" pip download --no-deps vllm=={RELEASES[0]}, then unzip its Python files there)"
        )
    return None


@cache
def release() -> str:
    """Release of the engine's sources, as they say."""
    said = (Path(os.environ[VARIABLE]) / "vllm" / "_version.py").read_text()
    return re.findall(r"^__version__ = version = '([^']*)'", said, re.MULTILINE)[0]


def model_folder() -> str:
    """A folder with the config of a small Llama: the scheduler wants some model."""
    folder = Path(tempfile.mkdtemp(prefix="engine-oracle-"))
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    return str(folder)


def prepare() -> None:
    """Put the engine on the path and say that there is a GPU."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    sys.path.insert(0, os.environ[VARIABLE])
    # it looks at a model's class in a process of its own
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ[VARIABLE], inherited]))
    import vllm.platforms

    vllm.platforms.current_platform.device_type = "cuda"


def register_specs(config: Any) -> None:
    """Tell the engine which manager serves which layer, where a release wants to be told."""
    from vllm.v1.core import single_type_kv_cache_manager as managers

    register = getattr(managers, "register_all_kvcache_specs", None)
    if register:
        register(config)


def sampled(tokens: list[list[int]]) -> Any:
    """Sampled tokens in the type that a release wants: lists, or arrays."""
    from vllm.v1.outputs import ModelRunnerOutput

    wants_arrays = "ndarray" in str(ModelRunnerOutput.__annotations__["sampled_token_ids"])
    return [np.array(each, dtype=int) for each in tokens] if wants_arrays else tokens
