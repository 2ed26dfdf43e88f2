"""The Learn page's pictures: what is computed again, what a head keeps, who holds a block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvsim.figures.chart import Chart, Table
from kvsim.figures.grids import grid, named_squares
from kvsim.figures.theme import CATEGORIES, CYCLE, PALETTE, Axis, draw, muted, series_colour
from kvsim.units import MIB, format_bytes

if TYPE_CHECKING:
    from kvsim.planning.planner import Plan
    from kvsim.studies.lessons import Keeping, Moment, Story, Work

__all__ = [
    "attention_chart",
    "block_table",
    "growth_chart",
    "heads_chart",
    "kept_chart",
    "pool_chart",
    "validity_chart",
    "work_chart",
]

_ATTENTION_COLOURS = {
    "computed now": PALETTE["orange"],
    "read from the cache": PALETTE["green"],
    "done before": "rgba(140,140,140,0.5)",
    "future": "rgba(140,140,140,0.08)",
}
_VALIDITY_COLOURS = {
    "kept": PALETTE["green"],
    "new": PALETTE["orange"],
    "wrong": PALETTE["red"],
    "dropped": "rgba(140,140,140,0.35)",
}
_OWNER_COLOURS = dict(zip("ABCDE", CYCLE, strict=False))
_FREE = "rgba(140,140,140,0.15)"
# Who holds a slot is written into it.
_POOL_LEGEND = {
    "a request's token": PALETTE["blue"],
    "held, empty": muted(PALETTE["blue"]),
    "free": _FREE,
}
ROW_SLOTS = 16


# --- why K and V ---------------------------------------------------------------------------


def attention_chart(pairs: Sequence[Sequence[str]], *, cached: bool) -> Chart:
    """Draw what becomes of every query-key pair while one token is produced."""
    trace = named_squares(pairs, _ATTENTION_COLOURS)
    size = len(pairs)
    figure = grid(
        trace,
        _ATTENTION_COLOURS if cached else _only(_ATTENTION_COLOURS, "computed now", "future"),
        x=Axis("keys and values of token", settings={"dtick": 1}),
        y=Axis("query of token", settings={"dtick": 1}),
    )
    rows = [
        {"query token": query, "key token": key, "what": what}
        for query, row in enumerate(pairs)
        for key, what in enumerate(row)
    ]
    fresh = sum(row["what"] == "computed now" for row in rows)
    way = "with" if cached else "without"
    alt = (
        f"A triangle of {size} queries by {size} keys: {way} a cache {fresh} of"
        f" {size * (size + 1) // 2} scores need K and V that are computed now."
    )
    return Chart("attention", f"Producing token {size + 1} {way} a cache", rows, alt, figure)


def _only(colours: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: colours[name] for name in names}


def work_chart(work: Sequence[Work]) -> Chart:
    """Draw the arithmetic of every decode step, with and without a cache."""
    ways = {"without a cache": "recomputed_flops", "with a cache": "cached_flops"}
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": [each.step for each in work],
            "y": [getattr(each, column) / 1e12 for each in work],
            "line": {"color": colour, "width": 2.5},
            "hovertemplate": "step %{x:,}<br>%{y:,.3g} TFLOP<extra>" + name + "</extra>",
        }
        for (name, column), colour in zip(
            ways.items(), (PALETTE["red"], PALETTE["green"]), strict=True
        )
    ]
    figure = draw(
        traces,
        x=Axis("output token", "number"),
        y=Axis("work of its step", "TFLOP", log=True, settings={"tickformat": "~g"}),
    )
    without = sum(each.recomputed_flops for each in work)
    factor = without / sum(each.cached_flops for each in work)
    alt = (
        f"Without a cache every step computes the whole context again: {factor:,.1f} times the"
        f" arithmetic of the {len(work):,} steps with one."
    )
    rows = [each._asdict() for each in work]
    return Chart("work", "Arithmetic of every step", rows, alt, figure)


# --- heads ---------------------------------------------------------------------------------


def heads_chart(keepings: Sequence[Keeping], context: int) -> Chart:
    """Draw what one sequence keeps under each arrangement of heads."""
    figure = draw(
        [
            {
                "type": "bar",
                "orientation": "h",
                "y": [each.kind for each in keepings],
                "x": [each.sequence_bytes / MIB for each in keepings],
                "text": [
                    f"{format_bytes(each.bytes_per_token)} per token, {100 * each.share:.1f} %"
                    for each in keepings
                ],
                "textposition": "auto",
                "marker": {"color": list(CYCLE[: len(keepings)])},
                "hovertemplate": "%{y}: %{x:,.1f} MiB<extra></extra>",
            }
        ],
        x=Axis(f"one sequence of {context:,} tokens keeps", "MiB"),
        y=CATEGORIES,
        height=300,
        showlegend=False,
    )
    alt = "; ".join(
        f"{each.kind} keeps {format_bytes(each.sequence_bytes)}, {100 * each.share:.1f} % of MHA"
        for each in keepings
    )
    rows = [each._asdict() for each in keepings]
    return Chart("heads", "One model, four arrangements of its heads", rows, f"{alt}.", figure)


def growth_chart(by_context: Mapping[int, Sequence[Keeping]]) -> Chart:
    """Draw how a sequence grows with its tokens, one line per arrangement of heads.

    Parameters
    ----------
    by_context : mapping of int to sequence of Keeping
        What each arrangement keeps, by the context in tokens.
    """
    rows: list[dict[str, Any]] = [
        {"kind": each.kind, "context_tokens": context, "sequence_bytes": each.sequence_bytes}
        for context, keepings in by_context.items()
        for each in keepings
    ]
    kinds = dict.fromkeys(row["kind"] for row in rows)
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": kind,
            "x": [row["context_tokens"] for row in rows if row["kind"] == kind],
            "y": [row["sequence_bytes"] / MIB for row in rows if row["kind"] == kind],
            "line": {"color": series_colour(at), "width": 2.5},
            "marker": {"symbol": at, "size": 8},
            "hovertemplate": "%{x:,} tokens: %{y:,.1f} MiB<extra>" + kind + "</extra>",
        }
        for at, kind in enumerate(kinds)
    ]
    figure = draw(
        traces,
        x=Axis("context", "tokens", log=True),
        y=Axis("one sequence keeps", "MiB", log=True, settings={"tickformat": "~g"}),
    )
    last = max(by_context)
    alt = f"Every kind grows in proportion to the tokens. At {last:,} tokens: " + "; ".join(
        f"{each.kind} {format_bytes(each.sequence_bytes)}" for each in by_context[last]
    )
    return Chart("growth", "Growth with the tokens", rows, alt, figure)


# --- blocks --------------------------------------------------------------------------------


def pool_chart(story: Story, moment: int) -> Chart:
    """Draw the pool at one moment of a story; it plays from there on.

    A letter in a slot is a token of that request; pale slots are held for tokens to come,
    crossed ones are held and will never be used.
    """
    now = story.moments[moment]
    figure = grid(
        _pool_trace(now, story.block_size),
        _POOL_LEGEND,
        x=Axis("slot in the row", "tokens", settings={"dtick": 4}),
        y=Axis("first slot", "address", settings={"type": "category"}),
        height=330,
    )
    figure.frames = [
        {"name": str(at), "data": [_pool_trace(each, story.block_size)], "traces": [0]}
        for at, each in enumerate(story.moments)
    ]
    figure.update_layout(updatemenus=[_player(moment, len(story.moments))])
    rows = [
        {"address": at, "block": at // story.block_size, "request": slot.owner, "use": slot.use}
        for at, slot in enumerate(now.slots)
    ]
    return Chart(f"pool-{story.policy}", _POOL_TITLES[story.policy], rows, _pool_alt(now), figure)


_POOL_TITLES = {
    "paged": "Paged: a block when it is needed",
    "reserve-max": "Contiguous: room for the longest sequence",
    "reserve-pow2": "Contiguous: room rounded up to a power of two",
    "reserve-oracle": "Contiguous: as if the length were known",
}


def _pool_trace(moment: Moment, block_size: int) -> dict[str, Any]:
    names = [_slot_name(slot.owner, slot.use) for slot in moment.slots]
    texts = [{"token": slot.owner, "never": "x"}.get(slot.use, "") for slot in moment.slots]
    hovers = [
        f"slot {at}, block {at // block_size}: {slot.owner or 'nobody'}, {slot.use}"
        for at, slot in enumerate(moment.slots)
    ]
    colours = {_slot_name("", "free"): _FREE}
    for owner, colour in _OWNER_COLOURS.items():
        colours[_slot_name(owner, "token")] = colour
        colours[_slot_name(owner, "to come")] = muted(colour)
    trace = named_squares(_rows(names), colours, texts=_rows(texts), hovers=_rows(hovers))
    return trace | {"y": [str(at) for at in range(0, len(names), ROW_SLOTS)]}


def _slot_name(owner: str, use: str) -> str:
    if use == "free":
        return "free"
    return f"{owner} token" if use == "token" else f"{owner} held"


def _rows(slots: Sequence[str]) -> list[list[str]]:
    return [list(slots[at : at + ROW_SLOTS]) for at in range(0, len(slots), ROW_SLOTS)]


def _player(first: int, moments: int) -> dict[str, Any]:
    """A button that plays the moments from `first` to the end, and one that stops."""
    timing = {"frame": {"duration": 700, "redraw": True}, "transition": {"duration": 0}}
    play = [[str(at) for at in range(first, moments)], timing | {"fromcurrent": False}]
    stop = [[None], timing | {"mode": "immediate"}]
    return {
        "type": "buttons",
        "direction": "right",
        "showactive": False,
        "x": 1,
        "xanchor": "right",
        "y": 0,
        "yanchor": "top",
        "pad": {"t": 68},  # below the axis and its title
        "buttons": [
            {"label": "▶ Play", "method": "animate", "args": play},
            {"label": "■ Stop", "method": "animate", "args": stop},
        ],
    }


def _pool_alt(moment: Moment) -> str:
    return (
        f"{' '.join(moment.events)} Of {len(moment.slots)} slots {moment.count('token')} hold"
        " tokens,"
        f" {moment.count('to come')} are held for tokens to come, {moment.count('never')} are"
        f" held for nothing, {moment.count('free')} are free."
    )


def block_table(story: Story, moment: int) -> Table:
    """Each request's block table, or its base and limit."""
    now, paged = story.moments[moment], story.policy == "paged"
    rows = [
        {
            "request": name,
            **_place(place, paged=paged),
            "last token lies in": _last_slot(now, name),
        }
        for name, place in now.tables.items()
    ]
    title = "Block tables" if paged else "Segments: base and limit"
    return Table(f"table-{story.policy}", title, rows)


