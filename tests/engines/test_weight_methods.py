"""Formats that are asked for in place of a checkpoint's own, and names that are its own."""

import pytest

from kvsim import plan
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines.base import Deployment, EngineOptions


@pytest.mark.parametrize(
    ("model", "asked", "stays"),
    [
        ("deepseek-r1", "fp8", True),  # in blocks of 128: `fp8` is what made it
        ("deepseek-r1", "nvfp4", False),
        ("llama3-8b", "fp8", False),  # 16 bits, quantised as it is loaded
        ("llama3-8b", None, True),
    ],
)
def test_the_name_of_a_method_leaves_its_checkpoint_as_it_is(model, asked, stays):
    options = EngineOptions(quantization=asked)
    deployment = Deployment(find_model(model), find_accelerator("h200"), options)
    assert (deployment.quantization is None) == stays


def test_a_checkpoint_in_blocks_takes_no_other_bytes_by_the_name_of_its_method():
    told = plan("deepseek-r1", "h200", tensor_parallel_size=8, quantization="fp8")
    plain = plan("deepseek-r1", "h200", tensor_parallel_size=8)
    assert told.memory == plain.memory
    assert told.model.quantization == plain.model.quantization == "fp8_block"
    assert told.decode == plain.decode
