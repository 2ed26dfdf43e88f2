"""A prompt under way is one sequence, however many samples will come of it."""

import pytest

from kvsim.memory.growth import BlockCurve
from kvsim.simulator.schedulers import SchedulerLimits
from kvsim.steptime.model import ConstantStepTime
from tests.support.parts import Case, Given, Pool, simulated, stepped, table


def preempted_while_it_prefills(samples):
    """Two requests in ten blocks of 4: the first decodes on, the second computes its prompt.

    A token of the prompt each second: before its 16 are computed, the first takes its blocks.
    """
    workload = Given([table([0, 19.5], [20, 16], [20, 1], samples=[1, samples])])
    limits = SchedulerLimits(4, 2, 100, long_prefill_token_threshold=1, waives_threshold=False)
    pool = Pool("paged", 10, BlockCurve(4))
    return Case("vllm-v1", pool, limits, step_time=ConstantStepTime(1.0)), workload


@pytest.mark.parametrize("samples", [1, 2])
def test_what_a_preempted_prompt_throws_away_is_what_was_computed(samples):
    case, workload = preempted_while_it_prefills(samples)
    log, engine = simulated(case, workload), stepped(case, workload)
    assert log.preempted
    assert 0 < engine.recomputed_tokens < 16
    assert log.recomputed_tokens == engine.recomputed_tokens
