"""A simulation's answer in words and tables; all numbers come ready from the summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvsim.cli.render import Bar, Part, Section, Table
from kvsim.results.latencies import (
    SATURATED_MEANINGLESS,
    TIME_BANDS,
    grows_with_the_run,
)
from kvsim.results.words import COMPARED, LATENCIES, PARTS

if TYPE_CHECKING:
    from kvsim.results.statistics import Interval
    from kvsim.runs.compare import SimulationComparison, Variant
    from kvsim.runs.replicate import Replications
    from kvsim.simulator.prepare import Setup

__all__ = ["comparison_sections", "interval_record", "run_record", "run_sections"]

SATURATED = "saturated"


# --- one scenario --------------------------------------------------------------------------


def run_record(runs: Replications) -> dict[str, Any]:
    """Return the JSON answer: the first run's summary, intervals, and where it comes from."""
    from kvsim.results.outputs import provenance

    return {
        **runs.summary,
        **interval_record(runs),
        "warnings": list(runs.cautions),
        "provenance": provenance(runs.first),
    }


def interval_record(runs: Replications) -> dict[str, Any]:
    """Return the intervals over the runs that came to their end; nothing for a single one.

    The bands are then about the means, too.
    """
    if len(runs.whole) < 2:
        return {}
    intervals = {key: found._asdict() for key, found in runs.intervals.items()}
    return {
        "replications": len(runs.whole),
        "intervals": intervals,
        TIME_BANDS: runs.time_bands,
    }


def run_sections(runs: Replications) -> Iterator[Section]:
    """Lay one scenario's answer out for a person."""
    from kvsim.workload.words import in_words

    scenario = runs.first.setup.scenario
    asked = scenario.question or in_words(scenario.workload)
    yield Section(f"{scenario.name}: {asked}", (_headline(runs),))
    told = runs.first.setup.idle_keys  # on stderr
    if cautions := [said for said in runs.cautions if said not in told]:
        yield Section("Caution", (_listed(cautions),))
    yield _latency_section(runs)
    yield _rate_section(runs)
    yield _memory_section(runs)


def _headline(runs: Replications) -> str:
    setup, summary = runs.first.setup, _shown(runs)
    engine = setup.sizing.engine
    name = f"{engine.name} {engine.version}".rstrip()
    lines = [
        f"{setup.deployment.model.name} on {setup.deployment.accelerator.name}, {name}",
        f"pool: {_pool_words(setup)}, {setup.scenario.memory.allocator}",
        f"scheduler: {_scheduler_words(setup)}",
        f"{_count(summary['completed'])} requests in {summary['duration']:,.1f} s of simulated"
        f" time, {_seeds(runs)}",
        f"step times: {setup.step_time.provenance}",
    ]
    return "\n".join(lines)


def _pool_words(setup: Setup) -> str:
    """Blocks of each pool, with their names where there are several, and the tokens they hold."""
    pools = list(setup.pools)
    words = [f"{pool.given_blocks:,} blocks of {pool.block_size:,}" for pool in pools]
    if len(words) > 1:
        words = [f"{pool.name} {said}" for pool, said in zip(pools, words, strict=True)]
    tokens = f"{setup.pool_tokens:,} tokens"
    if setup.pool_tokens != setup.pool_slots:
        tokens = f"{setup.scenario.engine.name} logs {tokens}"
    return f"{'; '.join(words)} ({tokens})"


def _runs(count: int, kind: str = "") -> str:
    return f"{count} {kind}run" if count == 1 else f"{count} {kind}runs"


def _seeds(runs: Replications) -> str:
    """Say which seeds ran, and that numbers are means where several did."""
    first, count = runs.first.recording.seed, len(runs.whole)
    if count < 2:
        return f"seed {first}"
    return f"means of {_runs(count)}, seeds {first} to {first + count - 1}"


def _shown(runs: Replications) -> dict[str, Any]:
    """Return the summary to print: its numbers are means where several runs are whole."""
    if len(runs.whole) < 2:
        return runs.summary
    means = {key: found.mean for key, found in runs.intervals.items()}
    return _with_means(runs.summary, means)


def _with_means(
    numbers: dict[str, Any], means: dict[str, float], under: str = ""
) -> dict[str, Any]:
    """Replace every number of a nested record that has a mean, by dotted key."""
    return {
        key: _with_means(value, means, f"{under}{key}.")
        if isinstance(value, dict)
        else means.get(under + key, value)
        for key, value in numbers.items()
    }


