"""The same requests as five programs write them: shapes of their documented exports."""

import csv
import gzip
import io
import json
from dataclasses import dataclass

EPOCH = 1_759_813_207.5  # clients print the clock of their machine


@dataclass(frozen=True)
class Request:
    """One answered request: seconds and tokens."""

    send: float
    prompt: int
    output: int
    ttft: float
    e2e: float

    @property
    def gaps(self):
        """Seconds between output tokens, alike."""
        count = self.output - 1
        return [(self.e2e - self.ttft) / count] * count


def vllm_bench(requests):
    """``vllm bench serve --save-detailed``, with one failed request."""
    return json.dumps(
        {
            "completed": len(requests),
            "request_throughput": 1.0,
            "start_times": [EPOCH + each.send for each in requests] + [EPOCH],
            "input_lens": [each.prompt for each in requests] + [7],
            "output_lens": [each.output for each in requests] + [0],
            "ttfts": [each.ttft for each in requests] + [0.0],
            "itls": [each.gaps for each in requests] + [[]],
            "errors": [""] * len(requests) + ["refused"],
        }
    )


def inference_perf(requests, *, nested=True):
    """``per_request_lifecycle_metrics.json``: newer releases nest, older ones do not."""

    def one(each):
        start = EPOCH + each.send
        gap = (each.e2e - each.ttft) / (each.output - 1)
        times = [start + each.ttft + gap * at for at in range(each.output)]
        answer = {"output_tokens": each.output, "output_token_times": times}
        info = {"input_tokens": each.prompt}
        info |= {"response_metrics": answer} if nested else answer
        return {"start_time": start, "end_time": times[-1] + 0.001, "info": info, "error": None}

    failed = {"start_time": EPOCH, "end_time": EPOCH + 1, "info": {"input_tokens": 7}}
    failed["error"] = {"error_type": "TimeoutError", "error_msg": "late"}
    return json.dumps([*map(one, requests), failed])


def guidellm(requests, *, start="request_start_time"):
    """``benchmarks.json``: two loads of a sweep, one after the other."""

    def one(each):
        return {
            start: EPOCH + each.send,
            "prompt_tokens": each.prompt,
            "output_tokens": each.output,
            "time_to_first_token_ms": 1e3 * each.ttft,
            "request_latency": each.e2e,
        }

    half = len(requests) // 2
    loads = [
        {"successful": [*map(one, requests[:half])], "errored": [{}], "incomplete": []},
        {"successful": [*map(one, requests[half:])], "errored": [], "incomplete": []},
    ]
    totals = [{"request_totals": {"successful": len(load["successful"])}} for load in loads]
    both = zip(loads, totals, strict=True)
    return json.dumps({"benchmarks": [{"requests": r, "metrics": m} for r, m in both]}, indent=1)


def aiperf(requests):
    """``profile_export.jsonl``."""

    def one(each):
        def metric(value, unit):
            return {"value": value, "unit": unit}

        return {
            "metadata": {"request_start_ns": round(1e9 * (EPOCH + each.send))},
            "metrics": {
                "input_sequence_length": metric(each.prompt, "tokens"),
                "output_sequence_length": metric(each.output, "tokens"),
                "time_to_first_token": metric(1e3 * each.ttft, "ms"),
                "request_latency": metric(1e3 * each.e2e, "ms"),
            },
            "error": None,
        }

    failed = {
        "metadata": {"request_start_ns": 1, "was_cancelled": True},
        "metrics": {"error_isl": {"value": 7, "unit": "tokens"}},
        "error": {"code": 499, "type": "RequestCancellationError"},
    }
    return "\n".join(json.dumps(line) for line in [*map(one, requests), failed]) + "\n"


def plain_csv(requests):
    """A request a row; the last failed."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["send_seconds", "prompt_tokens", "output_tokens", "ttft_seconds", "e2e_seconds"])
    rows.writerows([each.send, each.prompt, each.output, each.ttft, each.e2e] for each in requests)
    rows.writerow([0.0, 7, 0, 0, 0])
    return text.getvalue()


WRITERS = {
    "vllm-bench": vllm_bench,
    "inference-perf": inference_perf,
    "guidellm": guidellm,
    "aiperf": aiperf,
    "csv": plain_csv,
}


def zipped(text):
    """The text as a .gz file's bytes."""
    return gzip.compress(text.encode())
