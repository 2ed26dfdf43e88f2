"""Attention kinds: each answers for itself what it keeps, reads, computes and weighs.

::

    tokens   0 1 2 3 4 5 6 7 8 9 10 11      window 4, chunk 4, context 11
    full     # # # # # # # # # # #          every token
    sliding  . . . . . . . # # # #          the last `window` tokens
    chunked  . . . . . . . . # # #          at most one chunk
    latent   # # # # # # # # # # #          one small vector per token, not a pair per head
    sparse   # # # # # # # # # # #          every token, of which a query reads a few blocks
    recurrent  (one matrix)                 one state, whatever the length

The questions, for one layer; those that count bytes, for one rank of it:

====================  ======================================================================
``entries``           what it keeps of a sequence, and for which tokens
``fixed_bytes``       bytes of recurrent state that a sequence takes whatever its length
``state_elements``    elements of that state
``read_bytes``        bytes that one decode step reads
``read_bend``         context at which those bytes stop growing as they did
``pairs``             query-key pairs of a prefill chunk
``pair_flops``        prefill FLOPs of one pair
``decode_flops``      FLOPs of one decode step
``query_heads``       heads that ask
``vectors``           heads and widths of the K and V that it keeps
``weights``           parameters, by how they shard
``fused_tensors``     the large tensors that a loader makes of them
``linear_ends``       inputs and outputs of its linear maps, which adapters are as wide as
``rotary_dim``        elements of a position's row in the rotary table
``activation_width``  elements per token of its intermediates
``label``             the field's word for it
``formula``           its bytes as a sum in words
====================  ======================================================================

The rest follows in `Attention`: bytes held at a context, whether it grows, its window. A kind
is one class below `Attention`, found by its `kind` word where a mapping is read. A class with
such a word that leaves a question open is a TypeError as it is made. Nothing outside this
folder and the readers asks which kind it has before it (tests/specs/test_attention_unasked.py).
"""

from __future__ import annotations

from kvsim.specs.attention.base import (
    Attention,
    Entry,
    Formula,
    TokenCache,
    Vectors,
    Weights,
    heads_per_rank,
)
from kvsim.specs.attention.block_sparse import BlockSparseAttention
from kvsim.specs.attention.compressed import CompressedLatentAttention
from kvsim.specs.attention.heads import (
    ChunkedAttention,
    CrossAttention,
    FullAttention,
    HeadAttention,
    SlidingAttention,
)
from kvsim.specs.attention.latent import LatentAttention
from kvsim.specs.attention.recurrent import RecurrentState
from kvsim.specs.attention.sourced import SourcedLatentAttention

__all__ = [
    "Attention",
    "BlockSparseAttention",
    "ChunkedAttention",
    "CompressedLatentAttention",
    "CrossAttention",
    "Entry",
    "Formula",
    "FullAttention",
    "HeadAttention",
    "LatentAttention",
    "RecurrentState",
    "SlidingAttention",
    "SourcedLatentAttention",
    "TokenCache",
    "Vectors",
    "Weights",
    "heads_per_rank",
]
