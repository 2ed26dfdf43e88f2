"""What kernels of attention ask of flags, refused in the words of each kind of it."""

from __future__ import annotations

from kvsim.engines.base import Deployment
from kvsim.engines.vllm.rules import Rules, kernel_class
from kvsim.errors import InputError
from kvsim.memory.footprint import layer_caches
from kvsim.specs.precision import KVFormat

__all__ = [
    "check_bf16",
    "check_block_multiple",
    "check_fp8_alibi",
    "check_shared_context",
    "check_undivided",
]


def check_block_multiple(deployment: Deployment, multiple: int, what: str) -> None:
    """Refuse a ``--block-size`` that is no multiple of so many tokens; `what` takes no such blocks.

    Raises
    ------
    InputError
        With the multiple.
    """
    size = deployment.options.block_size
    if size is not None and size % multiple:
        raise InputError(
            f"{what} of {deployment.model.name} take no blocks of {size} tokens on"
            f" {deployment.accelerator.name}",
            where="--block-size",
            fix=f"choose a multiple of {multiple}",
        )


def check_bf16(deployment: Deployment, refusal: str) -> None:
    """Refuse another compute dtype than bf16, in these words.

    Raises
    ------
    InputError
        With the flag.
    """
    if deployment.dtype != "bf16":
        raise InputError(refusal, where="--dtype", fix="choose bfloat16")


def check_fp8_alibi(deployment: Deployment, rules: Rules) -> None:
    """Refuse an fp8 KV cache where a card's kernels cannot read it with ALiBi.

    Raises
    ------
    InputError
        With the flag.
    """
    model, card = deployment.model, deployment.accelerator
    classes = rules.value("alibi_without_fp8").get(kernel_class(card), ())
    if model.architecture in classes and deployment.kv_format.name == "fp8_e4m3":
        raise InputError(
            f"vLLM {rules.said} has no attention on {card.name} that reads fp8 with the ALiBi of"
            f" {model.name}",
            where="--kv-cache-dtype",
            fix="choose auto",
        )


def check_undivided(deployment: Deployment, degree: str, refusal: str) -> None:
    """Refuse a degree of parallelism above one.

    Parameters
    ----------
    deployment : Deployment
        As it was asked for.
    degree : str
        The option: "pipeline_parallel_size".
    refusal : str
        Why.

    Raises
    ------
    InputError
        With the flag.
    """
    if getattr(deployment.options, degree) not in (None, 1):
        raise InputError(refusal, where=f"--{degree.replace('_', '-')}", fix="choose 1")


def check_shared_context(deployment: Deployment, rules: Rules, kv: KVFormat) -> None:
    """Refuse ranks that share a context where an indexer's kernels cannot join what each has read.

    Parameters
    ----------
    deployment : Deployment
        As it was asked for.
    rules : Rules
        The release's.
    kv : KVFormat
        Of the KV cache, as the engine decides it.

    Raises
    ------
    InputError
        With the flag.
    """
    options = deployment.options
    asked = rules.value("indexed_context_parallel").get(kernel_class(deployment.accelerator))
    caches = [c for _, c in layer_caches(deployment.model) if c.keeps("indexer")]
    ranks = options.decode_context_parallel_size
    if ranks == 1 or not asked or not any(cache.keeps("latent") for cache in caches):
        return
    what = f"the sparse attention of {deployment.model.name} shares a context between ranks"
    if kv.name != asked["kv"]:
        raise InputError(
            f"{what} in {asked['kv']} alone, and the KV cache is {kv.name}",
            where="--decode-context-parallel-size",
            fix="choose 1, or --kv-cache-dtype fp8",
        )
    heads = max(cache.query_heads for cache in caches) // options.tensor_parallel_size
    if heads >= asked["heads"] or (heads <= asked["padded"] < heads * ranks):
        raise InputError(
            f"{what} with fewer than {asked['heads']} heads on each, {asked['padded']} on all that"
            f" share, and here are {heads} of {ranks} ranks",
            where="--decode-context-parallel-size",
            fix="choose 1, or another --tensor-parallel-size",
        )
