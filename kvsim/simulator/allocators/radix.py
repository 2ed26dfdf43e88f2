"""SGLang's radix cache: pages in a tree of prefixes, whose leaves are evicted least recent first.

A node holds a run of pages. A request locks the path of the prefix that it found, and hands its
own pages over to the tree when a prefill ends and when it finishes; pages that the tree has
already got are freed then::

    free ── taken by a step ──▶ a request's own ── checkpoint ──▶ tree, locked
      ▲                                                            │ last lock gone
      └────────────── evicted, whole leaves, when needed ──────── tree, evictable

Mirrors ``UnifiedRadixCache`` with its Python core (SGLang 0.5.23), full attention alone. It is
`SGLang`'s: what a pass admits is taken from the free pages when the pass is over (`settle`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

from kvsim.errors import InputError, InvariantError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.allocators.base import Holding, Slots
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.prefix import hybrid_error
from kvsim.simulator.allocators.radix_tree import Key, Node, RadixTree, key_of
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.request import Request

__all__ = ["Radix"]

_PRIVATE_SPAN = 1 << 32  # pages of one request's own, unshared identities
_RANKS: dict[str, Callable[[Node], tuple[float, float]]] = {
    "lru": lambda node: (node.used, 0.0),
    "lfu": lambda node: (float(node.hits), node.used),
    "fifo": lambda node: (node.born, 0.0),
}


class _Lease:
    """What a running request has of the tree: a locked path of so many pages."""

    __slots__ = ("inserted", "node", "pages")

    def __init__(self, node: Node, pages: int) -> None:
        self.node = node
        self.pages = pages
        self.inserted = 0


class Radix(Paged):
    """Prefix caching in SGLang's order.

    Parameters
    ----------
    total_blocks : int
        Size of the pool.
    curve : BlockCurve
        Blocks of one sequence; must be that of a plain model.
    eviction : str
        "lru", "lfu" or "fifo" (``--radix-eviction-policy``).

    Raises
    ------
    InputError
        For a hybrid model, and an order of eviction that the tree does not know.
    """

    sets_slots_apart = True
    shares_prefixes = True

    def __init__(self, total_blocks: int, curve: BlockCurve, eviction: str = "lru") -> None:
        if curve != BlockCurve(curve.block_size):
            raise hybrid_error()
        if eviction not in _RANKS:
            raise InputError(
                f"the radix cache evicts by {', '.join(_RANKS)}, and not by {eviction!r:.60}",
                fix="choose one of them, or scheduler.policy: vllm-v1",
            )
        super().__init__(total_blocks, curve)
        self.tree = RadixTree()
        self._rank = _RANKS[eviction]
        self._free = total_blocks
        self._leased = 0  # pages of all leases, shared ones counted for each
        self._owed = 0  # pages that this pass has promised, and the least that must be free then
        self._wanted_tokens = self._wanted_pages = 0
        self._found: dict[Request, Node] = {}

    # ---- a pass over the queue --------------------------------------------------------------

    def touch(self, request: Request) -> None:
        """Renew the prefix of a waiting request (``touch_waiting_prefix``)."""
        self.tree.match(self._key(request, request.prefill_tokens))

    def look_up(self, request: Request) -> int:
        """Find and lock a waiting request's prefix; return its tokens.

        The last token is always computed, so a prompt is never found whole.
        """
        node = self.tree.match(self._key(request, request.prefill_tokens - 1))
        self.tree.lock(node)
        self._found[request] = node
        self._count()
        return node.depth * self._size

    def forget(self, request: Request) -> None:
        """Unlock what was looked up for a request that is not admitted."""
        self.tree.unlock(self._found.pop(request))
        self._count()

    def allocate(
        self, request: Request, chunk_tokens: int, *, spare_blocks: int = 0, whole: bool = True
    ) -> int | None:
        """Promise pages for the first chunk behind the prefix that is locked."""
        if request not in self._found:
            self.look_up(request)
        node = self._found[request]
        cached = node.depth * self._size
        first = min(cached + chunk_tokens, request.prefill_tokens)
        due = self.blocks_of(request, request.prefill_tokens if whole else first) - node.depth
        if due + spare_blocks > self.free_blocks:
            self.forget(request)
            return None
        del self._found[request]
        request.blocks = _Lease(node, node.depth)
        self._leased += node.depth
        end = min(cached + chunk_tokens, request.prefill_tokens)
        self._promise(self.blocks_of(request, end) - node.depth, end - cached)
        return cached

    def append_slots(self, request: Request, tokens: int, *, spare_blocks: int = 0) -> bool:
        """Promise pages for a further chunk."""
        done = request.computed_tokens
        need = self.blocks_of(request, tokens) - (self.blocks_of(request, done) if done else 0)
        if need + spare_blocks > self.free_blocks:
            return False
        if not done:
            request.blocks = _Lease(self.tree.root, 0)
        self._promise(need, tokens - done)
        return True

    def settle(self) -> None:
        """Evict for what the pass has promised, and take it (``alloc_for_extend``).

        Of pages of several tokens one more a request is made free; parallel samples, each with a
        copy of its prompt's last page, may need more than that.
        """
        pages = -(-self._wanted_tokens // self._size)
        spare = self._wanted_pages if self._size > 1 else 0
        self.evict_until(max(pages + spare, self._owed))
        self._free -= self._owed
        self._owed = self._wanted_tokens = self._wanted_pages = 0
        self._count()

    # ---- decoding ---------------------------------------------------------------------------

    def can_decode(self, batch: DecodeBatch) -> bool:
        """Whether the pages that the next step opens are free, once they have been made so."""
        self.evict_until(batch.opening)
        return batch.opening <= self.free_blocks

    def allocate_steps(self, batch: DecodeBatch, steps: int, opening: int) -> None:
        """Evict and take page by page; a page for every sequence is made free at each step."""
        last = batch.phases.blocks_for(batch.step + steps - 1, 1)
        self.evict_until(opening - last + batch.sequences)
        self._free -= opening
        self._count()

    def evict_until(self, pages: int) -> None:
        """Evict leaves until so many pages are free, or none is left (``evict_for_alloc``)."""
        if self._free >= pages:
            return
        heap = [(self._rank(node), node.number, node) for node in self.tree.leaves()]
        heapify(heap)
        while self._free < pages and heap:
            _, _, node = heappop(heap)
            parent = self.tree.drop(node)
            self._free += node.length
            if parent.is_evictable_leaf:
                heappush(heap, (self._rank(parent), parent.number, parent))
        self._count()

    # ---- giving back ------------------------------------------------------------------------

    def checkpoint(self, request: Request) -> None:
        """Hand the full pages of a request over to the tree (``checkpoint_into_tree``)."""
        lease, tree = _lease(request), self.tree
        pages = request.computed_tokens // self._size
        key = self._key(request, request.computed_tokens)
        known, node = tree.insert(key, lease.inserted)
        lease.inserted = max(lease.inserted, pages)
        prompt = request.prompt_tokens // self._size
        if 0 < prompt < pages:  # so that an output can be evicted without its prompt
            tree.insert(key.head(prompt), prompt)
        self._free += known - lease.pages  # second copies
        tree.unlock(lease.node)
        tree.lock(node)
        self._leased += pages - lease.pages
        lease.node, lease.pages = node, pages
        self._count()

    def free(self, request: Request, *, preempted: bool = False, planned_tokens: int = 0) -> None:
        """Give back all that the tree does not keep (``release_kv_cache``)."""
        tokens = request.computed_tokens
        if not preempted:
            self.checkpoint(request)
        lease = _lease(request)
        self._free += (self.blocks_of(request, tokens) if tokens else 0) - lease.pages
        self._leased -= lease.pages
        self.tree.unlock(lease.node)
        request.blocks = None
        self._count()

    # ---- what others see --------------------------------------------------------------------

    def slots(self, tokens: int, head: Request | None) -> Slots:
        """Slots of the tree that nobody holds, and of those that several requests begin with."""
        shared = self._leased - self.tree.locked
        return Slots(cached=self.tree.evictable * self._size, shared=shared * self._size)

    @property
    def shared_blocks(self) -> int:
        """Pages of nodes with two or more locks."""
        return sum(node.length for node in self.tree.nodes() if node.locks > 1)

    def holdings(self, live: Iterable[tuple[Request, int]]) -> list[Holding]:
        """What each request holds alone: all of its pages but the shared ones."""
        return [
            Holding(r.row, self.blocks_of(r, n) - self.tree.shared(_lease(r).node)) for r, n in live
        ]

    def check(self, live: Iterable[tuple[Request, int]]) -> None:
        """State ``held + evictable + free = total`` and that locks are counted right."""
        leases, own = [], 0
        for request, tokens in live:
            lease = _lease(request)
            leases.append(lease.node)
            own += (self.blocks_of(request, tokens) if tokens else 0) - lease.pages
            if lease.pages != lease.node.depth:
                raise InvariantError(f"{request} leases {lease.pages} pages of {lease.node.depth}")
        self.tree.check(leases)
        in_all = self._free + own + self.tree.evictable + self.tree.locked
        if self._owed or self._found or in_all != self.total_blocks:
            raise InvariantError(
                f"{self._free} free + {own} own + {self.tree.evictable} evictable +"
                f" {self.tree.locked} locked pages != {self.total_blocks}"
            )

    # ---- counts and names -------------------------------------------------------------------

    def _promise(self, pages: int, tokens: int) -> None:
        """Note what one request of this pass takes."""
        self._owed += pages
        self._wanted_tokens += tokens
        self._wanted_pages += 1
        self._count()

    def _count(self) -> None:
        """Count what can be handed out."""
        self.free_blocks = self._free + self.tree.evictable - self._owed

    def _key(self, request: Request, tokens: int) -> Key:
        """Identities of the first full pages of a request; its own, where nothing is shared."""
        if request.content is not None:
            return key_of(request.content.block_ids(request.content_row, self._size, tokens))
        first = -(request.row + 1) * _PRIVATE_SPAN
        return key_of(range(first, first + tokens // self._size))


def _lease(request: Request) -> _Lease:
    """A running request's lease."""
    if not isinstance(request.blocks, _Lease):
        raise InvariantError(f"{request} has no lease")
    return request.blocks
