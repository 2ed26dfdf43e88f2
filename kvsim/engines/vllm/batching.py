"""How many tokens vLLM schedules in a step where the user does not say."""

from __future__ import annotations

from kvsim.engines.base import Deployment
from kvsim.engines.vllm.rules import Rules, architecture, card_class
from kvsim.memory.footprint import layer_caches

__all__ = ["default_batched_tokens"]

# V0 took a prompt whole, and chunked it only beyond this length.
_V0_CHUNKED_BEYOND = 32768
_LEAST_TOKENS = 2048


def default_batched_tokens(deployment: Deployment, rules: Rules, length: int) -> int:
    """Tokens per step; V0 took a whole prompt at once, and a prefix-LM takes a whole video."""
    if deployment.model.encoder_tokens:  # never chunked, and as many as images need
        return max(length, int(rules.value("v0_media_tokens")))
    if rules.is_v0(deployment.model, deployment.accelerator):
        return _v0_tokens(deployment, rules, length)
    tokens = int(rules.value("max_num_batched_tokens")[card_class(deployment.accelerator)])
    whole = deployment.model.whole_media_tokens if rules.value("whole_media") else 0
    return max(tokens, whole)


def _v0_tokens(deployment: Deployment, rules: Rules, length: int) -> int:
    """A chunk where the release chunks so long a context of such a model, else all of it."""
    rule = rules.value("v0_chunk")
    is_short = length <= _V0_CHUNKED_BEYOND or rule["tokens"] is None
    is_whole = is_short or _is_any(deployment, rule["whole"])
    tokens: int = max(length, _LEAST_TOKENS) if is_whole else rule["tokens"]
    media: int = rules.value("v0_media_tokens") if _is_any(deployment, ["multimodal"]) else 0
    return max(tokens, media)


def _is_any(deployment: Deployment, features: list[str]) -> bool:
    """Whether the model has, or the user asks for, one of the features named."""
    options, model = deployment.options, deployment.model
    caches = [cache for _, cache in layer_caches(model)]
    present = {
        "window": any("kv window" in cache.sorts for cache in caches),
        "latent": any(cache.keeps("latent") for cache in caches),
        "recurrent": any(cache.fixed_bytes() for cache in caches),
        "lora": options.enable_lora,
        "prefix_caching": bool(options.enable_prefix_caching),
        "multimodal": model.other_parameters > 0,
        "rocm": architecture(deployment.accelerator) == "rocm",
    }
    return any(present[feature] for feature in features)
