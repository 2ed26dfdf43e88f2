"""A serving engine of the plainest code: one loop a step, one list of blocks a sequence.

It is what the run-advancing engine is checked against, so it shares none of its code: only
the description of the workload, and the step-time model, which is called once a step.
"""

from tests.oracle.engine import ENGINES, Costs, Engine, Limits, StepRow
from tests.oracle.jobs import Arrivals, Job
from tests.oracle.memory import Blocks, Memory, Nothing
from tests.oracle.regions import Growing, Reserved, Space
from tests.oracle.shared import SharedBlocks

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
