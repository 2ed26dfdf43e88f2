"""vLLM's accounting, release by release.

::

    rules      which rule holds in which release (data/vllm_rules.yaml)
    defaults   flags left open -> this release's defaults on this card; contradictions
    block_sparse, folded_index, sourced
               what the kernels of MiniMax-M3, GLM-5.3 and DeepSeek-V4.1 take on a card
    pages      one layer's cache -> its page, and the pages one sequence needs of it
    groups     layers -> groups that share block tables (the hybrid memory manager)
    layout     groups + KV bytes -> blocks, concurrency, logged tokens, three regimes
    overheads  what is neither weights nor KV: activations, non-torch memory, CUDA graphs
    budget     total memory -> bytes left for KV, on the tightest rank
    launch     the ``vllm serve`` line
"""

from kvsim.engines.vllm.engine import VLLM

__all__ = ["VLLM"]
