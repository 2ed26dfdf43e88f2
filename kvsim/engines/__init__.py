"""How each serving engine divides a device's memory, pinned to versions."""

from __future__ import annotations

from kvsim.engines.base import Capacity, Deployment, Engine, MemoryBudget, ResolvedDeployment
from kvsim.errors import UnknownNameError

__all__ = [
    "ENGINE_NAMES",
    "Capacity",
    "Deployment",
    "Engine",
    "MemoryBudget",
    "ResolvedDeployment",
    "engine_names",
    "get_engine",
]

ENGINE_NAMES = ("vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers")


def engine_names() -> list[str]:
    """Names of the serving engines whose accounting is known, vLLM first."""
    return list(ENGINE_NAMES)


def get_engine(name: str = "vllm", version: str = "") -> Engine:
    """Return the accounting rules of an engine at a version ("" is the newest known).

    Raises
    ------
    UnknownNameError
        For an engine that kvsim does not know.
    InputError
        For a version that the engine's rules do not cover.
    """
    if name == "vllm":
        from kvsim.engines.vllm import VLLM

        return VLLM(version)
    if name == "sglang":
        from kvsim.engines.sglang import SGLang

        return SGLang(version)
    if name == "tensorrt-llm":
        from kvsim.engines.tensorrt_llm import TensorRTLLM

        return TensorRTLLM(version)
    if name == "llama.cpp":
        from kvsim.engines.llama_cpp import LlamaCpp

        return LlamaCpp(version)
    if name == "transformers":
        from kvsim.engines.transformers import Transformers

        return Transformers(version)
    raise UnknownNameError("engine", name, ENGINE_NAMES)
