"""Workloads: what arrives, how long it is, and what it shares.

`build_workload` turns a description into an open-loop `Workload` (``tables``) or a `ClosedLoop`
(``start``, ``following``, ``branches``); both protocols are in `kvsim.workload.base`.
"""

from kvsim.workload.base import ClosedLoop, NextRequest, PrefixContent, RequestTable, Workload
from kvsim.workload.spec import TraceSpec, WorkloadSpec, build_workload, parse_workload

__all__ = [
    "ClosedLoop",
    "NextRequest",
    "PrefixContent",
    "RequestTable",
    "TraceSpec",
    "Workload",
    "WorkloadSpec",
    "build_workload",
    "parse_workload",
]
