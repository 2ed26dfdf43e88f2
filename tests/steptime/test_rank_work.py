"""What a rank's kernels without a matrix move, beside Vidur's measured layers."""

import pytest

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines.base import Deployment
from kvsim.memory.rank import Rank
from kvsim.steptime.model import StepLoad, StepTimeModel
from kvsim.steptime.rank_work import elementwise_bytes


def test_a_dense_layer_by_hand():
    """Llama-2-7B: 4,096 wide, 32 query heads of 128, 11,008 in the middle."""
    layer = 16 * 4096 + 4 * 32 * 128 + 6 * 11_008
    assert elementwise_bytes(find_model("llama2-7b")) == 32 * layer
    halves = 32 * (16 * 4096 + (4 * 32 * 128 + 6 * 11_008) / 2)
    assert elementwise_bytes(find_model("llama2-7b"), Rank(tp=2)) == halves


def test_each_expert_that_a_token_goes_to_counts():
    """Mixtral-8x7B: two of eight experts, 14,336 wide each, 32 query heads of 128."""
    each = 6 * 14_336 + 4 * 4096
    layer = 16 * 4096 + 4 * 32 * 128 + 2 * each
    assert elementwise_bytes(find_model("mixtral-8x7b")) == 32 * layer


@pytest.mark.parametrize(
    ("card", "microseconds"),
    # Vidur (MIT), mlp_median_*.csv: Llama-2-70B, TP 1, 2,048 tokens: two norms, rotary, activation
    [("h100", 355.2), ("a100", 633.0)],
)
def test_prompts_take_as_long_as_vidur_measured(card, microseconds):
    deployment = Deployment(find_model("llama2-70b"), find_accelerator(card))
    cost = StepTimeModel.from_deployment(deployment).cost(StepLoad(2048, 1))
    assert cost.elementwise_seconds / 80 == pytest.approx(microseconds * 1e-6, rel=0.2)
