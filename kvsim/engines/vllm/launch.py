"""The ``vllm serve`` line that a deployment stands for."""

from __future__ import annotations

import shlex

from kvsim.engines.base import Deployment
from kvsim.engines.vllm.defaults import FLAGS
from kvsim.engines.vllm.lengths import ALLOWS_LONGER, derived_length
from kvsim.engines.vllm.rules import Rules

__all__ = ["serve_command"]

# Options of kvsim's own prediction, and one that is an environment variable.
_NOT_FLAGS = ("activation_bytes", "non_torch_bytes", "cuda_graph_bytes", "flashinfer_sampler")
_WORDS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def serve_command(deployment: Deployment, rules: Rules) -> str:
    """Return the launch line of an unresolved deployment: only what was set appears."""
    options, model = deployment.options, deployment.model
    words = ["vllm", "serve", model.hf_id or model.name]
    for name, value in deployment.launched.items():
        if name in FLAGS and name not in _NOT_FLAGS:
            words += _flag(name, value)
    prefix = "VLLM_USE_FLASHINFER_SAMPLER=1 " if options.flashinfer_sampler else ""
    if (options.max_model_len or 0) > derived_length(model, rules):
        prefix += f"{ALLOWS_LONGER}=1 "
    return prefix + shlex.join(words)


def _flag(name: str, value: object) -> list[str]:
    flag = FLAGS[name]
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    return [flag, _WORDS.get(str(value), str(value))]
