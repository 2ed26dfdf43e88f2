"""Attention: a decode step over a cache that is contiguous or paged, and causal prefill.

Decode folds the query heads that share a KV head into the query's length, which needs no
copies of K and V and no mask::

    query (batch, kv_heads, heads a KV head, dim)      K, V (batch, kv_heads, context, dim)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from kvsim.calibrate.measure.case import Call, LocalCase, halved
from kvsim.calibrate.measure.workspace import Workspace

__all__ = ["BLOCK_SIZE", "DecodeCase", "PagedDecodeCase", "PrefillCase"]

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCase(LocalCase):
    """Decode attention of one layer over contiguous K and V.

    Parameters
    ----------
    batch, context : int
        Sequences, and cached tokens of each.
    kv_heads, group, head_dim : int
        KV heads, query heads that share one, and their size.
    sets : int
        Caches that take turns, so that none is found in the last-level cache.
    """

    kind: ClassVar[str] = "decode"
    batch: int
    context: int
    kv_heads: int
    group: int = 4
    head_dim: int = 128
    sets: int = 1

    @property
    def moved_bytes(self) -> float:
        """Bytes of K and V."""
        elements = 2 * self.batch * self.context * self.kv_heads * self.head_dim
        return float(elements * self.element_bytes)

    @property
    def flops(self) -> float:
        """Scores and weighted sums."""
        pairs = self.batch * self.context * self.kv_heads * self.group
        return 4.0 * pairs * self.head_dim

    @property
    def starts(self) -> float:
        """KV heads of all sequences: each starts a tile."""
        return float(self.batch * self.kv_heads)

    @property
    def buffer_bytes(self) -> float:
        """All caches."""
        return self.sets * self.moved_bytes

    def calls(self, space: Workspace) -> list[Call]:
        """One call a cache."""
        shape = (self.batch, self.kv_heads, self.context, self.head_dim)
        caches = space.views(2 * self.sets, shape, self.dtype)
        query_shape = (self.batch, self.kv_heads, self.group, self.head_dim)
        query = space.random(query_shape, self.dtype)
        attend = space.torch.nn.functional.scaled_dot_product_attention
        pairs = zip(caches[::2], caches[1::2], strict=True)
        return [partial(attend, query, key, value) for key, value in pairs]

    def smaller(self) -> DecodeCase | None:
        """Fewer caches, then fewer sequences, then half the context."""
        sizes = halved(self, "sets", "batch")
        if sizes is None and self.context > BLOCK_SIZE:
            sizes = {"context": self.context // 2}
        return replace(self, **sizes) if sizes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedDecodeCase(DecodeCase):
    """Decode attention through block tables, as the twin's loop does it.

    Torch has no paged kernel of its own: blocks are gathered into one buffer, which is then
    attended to. The bytes counted are those of K and V, once. fp8 blocks are widened to
    bf16 after gathering.

    Parameters
    ----------
    sets : int
        Layers, each with a pool of its own.
    """

    kind: ClassVar[str] = "decode_paged"
    captured: ClassVar[bool] = False

    @property
    def buffer_bytes(self) -> float:
        """All pools, and what one layer gathers (wider than it is stored, for fp8)."""
        return self.moved_bytes * (self.sets + max(1, 2 // self.element_bytes))

    def calls(self, space: Workspace) -> list[Call]:
        """One call a layer."""
        blocks = self.batch * self.context // BLOCK_SIZE
        pools = space.views(
            2 * self.sets, (self.kv_heads, blocks, BLOCK_SIZE * self.head_dim), self.dtype
        )
        wide = "bf16" if self.dtype == "fp8" else self.dtype
        query = space.random((self.kv_heads, self.batch, self.group, self.head_dim), wide)
        table = space.torch.randperm(blocks, device=space.device)
        step = _PagedStep(self, space, query, table)
        pairs = zip(pools[::2], pools[1::2], strict=True)
        return [partial(step.attend, keys, values) for keys, values in pairs]


class _PagedStep:
    """The gather and the attention of one layer."""

    def __init__(self, case: PagedDecodeCase, space: Workspace, query: Any, table: Any) -> None:
        self._torch, self._query, self._table = space.torch, query, table
        self._shape = (case.kv_heads, case.batch, case.context, case.head_dim)
        slots = space.torch.arange(case.context, device=space.device)
        # the twin masks the padding of the last block; here every token counts
        self._mask = (slots < case.context).view(1, 1, 1, -1)
        self._narrow = case.dtype == "fp8"

    def attend(self, keys: Any, values: Any) -> Any:
        attention = self._torch.nn.functional.scaled_dot_product_attention
        return attention(
            self._query, self._gathered(keys), self._gathered(values), attn_mask=self._mask
        )

    def _gathered(self, pool: Any) -> Any:
        found = pool.index_select(1, self._table)
        if self._narrow:
            found = found.view(self._torch.float8_e4m3fn).to(self._torch.bfloat16)
        return found.view(self._shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillCase(LocalCase):
    """Causal attention of one layer over prompts that are computed whole.

    Parameters
    ----------
    batch, prompt : int
        Prompts, and tokens of each.
    heads, head_dim : int
        Query heads (each with K and V of its own) and their size.
    """

    kind: ClassVar[str] = "prefill"
    batch: int
    prompt: int
    heads: int
    head_dim: int = 128

    @property
    def moved_bytes(self) -> float:
        """Bytes of Q, K, V and the output."""
        return 4.0 * self.queries * self.head_dim * self.element_bytes

    @property
    def queries(self) -> float:
        """Tokens times query heads."""
        return float(self.batch * self.prompt * self.heads)

    @property
    def flops(self) -> float:
        """Four a query-key pair and element of a head; half of the square counts."""
        pairs = self.batch * self.prompt * (self.prompt + 1) / 2
        return 4.0 * pairs * self.heads * self.head_dim

    @property
    def buffer_bytes(self) -> float:
        """Q, K, V and the output."""
        return self.moved_bytes

    def calls(self, space: Workspace) -> list[Call]:
        """One call."""
        shape = (self.batch, self.heads, self.prompt, self.head_dim)
        query, key, value = space.views(3, shape, self.dtype)
        attend = space.torch.nn.functional.scaled_dot_product_attention
        return [lambda: attend(query, key, value, is_causal=True)]

    def smaller(self) -> PrefillCase | None:
        """Fewer prompts, then shorter ones."""
        sizes = halved(self, "batch", "prompt")
        return replace(self, **sizes) if sizes else None
