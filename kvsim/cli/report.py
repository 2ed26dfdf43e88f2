"""A plan as sections for a person: words and columns, no arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvsim.cli.render import Bar, Part, Section, Table
from kvsim.engines.base import MemoryBudget
from kvsim.planning.plan_types import KVKind, Plan, PoolFacts
from kvsim.planning.planner import EngineComparison
from kvsim.units import GIB, format_bytes, format_seconds

__all__ = ["comparison_sections", "gib", "kinds_table", "plan_sections", "size_text"]

_REGIME_WORDS = {"admission": "admission", "steady": "steady", "all_full": "all full"}


def gib(size_bytes: float) -> str:
    """Print a size in GiB with two decimals."""
    return f"{size_bytes / GIB:,.2f} GiB"


def size_text(size_bytes: float) -> str:
    """Print a size with two decimals from one GiB up, and shorter below."""
    return gib(size_bytes) if size_bytes >= GIB else format_bytes(size_bytes)


def plan_sections(plan: Plan) -> Iterator[Section]:
    """Lay a plan out: the verdict first, then memory, KV, capacity, speed, and the rest."""
    yield _headline(plan)
    if plan.suggestions:
        yield _suggestions(plan)
    if plan.warnings:
        yield Section("Warnings", tuple(f"- {text}" for text in plan.warnings))
    yield _memory(plan)
    yield _kinds(plan)
    yield _capacity(plan)
    yield _blocks(plan)
    yield _concurrency(plan)
    yield _reservation(plan)
    yield _decode(plan)
    yield _retention(plan)
    yield Section("Launch", (plan.command,))
    yield _provenance(plan)


def _headline(plan: Plan) -> Section:
    model, card, degrees = plan.model, plan.accelerator, plan.parallelism
    weights = model.quantization or model.dtype
    ranks = f", tp {degrees.tp} pp {degrees.pp} dp {degrees.dp}"
    several = degrees.tp * degrees.pp * degrees.dp > 1
    title = (
        f"{model.name} ({model.parameters / 1e9:,.2f} B parameters, {weights}) on {card.name}"
        f" under {plan.engine.name} {plan.engine.version}{ranks if several else ''}"
    )
    return Section(title, (plan.verdict,))


def _suggestions(plan: Plan) -> Section:
    rows = tuple(
        (
            each.flag,
            f"{each.max_concurrency:,.2f}",
            f"{each.max_model_len:,}",
            gib(each.kv_cache_bytes),
        )
        for each in plan.suggestions
    )
    headers = ("change", "requests", "of tokens", "KV cache")
    return Section("What would make it fit (each re-planned)", (Table(headers, rows),))


def _memory(plan: Plan) -> Section:
    memory = plan.memory
    outside = "" if memory.cuda_graph_in_budget else " (outside the budget)"
    terms = (
        ("weights", memory.weights_bytes, ""),
        ("activations", memory.activation_bytes, ""),
        ("outside torch", memory.non_torch_bytes, ""),
        ("graphs", memory.cuda_graph_bytes, outside),
        ("KV cache", memory.kv_cache_bytes, ""),
        ("left alone", memory.unused_bytes, ""),
    )
    parts = tuple(
        Part(label, max(0, size), _share(memory, size) + note)
        for label, size, note in terms
        if size
    )
    total = f"{gib(memory.total_bytes)} per rank; the engine may use {gib(memory.budget_bytes)}."
    return Section("Where the memory goes", (Bar(parts), total, *filter(None, [plan.certainty])))


def _share(memory: MemoryBudget, size_bytes: int) -> str:
    """A term's size and its share of the device; what is owed has none."""
    if size_bytes < 0:
        return f"over by {-size_bytes / GIB:,.2f} GiB"
    return f"{size_bytes / GIB:>8,.2f} GiB  {size_bytes / memory.total_bytes:>6.1%}"


def _kinds(plan: Plan) -> Section:
    formulas = "\n".join(f"{kind.group}: {kind.formula}" for kind in plan.kv_kinds)
    title = f"What the KV cache keeps of a sequence ({plan.kv_cache.dtype}, one rank)"
    return Section(title, (kinds_table(plan.kv_kinds, plan.fragmentation.context_len), formulas))


