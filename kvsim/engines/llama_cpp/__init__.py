"""llama.cpp: cells of tokens, split over two caches where windows differ."""

from kvsim.engines.llama_cpp.engine import LlamaCpp

__all__ = ["LlamaCpp"]
