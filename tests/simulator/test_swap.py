"""A victim whose cache moves to the host and back: every sample's tokens cross the link."""

import pytest

from kvsim.memory.growth import BlockCurve
from kvsim.simulator.schedulers import SCHEDULERS, SchedulerLimits
from kvsim.steptime.model import ConstantStepTime
from tests.support.parts import Case, Given, Pool, simulated, stepped, table

# Not under sglang, which foresees that the second will not fit, and admits it when the first has
# ended. Blocks of 4. Both prompts are computed in the first step; k steps later the first request
# has ceil((18 + k) / 4) blocks, and the second, of s samples, 1 + s * ceil(k / 4):
#
#   s  pool   does not fit at       so the second leaves with
#   1   11    k = 11: 8 +  4        4 + 10 tokens
#   2   14    k = 11: 8 +  7        4 + 10 tokens in each of two samples
#   3   14    k =  9: 7 + 10        4 +  8 tokens in each of three
BY_HAND = {1: (11, 14), 2: (14, 2 * 14), 3: (14, 3 * 12)}


@pytest.mark.parametrize("samples", BY_HAND)
@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "sglang"])
def test_swapped_tokens_are_those_of_every_sample(scheduler, samples):
    blocks, tokens = BY_HAND[samples]
    workload = Given([table([0, 0], [18, 4], [20, 14], samples=[1, samples])])
    limits = SchedulerLimits(8, 64, 100, preemption="swap")
    pool = Pool("paged", blocks, BlockCurve(4))
    case = Case(scheduler, pool, limits, step_time=ConstantStepTime(1.0))
    log, engine = simulated(case, workload), stepped(case, workload)
    assert [row for row, _ in log.preempted] == [1]
    assert log.swapped_tokens == engine.swapped_tokens == tokens
    assert log.recomputed_tokens == 0
    moving = 2 * tokens * case.link_seconds_per_token  # out, and in again
    assert max(log.finish_seconds) == pytest.approx(max(engine.finished.values()), rel=1e-12)
    assert max(log.finish_seconds) % 1 == pytest.approx(moving, rel=1e-6)
