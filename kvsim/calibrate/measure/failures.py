"""What torch and its backends say when something fails."""

from __future__ import annotations

__all__ = ["is_out_of_memory"]

_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "not enough memory"),
    "status_alloc_failed",  # cuBLAS, cuDNN
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch says that memory is short: each backend has words of its own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in _OUT_OF_MEMORY
    )
