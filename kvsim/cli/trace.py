"""``kvsim trace``: look at a request trace, or write it in another format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvsim.cli import INTERRUPTED, say
from kvsim.cli.options import format_option, json_option
from kvsim.cli.render import Section, Table, emit

if TYPE_CHECKING:
    from kvsim.workload.traces import ReadReport
    from kvsim.workload.traces.stats import LengthStats, TraceStats

__all__ = ["command"]

_FORMAT_HELP = "Format of the trace by name; by default its content tells."

_ARRIVALS = {
    "span_seconds": "span, s",
    "requests_per_second": "requests/s",
    "interarrival_cv": "inter-arrival CV",
    "peak_to_mean_per_minute": "peak / mean per minute",
    "variance_to_mean_per_minute": "variance / mean per minute",
    "variance_to_mean_per_second": "variance / mean per second",
    "distinct_times": "distinct times",
}
_SHARING = {
    "hash_block_size": "tokens per block",
    "references": "block references",
    "distinct_blocks": "distinct blocks",
    "hit_ratio_blocks": "hit ratio, block references",
    "hit_ratio_full_blocks": "hit ratio, full blocks",
    "hit_ratio_tokens": "hit ratio, tokens",
    "hit_ratio_request_mean": "hit ratio, mean per request",
    "single_use_share": "single-use blocks",
}
_SERVEGEN = {
    "span_seconds": "span, s",
    "mean_rate": "mean requests/s",
    "peak_rate": "peak requests/s",
    "gamma_windows": "Gamma windows",
    "weibull_windows": "Weibull windows",
    "top_client_share": "load of the top client",
    "top_ten_share": "load of the top ten",
    "mean_prompt_tokens": "mean prompt tokens",
    "mean_output_tokens": "mean output tokens",
}


@click.group("trace")
def command() -> None:
    """Look at a request trace, or write it in another format."""


@command.command("stats")
@click.argument("file", type=click.Path())
@click.option("--trace-format", default=None, help=_FORMAT_HELP)
@format_option
def stats(file: str, trace_format: str | None, output_format: str) -> None:
    """Arrivals, lengths and prefix sharing of the trace FILE."""
    from kvsim.workload.traces import open_trace
    from kvsim.workload.traces.stats import servegen_stats, trace_stats

    if open_trace(file, trace_format).format.arrivals == "rates":
        clients = servegen_stats(file)
        title = f"{clients.path.name}: {clients.clients} clients, servegen"
        emit([_labelled(title, clients, _SERVEGEN)], clients.record(), output_format)
        return
    found = trace_stats(file, trace_format)
    emit(_sections(found), found.record(), output_format)


@command.command("convert")
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option(
    "--to", required=True, type=click.Choice(["kvsim", "vidur", "mooncake"]), help="What to write."
)
@click.option("--trace-format", default=None, help=_FORMAT_HELP)
@json_option
def convert(
    source: str, target: str, to: str, trace_format: str | None, output_format: str
) -> None:
    """Write the requests of the trace SOURCE to the file TARGET."""
    from kvsim.workload.traces.convert import ConvertInterrupted, convert_trace

    try:
        report = convert_trace(source, target, to, trace_format)
    except ConvertInterrupted as cut:
        say(f"kvsim: interrupted: {cut}; {target} was not written")
        raise click.exceptions.Exit(INTERRUPTED) from None
    if output_format == "json":
        emit((), {"file": target, "format": to, "read": report.record()}, output_format)
    else:
        click.echo(f"{target}: {report.rows:,} requests as {to}, read as {report.format}")
    for line in report.lines():
        say(f"  {line}")


def _sections(found: TraceStats) -> list[Section]:
    title = f"{found.path.name}: {found.requests:,} requests, {found.format}"
    if found.sessions is not None:
        title += f", {found.sessions:,} sessions"
    sections = [Section(title, (_lengths(found),))]
    if found.arrivals is not None:
        sections.append(_labelled("Arrivals", found.arrivals, _ARRIVALS))
    if found.sharing is not None:
        sections.append(_labelled("Prefix sharing, infinite cache", found.sharing, _SHARING))
    return sections + _left_out(found.report)


def _lengths(found: TraceStats) -> Table:
    kinds = (("prompt tokens", found.prompt_tokens), ("output tokens", found.output_tokens))
    rows = [_length_row(name, values) for name, values in kinds]
    if found.think_seconds is not None:
        rows.append(_length_row("think time, s", found.think_seconds))
    rows.append(("Spearman, prompt and output", _number(found.spearman), "", "", "", ""))
    return Table(("", "mean", "p50", "p90", "p99", "max"), tuple(rows))


def _length_row(name: str, values: LengthStats) -> tuple[str, ...]:
    shown = (values.mean, values.p50, values.p90, values.p99, values.max)
    return (name, *(f"{value:,.1f}" for value in shown))


def _labelled(title: str, record: object, labels: dict[str, str]) -> Section:
    """Show the fields of `record` that have a label, in the labels' order."""
    rows = tuple((label, _number(getattr(record, name))) for name, label in labels.items())
    return Section(title, (Table(("", "value"), rows),))


def _left_out(report: ReadReport) -> list[Section]:
    lines = report.lines()
    return [Section("Left out or changed", ("\n".join(lines),))] if lines else []


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
