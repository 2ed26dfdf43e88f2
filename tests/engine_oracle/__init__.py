"""vLLM's own scheduler, on a CPU, beside ours: random workloads that both must answer alike.

    python -m tests.engine_oracle FAMILY COUNT [FIRST]     one line a disagreement, then a count
    make oracle                                            every family, for each pinned release

The folder that holds the package ``vllm`` is named by ``KVSIM_VLLM``.
"""

# The newest; one that is asynchronous by default, before blocks without a name came first and the
# threshold was waived; and one that is synchronous and reserves no whole prompt. Not 0.11.0, which
# leaves a victim of priorities its tokens of the step (`Scheduler.schedule` of 0.11.2 takes them).
RELEASES = ("0.33.0", "0.19.1", "0.11.2")
