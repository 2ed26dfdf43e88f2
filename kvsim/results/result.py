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

from kvsim.errors import InvariantError
from kvsim.results.latencies import (
    TIME_BANDS,
    bands_record,
    bench_keys,
    sure_words,
    time_bands,
    without_growing,
)
from kvsim.results.pool_parts import pool_parts
from kvsim.results.statistics import (
    Distribution,
    break_even_tokens,
    distribution,
    is_saturated,
)
from kvsim.results.step_totals import StepTotals, TotalsScope, step_totals
from kvsim.simulator.entrance import text_delays
from kvsim.simulator.prepare import Setup
from kvsim.simulator.recorder import Recorder
from kvsim.simulator.run import Recording
from kvsim.steptime.bands import TimeBand
from kvsim.steptime.kv_reads import prefill_pairs
from kvsim.steptime.model import StepLoad

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SimulationResult", "swap_break_even_tokens"]

_ROUNDING = 1e-9
_TIME_ROUNDING = 1e-12  # of many differences of times
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SimulationResult:
    """One finished (or interrupted) run.

    Parameters
    ----------
    recording : Recording
        What happened, and under which setup.
    """

    recording: Recording

    @property
    def setup(self) -> Setup:
        """The scenario and everything derived from it."""
        return self.recording.setup

    # ---- tables ---------------------------------------------------------------------------

    @cached_property
    def columns(self) -> dict[str, Floats]:
        """Arrays by name, one entry per request that arrived; NaN: it never happened."""
        recorder = self.recording.recorder
        moments = (
            recorder.scheduled_seconds, recorder.first_token_seconds, recorder.finish_seconds,
        )  # fmt: skip
        count = min(map(len, moments))  # an interrupt may fall between two of them
        queued = np.array(recorder.queued_seconds)[:count]
        queued[queued > self.recording.end_seconds] = np.nan
        scheduled, first_token, finish = (np.array(moment)[:count] for moment in moments)
        rejected = np.zeros(count)
        rejected[recorder.rejected_rows] = 1
        columns = {
            "row": np.arange(count, dtype=np.float64),
            "arrival_seconds": _joined(recorder, "arrival_seconds")[:count],
            "prompt_tokens": _joined(recorder, "prompt_tokens")[:count],
            "output_tokens": _joined(recorder, "output_tokens")[:count],
            "queued_seconds": queued,
            "scheduled_seconds": scheduled,
            "first_token_seconds": first_token,
            "finish_seconds": finish,
            "preemptions": _scattered(recorder.preemptions, count),
            "cached_tokens": _scattered(recorder.cached_tokens, count),
            "rejected": rejected,
        }
        # A workload hands its requests out ahead of time; a run that was cut has not met all.
        came = columns["arrival_seconds"] <= self.recording.end_seconds
        came |= columns["rejected"] > 0
        if came.all():
            return columns
        return {name: values[came] for name, values in columns.items()}

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request: times in seconds, lengths in tokens, latencies in seconds."""
        import pandas as pd

        frame = pd.DataFrame(self.columns)
        whole = ["row", "prompt_tokens", "output_tokens", "preemptions", "cached_tokens"]
        frame[whole] = frame[whole].astype("int64")
        frame["rejected"] = frame["rejected"].astype(bool)
        for name, values in self.latencies.items():
            frame[f"{name}_seconds"] = values
        frame.attrs |= {"name": "requests", "unit": "seconds and tokens"}
        return frame

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row per run of engine steps; see `kvsim.simulator.recorder.STEP_COLUMNS`."""
        import pandas as pd

        frame = pd.DataFrame(self.recording.recorder.step_columns())
        frame.attrs |= {"name": "steps", "unit": "seconds, tokens, bytes and slots"}
        return frame

    @cached_property
    def memory(self) -> pd.DataFrame:
        """The pool at the start of every run of steps, in token slots: its split."""
        import pandas as pd

        columns = self.recording.recorder.step_columns()
        pool = self.setup.pool_slots
        split = pool_parts(columns, pool)
        frame = pd.DataFrame({name: start for name, (start, _) in split.items()})
        frame.insert(0, "start_seconds", columns["start_seconds"])
        frame.attrs |= {"name": "memory", "unit": "token slots"}
        return frame

    # ---- latencies ------------------------------------------------------------------------

    @cached_property
    def latencies(self) -> dict[str, Floats]:
        """Latencies of every request, seconds: the client's, and the engine's from its queue on.

        TTFT, TPOT and E2E are what a client measures; `queue` and what begins with ``engine_``
        are the engine's own, without its front end.
        """
        columns = self.columns
        arrival, queued = columns["arrival_seconds"], columns["queued_seconds"]
        first, finish = columns["first_token_seconds"], columns["finish_seconds"]
        seen = first + self._text_delays(first)
        ended = finish + self._text_delays(finish)
        output = columns["output_tokens"]
        with np.errstate(invalid="ignore", divide="ignore"):
            tpot = np.where(output > 1, (ended - seen) / (output - 1), np.nan)
        return {
            "ttft": seen - arrival,
            "tpot": tpot,
            "e2el": ended - arrival,
            "queue": columns["scheduled_seconds"] - queued,
            "engine_ttft": first - queued,
            "engine_e2el": finish - queued,
        }

    def _text_delays(self, moments: Floats) -> Floats:
        """From the computation of a token to the client, seconds."""
        front = self.setup.step_time.front_end
        steps = self.recording.recorder.step_columns() if front.output_token_seconds else {}
        return text_delays(front, steps, moments)

    @cached_property
    def warm_seconds(self) -> float:
        """When the warm-up is over: the arrival of the first request that counts."""
        arrivals = self.columns["arrival_seconds"]
        skipped = int(len(arrivals) * self.setup.scenario.run.warmup_fraction)
        return float(np.partition(arrivals, skipped)[skipped]) if skipped else 0.0

    @cached_property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Requests that statistics count: those that came after the warm-up."""
        return self.columns["arrival_seconds"] >= self.warm_seconds

    @cached_property
    def distributions(self) -> dict[str, Distribution]:
        """Distributions in milliseconds: those of `latencies`, and itl."""
        judged = self.judged
        found = {
            name: distribution(1e3 * (values if judged.all() else values[judged]))
            for name, values in self.latencies.items()
        }
        totals = self.totals
        return found | {"itl": distribution(1e3 * totals.gap_seconds, totals.gap_tokens)}

    # ---- memory and time --------------------------------------------------------------------

    @cached_property
    def totals(self) -> StepTotals:
        """The totals of the run's steps after the warm-up."""
        options, scheduler = self.setup.deployment.options, self.setup.scheduler
        chunk = self.setup.chunk_tokens
        budget = options.max_num_batched_tokens - chunk + 1
        scope = TotalsScope(
            costs=self.setup.step_time,
            pool_slots=self.setup.pool_slots,
            max_num_seqs=options.max_num_seqs - self._samples + 1,
            full_step_tokens=budget if scheduler.bounds_step_tokens else np.inf,
            from_seconds=self.warm_seconds,
            to_seconds=self.recording.end_seconds,
            first_tokens=self._first_tokens() if scheduler.prefills_stop_decodes else None,
        )
        return step_totals(self.recording.recorder.step_pages(), scope)

    def _first_tokens(self) -> Floats:
        """When each sequence that decodes had its first token, ascending."""
        first = self.columns["first_token_seconds"][self.columns["output_tokens"] > 1]
        return np.repeat(np.sort(first[~np.isnan(first)]), self._samples)

    @property
    def _samples(self) -> int:
        """Sequence slots that a request needs at once."""
        return self.setup.scenario.workload.samples

    def kv_cache(self) -> dict[str, Any]:
        """Usage of the pool (held over total, 0-1) and the split of its time average."""
        totals = self.totals
        whole = totals.span_seconds * self.setup.pool_slots
        mean, split = 0.0, dict.fromkeys(totals.slot_seconds, 0.0) | {"free": 1.0}
        if whole:  # something has happened
            mean = totals.held_slot_seconds / whole
            split = {name: seconds / whole for name, seconds in totals.slot_seconds.items()}
            if not _is_whole(split, self.recording.end_seconds / totals.span_seconds):
                raise InvariantError(f"the parts of the pool over time are {split}: not all of it")
        return {
            "usage_mean": mean,
            "usage_peak": totals.peak_held_slots / self.setup.pool_slots,
            "waste": {name: max(0.0, share) for name, share in split.items()},
        }

    # ---- the summary ----------------------------------------------------------------------

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The run in ``vllm bench serve``'s words, and kvsim's own.

        ``kv_cache.waste`` adds up to 1: the four parts of the PagedAttention paper, `cached`
        prefixes that may be evicted, and what is `free`. Of a run past saturation, TTFT, E2E
        and queue time are None: see `observed`.
        """
        return without_growing(self.observed) if self.saturated else self.observed

    @cached_property
    def observed(self) -> dict[str, Any]:
        """The summary with every latency as it was seen, past saturation too.

        A mean that grows with the run is no property of the system; it is one of these very
        requests, and may be set beside what another system made of the same.
        """
        recorder, totals = self.recording.recorder, self.totals
        summary = self._totals()
        for name, found in self.distributions.items():
            summary |= bench_keys(name, found)
        busy = totals.busy_seconds or np.inf
        summary |= {
            "kv_cache": self.kv_cache(),
            "preemptions": len(recorder.preempted),
            "recomputed_tokens": recorder.recomputed_tokens,
            "swapped_tokens": recorder.swapped_tokens,
            "prefix_cache": _prefix_cache(recorder.queried_tokens, recorder.hit_tokens),
            "bound_by": {name: spent / busy for name, spent in totals.bound_seconds.items()},
            "memory_limited": self._memory_limited(),
            "mean_batch_size": totals.sequence_seconds / busy,
            "events": recorder.step_rows,
            "saturated": self.saturated,
            "interrupted": self.recording.interrupted,
        }
        if self.setup.scenario.scheduler.preemption == "swap":
            summary["swap_break_even_tokens"] = swap_break_even_tokens(self.setup)
        summary[TIME_BANDS] = bands_record(self.time_bands, summary)
        return summary

    @property
    def time_bands(self) -> dict[str, TimeBand]:
        """How sure each latency is, by name; empty where steps take a stated time."""
        return time_bands(self.setup)

    @property
    def how_sure(self) -> list[str]:
        """What the bands of the latencies rest on, in sentences."""
        return sure_words(self.time_bands)

    @cached_property
    def saturated(self) -> bool:
        """Whether requests came faster than they could be served, all run long."""
        served = self.columns["rejected"] == 0
        scheduled = self.columns["scheduled_seconds"]
        return is_saturated(self.columns["arrival_seconds"][served], scheduled[served])

    def _totals(self) -> dict[str, Any]:
        """Counts and rates of the whole run, from the first arrival to the last token."""
        columns = self.columns
        finish, arrivals = columns["finish_seconds"], columns["arrival_seconds"]
        done = ~np.isnan(finish)
        duration = (
            float(finish[done].max() - arrivals.min()) if done.any() else self.recording.end_seconds
        )
        tokens_in = int(columns["prompt_tokens"][done].sum())
        tokens_out = int(columns["output_tokens"][done].sum())
        rejected = int(columns["rejected"].sum())
        return {
            "completed": int(done.sum()),
            "failed": 0,
            "rejected": rejected,
            "unfinished": len(finish) - int(done.sum()) - rejected,
            "duration": duration,
            "total_input_tokens": tokens_in,
            "total_output_tokens": tokens_out,
            "request_throughput": _rate(done.sum(), duration),
            "request_goodput": self._goodput(duration),
            "output_throughput": _rate(tokens_out, duration),
            "total_token_throughput": _rate(tokens_in + tokens_out, duration),
        }

    def _memory_limited(self) -> float | None:
        """Share of the time that memory kept requests out; a closed batch hides it (None)."""
        if self.setup.scheduler.keeps_batch_closed:
            return None
        return self.totals.starved_seconds / (self.totals.span_seconds or np.inf)

    def _goodput(self, duration: float) -> float | None:
        """Requests per second that met every objective; None when there is none."""
        slo = self.setup.scenario.slo
        given = {"ttft": slo.ttft_ms, "tpot": slo.tpot_ms, "e2el": slo.e2el_ms}
        limits = {name: limit for name, limit in given.items() if limit is not None}
        if not limits:
            return None
        good = ~np.isnan(self.columns["finish_seconds"])
        for name, limit in limits.items():
            values = self.latencies[name]
            good &= np.isnan(values) | (1e3 * values <= limit)  # one token has no TPOT
        return _rate(good.sum(), duration)


def swap_break_even_tokens(setup: Setup) -> int | None:
    """Length from which swapping a request out and in is no dearer than recomputing it.

    Recomputing is what the tokens add to a step in which another sequence decodes; swapping
    moves each token's KV over the host link twice.

    Returns
    -------
    int or None
        Tokens; None when recomputing is cheaper for every length that the model takes.
    """
    model, cost = setup.deployment.model, setup.step_time.cost
    still = cost(StepLoad(tokens=2, sequences=2)).seconds

    def recompute_seconds(tokens: int) -> float:
        pairs = prefill_pairs(model, 0, tokens)
        return cost(StepLoad(tokens + 1, 2, prefill_pairs=pairs)).seconds - still

    move = 2 * setup.token_bytes / setup.scenario.scheduler.host_link_bytes_per_s
    most = setup.deployment.options.max_model_len
    return break_even_tokens(recompute_seconds, move, most)


def _is_whole(split: Mapping[str, float], lateness: float) -> bool:
    """Whether shares, each counted by itself, are all of something.

    Times are rounded the more the later they are: `lateness` is the latest over the whole span.
    """
    rounding = _ROUNDING + _TIME_ROUNDING * lateness
    return abs(sum(split.values()) - 1) < rounding and min(split.values()) > -rounding


def _rate(count: float, seconds: float) -> float:
    return float(count / seconds) if seconds > 0 else 0.0


def _prefix_cache(queries: int, hits: int) -> dict[str, float | None]:
    """Prompt tokens looked up and found, and the share of them (None: nothing was looked up)."""
    return {"queries": queries, "hits": hits, "hit_rate": hits / queries if queries else None}


def _joined(recorder: Recorder, name: str) -> Floats:
    """One column of all arrival tables."""
    parts = [getattr(table, name) for table in recorder.tables]
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)


def _scattered(values: Mapping[int, int], count: int) -> Floats:
    """An array of zeros with a few rows filled in."""
    column = np.zeros(count)
    column[list(values)] = list(values.values())
    return column
