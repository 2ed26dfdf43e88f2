"""A serving engine of the plainest code: one loop a step, one list of blocks a sequence.

It is what the run-advancing engine is checked against, so it shares none of its code: only
the description of the workload, and the step-time model, which is called once a step.
"""

from .engine import Costs, Engine, Limits, StepRow
from .jobs import Arrivals, Job
from .memory import Blocks, Memory, Nothing
from .policies import ENGINES
from .regions import Growing, Reserved, Space
from .shared import SharedBlocks

__all__ = [
    "ENGINES",
    "Arrivals",
    "Blocks",
    "Costs",
    "Engine",
    "Growing",
    "Job",
    "Limits",
    "Memory",
    "Nothing",
    "Reserved",
    "SharedBlocks",
    "Space",
    "StepRow",
]
