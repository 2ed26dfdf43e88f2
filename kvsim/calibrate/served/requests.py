"""What a client measured of a real server, request by request: five files, one frozen table.

============== ==============================================================================
vllm-bench     ``vllm bench serve --save-result --save-detailed``: one JSON object of lists
inference-perf ``per_request_lifecycle_metrics.json``: a JSON list of requests
guidellm       ``benchmarks.json``: a JSON object, a sweep's loads one after the other
aiperf         ``profile_export.jsonl``: a request a line
csv            `CSV_COLUMNS`, a request a row
============== ==============================================================================

Each may be gzipped. Which one a file is, is told by its content. A request that failed, or was not
answered to its end, is left out and counted; a value that cannot be is refused with its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.calibrate.csv_files import CsvRow, csv_rows
from kvsim.calibrate.served.fields import Fields, Outcome, guidellm_requests, of_one_key
from kvsim.errors import InputError
from kvsim.readers.json_file import each_key_once
from kvsim.specs.numbers import LONGEST_SECONDS
from kvsim.workload.traces.source import LineSource

__all__ = ["CSV_COLUMNS", "ServedRequests", "read_served_requests"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CSV_COLUMNS = ("send_seconds", "prompt_tokens", "output_tokens", "ttft_seconds", "e2e_seconds")
_MS, _NS = 1e-3, 1e-9
_ROUNDING = 1e-6  # seconds: clocks that are printed
_LONGEST_PROMPT = 2**31


@dataclass(frozen=True, eq=False)
class ServedRequests:
    """Requests that a server answered, in order of sending.

    Parameters
    ----------
    path : Path
        Where they come from.
    format : str
        Which of the five.
    send_seconds : float array (n,)
        From the first.
    prompt_tokens, output_tokens : int array (n,)
        At least 1 each.
    ttft_seconds : float array (n,)
        From sending to the first chunk; NaN where none was seen by itself.
    e2e_seconds : float array (n,)
        From sending to the last chunk.
    failed : int
        Requests that were left out: failed, cancelled or unfinished.
    """

    path: Path
    format: str
    send_seconds: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    ttft_seconds: Floats
    e2e_seconds: Floats
    failed: int = 0

    def __len__(self) -> int:
        return len(self.send_seconds)

    @cached_property
    def tpot_seconds(self) -> Floats:
        """Seconds per output token after the first (n,); NaN of one token."""
        tokens = self.output_tokens - 1
        gaps = (self.e2e_seconds - self.ttft_seconds) / np.maximum(tokens, 1)
        return np.where((tokens > 0) & (gaps > 0), gaps, np.nan)

    @cached_property
    def in_flight(self) -> Ints:
        """Requests that were in flight when each was sent (n,), itself among them."""
        ended = np.sort(self.send_seconds + self.e2e_seconds)
        return np.arange(1, len(self) + 1) - np.searchsorted(ended, self.send_seconds, "right")

    @property
    def mean_in_flight(self) -> float:
        """Requests in flight on average over the run: at least 1."""
        span = float(np.max(self.send_seconds + self.e2e_seconds))
        return max(1.0, float(self.e2e_seconds.sum()) / span)


def read_served_requests(path: Path) -> ServedRequests:
    """Read what a client measured, in whichever of the five formats it is.

    Raises
    ------
    InputError
        When the file cannot be read, is none of the formats, lacks a column, holds a value that
        cannot be, or no request that was answered.
    """
    source = LineSource(path)
    assert source.head  # which refuses what is empty, binary or no file
    name, found = _recognised(path, source.text())
    outcomes = list(found)
    answered = [each for each in outcomes if each is not None]
    if not answered:
        raise InputError(
            "no request was answered" if outcomes else "lists no request",
            where=str(path),
            fix="take a run that the server survived",
        )
    return _table(path, name, answered, len(outcomes) - len(answered))


def _table(path: Path, name: str, answered: list[Outcome], failed: int) -> ServedRequests:
    """Put requests in order of sending, from the first."""
    sent, prompts, outputs, ttft, e2e = (np.array(column) for column in zip(*answered, strict=True))
    order = np.argsort(sent, kind="stable")
    first = sent[order[0]]
    # An answer whose first chunk came with its last says nothing of either apart.
    alone = (ttft <= 0) | ((outputs > 1) & (ttft >= e2e))
    return ServedRequests(
        path,
        name,
        (sent - first)[order].astype(np.float64),
        prompts[order].astype(np.int64),
        outputs[order].astype(np.int64),
        np.where(alone, np.nan, ttft)[order].astype(np.float64),
        e2e[order].astype(np.float64),
        failed,
    )


# ---- which format ---------------------------------------------------------------------------

_Found = tuple[str, Iterator[Outcome | None]]


def _recognised(path: Path, text: str) -> _Found:
    """Name the format and begin to read its requests."""
    start = text.lstrip()
    if start.startswith("{"):
        first = _first_object(start)
        if first is not None and {"metadata", "metrics"} & first.keys():
            return "aiperf", _aiperf(path, text)
        return _of_object(path, _json(path, text))
    if start.startswith("["):
        return "inference-perf", _inference_perf(path, _json(path, text))
    header = start.partition("\n")[0]
    if "," not in header:
        raise _unknown(path, "is neither JSON nor CSV")
    return "csv", _csv(csv_rows(text, str(path), CSV_COLUMNS))


def _first_object(text: str) -> dict[str, Any] | None:
    """The object on the first line, where that line is one."""
    line = text.partition("\n")[0]
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=each_key_once)
    except RecursionError:
        raise InputError("is nested too deeply", where=str(path)) from None
    except ValueError as error:
        raise InputError(f"is not whole JSON: {str(error)[:80]}", where=str(path)) from None


def _of_object(path: Path, record: dict[str, Any]) -> _Found:
    if "benchmarks" in record:
        return "guidellm", _guidellm(path, record)
    if "input_lens" in record or "request_throughput" in record:
        return "vllm-bench", _vllm_bench(path, record)
    if "successes" in record or "load_summary" in record:
        raise InputError(
            "is a summary of inference-perf, without its requests",
            where=str(path),
            fix="set report.request_lifecycle.per_request: true, and take"
            " per_request_lifecycle_metrics.json",
        )
    if "request_latency" in record or "input_config" in record:
        raise InputError(
            "is a summary of AIPerf, without its requests",
            where=str(path),
            fix="take profile_export.jsonl beside it",
        )
    raise _unknown(path, "is JSON of no benchmark that is known")


def _unknown(path: Path, why: str) -> InputError:
    return InputError(
        why,
        where=str(path),
        fix="give a vllm bench serve --save-detailed JSON, inference-perf's"
        " per_request_lifecycle_metrics.json, a GuideLLM benchmarks.json, AIPerf's"
        f" profile_export.jsonl, or a CSV with {','.join(CSV_COLUMNS)}",
    )


# ---- the formats ----------------------------------------------------------------------------


def _vllm_bench(path: Path, record: dict[str, Any]) -> Iterator[Outcome | None]:
    names = ("start_times", "input_lens", "output_lens", "ttfts", "itls")
    missing = [name for name in names if not isinstance(record.get(name), list)]
    if missing:
        raise InputError(
            f"the result has no {', '.join(missing)}",
            where=str(path),
            fix="run vllm bench serve with --save-detailed, of a release that writes start_times",
        )
    lists = [record[name] for name in names]
    counts = [len(each) for each in lists]
    if len(set(counts)) > 1:
        said = ", ".join(f"{count} {name}" for name, count in zip(names, counts, strict=True))
        raise InputError(f"its lists are not of one length: {said}", where=str(path))
    for at, values in enumerate(zip(*lists, strict=True), start=1):
        fields = Fields(dict(zip(names, values, strict=True)), f"{path}: request {at}")
        if fields.get("output_lens") in (0, None):
            yield None
            continue
        ttft = fields.number("ttfts")
        spent = sum(fields.moments("itls"))
        yield _outcome(
            fields,
            (fields.moment("start_times"), fields.tokens("input_lens")),
            fields.tokens("output_lens"),
            (ttft, ttft + spent),
        )


def _inference_perf(path: Path, requests: list[Any]) -> Iterator[Outcome | None]:
    for at, request in enumerate(requests, start=1):
        fields = Fields.of(request, f"{path}: request {at}")
        if fields.get("error") is not None or not fields.get("info"):
            yield None
            continue
        info = fields.inner("info")
        answer = info.inner("response_metrics") if info.get("response_metrics") else info
        usage = answer.inner("server_usage") if answer.get("server_usage") else None
        # the server's own counts, where it was asked for them; else texts tokenised again
        outputs = answer.tokens("output_tokens")
        prompts = info.tokens("input_tokens")
        if usage is not None and usage.get("completion_tokens") is not None:
            outputs = usage.tokens("completion_tokens")
        if usage is not None and usage.get("prompt_tokens") is not None:
            prompts = usage.tokens("prompt_tokens")
        if outputs == 0:
            yield None
            continue
        start = fields.moment("start_time")
        times = answer.moments("output_token_times")
        ttft = times[0] - start if times else 0.0
        end = times[-1] if times else fields.moment("end_time")
        yield _outcome(fields, (start, prompts), outputs, (ttft, end - start))


def _guidellm(path: Path, record: dict[str, Any]) -> Iterator[Outcome | None]:
    for fields in guidellm_requests(path, record):
        if fields is None:
            yield None
            continue
        start = of_one_key(fields, "request_start_time", "start_time")
        ttft = fields.get("time_to_first_token_ms")
        yield _outcome(
            fields,
            (fields.moment(start), fields.tokens("prompt_tokens")),
            fields.tokens("output_tokens"),
            (
                0.0 if ttft is None else _MS * fields.number("time_to_first_token_ms"),
                fields.number("request_latency"),
            ),
        )


def _aiperf(path: Path, text: str) -> Iterator[Outcome | None]:
    for at, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {at}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError("is not whole JSON", where=where) from None
        fields = Fields.of(record, where)
        metadata, metrics = fields.inner("metadata"), fields.get("metrics")
        failed = fields.get("error") is not None or metadata.get("was_cancelled") is True
        if failed or not metrics:
            yield None
            continue
        measured = fields.inner("metrics")
        streamed = measured.get("time_to_first_token") is not None
        yield _outcome(
            fields,
            (
                _NS * metadata.number("request_start_ns"),
                measured.inner("input_sequence_length").tokens("value"),
            ),
            measured.inner("output_sequence_length").tokens("value"),
            (
                measured.inner("time_to_first_token").seconds("value") if streamed else 0.0,
                measured.inner("request_latency").seconds("value"),
            ),
        )


def _csv(rows: Iterable[CsvRow]) -> Iterator[Outcome | None]:
    for row in rows:
        output = row.whole("output_tokens")
        if output == 0:
            yield None
            continue
        fields = Fields(row.cells, row.where)
        yield _outcome(
            fields,
            (row.number("send_seconds"), row.whole("prompt_tokens")),
            output,
            (row.number("ttft_seconds"), row.number("e2e_seconds")),
        )


def _outcome(
    fields: Fields, sent: tuple[float, int], output: int, measured: tuple[float, float]
) -> Outcome | None:
    """Check that one request can be; None of one that had no answer."""
    (send, prompt), (ttft, e2e) = sent, measured
    if output == 0:
        return None
    if not 1 <= prompt <= _LONGEST_PROMPT or output > _LONGEST_PROMPT:
        what = f"{prompt:,} prompt and {output:,} output tokens: no request is of that size"
        raise InputError(what, where=fields.where, fix="count the tokens as the server did")
    if not 0 <= ttft <= e2e + _ROUNDING or e2e <= 0 or max(abs(send), e2e) > LONGEST_SECONDS:
        what = f"sent at {send:g} s, first chunk after {ttft:g} s, last after {e2e:g} s: cannot be"
        raise InputError(what, where=fields.where, fix="check the units of its times")
    return Outcome(send, prompt, output, ttft, e2e)
