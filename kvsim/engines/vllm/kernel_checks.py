"""What sparse attention asks of flags, refused in the words of each kind of it."""

from __future__ import annotations

from kvsim.engines.base import Deployment
from kvsim.errors import InputError

__all__ = ["check_bf16", "check_block_multiple", "check_undivided"]


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
