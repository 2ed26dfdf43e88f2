"""Cache: how often a prefix cache hits, at which size, and what a tier below the GPU adds."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

import kvsim
from app.parts import catalogue, command_line, planning, prefixes, shown
from app.parts.rows import ask_row
from app.parts.trouble import in_place
from app.parts.words import plain
from app.state import Choice, Count, Field, PageState, Several, Share
from kvsim import CacheTier, figures

GIB = 2**30
GB = 10**9
SIZES = 12
LENGTHS = tuple(2**power for power in range(8, 18))

FIELDS: tuple[Field, ...] = (
    Choice(
        key="trace",
        label="Trace",
        default="conversations",
        options=prefixes.traces,
        help="Small examples made by kvsim's generator, or a file of yours.",
    ),
    Several(
        key="policy",
        label="Policies",
        default=("lru", "fifo", "lfu", "belady"),
        options=kvsim.cache_policy_names,
        most=6,
        help="Belady knows the future: no policy that always admits does better.",
    ),
    Count(
        key="refs",
        label="Block references at most",
        default=60_000,
        least=1000,
        most=500_000,
        step=10_000,
        help="The trace is cut after the last whole request within so many.",
    ),
    catalogue.model_field(default="llama3.1-8b"),
    catalogue.card_field(default="H100-SXM5-80GB"),
    Count(key="tp", label="Tensor parallel", default=1, most=64),
    catalogue.kv_dtype_field(),
    Count(
        key="gpu_gib",
        label="KV cache on the GPU (GiB)",
        most=100_000,
        placeholder="as planned",
        help="Of the whole replica; empty: what the plan leaves.",
    ),
    Count(key="cpu_gib", label="CPU tier (GiB)", default=128, least=0, most=100_000, step=32),
    Count(key="ssd_gib", label="SSD tier (GiB)", default=0, least=0, most=1_000_000, step=256),
    Share(
        key="cpu_gbps",
        label="Host link (GB/s per device)",
        default=25.0,
        least=0.1,
        most=2000.0,
        step=5.0,
        help="One direction. PCIe 4.0 x16 moves about 25 GB/s, 5.0 about 50.",
    ),
    Share(
        key="ssd_gbps",
        label="SSD (GB/s per device)",
        default=6.0,
        least=0.1,
        most=2000.0,
        step=1.0,
    ),
    Count(key="seed", label="Seed of the example", default=0, least=0, most=10**9),
)


@dataclass(frozen=True)
class Memory:
    """What a token costs here, and where tokens can be kept."""

    token_bytes: int
    tiers: tuple[CacheTier, ...]
    links: tuple[tuple[str, float], ...]

    @property
    def marks(self) -> dict[str, float]:
        """The sizes that the tiers add up to, by their names."""
        names, total, marks = [], 0.0, {}
        for tier in self.tiers:
            names.append(tier.name)
            total += tier.capacity_bytes
            marks[" + ".join(names)] = total
        return marks


def main() -> None:
    """Ask, replay, show."""
    st.title("How often would a prefix cache hit?", anchor=False)
    state = PageState("cache", FIELDS)
    values = ask(state)
    state.publish()
    if not values["policy"]:
        st.info("Choose at least one policy.")
        return
    with in_place():
        chosen = prefixes.subject(values["trace"], values["refs"], values["seed"])
        describe(chosen.trace)
        memory = _memory(values)
        hits(chosen, values["policy"], memory)
        tiers(chosen, values, memory)
    command_line.show(_commands(values))


def ask(state: PageState) -> dict[str, Any]:
    """Draw the inputs and return their values by key."""
    with st.expander("Bring your own trace", icon=":material/upload:"):
        most = state.ask("refs")
        if prefixes.ask_file(most):
            state.set("trace", prefixes.UPLOADED)
        st.caption(
            "Mooncake's, Bailian's, WEKA's or kvsim's format: requests with hash_ids or"
            " block_ids, plain or gzip. A file is read here and forgotten when you leave."
        )
    values = {"refs": most}
    values |= ask_row(state, "trace", "policy", "seed", widths=[2, 4, 1])
    values |= ask_row(state, "model", "gpu", "tp", "kv", widths=[3, 3, 1, 2])
    return values | ask_row(state, "gpu_gib", "cpu_gib", "ssd_gib", "cpu_gbps", "ssd_gbps")


def describe(trace: kvsim.PrefixTrace) -> None:
    """Say what the trace is, and what was left out of it."""
    numbers = {
        "Requests": f"{len(trace.requests):,}",
        "Block references": f"{trace.references:,}",
        "Distinct blocks": f"{trace.distinct_blocks:,}",
        "Tokens per block": f"{trace.block_tokens:,}",
    }
    shown.metrics(numbers)
    if trace.is_cut:
        st.caption(
            f":material/content_cut: Cut: only the first {len(trace.requests):,} requests are"
            " replayed; raise the limit on block references to see more."
        )
    for note in trace.notes[:3]:
        st.caption(f":material/info: {plain(note)}")


def _memory(values: dict[str, Any]) -> Memory:
    """What a token costs, and the tiers: the GPU's as planned, unless it was given.

    Raises
    ------
    KVSimError
        Where the model does not fit on the card.
    """
    plan = planning.planned(
        planning.Subject(values["model"]), planning.Subject(values["gpu"]), options=_flags(values)
    )
    token_bytes = plan.kv_cache.bytes_per_token * plan.parallelism.tp
    planned = plan.kv_cache.capacity_tokens * token_bytes
    on_gpu = planned if values["gpu_gib"] is None else values["gpu_gib"] * GIB
    tiers = [CacheTier("GPU", on_gpu)]
    tiers += [
        CacheTier(name, values[f"{name.lower()}_gib"] * GIB)
        for name in ("CPU", "SSD")
        if values[f"{name.lower()}_gib"]
    ]
    links = (("CPU", values["cpu_gbps"] * GB), ("SSD", values["ssd_gbps"] * GB))
    return Memory(token_bytes, tuple(tiers), links)


def _flags(values: dict[str, Any]) -> planning.Options:
    """The engine's flags that the page asks for."""
    dtype = () if values["kv"] == "auto" else (("kv_cache_dtype", values["kv"]),)
    degree = () if values["tp"] == 1 else (("tensor_parallel_size", values["tp"]),)
    return (*dtype, *degree)


