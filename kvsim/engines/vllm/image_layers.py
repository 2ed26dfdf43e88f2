"""Llama 3.2 Vision in vLLM: which releases serve it, and which flags its engine core lacks.

Sources are of 0.10.2 unless another is named, and alike from 0.6.2 on.
"""

from __future__ import annotations

from kvsim.engines.base import Deployment
from kvsim.engines.vllm.rules import Rules
from kvsim.errors import InputError, UnsupportedError
from kvsim.specs.engine_options import EngineOptions, ResolvedOptions

__all__ = ["check_batch_of_images", "check_image_layers"]

# What `assert_enc_dec_mr_supported_scenario` refuses (worker/utils.py).
_ABSENT = {
    "enable_prefix_caching": (False, "prefix caching", "--enable-prefix-caching"),
    "enable_lora": (False, "LoRA adapters", "--enable-lora"),
    "pipeline_parallel_size": (1, "pipeline parallelism", "--pipeline-parallel-size"),
    "decode_context_parallel_size": (1, "context sharding", "--decode-context-parallel-size"),
}


def check_image_layers(deployment: Deployment, rules: Rules) -> None:
    """Refuse a release without such layers, and flags that the old engine core lacks for them.

    Raises
    ------
    UnsupportedError
        For a release that does not serve the model.
    InputError
        For a flag.
    """
    model, options = deployment.model, deployment.options
    if not rules.value("image_layers"):
        release = ".".join(map(str, rules.release))
        raise UnsupportedError(
            f"vLLM {release} does not serve {model.name}: its cross-attention layers are in 0.6.2"
            " to 0.10.2; choose --engine-version 0.10.2 or --engine sglang"
        )
    for name, (plain, what, flag) in _ABSENT.items():
        if getattr(options, name) not in (None, plain):
            raise InputError(
                f"vLLM's engine core V0 has no {what} with an encoder, as {model.name} has one",
                where=flag,
                fix="leave it out",
            )
    _check_kv_dtype(deployment, options)


def _check_kv_dtype(deployment: Deployment, options: EngineOptions) -> None:
    """Refuse a narrower cache: what cross attention writes is in the compute dtype.

    Source: ``MllamaTextCrossAttention._attention_with_mask`` calls the kernel with "auto".
    """
    if options.kv_cache_dtype in (None, "auto") or deployment.kv_format.bits >= 16:
        return
    raise InputError(
        f"the cross-attention layers of {deployment.model.name} write K and V in 16 bits, and"
        f" --kv-cache-dtype {options.kv_cache_dtype} is narrower",
        where="--kv-cache-dtype",
        fix="choose auto",
    )


def check_batch_of_images(options: ResolvedOptions) -> None:
    """Refuse a batch smaller than a prompt, which cannot be cut where there is an encoder.

    Source: ``SchedulerConfig._verify_args`` (0.8.5, config.py).
    """
    tokens, length = options.max_num_batched_tokens, options.max_model_len
    if tokens < length:
        raise InputError(
            f"--max-num-batched-tokens {tokens} is below --max-model-len {length}, and prompts"
            " beside images are computed whole",
            fix=f"choose at least {length}, or shorten --max-model-len",
        )
