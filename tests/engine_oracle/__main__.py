"""Compare vLLM's own scheduler with ours: one line a disagreement, then a count."""

from __future__ import annotations

from .compare import Engine, run
from .seen import differences
from .vllm_cases import FAMILIES, Case, case_of
from .vllm_recorded import record
from .vllm_stub import missing


def disagreement(case: Case) -> str | None:
    """Where the two differ in a case, if they do."""
    from . import vllm_driver, vllm_ours

    return differences(vllm_ours.run(case), vllm_driver.run(case))


if __name__ == "__main__":
    run(Engine(FAMILIES, case_of, disagreement, record, missing), "python -m tests.engine_oracle")
