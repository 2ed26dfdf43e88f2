"""Contiguous virtual addresses over physical pages mapped on demand (vAttention)."""

from __future__ import annotations

from kvsim.errors import InputError
from kvsim.simulator.allocators.paged import Paged
from kvsim.units import KIB, MIB

__all__ = ["PAGE_BYTES", "Virtual", "tokens_per_page"]

PAGE_BYTES = (64 * KIB, 128 * KIB, 256 * KIB, 2 * MIB)


class Virtual(Paged):
    """Pages instead of blocks: the kernel sees one tensor, the driver maps its pages.

    A block here is one page in each K and each V tensor of every layer, so it spans
    `tokens_per_page` tokens; what differs from paging in blocks of 16 is how many.

    References
    ----------
    vAttention, ASPLOS 2025 (arXiv 2405.04437): page sizes of 64 KiB to 2 MiB.
    """

    contiguous = True


def tokens_per_page(page_bytes: int, tensor_token_bytes: int) -> int:
    """Tokens that a page of one K (or V) tensor of one layer holds.

    Raises
    ------
    InputError
        For a page size that the driver does not offer, or one smaller than a token.

    Examples
    --------
    Llama-2-7B in fp16: 32 heads * 128 * 2 bytes = 8 KiB per token and tensor.

    >>> tokens_per_page(64 * 1024, 8192), tokens_per_page(2 * 1024**2, 8192)
    (8, 256)
    """
    if page_bytes not in PAGE_BYTES:
        raise InputError(
            f"no physical page of {page_bytes} bytes",
            where="page_bytes",
            fix=f"choose one of {', '.join(map(str, PAGE_BYTES))}",
        )
    tokens = page_bytes // tensor_token_bytes
    if tokens == 0:
        raise InputError(
            f"a token takes {tensor_token_bytes} bytes per tensor, more than a page",
            where="page_bytes",
            fix="choose a larger page",
        )
    return tokens
