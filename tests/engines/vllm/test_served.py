"""Which models a release serves: its registry's first and last."""

import pytest

from kvsim import plan
from kvsim.errors import UnsupportedError

# vLLM's registry.py: 0.10.0 lacks GptOssForCausalLM and 0.10.2 has it; 0.16.0 lacks
# Qwen3_5ForConditionalGeneration and 0.17.1 has it. _PREVIOUSLY_SUPPORTED_MODELS of 0.33:
# MPTForCausalLM until 0.28.0.


@pytest.mark.parametrize(
    ("model", "version", "words"),
    [
        ("gpt-oss-20b", "0.10.0", "does not serve gpt-oss-20b: 0.10.0 had no GptOssForCausalLM"),
        ("qwen3.5-27b", "0.15.0", "does not serve qwen3.5-27b: 0.16.0 had no"),
        ("mpt-7b", "0.29.0", "no longer serves mpt-7b: 0.28.0 was the last"),
    ],
)
def test_a_release_that_lacks_a_model_is_refused(model, version, words):
    with pytest.raises(UnsupportedError, match=words):
        plan(model, "b300", engine_version=version, tensor_parallel_size=1)


@pytest.mark.parametrize("version", ["0.6.0", "0.33.0"])
def test_a_model_that_no_release_has_is_sent_to_another_engine(version):
    with pytest.raises(UnsupportedError, match=r"no T5ForConditionalGeneration.*transformers"):
        plan("flan-t5-xl", "b300", engine_version=version)
    assert plan("flan-t5-xl", "b300", engine="transformers").fits


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("gpt-oss-20b", "0.10.1"),  # between two that were read: not known to lack it
        ("gpt-oss-20b", "0.10"),  # some patch of it
        ("gpt-oss-20b", "0.10.2"),
        ("qwen3.5-27b", "0.17.1"),
        ("mpt-7b", "0.28.0"),
        ("llama3-8b", "0.6.0"),
    ],
)
def test_a_release_that_may_have_it_is_planned(model, version):
    assert plan(model, "b300", engine_version=version).fits
