"""Results as pictures and tables: a public module, and the only one that imports plotly.

Every function takes results and returns a `Chart` (rows, a sentence that describes it, a
plotly figure) or a `Table` (rows). Both write themselves as CSV, JSON and self-contained
HTML; the dashboard and ``--report`` show the same ones.
"""

from __future__ import annotations

from kvsim.figures.cache import HitCurve, hit_cost_chart, hit_ratio_chart, tier_chart, tier_table
from kvsim.figures.calibration import coefficients_chart, coefficients_table, profile_table
from kvsim.figures.chart import Chart, Row, Table
from kvsim.figures.learning import (
    attention_chart,
    block_table,
    growth_chart,
    heads_chart,
    kept_chart,
    pool_chart,
    validity_chart,
    work_chart,
)
from kvsim.figures.measured import (
    bench_chart,
    bench_table,
    error_chart,
    measured_steps_chart,
    step_time_chart,
)
from kvsim.figures.page import PLOTLY_CONFIG, Lines, html_page
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
from kvsim.figures.pool import pool_film, pool_map
from kvsim.figures.report import plan_report
from kvsim.figures.simulation import (
    latency_chart,
    latency_table,
    numbers_table,
    simulation_report,
    slowest_chart,
)
from kvsim.figures.sizing import fleet_chart, fleet_table, probes_chart, rates_chart
from kvsim.figures.speed import batch_chart, roofline_chart
from kvsim.figures.timeline import queue_chart, split_chart
from kvsim.figures.variants import (
    bands_table,
    comparison_report,
    differences_table,
    interval_chart,
    latency_panels,
    queue_panels,
    split_panels,
    values_table,
)
from kvsim.results.words import LATENCIES

__all__ = [
    "LATENCIES",
    "PLOTLY_CONFIG",
    "Chart",
    "HitCurve",
    "Lines",
    "Row",
    "Table",
    "admission_chart",
    "attention_chart",
    "bands_table",
    "batch_chart",
    "bench_chart",
    "bench_table",
    "block_table",
    "capacity_chart",
    "coefficients_chart",
    "coefficients_table",
    "comparison_report",
    "comparison_table",
    "concurrency_chart",
    "differences_table",
    "error_chart",
    "fleet_chart",
    "fleet_table",
    "growth_chart",
    "heads_chart",
    "hit_cost_chart",
    "hit_ratio_chart",
    "html_page",
    "interval_chart",
    "kept_chart",
    "kinds_table",
    "latency_chart",
    "latency_panels",
    "latency_table",
    "measured_steps_chart",
    "memory_chart",
    "numbers_table",
    "plan_labels",
    "plan_report",
    "pool_chart",
    "pool_film",
    "pool_map",
    "pools_table",
    "probes_chart",
    "profile_table",
    "provenance_table",
    "queue_chart",
    "queue_panels",
    "rates_chart",
    "retention_table",
    "roofline_chart",
    "simulation_report",
    "slowest_chart",
    "split_chart",
    "split_panels",
    "step_time_chart",
    "suggestions_table",
    "tier_chart",
    "tier_table",
    "validity_chart",
    "values_table",
    "work_chart",
]