def kinds_table(kinds: Sequence[KVKind], context_len: int, *totals: tuple[str, ...]) -> Table:
    """Tabulate what each kind of layer keeps, at a context in tokens and with every layer full."""
    rows = tuple(
        (
            kind.group,
            kind.kind,
            f"{kind.layers:,}",
            f"{kind.bytes_per_token:,}",
            size_text(kind.context_bytes),
            size_text(kind.all_full_bytes),
        )
        for kind in kinds
    )
    headers = ("layers", "kind", "count", "B/token", f"at {context_len:,}", "if all full")
    return Table(headers, (*rows, *totals))


def _capacity(plan: Plan) -> Section:
    tokens = {
        "admission": plan.capacity_tokens.admission,
        "steady": plan.capacity_tokens.steady,
        "all_full": plan.capacity_tokens.all_full,
    }
    rows = tuple(
        (_REGIME_WORDS[name], f"{count:,}", plan.regimes[name]) for name, count in tokens.items()
    )
    kv = plan.kv_cache
    log = (
        f"{plan.engine.name} logs {kv.capacity_tokens:,} tokens and"
        f" {kv.max_concurrency:,.2f}x concurrency for {kv.max_model_len:,} tokens per request"
        " (admission)."
    )
    title = f"Capacity in tokens, at {kv.max_model_len:,} per request, by regime"
    return Section(title, (Table(("regime", "tokens", "meaning"), rows, words=True), log))


def _blocks(plan: Plan) -> Section:
    waste = plan.fragmentation
    lines: list[str | Table | Bar] = [
        *(_pool_line(pool, named=len(plan.pools) > 1) for pool in plan.pools),
        f"Internal fragmentation near {waste.context_len:,} tokens:"
        f" {size_text(waste.expected_bytes)} per sequence expected ({waste.expected_share:.1%}),"
        f" {size_text(waste.worst_bytes)} at worst ({waste.worst_share:.1%}).",
    ]
    if len(plan.groups) > 1:
        lines.append(_groups(plan))
        lines.append(
            "Blocks of a request: what start-up charges for the longest (admission), and what a"
            " running one holds at most; empty where it grows to its end."
        )
    return Section("Blocks", tuple(lines))


def _pool_line(pool: PoolFacts, *, named: bool) -> str:
    """One pool's blocks, and what of them nobody is given."""
    name = f"{pool.name}: " if named else ""
    tokens = f"{pool.block_size:,} token{'s' if pool.block_size > 1 else ''}"
    withheld = f", {pool.withheld_blocks} of them withheld" if pool.withheld_blocks else ""
    each = f"{size_text(pool.block_bytes)} each"
    blocks = f"{pool.num_blocks:,} block{'' if pool.num_blocks == 1 else 's'}"
    return f"{name}{blocks} of {tokens}, {each}{withheld}."


def _groups(plan: Plan) -> Table:
    """The groups of layers, and the blocks that a sequence takes of each."""
    rows = tuple(
        (
            group.name,
            f"{group.layers:,}",
            f"{group.padding_layers:,}",
            f"{group.block_size:,}",
            size_text(group.page_bytes),
            f"{group.blocks_per_sequence:,}",
            "" if group.most_blocks is None else f"{group.most_blocks + group.fixed_blocks:,}",
        )
        for group in plan.groups
    )
    headers = ("group", "slots", "padding", "block", "page", "admission", "holds at most")
    return Table(headers, rows)


def _concurrency(plan: Plan) -> Section:
    limit = plan.options.get("max_num_seqs")
    rows = tuple(
        (
            f"{each.context_len:,}",
            size_text(each.sequence_bytes),
            f"{each.requests:,}",
            f"{each.running:,}",
        )
        for each in plan.concurrency
    )
    run = f"run (max_num_seqs {limit:,})" if limit else "run"
    headers = ("tokens per request", "occupies", "fit in memory", run)
    return Section("Concurrent requests (steady regime)", (Table(headers, rows),))


def _reservation(plan: Plan) -> Section:
    row = plan.contiguous_vs_paged
    rows = (
        (
            f"contiguous, {plan.kv_cache.max_model_len:,} tokens reserved",
            size_text(row.contiguous_bytes),
            f"{row.contiguous_requests:,}",
        ),
        ("paged", size_text(row.paged_bytes), f"{row.paged_requests:,}"),
    )
    title = f"Contiguous reservation against paging, requests of {row.context_len:,} tokens"
    return Section(title, (Table(("allocation", "a request takes", "requests"), rows),))


