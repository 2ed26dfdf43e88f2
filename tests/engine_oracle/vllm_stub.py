"""Make vLLM's pure-Python core importable without a GPU and without its compiled extension.

What is replaced, by release, and nothing else:

=======  ==========================================================================
0.33     ``current_platform.device_type`` says "cuda": devices are asked for by name
=======  ==========================================================================
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

__all__ = ["RELEASE", "VARIABLE", "missing", "model_folder", "prepare"]

VARIABLE = "KVSIM_VLLM"
RELEASE = "0.33.0"
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
            f" pip download --no-deps vllm=={RELEASE}, then unzip its Python files there)"
        )
    return None


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
