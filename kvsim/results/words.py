"""What a summary's numbers are called, by key: one list for terminal, report and dashboard."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["COMPARED", "LATENCIES", "PARTS", "SHORT", "Quantity"]

LATENCIES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "inter-token latency",
    "e2el": "end to end",
    "queue": "queue",
}
"""Latencies by their name in keys: ``mean_ttft_ms``."""

SHORT = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2E", "queue": "queue"}
"""The same as abbreviations."""

PARTS = {
    "token_states": "token states",
    "reserved": "reserved for later",
    "internal": "internal fragmentation",
    "external": "external fragmentation",
    "cached": "cached prefixes (evictable)",
    "free": "free",
}
"""Parts of the pool by their name in keys: ``kv_cache.waste.internal``."""


class Quantity(NamedTuple):
    """A number in words, with its unit and how it is printed.

    `unit` is "1/s" for a rate and "" for a plain count.
    """

    words: str
    unit: str
    style: str

    @property
    def label(self) -> str:
        """Words and unit together: "mean TTFT, ms", "requests/s", "preemptions"."""
        if self.unit == "1/s":
            return f"{self.words}/s"
        return f"{self.words}, {self.unit}" if self.unit else self.words


def _share_of_pool(part: str) -> Quantity:
    return Quantity(PARTS[part], "share", ".4f")


COMPARED = {
    "mean_ttft_ms": Quantity("mean TTFT", "ms", ",.1f"),
    "p99_ttft_ms": Quantity("p99 TTFT", "ms", ",.1f"),
    "mean_tpot_ms": Quantity("mean TPOT", "ms", ",.2f"),
    "p99_itl_ms": Quantity("p99 ITL", "ms", ",.2f"),
    "mean_e2el_ms": Quantity("mean E2E", "ms", ",.1f"),
    "mean_queue_ms": Quantity("mean queue", "ms", ",.1f"),
    "request_throughput": Quantity("requests", "1/s", ",.3f"),
    "request_goodput": Quantity("good requests", "1/s", ",.3f"),
    "output_throughput": Quantity("output tokens", "1/s", ",.1f"),
    "mean_batch_size": Quantity("mean batch", "sequences", ",.1f"),
    "kv_cache.usage_mean": Quantity("pool held", "share", ".4f"),
    **{
        f"kv_cache.waste.{part}": _share_of_pool(part)
        for part in ("token_states", "reserved", "internal", "external")
    },
    "prefix_cache.hits": Quantity("prefix hits", "tokens", ",.0f"),
    "prefix_cache.hit_rate": Quantity("prefix hits", "share", ".4f"),
    "preemptions": Quantity("preemptions", "", ",.0f"),
    "recomputed_tokens": Quantity("recomputed", "tokens", ",.0f"),
    "swapped_tokens": Quantity("swapped", "tokens", ",.0f"),
    "memory_limited": Quantity("memory-limited time", "share", ".4f"),
    "rejected": Quantity("rejected", "", ",.0f"),
}
"""What variants of a scenario are compared by, in this order."""