def _place(place: tuple[int, ...], *, paged: bool) -> dict[str, Any]:
    if paged:
        return {"block table": " ".join(map(str, place))}
    return dict(zip(("base, slot", "limit, slots"), place, strict=True))


def _last_slot(moment: Moment, name: str) -> str:
    places = [at for at, slot in enumerate(moment.slots) if slot == (name, "token")]
    return f"slot {places[-1]}" if places else ""


# --- keeping less --------------------------------------------------------------------------


def kept_chart(plans: Mapping[str, Plan]) -> Chart:
    """Draw what each retention policy keeps of a sequence, for several KV dtypes.

    Parameters
    ----------
    plans : mapping of str to Plan
        Plans that differ in their KV dtype, by its name.
    """
    first = next(iter(plans.values()))
    figure = draw(
        [_kept_bars(at, dtype, plans[dtype]) for at, dtype in enumerate(plans)],
        x=Axis(f"one sequence of {first.kv_cache.max_model_len:,} tokens keeps", "MiB"),
        y=CATEGORIES,
        height=420,
        barmode="group",
    )
    rows = [
        {"KV dtype": dtype, **each._asdict()}
        for dtype, plan in plans.items()
        for each in plan.retention
    ]
    alt = "; ".join(
        f"{row['policy']} in {row['KV dtype']}: {format_bytes(row['sequence_bytes'])}"
        for row in rows
    )
    return Chart("kept", "Keeping less of a sequence", rows, alt, figure)


