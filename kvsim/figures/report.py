"""A plan as one HTML file to keep: ``kvsim plan --report FILE.html``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from kvsim.figures.chart import Table
from kvsim.figures.page import Lines, html_page
from kvsim.figures.plan import (
    admission_chart,
    capacity_chart,
    concurrency_chart,
    memory_chart,
    plan_labels,
)
from kvsim.figures.plan_tables import (
    comparison_table,
    kinds_table,
    pools_table,
    provenance_table,
    retention_table,
    suggestions_table,
)
from kvsim.figures.speed import batch_chart

if TYPE_CHECKING:
    from kvsim.planning.planner import Plan

__all__ = ["plan_report"]


def plan_report(
    plans: Sequence[Plan], *, command: str = "", refused: Mapping[str, str] | None = None
) -> str:
    """Write plans as one self-contained HTML page.

    Parameters
    ----------
    plans : sequence of Plan
        One, or several to set side by side; the first is shown in detail.
    command : str
        The command line that gives this report again.
    refused : mapping of str to str, optional
        Engines that cannot, and why.
    """
    first = plans[0]
    several = len({plan.accelerator.name for plan in plans}) > 1
    where = "several cards" if several else first.accelerator.name
    blocks = [*_blocks(plans), *_refusals(refused or {})]
    if command:
        blocks.append(Lines("command", "This report again", [command]))
    return html_page(f"{first.model.name} on {where}", blocks)


def _blocks(plans: Sequence[Plan]) -> Iterator[Table]:
    first, labels = plans[0], plan_labels(plans)
    verdicts = [f"{text}: {plan.verdict}" for text, plan in zip(labels, plans, strict=True)]
    yield Lines("verdict", "The answer", verdicts)
    if first.suggestions:
        yield suggestions_table(first)
    warnings = list(dict.fromkeys(text for plan in plans for text in plan.warnings))
    if warnings:
        yield Lines("warnings", "Warnings", warnings)
    yield memory_chart(plans)
    sure = [
        f"{text}: {plan.certainty}"
        for text, plan in zip(labels, plans, strict=True)
        if plan.certainty
    ]
    if sure:
        yield Lines("certainty", "How sure the KV size is", sure)
    if len(plans) > 1:
        yield comparison_table(plans)
    yield capacity_chart(plans)
    yield concurrency_chart(dict(zip(labels, plans, strict=True)))
    yield admission_chart(plans)
    yield batch_chart(first)
    yield kinds_table(first)
    yield pools_table(first)
    yield retention_table(first)
    yield Lines("launch", "Launch", [plan.command for plan in plans])
    yield provenance_table(first)


def _refusals(refused: Mapping[str, str]) -> Iterator[Table]:
    if refused:
        lines = [f"{name}: {reason}" for name, reason in refused.items()]
        yield Lines("refused", "Engines that cannot", lines)
