"""``kvsim cache-curve``: how often a prefix cache of which size would hit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvsim.cli import INTERRUPTED, say
from kvsim.cli.bar import drawn
from kvsim.cli.options import (
    COUNT,
    GPU,
    KV_DTYPE,
    MODEL,
    SEED,
    CatalogueName,
    format_option,
    given,
    listed,
)
from kvsim.cli.render import Section, Table, emit, print_records
from kvsim.errors import InputError, UnknownNameError
from kvsim.units import format_bytes

if TYPE_CHECKING:
    from kvsim.studies.cache.curve import CacheCurve, Served
    from kvsim.studies.cache.trace import PrefixTrace

__all__ = ["command"]

_LEAVE_OUT = "leave it out"


def _examples() -> list[str]:
    from kvsim.studies.cache import example_prefix_names

    return example_prefix_names()


@click.command("cache-curve")
@click.argument("trace", type=CatalogueName("trace", _examples, files=True))
@click.option("--trace-format", help="Format of the trace by name; by default its content tells.")
@click.option("--model", type=MODEL, help="Name, path or hf:org/name: sizes are bytes, too.")
@click.option("--kv-cache-dtype", type=KV_DTYPE, help="KV format; default: the model's own.")
@click.option("--tp", "--tensor-parallel-size", "tp", type=COUNT, help="Ranks; default: 1.")
@click.option("--gpu", type=GPU, help="Also what the pool of this card reaches (vLLM's plan).")
@click.option(
    "--sizes", metavar="SIZE,...", help="As 10GiB,20GiB; 1000,5000 are blocks of the trace."
)
@click.option("--policies", metavar="NAME,...", default="lru,fifo,lfu,belady", show_default=True)
@click.option("--max-references", type=COUNT, help="Read no more; default: 1,000,000 blocks.")
@click.option("--seed", type=SEED, help="Of an example; default: 0.")
@format_option
def command(
    trace: str,
    sizes: str | None,
    policies: str,
    output_format: str,
    **flags: Any,
) -> None:
    """Show how often a prefix cache would hit on TRACE, by its size and order of eviction.

    TRACE names its prefix blocks (Mooncake's, Bailian's, WEKA's or kvsim's format), or is one of
    the small examples "conversations" and "documents". Belady's order knows the future: no order
    that admits every block does better. One cache, prompts only, nothing pinned: a bound.

    \b
    kvsim cache-curve conversations --model llama3.1-8b --gpu h100
    kvsim cache-curve mooncake.jsonl --model llama3.1-8b --sizes 10GiB,100GiB
    """  # noqa: D301 - \b keeps click from wrapping the examples
    from kvsim.studies.cache.curve import cache_curve, read_sizes

    named = listed(policies, "--policies")
    known = _served(flags)
    requests = _read(trace, flags)
    asked = () if sizes is None else read_sizes(listed(sizes, "--sizes"), requests, known)
    with _progress() as watch:
        found = cache_curve(requests, policies=named, sizes=asked, known=known, watch=watch)
    _tell(found)
    if output_format == "csv":
        print_records(found.rows(), (), output_format)
    else:
        emit(_sections(found), found.to_dict, output_format)
    if found.interrupted:
        raise click.exceptions.Exit(INTERRUPTED)


def _served(flags: Mapping[str, Any]) -> Served | None:
    """What keeps the blocks, where a model is named."""
    from kvsim.studies.cache.curve import served

    if flags["model"] is None:
        beside = {"gpu": "--gpu", "tp": "--tp", "kv_cache_dtype": "--kv-cache-dtype"}
        for name, flag in beside.items():
            if flags[name] is not None:
                raise InputError("is of a model", where=f"{flag} {flags[name]}", fix="give --model")
        return None
    return served(
        flags["model"],
        kv_cache_dtype=flags["kv_cache_dtype"] or "auto",
        tensor_parallel_size=flags["tp"] or 1,
        gpu=flags["gpu"] or "",
    )


def _read(name: str, flags: Mapping[str, Any]) -> PrefixTrace:
    """The trace of a file, or the example of that name where there is no such file."""
    from kvsim.studies.cache import example_prefixes, read_prefixes

    limit = given({"most_references": flags["max_references"]})
    if not name:
        raise InputError("names no trace", where="TRACE")
    if os.path.lexists(name) or Path(name).suffix or "/" in name:
        if flags["seed"] is not None:
            where = f"--seed {flags['seed']}"
            raise InputError("is of an example, and a file has none", where=where, fix=_LEAVE_OUT)
        return read_prefixes(name, flags["trace_format"], **limit)
    if name not in _examples():
        raise UnknownNameError("example", name, _examples(), fix="or give the file of a trace")
    if flags["trace_format"] is not None:
        where = f"--trace-format {flags['trace_format']}"
        raise InputError(f"{name} is an example, no file", where=where, fix=_LEAVE_OUT)
    return example_prefixes(name, seed=flags["seed"] or 0, **limit)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Count replays on a terminal's stderr; elsewhere say nothing."""
    with drawn("replays", "{task.completed:,}/{task.total:,}", total=0) as bar:

        def watch(done: int, whole: int) -> None:
            if bar is not None:
                bar.show(now=True, completed=done, total=whole)

        yield watch


def _tell(found: CacheCurve) -> None:
    """Say on stderr what was left out."""
    for note in found.trace.notes:
        say(f"{found.trace.name}: {note}")
    if found.trace.is_cut:
        kept = f"the first {len(found.trace.requests):,} requests"
        say(f"{found.trace.name}: cut: {kept} are replayed; raise --max-references to see more")
    if found.interrupted:
        say(f"kvsim: interrupted: sizes that are finished: {len(found.points):,}")


def _sections(found: CacheCurve) -> list[Section]:
    trace = found.trace
    lines = [
        f"{len(trace.requests):,} requests, {trace.references:,} block references,"
        f" {trace.distinct_blocks:,} distinct blocks of {trace.block_tokens:,} tokens",
        *_kept(found),
        f"a cache that never evicts hits {found.infinite_hit_ratio:.1%} of block references",
    ]
    table = [_table(found)] if found.points else []
    return [Section(f"{trace.name}: prefix cache hits", ("\n".join(lines), *table))]


def _kept(found: CacheCurve) -> list[str]:
    known = found.served
    if known is None:
        return []
    ranks = "" if known.tensor_parallel_size == 1 else f", tp {known.tensor_parallel_size}"
    token = f"{known.model}, {known.kv_cache_dtype}{ranks}: {known.token_bytes:,} bytes a token"
    if known.pool_tokens is None:
        return [token]
    pool = f"the pool of {known.accelerator} holds {known.pool_tokens:,} tokens"
    return [token, f"{pool}: marked with *"]


def _table(found: CacheCurve) -> Table:
    headers = ["cache", "blocks", "tokens", *found.points[0].hit_ratios]
    rows = [
        (
            _size(row),
            f"{row['blocks']:,}",
            f"{row['tokens']:,}",
            *(f"{ratio:.1%}" for ratio in point.hit_ratios.values()),
        )
        for row, point in zip(found.rows(), found.points, strict=True)
    ]
    return Table(tuple(headers), tuple(rows))


def _size(row: Mapping[str, Any]) -> str:
    size = "-" if row["bytes"] is None else format_bytes(row["bytes"])
    return f"{size} *" if row["is_gpu_pool"] else size