def _kept_bars(at: int, dtype: str, plan: Plan) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": dtype,
        "y": [each.policy for each in plan.retention],
        "x": [each.sequence_bytes / MIB for each in plan.retention],
        "customdata": [each.price for each in plan.retention],
        "text": [f"{100 * each.share:.1f} % of full" for each in plan.retention],
        "textposition": "auto",
        "marker": {"color": series_colour(at)},
        "hovertemplate": "%{y}: %{x:,.1f} MiB<br>price: %{customdata}<extra>" + dtype + "</extra>",
    }


# --- when there is nothing to keep ---------------------------------------------------------


def validity_chart(kind: str, states: Sequence[Sequence[str]]) -> Chart:
    """Draw which layers' K and V survive when a token is appended."""
    layers = len(states)
    trace = named_squares(states[::-1], _VALIDITY_COLOURS)
    trace["y"] = [f"layer {layer}" for layer in reversed(range(layers))]
    shown = {name for row in states for name in row}
    figure = grid(
        trace,
        {name: colour for name, colour in _VALIDITY_COLOURS.items() if name in shown},
        x=Axis("K and V of token", settings={"dtick": 1}),
        y=Axis(settings={"type": "category"}),
        height=300,
    )
    rows = [
        {"layer": layer, "token": token, "what": what}
        for layer, row in enumerate(states)
        for token, what in enumerate(row)
    ]
    wrong = sum(row["what"] == "wrong" for row in rows)
    alt = f"In a {kind}, {wrong} of {len(rows)} cached pairs are wrong once a token is appended."
    return Chart("validity", f"One more token in a {kind}", rows, alt, figure)
