"""SGLang: token slots in one pool, or several where layers keep different things."""

from kvsim.engines.sglang.engine import SGLang

__all__ = ["SGLang"]
