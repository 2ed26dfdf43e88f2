"""The ``sglang.launch_server`` line that a deployment stands for."""

from __future__ import annotations

import shlex

from kvsim.engines.base import Deployment
from kvsim.engines.sglang.lengths import ALLOWS_LONGER, derived_length

__all__ = ["FLAGS", "launch_command"]

FLAGS = {
    "tensor_parallel_size": "--tp-size",
    "pipeline_parallel_size": "--pp-size",
    "data_parallel_size": "--dp-size",
    "decode_context_parallel_size": "--dcp-size",
    "enable_dp_attention": "--enable-dp-attention",
    "enable_expert_parallel": "--ep-size",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "kv_cache_dtype": "--kv-cache-dtype",
    "gpu_memory_utilization": "--mem-fraction-static",
    "max_model_len": "--context-length",
    "hf_overrides": "--json-model-override-args",
    "max_num_seqs": "--max-running-requests",
    "max_num_batched_tokens": "--chunked-prefill-size",
    "block_size": "--page-size",
    "enforce_eager": "--disable-cuda-graph",
    "enable_prefix_caching": "--disable-radix-cache",
    "disable_hybrid_kv_cache_manager": "--disable-hybrid-swa-memory",
    "swa_full_tokens_ratio": "--swa-full-tokens-ratio",
    "num_gpu_blocks_override": "--max-total-tokens",
    "max_total_tokens": "--max-total-tokens",
}


def launch_command(deployment: Deployment, page: int) -> str:
    """Return the launch line of an unresolved deployment: only what was set appears.

    `page` is the resolved ``--page-size``: a pool in blocks is given in tokens.
    """
    options, model = deployment.options, deployment.model
    path = shlex.quote(model.hf_id or model.name)
    words = [f"python -m sglang.launch_server --model-path {path}"]
    if (options.max_model_len or 0) > derived_length(model):
        words.insert(0, f"{ALLOWS_LONGER}=1")
    switches = {"enforce_eager", "enable_dp_attention", "disable_hybrid_kv_cache_manager"}
    given = deployment.launched
    for name, flag in FLAGS.items():
        value = getattr(options, name)
        if name not in given:
            continue
        if name in switches:
            words.append(flag)
        elif name == "enable_prefix_caching":
            words += [] if value else [flag]
        elif name == "enable_expert_parallel":
            words.append(f"{flag} {options.tensor_parallel_size}")
        elif name == "max_model_len":  # which counts an image too
            words.append(f"{flag} {value + model.encoder_tokens}")
        elif name == "num_gpu_blocks_override":
            words.append(f"{flag} {value * page}")
        else:
            words.append(f"{flag} {shlex.quote(str(value))}")
    return " ".join(words)
