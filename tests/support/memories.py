"""A memory, made twice: of the simulator's parts, and of the oracle's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from kvsim.memory import pools
from kvsim.memory.growth import BlockCurve, Growth
from kvsim.simulator.allocators.apart import PagedApart
from kvsim.simulator.allocators.base import Allocator
from kvsim.simulator.allocators.grow import Grow
from kvsim.simulator.allocators.no_cache import NoCache
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.prefix import Prefix
from kvsim.simulator.allocators.reserve import Reserve, reserve_max, reserve_oracle, reserve_pow2
from kvsim.simulator.allocators.runs import PrefixRuns
from kvsim.simulator.allocators.tables import BlockTables
from kvsim.simulator.allocators.virtual import Virtual
from tests import oracle

FOURS = BlockCurve(4)

RESERVATIONS = {
    "reserve-max": (reserve_max, lambda job, longest: longest),
    "reserve-pow2": (
        reserve_pow2,
        lambda job, longest: min(job.prompt + next_power_of_2(job.output), longest),
    ),
    "reserve-oracle": (reserve_oracle, lambda job, longest: job.prompt + job.output),
}


def next_power_of_2(value: int) -> int:
    """The least power of two that is not less."""
    power = 1
    while power < value:
        power *= 2
    return power


def rounded_to_4(tokens: int) -> int:
    """Slots of a tensor under an allocator that rounds to four."""
    return (tokens + 3) // 4 * 4


def groups_of(curve: BlockCurve) -> list[oracle.Group]:
    """The groups of one pool, one by one."""
    groups = [oracle.Group(1, stays=True)] * curve.fixed
    for part in (curve, *curve.beside):
        groups += [oracle.Group(part.block_size)] * part.growing
        groups += [oracle.Group(part.block_size, cap) for cap in part.caps]
    return groups


def groups_that_grow(pool: pools.Pool) -> list[oracle.Group]:
    """The groups of one pool, as an engine states them."""
    groups = []
    for growth in (group.growth for group in pool.groups):
        groups += [oracle.Group(1, stays=True)] * growth.fixed_blocks
        if growth.most_blocks != 0:
            groups += [oracle.Group(growth.block_size, growth.most_blocks)] * growth.width
    return groups


def moving_groups(growths: Iterable[Growth]) -> Iterator[oracle.Moving]:
    """The groups of one pool of which windows give blocks back."""
    for growth in growths:
        yield from [oracle.Moving(1, stays=True)] * growth.fixed_blocks
        window = growth.window
        if window is not None:
            seen = {"chunk" if window.is_chunk else "window": window.tokens}
            yield oracle.Moving(growth.block_size, admitted=window.admitted_blocks, **seen)
        elif growth.most_blocks is None:
            yield oracle.Moving(growth.block_size)


def plain_memory(kept: pools.KVPools, *, moves: bool = True, waits: bool = True) -> oracle.Memory:
    """The oracle's memory for the groups of layers that an engine states.

    Windows count as steady unless they move; they wait for the step in flight, or do not.
    """
    growths = [group.growth for group in kept.main.groups]
    if moves and any(growth.window for growth in growths):
        return oracle.Windows(kept.main.given_blocks, moving_groups(growths), waits=waits)
    made = [
        oracle.Blocks(pool.given_blocks, groups_that_grow(pool), weight)
        for pool, weight in zip(kept, kept.slot_weights, strict=True)
    ]
    return made[0] if len(made) == 1 else oracle.Apart(made)


@dataclass(frozen=True)
class Pool:
    """A memory, made once for the simulator and once for the oracle.

    `beside` are further pools ``(blocks, curve, weight of a slot)`` of the allocator "apart".
    """

    allocator: str
    blocks: int
    curve: BlockCurve = FOURS
    eviction: str = "lru"
    placement: str = "first-fit"
    compaction: bool = False
    max_model_len: int = 1000
    weight: int = 1
    growths: tuple[Growth, ...] = ()  # of "windows", in place of the curve
    beside: tuple[tuple[int, BlockCurve, int], ...] = ()

    @property
    def all_pools(self) -> list[tuple[int, BlockCurve, int]]:
        """Blocks, curve and weight of the first pool, and of those beside it."""
        return [(self.blocks, self.curve, self.weight), *self.beside]

    def simulated(self) -> Allocator:
        """The simulator's."""
        slots = self.blocks * self.curve.block_size
        if self.allocator in RESERVATIONS:
            reservation = RESERVATIONS[self.allocator][0]
            return Reserve(
                slots,
                self.max_model_len,
                reservation,
                placement=self.placement,
                compaction=self.compaction,
            )
        makers: dict[str, Callable[[], Allocator]] = {
            "none": lambda: NoCache(slots),
            "grow": lambda: Grow(slots, rounded_to_4, placement=self.placement),
            "apart": lambda: PagedApart(self.all_pools),
            "paged": lambda: Paged(self.blocks, self.curve),
            "virtual": lambda: Virtual(self.blocks, self.curve),
            "windows": lambda: BlockTables(self.blocks, self.growths),
            "prefix": self._sharing,
        }
        return makers[self.allocator]()

    def _sharing(self) -> Allocator:
        """Prefix caching in vLLM's order, or another."""
        if self.eviction == "lru":
            return PrefixRuns(self.blocks, self.curve)
        return Prefix(self.blocks, self.curve, self.eviction)

    def plain(self, unknown: int = 0) -> oracle.Memory:
        """The oracle's; of decodes the newest `unknown` tokens are not known when it is asked."""
        slots, curve = self.blocks * self.curve.block_size, self.curve
        if self.allocator in RESERVATIONS:
            length = RESERVATIONS[self.allocator][1]
            return oracle.Reserved(
                slots,
                lambda job: job.samples * length(job, self.max_model_len),
                self.placement,
                compaction=self.compaction,
            )
        makers: dict[str, Callable[[], oracle.Memory]] = {
            "none": oracle.Nothing,
            "windows": lambda: oracle.Windows(self.blocks, moving_groups(self.growths)),
            "grow": lambda: oracle.Growing(slots, rounded_to_4, self.placement),
            "prefix": lambda: (
                oracle.NamedBlocks(self.blocks, curve.block_size, unknown)
                if self.eviction == "lru"
                else oracle.SharedBlocks(self.blocks, curve.block_size, self.eviction)
            ),
        }
        if self.allocator in makers:
            return makers[self.allocator]()
        made = [
            oracle.Blocks(blocks, groups_of(each), weight)
            for blocks, each, weight in self.all_pools
        ]
        return oracle.Apart(made) if self.allocator == "apart" else made[0]
