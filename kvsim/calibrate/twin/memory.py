"""What the twin's step needs beside weights and pool: its largest moment, bytes.

::

    gather    K and V of a group of decodes, copied out of their blocks; at most `GATHER_BYTES`
    forward   residual streams, and the feed-forward's intermediates, of all tokens
    head      the logits of every sequence that speaks

The three follow one another, so the peak is the largest of them.
"""

from __future__ import annotations

from kvsim.calibrate.twin.blueprint import Blueprint
from kvsim.simulator.prepare import Setup
from kvsim.units import MIB

__all__ = ["GATHER_BYTES", "workspace_bytes"]

# So large that reading it is bound by memory, so small that it is no part of a GPU's.
GATHER_BYTES = 512 * MIB
_STREAMS = 4  # residual, normed, attended and projected copies of the tokens


def workspace_bytes(setup: Setup, element_bytes: int, *, gathers: bool = True) -> int:
    """Predict the most bytes that a step of this setup holds beside weights and pool.

    Parameters
    ----------
    setup : Setup
        Model, flags and pool.
    element_bytes : int
        Of weights and activations.
    gathers : bool
        Whether decode attention copies blocks together.
    """
    shape, options = Blueprint.of(setup.deployment.model), setup.deployment.options
    tokens = options.max_num_batched_tokens
    sequences = min(options.max_num_seqs, tokens)
    width = _STREAMS * shape.hidden + (4 if shape.gated else 2) * shape.intermediate
    forward = tokens * width * element_bytes
    head = sequences * shape.vocabulary * element_bytes
    held = min(GATHER_BYTES, setup.pool_slots * shape.layer_token_bytes(element_bytes))
    return max(forward, head, held if gathers else 0)