# --- showing -------------------------------------------------------------------------------


def hits(chosen: prefixes.Subject, policies: Sequence[str], memory: Memory) -> None:
    """Show hit ratio against cache size."""
    sizes = kvsim.cache_sizes(chosen.trace, SIZES)
    ratios = prefixes.curves(chosen, policies, sizes)
    shown.chart(
        figures.hit_ratio_chart(
            [figures.HitCurve(policy, sizes, found) for policy, found in ratios.items()],
            chosen.trace.block_tokens * memory.token_bytes,
            memory.marks,
        ),
        note=f"One cache for all requests, prompts only; a token takes {memory.token_bytes:,}"
        " bytes. A running engine also pins what it is working on, so this is its bound."
        " Dashed: what you have.",
    )


def tiers(chosen: prefixes.Subject, values: dict[str, Any], memory: Memory) -> None:
    """Show what each tier adds, and what a hit in it costs."""
    gains = {
        policy: _gains(chosen.identity, chosen.trace, memory.tiers, memory.token_bytes, policy)
        for policy in values["policy"]
    }
    first = values["policy"][0]
    left, right = st.columns(2)
    with left:
        shown.chart(
            figures.tier_chart(gains),
            note="What one tier evicts moves to the next: together they are one cache of the"
            " sum of their sizes.",
        )
    with right:
        shown.chart(
            figures.hit_cost_chart(_costs(values, memory, LENGTHS)),
            note="Every device fetches its own part over its own link. Computing again is what"
            " the prefix adds to a step that decodes another sequence.",
        )
    lengths = [max(1, round(gain.gained_tokens_per_request)) for gain in gains[first]]
    costs = _costs(values, memory, tuple(lengths))
    shown.table(
        figures.tier_table(gains[first], costs),
        note=f"Under {plain(first)}, the first policy. Times are for the tokens that the tier"
        " adds to a request, on average.",
    )


@st.cache_data(max_entries=256, show_spinner=False)
def _gains(
    identity: str,
    _trace: kvsim.PrefixTrace,
    tiers: tuple[CacheTier, ...],
    token_bytes: int,
    policy: str,
) -> Any:
    return kvsim.tier_gains(_trace, tiers, token_bytes, policy)


def _costs(values: dict[str, Any], memory: Memory, lengths: tuple[int, ...]) -> Any:
    names = {tier.name for tier in memory.tiers}
    links = tuple((name, rate) for name, rate in memory.links if name in names)
    return _hit_costs(values["model"], values["gpu"], lengths, links, _flags(values))


@st.cache_data(max_entries=256, show_spinner=False)
def _hit_costs(
    model: str,
    gpu: str,
    lengths: tuple[int, ...],
    links: tuple[tuple[str, float], ...],
    flags: planning.Options,
) -> Any:
    return kvsim.hit_costs(model, gpu, lengths, dict(links), **dict(flags))


def _commands(values: dict[str, Any]) -> list[str]:
    """The trace's hit ratios without a page, and the plan that sizes the GPU's cache."""
    flags = {"model": values["model"], **dict(_flags(values))}
    replay = {
        **flags,
        "seed": None if prefixes.is_uploaded(values["trace"]) else values["seed"],
        "max_references": values["refs"],
        "policies": ",".join(values["policy"]),
    }
    trace = shlex.quote(prefixes.file_name(values["trace"]))
    return [
        command_line.command_line(f"cache-curve {trace}", replay),
        command_line.command_line("plan", {**flags, "gpu": values["gpu"]}),
    ]


main()
