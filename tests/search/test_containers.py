"""Images are those that the engines publish, by names seen in use."""

import pytest

from kvsim.catalog.accelerators import find_accelerator
from kvsim.search.containers import image_of


@pytest.mark.parametrize(
    ("engine", "version", "card", "image"),
    [
        ("vllm", "0.19.1", "h100", "vllm/vllm-openai:v0.19.1"),
        ("vllm", "v0.11", "h100", "vllm/vllm-openai:v0.11.0"),
        ("vllm", "0.19.1", "mi300x", "vllm/vllm-openai-rocm:v0.19.1"),
        ("sglang", "0.5.18", "h100", "lmsysorg/sglang:v0.5.18"),
        ("sglang", "0.5.6.post1", "mi355x", "lmsysorg/sglang:v0.5.6.post1-rocm700-mi35x"),
        ("tensorrt-llm", "1.2.0rc6", "h100", "nvcr.io/nvidia/tensorrt-llm/release:1.2.0rc6"),
        ("tensorrt-llm", "0.21", "h100", "nvcr.io/nvidia/tensorrt-llm/release:0.21.0"),
        ("llama.cpp", "", "l4", "ghcr.io/ggml-org/llama.cpp:server-cuda"),
        ("llama.cpp", "b4927", "l4", "ghcr.io/ggml-org/llama.cpp:server-cuda-b4927"),
        ("llama.cpp", "9917", "mi300x", "ghcr.io/ggml-org/llama.cpp:server-rocm-b9917"),
    ],
)
def test_images_are_the_engines_own(engine, version, card, image):
    assert image_of(engine, version, find_accelerator(card)) == image
