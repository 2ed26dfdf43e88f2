"""How a KV cache works, in small computed examples: what the dashboard's Learn page shows.

Everything is counted by the parts that plan and simulate (attention kinds, allocators), at
a size that a person can follow.
"""

from __future__ import annotations

from kvsim.studies.lessons.allocation import POLICIES, Moment, Story, tell
from kvsim.studies.lessons.heads import HeadShape, Keeping, keepings
from kvsim.studies.lessons.recompute import Work, attention_pairs, decode_work
from kvsim.studies.lessons.validity import KINDS, kept_states

__all__ = [
    "KINDS",
    "POLICIES",
    "HeadShape",
    "Keeping",
    "Moment",
    "Story",
    "Work",
    "attention_pairs",
    "decode_work",
    "keepings",
    "kept_states",
    "tell",
]
