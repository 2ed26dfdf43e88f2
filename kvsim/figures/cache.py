"""Prefix caches as pictures: hit ratio against size, tiers, and what a hit costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvsim.figures.chart import Chart, Row, Table
from kvsim.figures.theme import CATEGORIES, ONE_TWO_FIVE, PALETTE, Axis, draw, label
from kvsim.units import GIB

if TYPE_CHECKING:
    from kvsim.studies.cache import HitCost, TierGain

__all__ = ["HitCurve", "hit_cost_chart", "hit_ratio_chart", "tier_chart", "tier_table"]

_POLICY_LINES: dict[str, dict[str, Any]] = {
    "lru": {"color": PALETTE["blue"]},
    "fifo": {"color": PALETTE["orange"], "dash": "dash"},
    "lfu": {"color": PALETTE["pink"], "dash": "dot"},
    "belady": {"color": PALETTE["green"], "width": 3},
}
_TIER_COLOURS = {
    "GPU": PALETTE["green"],
    "CPU": PALETTE["blue"],
    "SSD": PALETTE["orange"],
    "computed again": "rgba(140,140,140,0.35)",
}
_PRETTY = {"belady": "Belady (offline best)", "lru": "LRU", "fifo": "FIFO", "lfu": "LFU"}


@dataclass(frozen=True, slots=True)
class HitCurve:
    """Hit ratios of one policy.

    Parameters
    ----------
    policy : str
        Its name.
    capacities_blocks : sequence of int
        Cache sizes.
    ratios : sequence of float
        Share of block references that each answers.
    """

    policy: str
    capacities_blocks: Sequence[int]
    ratios: Sequence[float]


def hit_ratio_chart(
    curves: Sequence[HitCurve], block_bytes: float, marks: Mapping[str, float] | None = None
) -> Chart:
    """Draw hit ratio against cache size, one line per policy.

    Parameters
    ----------
    curves : sequence of HitCurve
        One per policy.
    block_bytes : float
        KV bytes of a block, all devices of a replica together.
    marks : mapping of str to float, optional
        Sizes in bytes to mark: "GPU", "GPU + CPU".
    """
    rows = [
        {
            "policy": curve.policy,
            "cache_GiB": size * block_bytes / GIB,
            "blocks": size,
            "hit_ratio": ratio,
        }
        for curve in curves
        for size, ratio in zip(curve.capacities_blocks, curve.ratios, strict=True)
    ]
    figure = draw(
        [*(_curve_trace(curve, block_bytes) for curve in curves), *_mark_traces(marks or {})],
        x=Axis("cache", "GiB", log=True, settings=ONE_TWO_FIVE),
        y=Axis("hits", "% of block references", settings={"range": [0, 110], "dtick": 20}),
        height=420,
    )
    return Chart("hit-ratio", "Hit ratio against cache size", rows, _curve_alt(curves), figure)


def _curve_trace(curve: HitCurve, block_bytes: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": _PRETTY.get(curve.policy, curve.policy),
        "x": [size * block_bytes / GIB for size in curve.capacities_blocks],
        "y": [100 * ratio for ratio in curve.ratios],
        "customdata": list(curve.capacities_blocks),
        "line": _POLICY_LINES.get(curve.policy, {}),
        "hovertemplate": "%{x:,.3g} GiB, %{customdata:,} blocks<br>%{y:.1f} % hit",
    }


def _mark_traces(marks: Mapping[str, float]) -> list[dict[str, Any]]:
    """Vertical strokes at the sizes that somebody has.

    Each name stands left of its stroke and above the strokes before it: however close they
    are, and at the edge of a narrow screen, it can be read.
    """
    known = [(name, size) for name, size in marks.items() if size > 0]
    return [
        {
            "type": "scatter",
            "mode": "lines+text",
            "x": [size / GIB, size / GIB],
            "y": [0, 104 - 7 * (len(known) - 1 - at)],
            "text": ["", f"{label(name)}&nbsp;"],
            "textposition": "middle left",
            "showlegend": False,
            "line": {"color": PALETTE["grey"], "dash": "dash", "width": 1.5},
            "hovertemplate": f"{label(name)}: %{{x:,.1f}} GiB<extra></extra>",
        }
        for at, (name, size) in enumerate(known)
    ]


def _curve_alt(curves: Sequence[HitCurve]) -> str:
    ends = "; ".join(
        f"{curve.policy} {100 * curve.ratios[0]:.0f} % to {100 * curve.ratios[-1]:.0f} %"
        for curve in curves
        if curve.ratios
    )
    return f"Hit ratio from the smallest cache to one that never evicts: {ends}."


def tier_chart(gains: Mapping[str, Sequence[TierGain]]) -> Chart:
    """Draw where each policy's references are found: a stacked bar per policy.

    Parameters
    ----------
    gains : mapping of str to sequence of TierGain
        By policy.
    """
    rows: list[dict[str, Any]] = [
        {"policy": policy, "found_in": name, "share": share}
        for policy, found in gains.items()
        for name, share in _shares(found).items()
    ]
    places = dict.fromkeys(str(row["found_in"]) for row in rows)
    traces = [_place_bars(place, rows) for place in places]
    figure = draw(
        traces,
        x=Axis("block references", "%", settings={"range": [0, 100]}),
        y=CATEGORIES,
        height=130 + 40 * len(gains),
        barmode="stack",
        bargap=0.35,
    )
    alt = "Where references are found. " + "; ".join(
        f"{row['policy']} {row['found_in']} {100 * row['share']:.0f} %" for row in rows
    )
    return Chart("tiers", "Where a block is found", rows, alt, figure)


def _shares(found: Sequence[TierGain]) -> dict[str, float]:
    last = found[-1].hit_ratio if found else 0.0
    return {each.name: each.gained for each in found} | {"computed again": 1 - last}


def _place_bars(place: str, rows: Sequence[Row]) -> dict[str, Any]:
    mine = [row for row in rows if row["found_in"] == place]
    return {
        "type": "bar",
        "orientation": "h",
        "name": place,
        "y": [_PRETTY.get(row["policy"], row["policy"]) for row in mine],
        "x": [100 * row["share"] for row in mine],
        "marker": {"color": _TIER_COLOURS.get(place)},
        "hovertemplate": "%{y}<br>" + place + ": %{x:.1f} %<extra></extra>",
    }


def tier_table(gains: Sequence[TierGain], costs: Sequence[HitCost]) -> Table:
    """List what every tier adds, and what fetching its hits costs beside computing them.

    Parameters
    ----------
    gains : sequence of TierGain
        From the fastest tier down.
    costs : sequence of HitCost
        Of a prefix as long as each tier's tokens per request; a tier without a link is at hand.
    """
    rows = [
        {
            "tier": gain.name,
            "size GiB": round(gain.capacity_bytes / GIB, 1),
            "hit %, with those above": round(100 * gain.hit_ratio, 1),
            "adds %": round(100 * gain.gained, 1),
            "adds tokens/request": round(gain.gained_tokens_per_request),
            "fetch ms/request": round(1e3 * cost.fetch_seconds.get(gain.name, 0.0), 2),
            "recompute ms/request": round(1e3 * cost.recompute_seconds, 2),
        }
        for gain, cost in zip(gains, costs, strict=True)
    ]
    return Table("tier-gains", "What each tier adds", rows)


def hit_cost_chart(costs: Sequence[HitCost]) -> Chart:
    """Draw the seconds to fetch a prefix from each tier beside those to compute it again."""
    links = list(costs[0].fetch_seconds) if costs else []
    rows = [
        {
            "tokens": cost.tokens,
            "kv_GiB": cost.kv_bytes / GIB,
            "recompute_ms": 1e3 * cost.recompute_seconds,
            **{f"fetch_{name}_ms": 1e3 * cost.fetch_seconds[name] for name in links},
        }
        for cost in costs
    ]
    traces = [
        _cost_trace("computed again", costs, [cost.recompute_seconds for cost in costs]),
        *(_cost_trace(name, costs, [cost.fetch_seconds[name] for cost in costs]) for name in links),
    ]
    figure = draw(
        traces,
        x=Axis("prefix", "tokens", log=True),
        y=Axis("until it is there", "ms", log=True, settings={"tickformat": "~g"}),
        height=360,
    )
    return Chart("hit-cost", "Fetch a prefix, or compute it again", rows, _cost_alt(costs), figure)


def _cost_trace(name: str, costs: Sequence[HitCost], seconds: Sequence[float]) -> dict[str, Any]:
    again = name == "computed again"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name if again else f"fetched from {label(name)}",
        "x": [cost.tokens for cost in costs],
        "y": [1e3 * each for each in seconds],
        "line": {"color": PALETTE["grey" if again else "blue"], "width": 2.5}
        if again or name not in _TIER_COLOURS
        else {"color": _TIER_COLOURS[name], "width": 2.5},
        "hovertemplate": "%{x:,} tokens: %{y:,.3g} ms",
    }


def _cost_alt(costs: Sequence[HitCost]) -> str:
    if not costs:
        return "Nothing to fetch."
    last = costs[-1]
    fetched = ", ".join(
        f"{1e3 * at:,.1f} ms from {name}" for name, at in last.fetch_seconds.items()
    )
    return (
        f"A prefix of {last.tokens:,} tokens takes {1e3 * last.recompute_seconds:,.1f} ms to"
        f" compute again, and {fetched}."
    )
