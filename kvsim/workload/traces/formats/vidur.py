"""Vidur's request CSV: ``arrived_at,num_prefill_tokens,num_decode_tokens``, seconds.

Source: microsoft/vidur, MIT.
"""

from __future__ import annotations

from kvsim.workload.traces.base import plain_format

__all__ = ["VIDUR", "VIDUR_COLUMNS"]

VIDUR_COLUMNS = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")

VIDUR = plain_format("vidur", "Vidur CSV, seconds", VIDUR_COLUMNS)
