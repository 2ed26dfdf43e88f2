"""The result file of ``vllm bench serve --save-result --save-detailed``.

One JSON object with the arrays `input_lens`, `output_lens` and (newer versions) `start_times`,
in seconds of the client's clock; the earliest becomes 0. Failed requests have an output of 0
tokens and are dropped. Without `start_times` the file holds lengths only.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvsim.errors import InputError
from kvsim.workload.traces.base import (
    Head,
    Reading,
    TraceFormat,
    TraceRow,
    json_object,
    length,
    seconds,
)

__all__ = ["VLLM_BENCH"]


def _rows(reading: Reading) -> Iterator[TraceRow]:
    prompts, outputs, starts = _arrays(reading)
    rows = []
    for number, entry in enumerate(zip(prompts, outputs, starts, strict=True), start=1):
        try:
            prompt, output = length(entry[0], "input_lens"), length(entry[1], "output_lens")
            start = None if entry[2] is None else seconds(entry[2], "start_times")
        except ValueError as error:  # one file, written at once: a part of it is not worth more
            raise InputError(str(error), where=f"{reading.path}: request {number}") from error
        rows.append(TraceRow(number, start, prompt, output))
    return iter(_from_zero(rows))


def _arrays(reading: Reading) -> tuple[list[object], list[object], list[object]]:
    try:
        record = json_object(reading.source.text())
    except ValueError as error:
        raise InputError(str(error), where=str(reading.path)) from error
    arrays = [record.get(key) for key in ("input_lens", "output_lens", "start_times")]
    if not isinstance(arrays[0], list) or not isinstance(arrays[1], list):
        raise InputError(
            "the result has no input_lens and output_lens",
            where=str(reading.path),
            fix="run vllm bench serve with --save-detailed",
        )
    starts = arrays[2] if isinstance(arrays[2], list) and arrays[2] else [None] * len(arrays[0])
    if not len(arrays[0]) == len(arrays[1]) == len(starts):
        raise InputError(
            f"input_lens, output_lens and start_times have {len(arrays[0])}, {len(arrays[1])} "
            f"and {len(starts)} entries",
            where=str(reading.path),
        )
    return arrays[0], arrays[1], starts


def _from_zero(rows: list[TraceRow]) -> list[TraceRow]:
    if not rows or rows[0].arrival_seconds is None:
        return rows
    timed = sorted((row.arrival_seconds or 0.0, at) for at, row in enumerate(rows))
    return [rows[at]._replace(arrival_seconds=start - timed[0][0]) for start, at in timed]


def _matches(head: Head) -> bool:
    return bool({"input_lens", "output_lens"} <= head.keys or _summary(head))


def _summary(head: Head) -> bool:
    return {"total_input_tokens", "total_output_tokens", "request_throughput"} <= head.keys


VLLM_BENCH = TraceFormat(
    "vllm-bench",
    "vllm bench serve result JSON, --save-detailed",
    _matches,
    _rows,
    columns=("start_times", "input_lens", "output_lens"),
)
