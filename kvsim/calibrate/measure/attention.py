"""Attention: a decode step over a cache that is contiguous or paged, and causal prefill.

Paged caches are read by the best kernel that the device has (`kvsim.calibrate.twin.kernels`). Where
none follows block tables, K and V lie in one piece, and the query heads that share a KV head are
folded into the query's length, which needs no copies of K and V and no mask::

    query (batch, kv_heads, heads per KV head, dim)    K, V (batch, kv_heads, context, dim)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from kvsim.calibrate.measure.case import Call, LocalCase, halved
from kvsim.calibrate.measure.workspace import Workspace
from kvsim.units import ceil_div

if TYPE_CHECKING:
    from kvsim.calibrate.twin.kernel import DecodeKernel

__all__ = ["BLOCK_SIZE", "DecodeCase", "LaunchedDecodeCase", "PagedDecodeCase", "PrefillCase"]

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCase(LocalCase):
    """Decode attention of one layer over sequences that are equally long.

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
    rotates: ClassVar[bool] = True
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

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Tokens, heads and elements of a block of K or V."""
        return BLOCK_SIZE, self.kv_heads, self.head_dim

    def calls(self, space: Workspace) -> list[Call]:
        """One call per cache: of blocks, where the device has a kernel that follows tables."""
        kernel = self.kernel(space)
        return self._contiguous(space) if kernel.gathers else self._paged(space, kernel)

    def kernel(self, space: Workspace) -> DecodeKernel:
        """The kernel that the device has for these heads."""
        from kvsim.calibrate.twin.decodes import Geometry
        from kvsim.calibrate.twin.kernels import choose_kernel

        heads = self.kv_heads * self.group, self.kv_heads, self.head_dim
        kind = space.dtype(self.dtype)
        return choose_kernel(Geometry(*heads, BLOCK_SIZE, kind, space.device)).kernel

    def _paged(self, space: Workspace, kernel: DecodeKernel) -> list[Call]:
        from kvsim.calibrate.twin.decodes import Decodes

        lengths = [self.context] * self.batch
        tables = shuffled_tables(space, lengths)
        blocks = sum(len(table) for table in tables)
        keys, values = space.views(2, (self.sets, blocks, *self.block_shape), self.dtype)
        attend = kernel.plan(Decodes(tables, lengths))
        query = space.random((self.batch, self.kv_heads * self.group, self.head_dim), self.dtype)
        return [partial(attend, query, keys[at], values[at]) for at in range(self.sets)]

    def _contiguous(self, space: Workspace) -> list[Call]:
        shape = (self.batch, self.kv_heads, self.context, self.head_dim)
        caches = space.views(2 * self.sets, shape, self.dtype)
        query_shape = (self.batch, self.kv_heads, self.group, self.head_dim)
        query = space.random(query_shape, self.dtype)
        attend = space.torch.nn.functional.scaled_dot_product_attention
        pairs = zip(caches[::2], caches[1::2], strict=True)
        return [partial(attend, query, key, value) for key, value in pairs]

    def smaller(self) -> DecodeCase | None:
        """Fewer caches, then fewer sequences, then half the context."""
        smaller = halved(self, "sets", "batch")
        return smaller or (halved(self, "context") if self.context > BLOCK_SIZE else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedDecodeCase(DecodeCase):
    """Decode attention through block tables: the twin's own, over contexts that are not alike.

    New K and V are written to their slots, and everything is attended to. Where no kernel follows
    tables, blocks are gathered into one buffer first. The bytes counted are those of K and V,
    once. `context` is the mean: contexts reach from half of it to one and a half. fp8 blocks, of
    contexts all alike, are widened to bf16 after gathering.

    Parameters
    ----------
    sets : int
        Layers, each with a pool of its own.
    """

    kind: ClassVar[str] = "decode_paged"

    @property
    def buffer_bytes(self) -> float:
        """All pools, and what one layer gathers (wider than it is stored, for fp8)."""
        return self.moved_bytes * (self.sets + max(1, 2 // self.element_bytes))

    @property
    def lengths(self) -> list[int]:
        """Context of every sequence: evenly from half the mean to one and a half."""
        shares = [0.5 + (at + 0.5) / self.batch for at in range(self.batch)]
        return [max(1, round(share * self.context)) for share in shares]

    def calls(self, space: Workspace) -> list[Call]:
        """One call per layer."""
        if self.dtype == "fp8":
            return _widened_calls(self, space)
        attend, (query, key, value) = self.step(space), self._new_tokens(space)
        return [partial(attend, layer, query, key, value) for layer in range(self.sets)]

    def step(self, space: Workspace, tables: list[list[int]] | None = None) -> Any:
        """Lay out the twin's attention of one step, over blocks in random order."""
        from kvsim.calibrate.twin.attention import PlannedDecodes, StepAttention
        from kvsim.calibrate.twin.decodes import Decodes
        from kvsim.calibrate.twin.kernels import choose_kernel
        from kvsim.calibrate.twin.paged import Blocks

        tables = tables or self.tables(space)
        blocks = sum(len(table) for table in tables)
        pool = Blocks(*space.views(2, (self.sets, blocks, *self.block_shape), self.dtype))
        kernel = choose_kernel(pool.geometry(self.kv_heads * self.group)).kernel
        pairs = zip(tables, self.lengths, strict=True)
        last = [table[-1] * BLOCK_SIZE + (length - 1) % BLOCK_SIZE for table, length in pairs]
        slots = space.torch.tensor(last, dtype=space.torch.int64, device=space.device)
        decodes = PlannedDecodes.of(kernel, Decodes(tables, self.lengths))
        return StepAttention(pool, slots, (), decodes)

    def tables(self, space: Workspace) -> list[list[int]]:
        """Blocks of every sequence, no two sharing one."""
        return shuffled_tables(space, self.lengths)

    def _new_tokens(self, space: Workspace) -> tuple[Any, Any, Any]:
        """Query, key and value of one new token per sequence."""
        heads = (self.kv_heads * self.group, self.kv_heads, self.kv_heads)
        query, key, value = (
            space.random((self.batch, count, self.head_dim), self.dtype) for count in heads
        )
        return query, key, value


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchedDecodeCase(PagedDecodeCase):
    """What the host takes to launch one layer's attention, while the device is idle."""

    kind: ClassVar[str] = "decode_host"
    rotates: ClassVar[bool] = False
    captured: ClassVar[bool] = False
    hosted: ClassVar[bool] = True


