"""What a run comes to: tables of what was recorded, and the summary judged from them.

The summary's keys are those of ``vllm bench serve`` where it has one, so that scripts made
for real results read simulated ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvsim.assembly import Setup
from kvsim.metrics import PERCENTILES, Distribution, distribution, is_saturated, time_mean
from kvsim.recorder import STEP_COLUMNS, Recorder
from kvsim.steptime import StepLoad

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SimulationResult"]

Floats = npt.NDArray[np.float64]
_RESOURCES = ("bandwidth", "compute", "link", "host")


@dataclass(frozen=True)
class SimulationResult:
    """One finished (or interrupted) run.

    Parameters
    ----------
    setup : Setup
        The scenario and everything derived from it.
    seed : int
        Seed of the run.
    recorder : Recorder
        What happened.
    end_seconds : float
        Simulated time at the end.
    interrupted : bool
        Whether the run was cut before its last request.
    """

    setup: Setup
    seed: int
    recorder: Recorder
    end_seconds: float
    interrupted: bool = False

    # ---- tables ---------------------------------------------------------------------------

    @cached_property
    def columns(self) -> dict[str, Floats]:
        """Per-request arrays by name, in order of arrival; NaN: it never happened."""
        recorder = self.recorder
        count = len(recorder.finish_seconds)
        columns = {
            "arrival_seconds": _joined(recorder, "arrival_seconds"),
            "prompt_tokens": _joined(recorder, "prompt_tokens"),
            "output_tokens": _joined(recorder, "output_tokens"),
            "scheduled_seconds": np.frombuffer(recorder.scheduled_seconds),
            "first_token_seconds": np.frombuffer(recorder.first_token_seconds),
            "finish_seconds": np.frombuffer(recorder.finish_seconds),
            "preemptions": _scattered(recorder.preemptions, count),
            "cached_tokens": _scattered(recorder.cached_tokens, count),
        }
        rejected = np.zeros(count)
        rejected[recorder.rejected_rows] = 1
        return columns | {"rejected": rejected}

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row a request: times in seconds, lengths in tokens, latencies in seconds."""
        import pandas as pd

        frame = pd.DataFrame(self.columns)
        whole = ["prompt_tokens", "output_tokens", "preemptions", "cached_tokens"]
        frame[whole] = frame[whole].astype("int64")
        frame["rejected"] = frame["rejected"].astype(bool)
        for name, values in self.latencies.items():
            frame[f"{name}_seconds"] = values
        frame.attrs |= {"name": "requests", "unit": "seconds and tokens"}
        return frame

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row a run of engine steps; see `kvsim.recorder.STEP_COLUMNS`."""
        import pandas as pd

        frame = pd.DataFrame(self.recorder.step_array(), columns=list(STEP_COLUMNS))
        frame.attrs |= {"name": "steps", "unit": "seconds, tokens, bytes and slots"}
        return frame

    @cached_property
    def memory(self) -> pd.DataFrame:
        """The pool at the start of every run of steps, in token slots: the five-way split."""
        import pandas as pd

        frame = pd.DataFrame({name: start for name, (start, _) in self._split.items()})
        frame.insert(0, "start_seconds", self._steps["start_seconds"])
        frame["free"] = self.setup.pool_slots - frame.drop(columns="start_seconds").sum(axis=1)
        frame.attrs |= {"name": "memory", "unit": "token slots"}
        return frame

    # ---- latencies ------------------------------------------------------------------------

    @cached_property
    def latencies(self) -> dict[str, Floats]:
        """TTFT, TPOT, E2E and queue time of every request, seconds."""
        columns = self.columns
        arrival, first = columns["arrival_seconds"], columns["first_token_seconds"]
        finish, output = columns["finish_seconds"], columns["output_tokens"]
        with np.errstate(invalid="ignore", divide="ignore"):
            tpot = np.where(output > 1, (finish - first) / (output - 1), np.nan)
        return {
            "ttft": first - arrival,
            "tpot": tpot,
            "e2el": finish - arrival,
            "queue": columns["scheduled_seconds"] - arrival,
        }

    @cached_property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Requests that latency statistics count: those after the warm-up."""
        count = len(self.columns["arrival_seconds"])
        keep = np.ones(count, dtype=bool)
        keep[: int(count * self.setup.scenario.run.warmup_fraction)] = False
        return keep

    @cached_property
    def distributions(self) -> dict[str, Distribution]:
        """Distributions in milliseconds: ttft, tpot, itl, e2el, queue."""
        judged = self.judged
        found = {
            name: distribution(1e3 * values[judged]) for name, values in self.latencies.items()
        }
        steps = self._steps
        warm = steps["start_seconds"] >= self._warm_seconds
        gaps = 1e3 * steps["seconds"][warm] / steps["steps"][warm]
        tokens = (steps["sequences"] * steps["steps"])[warm]
        return found | {"itl": distribution(gaps, tokens)}

    @cached_property
    def _warm_seconds(self) -> float:
        """Arrival of the first request that counts."""
        arrivals = self.columns["arrival_seconds"][self.judged]
        return float(arrivals[0]) if len(arrivals) else 0.0

    # ---- memory ---------------------------------------------------------------------------

    @cached_property
    def _steps(self) -> dict[str, Floats]:
        """Step rows by column."""
        return dict(zip(STEP_COLUMNS, self.recorder.step_array().T, strict=True))

    @cached_property
    def _split(self) -> dict[str, tuple[Floats, Floats]]:
        """Start and end of every run of steps: where the pool's slots are.

        Inside a run every decoding sequence writes one token a step, into a slot that was
        reserved or in a block taken during the run, so each part changes linearly (paged
        slots in stairs of a block; their ends are exact).
        """
        steps = self._steps
        held = steps["held_slots"], steps["held_slots"] + steps["grown_slots"]
        written = steps["steps"] * steps["sequences"] + steps["prefill_tokens"]
        tokens = tuple(
            np.minimum(now, most)
            for now, most in zip((steps["tokens"], steps["tokens"] + written), held, strict=True)
        )
        reserved = steps["reserved_slots"], np.maximum(0, steps["reserved_slots"] - written)
        internal = tuple(
            np.maximum(0, have - used - later)
            for have, used, later in zip(held, tokens, reserved, strict=True)
        )
        same = {name: (steps[name], steps[name]) for name in ("external_slots", "cached_slots")}
        return {
            "token_states": (tokens[0], tokens[1]),
            "reserved": reserved,
            "internal": (internal[0], internal[1]),
            "external": same["external_slots"],
            "cached": same["cached_slots"],
        }

    def kv_cache(self) -> dict[str, Any]:
        """Usage of the pool (held over total, 0-1) and the split of its time average."""
        seconds = self._steps["seconds"]
        slots = self.setup.pool_slots
        split = {
            name: time_mean(start, end, seconds, self.end_seconds) / slots
            for name, (start, end) in self._split.items()
        }
        held_start = self._steps["held_slots"]
        held_end = held_start + self._steps["grown_slots"]
        return {
            "usage_mean": time_mean(held_start, held_end, seconds, self.end_seconds) / slots,
            "usage_peak": float(held_end.max() / slots) if len(held_end) else 0.0,
            "waste": {
                **{name: split[name] for name in ("token_states", "reserved", "internal")},
                "external": split["external"],
                "cached": split["cached"],
                "free": max(0.0, 1 - sum(split.values())),
            },
        }

    # ---- what bound the steps -------------------------------------------------------------

    def bound_shares(self) -> dict[str, float]:
        """Shares of busy time by the resource that bound the step.

        Steps of one shape (tokens, sequences) cost the same but for what attention reads, so
        the model is asked once a shape.
        """
        steps = self._steps
        tokens = steps["sequences"] + steps["prefill_tokens"]
        shapes, where = np.unique(
            np.column_stack([tokens, steps["sequences"]]), axis=0, return_inverse=True
        )
        arms = np.array([self._arms(int(n), int(decoding)) for n, decoding in shapes])
        arms = arms.reshape(-1, len(_RESOURCES))[where.ravel()]
        per_byte = self.setup.step_time.kv_seconds_per_byte
        arms[:, _RESOURCES.index("bandwidth")] += per_byte * steps["kv_read_bytes"]
        binding = arms.argmax(axis=1)
        busy = np.bincount(binding, weights=steps["seconds"], minlength=len(_RESOURCES))
        total = busy.sum() or 1.0
        return {name: float(busy[i] / total) for i, name in enumerate(_RESOURCES) if busy[i]}

    def _arms(self, tokens: int, decoding: int) -> tuple[float, ...]:
        """Seconds of each resource in a step of that shape, before KV is read."""
        prefills = 1 if tokens > decoding else 0
        cost = self.setup.step_time.cost(StepLoad(tokens, decoding + prefills))
        return tuple(cost.resource_seconds[name] for name in _RESOURCES)

    def memory_limited_share(self) -> float:
        """Share of the time in which requests waited although a sequence slot was free."""
        steps = self._steps
        most = self.setup.deployment.options.max_num_seqs or np.inf
        starved = (steps["waiting"] > 0) & (steps["sequences"] < most)
        return float(steps["seconds"][starved].sum() / self.end_seconds) if self.end_seconds else 0

    # ---- the summary ----------------------------------------------------------------------

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The run in ``vllm bench serve``'s words, and kvsim's own."""
        recorder, columns = self.recorder, self.columns
        finish = columns["finish_seconds"]
        done = ~np.isnan(finish)
        arrivals = columns["arrival_seconds"]
        served = columns["rejected"] == 0
        duration = float(np.nanmax(finish) - arrivals[0]) if done.any() else self.end_seconds
        tokens_in = float(columns["prompt_tokens"][done].sum())
        tokens_out = float(columns["output_tokens"][done].sum())
        summary: dict[str, Any] = {
            "completed": int(done.sum()),
            "failed": 0,
            "rejected": len(recorder.rejected_rows),
            "unfinished": int(served.sum() - done.sum()),
            "duration": duration,
            "total_input_tokens": int(tokens_in),
            "total_output_tokens": int(tokens_out),
            "request_throughput": _rate(done.sum(), duration),
            "request_goodput": self._goodput(duration),
            "output_throughput": _rate(tokens_out, duration),
            "total_token_throughput": _rate(tokens_in + tokens_out, duration),
        }
        for name, found in self.distributions.items():
            summary |= _bench_keys(name, found)
        return summary | {
            "kv_cache": self.kv_cache(),
            "preemptions": sum(recorder.preemptions.values()),
            "recomputed_tokens": recorder.recomputed_tokens,
            "prefix_cache": {"queries": recorder.queried_tokens, "hits": recorder.hit_tokens},
            "bound_by": self.bound_shares(),
            "memory_limited": self.memory_limited_share(),
            "mean_batch_size": self._mean_batch(),
            "events": recorder.step_rows,
            "saturated": is_saturated(arrivals[served], columns["scheduled_seconds"][served]),
            "interrupted": self.interrupted,
        }

    def _goodput(self, duration: float) -> float | None:
        """Requests a second that met every objective; None when there is none."""
        slo = self.setup.scenario.slo
        limits = {"ttft": slo.ttft_ms, "tpot": slo.tpot_ms, "e2el": slo.e2el_ms}
        limits = {name: limit for name, limit in limits.items() if limit is not None}
        if not limits:
            return None
        good = ~np.isnan(self.columns["finish_seconds"])
        for name, limit in limits.items():
            values = self.latencies[name]
            good &= np.isnan(values) | (1e3 * values <= limit)
        return _rate(good.sum(), duration)

    def _mean_batch(self) -> float:
        """Decoding sequences, averaged over busy time."""
        steps = self._steps
        busy = steps["seconds"].sum()
        return float((steps["sequences"] * steps["seconds"]).sum() / busy) if busy else 0.0


def _bench_keys(name: str, found: Distribution) -> dict[str, float | None]:
    """Keys such as ``mean_ttft_ms`` of one distribution in milliseconds."""
    keys = {"mean": found.mean, "median": found.p50, "std": found.std}
    keys |= {f"p{point}": getattr(found, f"p{point}") for point in PERCENTILES}
    return {f"{statistic}_{name}_ms": value for statistic, value in keys.items()}


def _rate(count: float, seconds: float) -> float:
    return float(count / seconds) if seconds > 0 else 0.0


def _joined(recorder: Recorder, name: str) -> Floats:
    """One column of all arrival tables."""
    parts = [getattr(table, name) for table in recorder.tables]
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)


def _scattered(values: Mapping[int, int], count: int) -> Floats:
    """An array of zeros with a few rows filled in."""
    column = np.zeros(count)
    column[list(values)] = list(values.values())
    return column
