"""kvsim: a discrete-event simulator and capacity planner for KV-cache memory."""

__version__ = "0.1.0"