def _scheduler_words(setup: Setup) -> str:
    """The policy, its parameters, whether it plans a step ahead, and whom it mimics."""
    policy = setup.scenario.scheduler.policy
    words = [f"{name}={value}" for name, value in policy.parameters.items()]
    if setup.is_async:
        words.append("asynchronous")
    return ", ".join([str(policy), *words, f"as {setup.scheduler.mimics}"])


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _latency_section(runs: Replications) -> Section:
    intervals = runs.intervals if len(runs.whole) > 1 else {}
    bands, sure = runs.first.time_bands, runs.time_bands["intervals"]
    headers = ["ms", "mean", "p50", "p90", "p95", "p99"]
    headers += ["mean within"] if bands else []
    headers += ["95 % interval of the mean"] if intervals else []
    rows = []
    for name, label in LATENCIES.items():
        key = f"mean_{name}_ms"
        row = [label, *_latency_points(runs, name)]
        if bands:
            row.append(f"{_span(sure[key], ',.1f')}, {bands[name].sure}" if key in sure else "-")
        if intervals:
            hidden = row[1] == SATURATED
            row.append(_span(None if hidden else _ends(intervals.get(key)), ",.2f"))
        rows.append(tuple(row))
    words = "\n".join(runs.first.how_sure)
    return Section("Latency", (Table(tuple(headers), tuple(rows)), *filter(None, [words])))


def _latency_points(runs: Replications, name: str) -> list[str]:
    if runs.saturated and name in SATURATED_MEANINGLESS:
        return [SATURATED, *"----"]
    summary = _shown(runs)
    keys = [f"{point}_{name}_ms" for point in ("mean", "p50", "p90", "p95", "p99")]
    return [_number(summary[key], ",.2f") for key in keys]


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def _span(ends: Sequence[float] | None, style: str) -> str:
    return "-" if ends is None else " to ".join(format(each, style) for each in ends)


def _rate_section(runs: Replications) -> Section:
    summary = _shown(runs)
    prefix = summary["prefix_cache"]
    rows = [
        ("requests/s", _number(summary["request_throughput"], ",.3f")),
        ("output tokens/s", _number(summary["output_throughput"], ",.1f")),
        ("input and output tokens/s", _number(summary["total_token_throughput"], ",.1f")),
        ("good requests/s (SLO)", _number(summary["request_goodput"], ",.3f")),
        ("mean batch, sequences", _number(summary["mean_batch_size"], ",.1f")),
        ("rejected", _count(summary["rejected"])),
        *_unfinished(summary),
        ("preemptions", _count(summary["preemptions"])),
        ("recomputed / swapped tokens", _two(summary, "recomputed_tokens", "swapped_tokens")),
        ("prefix tokens found / looked up", _found(prefix)),
        ("time that memory kept requests out", _number(summary["memory_limited"], ".1%")),
        ("busy time bound by", _shares(summary["bound_by"])),
    ]
    if "swap_break_even_tokens" in summary:
        rows.append(("swapping pays from, tokens", _break_even(summary["swap_break_even_tokens"])))
    return Section("Work", (Table(("over the run", "value"), tuple(rows)),))


