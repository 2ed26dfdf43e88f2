"""vLLM's own scheduler, on a CPU, beside ours: random workloads that both must answer alike.

    python -m tests.engine_oracle FAMILY COUNT [FIRST]     one line a disagreement, then a count
    make oracle                                            every family, for each pinned release

The folder that holds the package ``vllm`` is named by ``KVSIM_VLLM``.
"""
