"""A server of constant steps, whose answers queueing theory knows."""

import kvsim

STEP = 0.01
TOKENS = 50
SERVICE_RATE = 1 / (STEP * TOKENS)


def server(arrivals, tokens=TOKENS, **overrides):
    """One server: a sequence at a time, whose work is its output tokens."""
    output = {"kind": "exponential", "mean": tokens}
    return kvsim.load_scenario(
        "peer-w",
        {
            "engine": {"max_num_seqs": 1, "max_model_len": 8192},
            "memory": {"allocator": "paged"},
            "step_time": {"kind": "constant", "seconds": STEP},
            "workload": {
                "arrivals": arrivals,
                "lengths": {"prompt": {"kind": "fixed", "tokens": 16}, "output": output},
                "requests": 1000,
            },
            **overrides,
        },
    )