def _unfinished(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A row for requests that a run was cut over, where there are any."""
    count = summary["unfinished"]
    return [("unfinished", _count(count))] if count else []


def _memory_section(runs: Replications) -> Section:
    cache = _shown(runs)["kv_cache"]
    parts = tuple(
        Part(label, cache["waste"][name], f"{cache['waste'][name]:7.2%}")
        for name, label in PARTS.items()
    )
    held = f"held {cache['usage_mean']:.1%} on average, {cache['usage_peak']:.1%} at most"
    return Section("KV cache, share of the pool over time", (Bar(parts), held))


# --- variants ------------------------------------------------------------------------------


def comparison_sections(found: SimulationComparison) -> Iterator[Section]:
    """Lay variants out side by side: values, then differences from the first."""
    first, *others = found.variants
    keys = [key for key in COMPARED if any(_says(variant, key) for variant in found.variants)]
    scenario = first.runs.first.setup.scenario.name
    met = "the same requests for every variant" if found.same_requests else "variants"
    title = f"{scenario}: {met}"
    yield Section(title, (_values(found, keys),))
    if others:
        changes = Table(
            ("", *(_heading(variant) for variant in others)),
            tuple(
                (COMPARED[key].label, *(_change(found, variant, key) for variant in others))
                for key in keys
            ),
        )
        runs = len(first.runs.whole)
        how = f"mean of {runs} paired runs, ± 95 % interval" if runs > 1 else "one run"
        yield Section(f"Difference from {first.label} ({how})", (changes,))
    if "scheduler.preemption" in first.overrides:
        yield Section("Swap or recompute", (_swap_lines(found),))
    told = {line for variant in found.variants for line in variant.runs.first.setup.idle_keys}
    if cautions := found.cautions(but=told):
        yield Section("Caution", (_listed(cautions),))
    if found.how_sure:
        yield Section("How sure the latencies are", ("\n".join(found.how_sure),))
    yield _step_times(found)


def _values(found: SimulationComparison, keys: Sequence[str]) -> Table:
    """A column per variant, a row per quantity."""
    rows = [row for key in keys for row in _value_rows(found, key)]
    named = ", ".join(found.variants[0].overrides)
    headers = (named, *(_heading(variant) for variant in found.variants))
    return Table(headers, (*_pool_rows(found), *rows))


def _value_rows(found: SimulationComparison, key: str) -> Iterator[tuple[str, ...]]:
    """One quantity, and below it within what a measured one would be."""
    yield COMPARED[key].label, *(_value(variant, key) for variant in found.variants)
    spans = [variant.runs.time_bands["intervals"].get(key) for variant in found.variants]
    if any(spans):
        style = COMPARED[key].style
        yield "  within", *(_span(span, style) for span in spans)


def _pool_rows(found: SimulationComparison) -> list[tuple[str, ...]]:
    """Say how large the pools are, where they are not all alike."""
    held = [variant.runs.first.setup.pool_tokens for variant in found.variants]
    return [("pool, tokens", *(f"{count:,}" for count in held))] if len(set(held)) > 1 else []


def _step_times(found: SimulationComparison) -> Section:
    """Say where step times come from: measured, or assumed of a card that nobody measured."""
    sources = (variant.runs.first.setup.step_time.provenance for variant in found.variants)
    return Section("Step times", ("\n".join(dict.fromkeys(sources)),))


def _heading(variant: Variant) -> str:
    """The variant's values; of one that was cut, that it was."""
    return variant.label if variant.runs.whole else f"{variant.label} (interrupted)"


def _mean(variant: Variant, key: str) -> float | None:
    found = variant.runs.intervals.get(key)
    return None if found is None else found.mean


def _says(variant: Variant, key: str) -> bool:
    """Whether a row is worth printing for the variant: it has a value, or none by saturation."""
    return _is_hidden(variant, key) or bool(_mean(variant, key))


def _value(variant: Variant, key: str) -> str:
    """One value; a saturated variant's growing latencies are not printed."""
    if _is_hidden(variant, key):
        return SATURATED
    return _number(_mean(variant, key), COMPARED[key].style)


def _change(found: SimulationComparison, variant: Variant, key: str) -> str:
    if _is_hidden(variant, key) or _is_hidden(found.variants[0], key):
        return SATURATED
    change = found.difference(variant, key)
    if change is None:
        return "-"
    style = COMPARED[key].style
    text = format(change.mean, "+" + style)
    if len(variant.runs.whole) > 1:
        text += " ± " + format(change.high - change.mean, style)
    return text


def _is_hidden(variant: Variant, key: str) -> bool:
    return variant.runs.saturated and grows_with_the_run(key)


def _swap_lines(found: SimulationComparison) -> str:
    from kvsim.results.result import swap_break_even_tokens

    tokens = swap_break_even_tokens(found.variants[0].runs.first.setup)
    return f"moving a victim's cache out and back costs no more than recomputing it {_from(tokens)}"


# --- words ---------------------------------------------------------------------------------


def _from(tokens: int | None) -> str:
    return "at no length" if tokens is None else f"from {tokens:,} tokens on"


def _break_even(tokens: int | None) -> str:
    return "never" if tokens is None else f"{tokens:,}"


def _two(numbers: dict[str, Any], first: str, second: str) -> str:
    return f"{_count(numbers[first])} / {_count(numbers[second])}"


def _found(prefix: dict[str, Any]) -> str:
    """Prompt tokens found and looked up, and the share."""
    share = "" if prefix["hit_rate"] is None else f" ({prefix['hit_rate']:.1%})"
    return _two(prefix, "hits", "queries") + share


def _count(number: float) -> str:
    """A count, or the mean of several."""
    return f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def _shares(shares: dict[str, float]) -> str:
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {share:.0%}" for name, share in ordered) or "-"
