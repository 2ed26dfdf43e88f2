"""A run's metrics in Prometheus' text format, under vLLM's names and in its buckets.

It is what a scrape at the end of the run would show. Names, labels and buckets are those of
vLLM's V1 metrics logger: times in seconds, prefix-cache counters in tokens, KV usage as the
share of blocks in use. Tokens are counted when their request is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from kvsim.results.result import SimulationResult

__all__ = ["ITL_BUCKETS", "LATENCY_BUCKETS", "TTFT_BUCKETS", "prometheus_text", "token_buckets"]

Floats = npt.NDArray[np.float64]
Labels = Mapping[str, str]

TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
ITL_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)  # fmt: skip
LATENCY_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_ITERATION_BUCKETS = (1.0, *(2.0**power for power in range(3, 15)))


def prometheus_text(result: SimulationResult) -> str:
    """Return the metrics of a run, ending in a newline.

    Parameters
    ----------
    result : SimulationResult
        The run; warm-up requests are counted too, as an engine would.
    """
    labels = {"model_name": result.setup.deployment.model.name, "engine": "0"}
    lines = [*_gauges(result, labels), *_counters(result, labels), *_histograms(result, labels)]
    return "\n".join(lines) + "\n"


def token_buckets(most: int) -> tuple[float, ...]:
    """Return 1, 2, 5, 10, 20, 50, ... up to `most`.

    Examples
    --------
    >>> token_buckets(30)
    (1.0, 2.0, 5.0, 10.0, 20.0)
    """
    powers = range(len(str(most)))
    values = [float(digit * 10**power) for power in powers for digit in (1, 2, 5)]
    return tuple(value for value in values if value <= most)


def _gauges(result: SimulationResult, labels: Labels) -> Iterator[str]:
    columns, setup = result.columns, result.setup
    came = ~np.isnan(columns["scheduled_seconds"])
    running = int((came & np.isnan(columns["finish_seconds"])).sum())
    waiting = int((~came & (columns["rejected"] == 0)).sum())
    yield from _single("num_requests_running", "gauge", running, labels)
    yield from _single("num_requests_waiting", "gauge", waiting, labels)
    yield from _single("kv_cache_usage_perc", "gauge", _usage(result) if running else 0.0, labels)
    config = {
        "block_size": str(setup.pools.main.block_size),
        "cache_dtype": setup.kv.name,
        "enable_prefix_caching": str(setup.caches_prefixes),
        "num_gpu_blocks": str(setup.pools.main.num_blocks),
    }
    yield from _single("cache_config_info", "gauge", 1.0, {**labels, **config})


def _usage(result: SimulationResult) -> float:
    """Share of the pool that was held after the last step."""
    steps = result.recording.recorder.step_columns()
    held = steps["held_slots"][-1:] + steps["grown_slots"][-1:]
    return float(held.sum() / result.setup.pool_slots)


def _counters(result: SimulationResult, labels: Labels) -> Iterator[str]:
    summary = result.summary
    counts = {
        "num_preemptions": summary["preemptions"],
        "prompt_tokens": summary["total_input_tokens"],
        "generation_tokens": summary["total_output_tokens"],
        "prefix_cache_queries": summary["prefix_cache"]["queries"],
        "prefix_cache_hits": summary["prefix_cache"]["hits"],
        "admission_rejections": summary["rejected"],
    }
    for name, count in counts.items():
        yield from _single(f"{name}_total", "counter", count, labels)
    finished = {**labels, "finished_reason": "length"}
    yield from _single("request_success_total", "counter", summary["completed"], finished)


def _histograms(result: SimulationResult, labels: Labels) -> Iterator[str]:
    columns, latencies = result.columns, result.latencies
    scheduled, first = columns["scheduled_seconds"], columns["first_token_seconds"]
    finish = columns["finish_seconds"]
    done = ~np.isnan(finish)
    lengths = token_buckets(result.setup.deployment.model.max_position_embeddings)
    totals, steps = result.totals, result.recording.recorder.step_columns()
    observed: dict[str, tuple[Floats, Sequence[float], Floats | None]] = {
        "time_to_first_token_seconds": (latencies["ttft"], TTFT_BUCKETS, None),
        "inter_token_latency_seconds": (totals.gap_seconds, ITL_BUCKETS, totals.gap_tokens),
        "request_time_per_output_token_seconds": (latencies["tpot"], ITL_BUCKETS, None),
        "e2e_request_latency_seconds": (latencies["e2el"], LATENCY_BUCKETS, None),
        "request_queue_time_seconds": (latencies["queue"], LATENCY_BUCKETS, None),
        "request_inference_time_seconds": (finish - scheduled, LATENCY_BUCKETS, None),
        "request_prefill_time_seconds": (first - scheduled, LATENCY_BUCKETS, None),
        "request_decode_time_seconds": (finish - first, LATENCY_BUCKETS, None),
        "request_prompt_tokens": (columns["prompt_tokens"][done], lengths, None),
        "request_generation_tokens": (columns["output_tokens"][done], lengths, None),
        "iteration_tokens_total": (
            steps["sequences"] + steps["prefill_tokens"], _ITERATION_BUCKETS, steps["steps"],
        ),
    }  # fmt: skip
    for name, (values, buckets, weights) in observed.items():
        yield from _histogram(name, values, buckets, weights, labels)


def _histogram(
    name: str, values: Floats, buckets: Sequence[float], weights: Floats | None, labels: Labels
) -> Iterator[str]:
    """Cumulative buckets, sum and count; NaN never happened."""
    seen = ~np.isnan(values)
    values = values[seen]
    weights = np.ones(len(values)) if weights is None else weights[seen]
    places = np.searchsorted(buckets, values, side="left")
    counts = np.cumsum(np.bincount(places, weights=weights, minlength=len(buckets) + 1))
    yield f"# TYPE vllm:{name} histogram"
    for edge, count in zip([*map(str, buckets), "+Inf"], counts.tolist(), strict=True):
        yield _line(f"{name}_bucket", count, {**labels, "le": edge})
    yield _line(f"{name}_sum", float((values * weights).sum()), labels)
    yield _line(f"{name}_count", float(counts[-1]), labels)


def _single(name: str, kind: str, value: float, labels: Labels) -> Iterator[str]:
    yield f"# TYPE vllm:{name} {kind}"
    yield _line(name, value, labels)


def _line(name: str, value: float, labels: Labels) -> str:
    named = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"vllm:{name}{{{named}}} {float(value)!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
