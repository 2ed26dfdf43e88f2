"""A serving engine of the plainest code: one loop a step, one list of blocks a sequence.

It is what the run-advancing engine is checked against, so it shares none of its code: only
the description of the workload, and the step-time model, which is called once a step.
"""

from .blocks import Apart, Blocks, Group
from .engine import Costs, Engine, Limits, StepRow
from .hybrid import HybridBlocks, Layers
from .jobs import Arrivals, Job
from .memory import Memory, Nothing
from .policies import ENGINES as OF_OTHERS
from .regions import Growing, Reserved, Space
from .sglang import SGLang
from .shared import NamedBlocks, SharedBlocks
from .windows import Moving, Windows

__all__ = [
    "ENGINES",
    "Apart",
    "Arrivals",
    "Blocks",
    "Costs",
    "Engine",
    "Group",
    "Growing",
    "HybridBlocks",
    "Job",
    "Layers",
    "Limits",
    "Memory",
    "Moving",
    "NamedBlocks",
    "Nothing",
    "Reserved",
    "SharedBlocks",
    "Space",
    "StepRow",
    "Windows",
]

ENGINES = OF_OTHERS | {"sglang": SGLang}
