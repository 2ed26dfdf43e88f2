"""What ``--output-dir DIR`` leaves behind: tables, a timeline, metrics and where they came from.

::

    DIR/summary.json       the answer, and everything needed to ask again
    DIR/trace.json.gz      a timeline for Perfetto or chrome://tracing
    DIR/metrics.prom       what a scrape of the engine would have shown at the end
    DIR/requests.parquet   one row per request
    DIR/steps.parquet      one row per run of engine steps
    DIR/memory.parquet     one row per run of engine steps: the pool's split

The files are of one run, also when two write into DIR at once: see `folder`. None holds wall-clock
time: the same seed gives the same bytes.
"""

from kvsim.results.outputs.folder import write_outputs
from kvsim.results.outputs.prometheus import prometheus_text
from kvsim.results.outputs.provenance import provenance, resolved_scenario
from kvsim.results.outputs.timeline import timeline

__all__ = ["prometheus_text", "provenance", "resolved_scenario", "timeline", "write_outputs"]
