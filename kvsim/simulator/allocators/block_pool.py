"""Blocks that several groups of layers draw from one queue, known by their content or not at all.

::

    (nameless) (nameless) | [ 0 | g1:7 ] [ 1 | g1:7 ] [ 0 | g1:6 ] ...     evicted from the left
    reused first            group | identity, least recently used first

The rules are those of ``vllm/v1/core/block_pool.py`` (``free_blocks``, ``get_new_blocks``,
``BlockHashToBlockMap``), one block at a time.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from kvsim.errors import InvariantError

__all__ = ["Block", "BlockPool"]


class Block:
    """A block of known content.

    Attributes
    ----------
    group : int
        Whose layers it caches.
    name : int
        Identity of its content; see `kvsim.workload.content`.
    refs : int
        Requests that hold it; 0: it is idle.
    """

    __slots__ = ("group", "name", "refs")

    def __init__(self, group: int, name: int) -> None:
        self.group, self.name, self.refs = group, name, 1

    def __repr__(self) -> str:
        return f"Block({self.group}:{self.name}, {self.refs} refs)"


class BlockPool:
    """The free queue, and what is known by its content.

    Parameters
    ----------
    blocks : int
        All of them, free and nameless.
    groups : int
        Groups of layers, each with identities of its own.
    nameless_first : bool
        Whether freed blocks without identity are used again before all others.

    Attributes
    ----------
    free : int
        Blocks that can be handed out.
    cached : int
        Those of them that keep content.
    further_refs : int
        References to held blocks beyond the first to each.
    evictions : int
        Cached blocks that were taken for something else so far.
    has_changed : bool
        Whether content that is watched became known, or was forgotten.
    """

    def __init__(self, blocks: int, groups: int, *, nameless_first: bool) -> None:
        self.free = self._front = blocks  # nameless ones before all that are in the queue
        self.cached = self.further_refs = self.evictions = 0
        self._nameless_first = nameless_first
        self._queue: OrderedDict[Block | object, None] = OrderedDict()
        # a second block with a known identity keeps it, and takes over when the first is evicted
        self._known: list[dict[int, list[Block]]] = [{} for _ in range(groups)]
        self._watched: set[int] = set()
        self.has_changed = False

    @property
    def shared_blocks(self) -> int:
        """Blocks with two or more references."""
        groups = (blocks for known in self._known for blocks in known.values())
        return sum(block.refs > 1 for blocks in groups for block in blocks)

    def known(self, group: int, name: int) -> Block | None:
        """The block that has an identity first, if any."""
        blocks = self._known[group].get(name)
        return blocks[0] if blocks else None

    def watch(self, names: set[int]) -> None:
        """Watch some content, in place of what was watched before; see `has_changed`."""
        self._watched, self.has_changed = names, False

    def name(self, group: int, name: int) -> Block:
        """Give a held block without identity one."""
        block = Block(group, name)
        known = self._known[group]
        others = known.get(name)
        if others is None:
            known[name] = [block]
        else:
            others.append(block)
        if name in self._watched:
            self.has_changed = True
        return block

    def touch(self, block: Block) -> None:
        """Hold a block once more, reviving it if it was idle."""
        if block.refs:
            self.further_refs += 1
        else:
            del self._queue[block]
            self.cached -= 1
            self.free -= 1
        block.refs += 1

    def take(self, count: int) -> None:
        """Hand out blocks in the order of eviction; what they held is forgotten."""
        self.free -= count
        if count <= self._front:
            self._front -= count
            return
        count, self._front = count - self._front, 0
        oldest, named = self._queue.popitem, 0
        for _ in range(count):
            block, _ = oldest(last=False)
            if isinstance(block, Block):
                named += 1
                self._forget(block)
        self.cached -= named
        self.evictions += named

    def give_back(self, blocks: Iterable[Block]) -> None:
        """Drop a reference to each; after the last one it is idle, and keeps its content."""
        queue, idle = self._queue, 0
        for block in blocks:
            block.refs -= 1
            if block.refs:
                self.further_refs -= 1
            else:
                queue[block] = None
                idle += 1
        self.cached += idle
        self.free += idle

    def give_back_nameless(self, count: int) -> None:
        """Give back blocks without identity."""
        self.free += count
        if self._nameless_first or not self._queue:
            self._front += count
        else:
            self._queue.update((object(), None) for _ in range(count))

    def _forget(self, block: Block) -> None:
        name, known = block.name, self._known[block.group]
        blocks = known[name]
        if len(blocks) == 1:
            del known[name]
        else:
            blocks.remove(block)
        if name in self._watched:
            self.has_changed = True

    def check(self, held: Iterable[Block], nameless: int, total: int) -> None:
        """State ``held + free = total``, and that references are counted.

        Parameters
        ----------
        held : iterable of Block
            Of every request, those with an identity.
        nameless : int
            Held blocks without.
        total : int
            Blocks of the pool.

        Raises
        ------
        InvariantError
            When blocks or references were lost or invented.
        """
        refs = Counter(held)
        known = {block for group in self._known for blocks in group.values() for block in blocks}
        if refs != Counter({block: block.refs for block in known if block.refs}):
            raise InvariantError("references to shared blocks are miscounted")
        if self.further_refs != refs.total() - len(refs):
            raise InvariantError(f"{self.further_refs} further references are counted")
        idle = [block for block in self._queue if isinstance(block, Block)]
        if self.cached != len(idle) or set(idle) != {block for block in known if not block.refs}:
            raise InvariantError("an idle block is lost, or is in the queue while it is held")
        if self.free != self._front + len(self._queue):
            raise InvariantError(f"{self._front} + {len(self._queue)} idle, but {self.free} free")
        if len(refs) + nameless + self.free != total:
            raise InvariantError(
                f"{len(refs)} named + {nameless} nameless + {self.free} free blocks != {total}"
            )
