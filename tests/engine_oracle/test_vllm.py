"""vLLM's own scheduler and ours agree on random workloads, event by event and block by block."""

from __future__ import annotations

import pytest

from . import stub
from .cases import FAMILIES, case_of
from .seen import differences

SEEDS = range(12)

pytestmark = pytest.mark.skipif(
    stub.sources() is None,
    reason=f"{stub.VARIABLE} names no folder with the sources of vLLM (make oracle sets it up)",
)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_agrees(family: str, seed: int) -> None:
    """A workload of a family; more seeds by ``python -m tests.engine_oracle``."""
    from . import our_side, vllm_side

    case = case_of(family, seed)
    assert differences(our_side.run(case), vllm_side.run(case)) is None
