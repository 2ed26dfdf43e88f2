"""A radix tree over runs of page identities, with locks and times of use.

Times are a counter's, as ``unified_tree_core.py`` of SGLang 0.5.23 takes them: one tick whenever
a node is made or visited by an insertion; a match gives its last node one tick and every node
above it a hair less, so that a leaf is evicted before what it stands on only if it is older.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kvsim.errors import InvariantError
from kvsim.workload.content import IdRuns

__all__ = ["Key", "Node", "RadixTree", "key_of"]

_HAIR = 0.00001


class Key(NamedTuple):
    """Page identities, as runs of consecutive ones."""

    runs: tuple[range, ...]
    length: int

    @property
    def first(self) -> int:
        """The first identity."""
        return self.runs[0][0]

    def head(self, count: int) -> Key:
        """The first so many."""
        kept, left = [], count
        for run in self.runs:
            if left <= 0:
                break
            kept.append(run[:left])
            left -= len(run)
        return Key(tuple(kept), min(count, self.length))

    def tail(self, count: int) -> Key:
        """All but the first so many."""
        kept, skipped = [], count
        for run in self.runs:
            if skipped < len(run):
                kept.append(run[skipped:] if skipped > 0 else run)
            skipped -= len(run)
        return Key(tuple(kept), max(0, self.length - count))

    def common(self, other: Key) -> int:
        """How many identities both begin with."""
        same = at = to = 0  # at, to: the runs; a, b: what is left of them
        a, b = self.runs[0], other.runs[0]
        while a[0] == b[0]:
            alike = min(len(a), len(b)) if a.step == b.step or min(len(a), len(b)) == 1 else 1
            same += alike
            a, b = a[alike:], b[alike:]
            if not a:
                at += 1
                if at == len(self.runs):
                    break
                a = self.runs[at]
            if not b:
                to += 1
                if to == len(other.runs):
                    break
                b = other.runs[to]
        return same


def key_of(ids: Sequence[int]) -> Key:
    """Make a key of identities."""
    if isinstance(ids, range):
        return Key((ids,) if ids else (), len(ids))
    runs = ids.runs if isinstance(ids, IdRuns) else IdRuns.of(ids).runs
    return Key(tuple(runs), len(ids))


class Node:
    """A run of pages below a parent.

    Attributes
    ----------
    key, length : Key, int
        Its identities.
    depth : int
        Pages from the root to its end.
    locks : int
        Requests whose path passes through it.
    used, born, hits : float, float, int
        Time of last use and of making, and how often insertions came by.
    """

    __slots__ = ("born", "children", "depth", "hits", "key", "locks", "number", "parent", "used")

    def __init__(self, parent: Node | None, key: Key, depth: int, now: float) -> None:
        self.parent, self.key, self.depth = parent, key, depth
        self.children: dict[int, Node] = {}
        self.locks = self.hits = 0
        self.used = self.born = now
        self.number = int(now)

    @property
    def length(self) -> int:
        """Its pages."""
        return self.key.length

    @property
    def is_evictable_leaf(self) -> bool:
        """Whether nobody stands on it, and nobody holds it; the root never goes."""
        return not self.children and not self.locks and self.parent is not None


class RadixTree:
    """The tree.

    Attributes
    ----------
    root : Node
        Without pages.
    evictable, locked : int
        Pages of nodes without locks, and of those with.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self.root = Node(None, Key((), 0), 0, self._tick())
        self.evictable = self.locked = 0

    def match(self, key: Key) -> Node:
        """Find the longest known prefix, ending a node there, and renew its path."""
        if not key.length:
            return self.root
        node = self.root
        while key.length and (child := node.children.get(key.first)) is not None:
            same = child.key.common(key)
            node = self._split(child, same) if same < child.length else child
            if node is not child:
                break
            key = key.tail(same)
        now, above = self._tick(), node
        while True:
            above.used = now
            now -= _HAIR
            if above.parent is None:
                return node
            above = above.parent

    def insert(self, key: Key, inserted: int = 0) -> tuple[int, Node]:
        """Add a prefix.

        Parameters
        ----------
        key : Key
            Its identities.
        inserted : int
            Pages that the same request has inserted before: they count as no further use.

        Returns
        -------
        int, Node
            Pages that were known, and the node at the end.
        """
        node, known = self.root, 0
        node.used = self._tick()
        while key.length and (child := node.children.get(key.first)) is not None:
            child.used = self._tick()
            same = child.key.common(key)
            node = self._split(child, same) if same < child.length else child
            known += same
            node.hits += known > inserted
            key = key.tail(same)
        if key.length:
            below = Node(node, key, node.depth + key.length, self._tick())
            below.hits += below.depth > inserted
            node.children[key.first] = below
            self.evictable += key.length
            node = below
        return known, node

    def lock(self, node: Node) -> None:
        """Lock a path."""
        while node.parent is not None:
            if not node.locks:
                self.evictable -= node.length
                self.locked += node.length
            node.locks += 1
            node = node.parent

    def unlock(self, node: Node) -> None:
        """Unlock a path."""
        while node.parent is not None:
            node.locks -= 1
            if not node.locks:
                self.evictable += node.length
                self.locked -= node.length
            node = node.parent

    def drop(self, node: Node) -> Node:
        """Take a leaf out that nobody holds; return its parent."""
        parent = node.parent
        if parent is None or not node.is_evictable_leaf:
            raise InvariantError("a node is evicted that somebody stands on or holds")
        del parent.children[node.key.first]
        self.evictable -= node.length
        return parent

    def nodes(self) -> Iterator[Node]:
        """All nodes but the root."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def leaves(self) -> Iterator[Node]:
        """Leaves that can be evicted."""
        return (node for node in self.nodes() if node.is_evictable_leaf)

    def shared(self, node: Node) -> int:
        """Pages of a path that others hold, too."""
        pages = 0
        while node.parent is not None:
            pages += node.length if node.locks > 1 else 0
            node = node.parent
        return pages

    def check(self, leases: Iterable[Node]) -> None:
        """Compare locks and counts with the paths that are leased.

        Raises
        ------
        InvariantError
            When one has drifted.
        """
        locks: Counter[Node] = Counter()
        for node in leases:
            while node.parent is not None:
                locks[node] += 1
                node = node.parent
        pages = {True: 0, False: 0}
        for node in self.nodes():
            pages[node.locks > 0] += node.length
            if node.locks != locks[node]:
                raise InvariantError(f"a node has {node.locks} locks of {locks[node]} requests")
        if (self.locked, self.evictable) != (pages[True], pages[False]):
            raise InvariantError("pages of the tree are miscounted")

    def _tick(self) -> float:
        now, self._now = self._now, self._now + 1.0
        return now

    def _split(self, child: Node, count: int) -> Node:
        """End a node after so many pages: the first part is new, the rest the node itself."""
        parent = child.parent
        assert parent is not None
        head = Node(parent, child.key.head(count), child.depth - child.length + count, self._tick())
        head.born, head.hits, head.locks = child.born, child.hits, child.locks
        parent.children[head.key.first] = head
        child.key, child.parent = child.key.tail(count), head
        head.children[child.key.first] = child
        child.used = self._tick()
        return head