def _seconds_between(low: float, high: float) -> str:
    """Both ends of an interval; their unit once where it is the same."""
    low_text, high_text = format_seconds(low), format_seconds(high)
    number, unit = low_text.split()
    return f"{number if high_text.endswith(f' {unit}') else low_text} to {high_text}"


def _decode(plan: Plan) -> Section:
    decode = plan.decode
    binding = (
        f"{decode.arithmetic_intensity:,.1f} FLOPs per byte at batch {decode.batch:,}; the card's"
        f" ridge point is {decode.ridge_point:,.0f}: decode is bound by {decode.bound_by}."
    )
    rows = tuple(
        (
            f"{each.batch:,}",
            format_seconds(each.step_seconds),
            _seconds_between(*decode.band.around(each.step_seconds)),
            f"{each.tokens_per_s:,.0f}",
            f"{each.arithmetic_intensity:,.1f}",
            each.bound_by,
        )
        for each in decode.batches
    )
    headers = ("batch", "step", decode.band.sure, "tokens/s", "FLOPs/byte", "mostly waits for")
    title = f"Decode at {decode.context_len:,} tokens of context"
    times = f"Step times are {decode.source}. Their band is {decode.band.words}."
    return Section(title, (binding, Table(headers, rows), times))


def _retention(plan: Plan) -> Section:
    rows = tuple(
        (
            each.policy,
            size_text(each.sequence_bytes),
            f"{each.share:.1%}",
            f"{each.requests:,}",
            each.price,
        )
        for each in plan.retention
    )
    headers = ("policy", "per sequence", "share", "requests", "price")
    title = f"Keeping less of {plan.kv_cache.max_model_len:,} tokens (before block rounding)"
    return Section(title, (Table(headers, rows, words=True),))


def _provenance(plan: Plan) -> Section:
    lines = (f"{name}: {source}" for name, source in plan.provenance.items())
    return Section("Where the numbers come from", ("\n".join(lines),))


# --- engines side by side ------------------------------------------------------------------


def comparison_sections(comparison: EngineComparison) -> Iterator[Section]:
    """Lay several engines' plans out as columns, and the refusals below them."""
    if comparison.plans:
        yield _side_by_side(comparison.plans)
        warnings = tuple(
            f"- {plan.engine.name}: {text}" for plan in comparison.plans for text in plan.warnings
        )
        yield Section("Warnings", warnings or ("none",))
        launches = "\n".join(plan.command for plan in comparison.plans)
        yield Section("Launch", (launches,))
    if comparison.refused:
        lines = tuple(f"- {engine}: {reason}" for engine, reason in comparison.refused)
        yield Section("Engines that cannot", lines)


def _side_by_side(plans: tuple[Plan, ...]) -> Section:
    first = plans[0]
    columns = [_column(plan) for plan in plans]
    rows = tuple((label, *(column[label] for column in columns)) for label in columns[0])
    title = f"{first.model.name} on {first.accelerator.name}, engine by engine"
    return Section(title, (Table(("", *(plan.engine.name for plan in plans)), rows),))


def _kv_gib(size_bytes: int) -> str:
    """GiB of KV cache, or by how much the rest is too large."""
    owed = "over by " if size_bytes < 0 else ""
    return f"{owed}{abs(size_bytes) / GIB:,.2f}"


def _column(plan: Plan) -> dict[str, str]:
    memory, kv, tokens = plan.memory, plan.kv_cache, plan.capacity_tokens
    return {
        "version": plan.engine.version,
        "fits": "yes" if plan.fits else "no",
        "weights GiB": f"{memory.weights_bytes / GIB:,.2f}",
        "other GiB": f"{memory.overhead_bytes / GIB:,.2f}",
        "KV cache GiB": _kv_gib(memory.kv_cache_bytes),
        "sure to GiB": f"{plan.kv_band.within_bytes / GIB:,.2f}",
        "KV dtype": kv.dtype,
        "B/token": f"{kv.bytes_per_token:,}",
        "block tokens": f"{kv.block_size:,}",
        "blocks": f"{kv.num_blocks:,}",
        "max length": f"{kv.max_model_len:,}",
        "logged tokens": f"{kv.capacity_tokens:,}",
        "admission tokens": f"{tokens.admission:,}",
        "steady tokens": f"{tokens.steady:,}",
        "all-full tokens": f"{tokens.all_full:,}",
        "requests": f"{kv.max_concurrency:,.2f}",
    }
