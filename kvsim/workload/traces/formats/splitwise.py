"""splitwise-sim's CSV: one request per row, arrival in seconds.

``request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size``.

Source: Mutinifni/splitwise-sim, MIT.
"""

from __future__ import annotations

from kvsim.workload.traces.base import plain_format

__all__ = ["SPLITWISE"]

SPLITWISE = plain_format(
    "splitwise", "splitwise-sim CSV, seconds", ("arrival_timestamp", "prompt_size", "token_size")
)
