"""Plans as pictures: where the memory goes, how many requests, how fast.

Every function takes finished plans and reads numbers off them; nothing is planned here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvsim.figures.chart import Chart
from kvsim.figures.theme import (
    MEMORY_COLOURS,
    PALETTE,
    Axis,
    bars,
    draw,
    label,
    reference_line,
    series_colour,
)
from kvsim.units import GIB

if TYPE_CHECKING:
    from kvsim.planning.planner import Plan

__all__ = [
    "admission_chart",
    "capacity_chart",
    "concurrency_chart",
    "memory_chart",
    "plan_labels",
]

REGIME_COLOURS = {
    "admission": PALETTE["blue"],
    "steady": PALETTE["green"],
    "all full": PALETTE["orange"],
}


def plan_labels(plans: Sequence[Plan]) -> list[str]:
    """Name plans by as little as sets them apart: the card, the engine, its version, the dtype.

    What still collides gets a number.
    """
    parts = (
        [plan.accelerator.name for plan in plans],
        [plan.engine.name for plan in plans],
        [plan.engine.version for plan in plans],
        [plan.kv_cache.dtype for plan in plans],
    )
    labels = parts[0]
    for words in parts[1:]:
        if len(set(labels)) < len(plans) and len(set(words)) > 1:
            labels = [f"{text} · {word}" for text, word in zip(labels, words, strict=True)]
    return [
        f"{text} ({labels[: at + 1].count(text)})" if labels.count(text) > 1 else text
        for at, text in enumerate(labels)
    ]


# --- where the memory goes -----------------------------------------------------------------


def memory_chart(plans: Sequence[Plan]) -> Chart:
    """Draw one bar per plan: what takes the memory of the tightest rank, in GiB."""
    labels = plan_labels(plans)
    shown = [label(text) for text in labels]
    terms = {name: [_terms(plan)[name] for plan in plans] for name in MEMORY_COLOURS}
    traces = [_term_bars(name, shown, sizes) for name, sizes in terms.items() if any(sizes)]
    figure = bars(
        [*traces, _card_marks(plans, shown)],
        labels,
        x=Axis("memory of one rank", "GiB"),
        thick=28,
        barmode="stack",
    )
    rows = [
        {"plan": text, "part": name, "bytes": size, "GiB": round(size / GIB, 3)}
        for at, text in enumerate(labels)
        for name, size in ((name, sizes[at]) for name, sizes in terms.items())
    ]
    return Chart("memory", "Where the memory goes", rows, _memory_alt(labels, plans), figure)


def _terms(plan: Plan) -> dict[str, int]:
    memory = plan.memory
    return {
        "weights": memory.weights_bytes,
        "activations": memory.activation_bytes,
        "outside torch": memory.non_torch_bytes,
        "graphs": memory.cuda_graph_bytes,
        "KV cache": max(0, memory.kv_cache_bytes),
        "left alone": memory.unused_bytes,
    }


def _term_bars(name: str, shown: Sequence[str], sizes: Sequence[int]) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": shown,
        "x": [size / GIB for size in sizes],
        "marker": {"color": MEMORY_COLOURS[name]},
        "hovertemplate": "%{y}<br>" + name + ": %{x:,.2f} GiB<extra></extra>",
    }


def _card_marks(plans: Sequence[Plan], shown: Sequence[str]) -> dict[str, Any]:
    """A stroke where each card ends: bars that go past it do not fit."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "the card",
        "y": shown,
        "x": [plan.memory.total_bytes / GIB for plan in plans],
        "marker": {
            "symbol": "line-ns",
            "size": 36,
            "color": PALETTE["red"],
            "line": {"width": 3, "color": PALETTE["red"]},
        },
        "hovertemplate": "%{y}<br>the card: %{x:,.2f} GiB<extra></extra>",
    }


def _memory_alt(labels: Sequence[str], plans: Sequence[Plan]) -> str:
    sentences = [
        f"{text}: weights {plan.memory.weights_bytes / GIB:,.1f} GiB,"
        f" KV cache {max(0, plan.memory.kv_cache_bytes) / GIB:,.1f} GiB"
        f" of {plan.memory.total_bytes / GIB:,.1f} GiB"
        for text, plan in zip(labels, plans, strict=True)
    ]
    return f"Stacked bars of one rank's memory. {'; '.join(sentences)}."


# --- how much it holds ---------------------------------------------------------------------


def capacity_chart(plans: Sequence[Plan]) -> Chart:
    """Draw the tokens that each plan holds, in the three regimes, side by side."""
    labels = plan_labels(plans)
    rows = [
        {"plan": text, "regime": regime, "tokens": tokens}
        for text, plan in zip(labels, plans, strict=True)
        for regime, tokens in _regimes(plan).items()
    ]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": regime,
            "y": [label(text) for text in labels],
            "x": [_regimes(plan)[regime] for plan in plans],
            "marker": {"color": colour},
            "hovertemplate": "%{y}<br>" + regime + ": %{x:,} tokens<extra></extra>",
        }
        for regime, colour in REGIME_COLOURS.items()
    ]
    figure = bars(
        traces,
        labels,
        x=_count_axis("KV cache capacity", "tokens", (_regimes(plan).values() for plan in plans)),
        thick=48,
        barmode="group",
    )
    alt = "Tokens held by regime. " + "; ".join(
        f"{row['plan']} {row['regime']} {row['tokens']:,}" for row in rows
    )
    return Chart("capacity", "Capacity in the three regimes", rows, alt, figure)


