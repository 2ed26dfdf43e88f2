"""Results as pictures and tables: a public module, and the only one that imports plotly.

Every function takes results and returns a `Chart` (rows, a sentence that describes it, a
plotly figure) or a `Table` (rows). Both write themselves as CSV, JSON and self-contained
HTML; the dashboard and ``--report`` show the same ones.
"""

from __future__ import annotations

from kvsim.figures.chart import Chart, Row, Table
from kvsim.figures.page import Lines, html_page
from kvsim.figures.plan import (
    admission_chart,
    capacity_chart,
    comparison_table,
    concurrency_chart,
    kinds_table,
    memory_chart,
    plan_labels,
    provenance_table,
    retention_table,
    suggestions_table,
)
from kvsim.figures.report import plan_report
from kvsim.figures.speed import batch_chart, roofline_chart

__all__ = [
    "Chart",
    "Lines",
    "Row",
    "Table",
    "admission_chart",
    "batch_chart",
    "capacity_chart",
    "comparison_table",
    "concurrency_chart",
    "html_page",
    "kinds_table",
    "memory_chart",
    "plan_labels",
    "plan_report",
    "provenance_table",
    "retention_table",
    "roofline_chart",
    "suggestions_table",
]