def shuffled_tables(space: Workspace, lengths: Sequence[int]) -> list[list[int]]:
    """Blocks of sequences in random order, no two sharing one."""
    counts = [ceil_div(length, BLOCK_SIZE) for length in lengths]
    ids = iter(space.torch.randperm(sum(counts)).tolist())
    return [list(islice(ids, count)) for count in counts]


def _widened_calls(case: PagedDecodeCase, space: Workspace) -> list[Call]:
    """One call per layer over fp8 blocks: gathered, widened to bf16 and attended to."""
    torch = space.torch
    blocks = case.batch * case.context // BLOCK_SIZE
    shape = (case.kv_heads, blocks, BLOCK_SIZE * case.head_dim)
    pools = space.views(2 * case.sets, shape, case.dtype)
    query = space.random((case.kv_heads, case.batch, case.group, case.head_dim), "bf16")
    table = torch.randperm(blocks, device=space.device)
    wide = (case.kv_heads, case.batch, case.context, case.head_dim)

    def gathered(pool: Any) -> Any:
        found = pool.index_select(1, table).view(torch.float8_e4m3fn)
        return found.to(torch.bfloat16).view(wide)

    def attend(keys: Any, values: Any) -> Any:
        attention = torch.nn.functional.scaled_dot_product_attention
        return attention(query, gathered(keys), gathered(values))

    pairs = zip(pools[::2], pools[1::2], strict=True)
    return [partial(attend, keys, values) for keys, values in pairs]


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
        """Four per query-key pair and element of a head; half of the square counts."""
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
        return halved(self, "batch", "prompt")