def _regimes(plan: Plan) -> dict[str, int]:
    tokens = plan.capacity_tokens
    return {"admission": tokens.admission, "steady": tokens.steady, "all full": tokens.all_full}


def concurrency_chart(plans: Mapping[str, Plan]) -> Chart:
    """Draw concurrent requests against their length, one line per plan, both axes logarithmic.

    Parameters
    ----------
    plans : mapping of str to Plan
        Plans by the name of their line: KV dtypes, as a rule.
    """
    traces = [_length_line(at, name, plans[name]) for at, name in enumerate(plans)]
    figure = draw(
        [*traces, *_run_limit(list(plans.values()))],
        x=Axis("context of a request", "tokens", log=True, settings=_length_ticks(plans.values())),
        y=Axis("fit at once", "requests", log=True),
    )
    rows = [
        {
            "KV dtype": name,
            "context_tokens": each.context_len,
            "sequence_bytes": each.sequence_bytes,
            "requests_in_memory": each.requests,
            "requests_running": each.running,
        }
        for name, plan in plans.items()
        for each in plan.concurrency
    ]
    title = "Concurrent requests against their length"
    return Chart("concurrency", title, rows, _concurrency_alt(plans), figure)


def _length_line(at: int, name: str, plan: Plan) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(name),
        "x": [each.context_len for each in plan.concurrency],
        "y": [each.requests or None for each in plan.concurrency],
        "line": {"color": series_colour(at), "width": 2.5},
        "marker": {"symbol": at, "size": 8},
        "hovertemplate": "%{x:,} tokens<br>%{y:,} requests<extra>" + label(name) + "</extra>",
    }


def _length_ticks(plans: Iterable[Plan]) -> dict[str, Any]:
    """Label lengths as people name them: 4K is 4,096."""
    lengths = sorted({each.context_len for plan in plans for each in plan.concurrency})
    whole = [length for length in lengths if length % 1024 == 0]
    return {"tickvals": whole, "ticktext": [f"{length // 1024:,}K" for length in whole]}


def _run_limit(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """A dotted line at ``max_num_seqs``: memory holds more, but no more run."""
    limit = plans[0].options.get("max_num_seqs") if plans else None
    lengths = [each.context_len for plan in plans for each in plan.concurrency]
    if limit is None or not lengths:
        return []
    return [
        reference_line(
            "max_num_seqs",
            [min(lengths), max(lengths)],
            [limit, limit],
            line={"color": PALETTE["grey"], "dash": "dot"},
            hovertemplate="max_num_seqs: %{y:,} requests run<extra></extra>",
        )
    ]


def _concurrency_alt(plans: Mapping[str, Plan]) -> str:
    ends = [
        f"with {name} from {first.requests:,} requests of {first.context_len:,} tokens"
        f" to {last.requests:,} of {last.context_len:,}"
        for name, plan in plans.items()
        for first, last in [(plan.concurrency[0], plan.concurrency[-1])]
    ]
    return f"Concurrency falls as requests get longer: {'; '.join(ends)}."


def admission_chart(plans: Sequence[Plan]) -> Chart:
    """Draw how many requests contiguous reservation admits, and how many paging does."""
    labels = plan_labels(plans)
    ways = {
        "contiguous": [plan.contiguous_vs_paged.contiguous_requests for plan in plans],
        "paged": [plan.contiguous_vs_paged.paged_requests for plan in plans],
    }
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": way,
            "y": [label(text) for text in labels],
            "x": counts,
            "text": [f"{count:,}" for count in counts],
            "textposition": "outside",
            "textangle": 0,
            "cliponaxis": False,
            "marker": {"color": colour},
            "hovertemplate": "%{y}<br>" + way + ": %{x:,} requests<extra></extra>",
        }
        for (way, counts), colour in zip(
            ways.items(), (PALETTE["red"], PALETTE["green"]), strict=True
        )
    ]
    figure = bars(
        traces,
        labels,
        x=_count_axis("admitted", "requests", ways.values()),
        thick=36,
        barmode="group",
    )
    rows = [
        {"plan": text, **plan.contiguous_vs_paged._asdict()}
        for text, plan in zip(labels, plans, strict=True)
    ]
    return Chart("admission", _admission_title(plans), rows, _admission_alt(rows), figure)


def _admission_title(plans: Sequence[Plan]) -> str:
    lengths = {plan.contiguous_vs_paged.context_len for plan in plans}
    longest = max(lengths, default=0)
    return f"Contiguous or paged: requests of {longest:,} tokens"


def _admission_alt(rows: Sequence[Mapping[str, Any]]) -> str:
    sentences = [
        f"{row['plan']}: {row['contiguous_requests']:,} requests when each reserves the longest"
        f" sequence, {row['paged_requests']:,} when it takes blocks as it grows"
        for row in rows
    ]
    return f"{'; '.join(sentences)}."


def _count_axis(title: str, unit: str, counts: Iterable[Iterable[int]]) -> Axis:
    """An axis from nothing on, of whole things, even where there are none."""
    empty = {} if any(map(any, counts)) else {"range": [0, 1], "dtick": 1}
    return Axis(title, unit, settings={"tickformat": "~s", "rangemode": "tozero", **empty})


# --- tables --------------------------------------------------------------------------------
