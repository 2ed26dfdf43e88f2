"""Compare vLLM's own scheduler with ours: one line a disagreement, then a count."""

from __future__ import annotations

from kvsim.engines.vllm.rules import Rules

from .compare import Engine, run
from .seen import differences
from .vllm_cases import FAMILIES, Case, case_of, lacks
from .vllm_recorded import record
from .vllm_stub import missing, release


def disagreement(case: Case) -> str | None:
    """Where the two differ in a case, if they do."""
    from . import vllm_driver, vllm_ours

    return differences(vllm_ours.run(case, _rules()), vllm_driver.run(case))


def _rules() -> Rules:
    """The product's rules of the engine's release."""
    return Rules.of(release())


if __name__ == "__main__":
    engine = Engine(
        FAMILIES, case_of, disagreement, record, missing, lambda family: lacks(family, _rules())
    )
    run(engine, "python -m tests.engine_oracle")
