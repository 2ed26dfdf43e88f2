"""What a memory policy answers, and the law that it must keep.

The scheduler asks throughout a request's life, the replica about whole runs of steps::

    can_allocate(request)          at arrival: could an empty pool ever hold it?
    allocate(request, tokens)      first prefill chunk: room for it?  -> cached tokens | None
    append_slots(request, tokens)  later chunks                       -> bool
    decode_steps(batch, limit)     how many steps has every decoding sequence room for?
    allocate_steps(batch, ...)     the blocks that those steps write
    free(request)                  finished or preempted

Scarcity is an answer, never an exception. ``check()`` states the conservation law
``held + cached + free = total`` and raises `InvariantError` when it is broken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from math import inf
from types import MappingProxyType
from typing import NamedTuple

from kvsim.errors import InvariantError
from kvsim.memory.growth import BlockCurve
from kvsim.simulator.batch import DecodeBatch
from kvsim.simulator.request import Request

__all__ = ["Allocator", "Holding", "Slots", "address_of"]


class Slots(NamedTuple):
    """What becomes of the pool's token slots beside plain use, at one instant.

    With the claimed slots and the cached tokens it gives the PagedAttention paper's split:
    ``total = tokens + reserved + internal + external + cached + free``, where internal is
    what is claimed and neither written nor reserved.

    Parameters
    ----------
    reserved : int
        Held slots that will be written later.
    external : int
        Free slots that no waiting request can use, because they are scattered, and slots
        that placement rounds regions up by.
    cached : int
        Slots of finished requests' prefixes, kept until something needs the room.
    shared : int
        Slots that requests are due and do not hold: several hold them together, counted once
        for each but the first, or a window has left them behind.
    """

    reserved: int = 0
    external: int = 0
    cached: int = 0
    shared: int = 0


class Holding(NamedTuple):
    """What one running request holds of the pool, as a picture of it needs to know.

    Parameters
    ----------
    row : int
        The request.
    written : int
        Blocks with its tokens, that nobody shares.
    coming : int
        Blocks that it holds for tokens to come.
    unused : int
        Blocks that it holds and will never write.
    address : int or None
        First block of its region, in which these lie in this order; None: anywhere.
    """

    row: int
    written: int
    coming: int = 0
    unused: int = 0
    address: int | None = None


class Allocator(ABC):
    """A memory policy over a pool of ``total_blocks`` blocks of ``curve.block_size`` tokens.

    Attributes
    ----------
    total_blocks : int
        Size of the pool.
    free_blocks : int
        Blocks that can be handed out now.
    curve : BlockCurve
        Blocks that one sequence holds.
    batch : DecodeBatch or None
        The decoding sequences; set by the scheduler that owns both.
    planned_tokens : int
        Tokens of a decoding sequence that are planned before prompts are looked up.
    unknown_tokens : int
        Newest tokens of a decoding sequence whose content the scheduler does not know yet.
    turn : float
        Seat of the running request that asks for room; those from it on have not grown yet.
    in_flight : mapping of Request to int
        Prompt tokens that the step under way computes while the next one is planned.
    longest_chunk : int
        Most tokens of one prompt that any step computes.
    cached_blocks, further_refs : int
        Idle blocks that keep a prefix; references to held blocks beyond the first to each.
    evictions : int
        Cached blocks that were taken for something else so far.
    in_chunks : bool
        Whether no step computes more of a prompt than its budget, so that a window's share of a
        prompt is bounded.
    copied_tokens : int
        Cached tokens that the device has copied since the replica last asked.
    growths : tuple of (BlockCurve, int)
        For every pool, the blocks of a sequence and the weight of a slot.
    slots_per_block : int
        What a block counts as where slots are recorded; the tokens of a block in a plain pool.
    rounded_slots : int
        Slots that a placement adds to the regions asked for (a buddy system's powers of
        two): used, but by nobody; the PagedAttention paper counts them as external.
    """

    batch: DecodeBatch | None = None
    planned_tokens = 0
    unknown_tokens = 0
    in_chunks = True
    cached_blocks = 0
    further_refs = 0
    evictions = 0
    grows_by_blocks = False  # whether a sequence takes a block at a time, whichever is free
    contiguous = False  # whether all layers of a token lie together, in slots and not in blocks
    sets_slots_apart = False  # whether `slots` ever differs from plain use
    keeps_tokens = True  # whether what was computed lies in the pool
    samples_share = True  # whether samples hold their prompt's full blocks together
    shares_prefixes = False  # whether an admission looks its prompt up
    running_first = False  # whether decodes evict before it does, as vLLM's
    gives_back = False  # whether requests free blocks while they run, and so one for another
    aligns_chunks = False  # whether chunks of prompts end where recurrent states are kept
    longest_chunk = 0
    turn = inf
    in_flight: Mapping[Request, int] = MappingProxyType({})
    rounded_slots = 0

    def __init__(self, total_blocks: int, curve: BlockCurve) -> None:
        self.total_blocks = total_blocks
        self.free_blocks = total_blocks
        self.curve = curve
        self.copied_tokens = 0
        self._longest = curve.longest(total_blocks)
        self._size = curve.block_size
        self.slots_per_block = curve.slots_per_block
        self.growths: tuple[tuple[BlockCurve, int], ...] = ((curve, 1),)
        self._is_plain = curve == BlockCurve(curve.block_size)
        # whether a sequence's blocks follow from its tokens alone, with nothing asked
        self._counts_blocks = self._is_plain and type(self).blocks_of is Allocator.blocks_of

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return self.curve.block_size

    @property
    def held_slots(self) -> int:
        """Slots that live requests hold."""
        return (self.total_blocks - self.free_blocks) * self.slots_per_block

    @property
    def usage(self) -> float:
        """Share of the pool that is held, 0 to 1."""
        return 1 - self.free_blocks / self.total_blocks if self.total_blocks else 0.0

    def blocks_of(self, request: Request, tokens: int) -> int:
        """Blocks of a request with `tokens` cached tokens per sequence.

        Parallel samples share the full blocks of the prompt; each owns a copy of the last,
        partial one (copy-on-write) from the moment the prompt is complete. Blocks of windowed
        and recurrent groups, which move on with the sequence, are each sample's own.
        """
        if self._is_plain and request.samples == 1:
            return -(-tokens // self._size)
        blocks = self.curve.blocks_at(tokens)
        if request.samples == 1 or tokens < request.prompt_tokens:
            return blocks
        shared = self.curve.shared_blocks_at(request.prompt_tokens)
        return shared + request.samples * (blocks - shared)

    def new_blocks(self, request: Request, computed: int, tokens: int) -> int:
        """Blocks that open as a request goes on from `computed` cached tokens to `tokens`."""
        before = self.blocks_of(request, computed) if computed else 0
        return self.blocks_of(request, tokens) - before

    def follow(self, request: Request, in_flight_tokens: int) -> None:  # noqa: B027
        """Note that a request decodes from the next step on; asked of those who `gives_back`.

        Parameters
        ----------
        request : Request
            Its ``computed_tokens`` are up to date.
        in_flight_tokens : int
            Tokens of it that the step computes which has just ended.
        """

    def take_closed(self) -> int:
        """Blocks that decodes have given back since the last call; they count as held until it."""
        return 0

    def claim(self, request: Request, tokens: int) -> int:
        """Slots that a running request is due when `tokens` tokens per sequence are cached.

        The scheduler adds claims up, and those of decode steps; the sum must be what is held,
        by a count of its own. None are due for no tokens.
        """
        if self._counts_blocks and request.samples == 1:
            return -(-tokens // self._size) * self._size
        return self.blocks_of(request, tokens) * self.slots_per_block if tokens else 0

    def claim_steps(self, batch: DecodeBatch, steps: int, opening: int) -> int:
        """Slots that the decoding sequences are due beyond their own after so many steps.

        Asked before `allocate_steps`, with what it is told.
        """
        return opening * self.slots_per_block

    def can_allocate(self, request: Request) -> bool:
        """Whether an empty pool could hold the request to its last token."""
        if request.samples == 1:
            return request.prompt_tokens + request.output_tokens - 1 <= self._longest
        return self.blocks_of(request, request.final_tokens) <= self.total_blocks

    def cached_tokens(self, request: Request) -> int:
        """Tokens of a waiting request that an admission would find; nothing changes."""
        return 0

    def begin_step(self) -> None:  # noqa: B027 - only one policy minds
        """Note that a step is planned from now on; asked of who aligns chunks."""

    def chunk(self, request: Request, tokens: int) -> int:
        """Tokens of a running prompt's next chunk, of those that the step has for it."""
        return tokens

    def passed_slots(self, request: Request) -> int:
        """Slots that a request's planned chunk passes over, without ever holding them."""
        return 0

    def steps_to_more(self, request: Request) -> int:
        """Steps after which a lookup may find more, though nobody comes or goes; 0: never."""
        return 0

    @abstractmethod
    def allocate(
        self, request: Request, chunk_tokens: int, *, spare_blocks: int = 0, whole: bool = True
    ) -> int | None:
        """Give a waiting request room for its first prefill chunk.

        Parameters
        ----------
        request : Request
            The head of the queue; nothing of it is held.
        chunk_tokens : int
            Most tokens that this step can compute for it, after any cached prefix.
        spare_blocks : int
            Blocks that must stay free afterwards: those that this step's decodes open, and a
            watermark. A policy whose sequences do not grow by blocks has no use for it.
        whole : bool
            Whether all that is to be computed must have room, or the first chunk alone.

        Returns
        -------
        int or None
            Tokens found in the cache, which need not be computed; None: no room, and
            nothing was changed.
        """

    @abstractmethod
    def append_slots(self, request: Request, tokens: int, *, spare_blocks: int = 0) -> bool:
        """Make room for a request's first `tokens` tokens; False leaves everything as it was."""

    def swap_in(self, request: Request, *, spare_blocks: int = 0) -> bool:
        """Make room again for the cached tokens of a request that was swapped out.

        It decodes at once, so its next token must have room too.
        """
        tokens, request.computed_tokens = request.computed_tokens, 0
        opening = self.blocks_of(request, tokens + 1) - self.blocks_of(request, tokens)
        fits = self.append_slots(request, tokens, spare_blocks=spare_blocks + opening)
        request.computed_tokens = tokens
        return fits

    def can_decode(self, batch: DecodeBatch) -> bool:
        """Whether every decoding sequence has room for its next token."""
        return self.decode_steps(batch, 1) == 1

    @abstractmethod
    def decode_steps(self, batch: DecodeBatch, limit: int) -> int:
        """Steps, at most `limit`, for which every sequence of the batch has room."""

    @abstractmethod
    def allocate_steps(self, batch: DecodeBatch, steps: int, opening: int) -> None:
        """Allocate what the next `steps` decode steps write.

        Parameters
        ----------
        batch : DecodeBatch
            The decoding sequences.
        steps : int
            No more than `decode_steps` allowed.
        opening : int
            Blocks of the first pool that open during them, by the batch's own count.
        """

    @abstractmethod
    def free(self, request: Request, *, preempted: bool = False, planned_tokens: int = 0) -> None:
        """Free everything that a request holds.

        Parameters
        ----------
        request : Request
            Its ``computed_tokens`` are up to date.
        preempted : bool
            Whether it will come back.
        planned_tokens : int
            Tokens beyond them that it has room for already.
        """

    def slots(self, tokens: int, head: Request | None) -> Slots:
        """Describe what is not plain use of the pool now; nothing, as a rule.

        Parameters
        ----------
        tokens : int
            Cached tokens of all live requests.
        head : Request or None
            The first request in the queue, if any: free slots that it cannot use although
            it waits for them are external waste.
        """
        return Slots()

    @property
    def shared_blocks(self) -> int:
        """Blocks that several running requests hold together."""
        return 0

    def holdings(self, live: Iterable[tuple[Request, int]]) -> list[Holding]:
        """Say what each live request holds alone, given its cached tokens.

        True between two steps, when nobody holds blocks for a step that is under way.
        """
        return [Holding(request.row, self.blocks_of(request, n)) for request, n in live]

    @abstractmethod
    def check(self, live: Iterable[tuple[Request, int]]) -> None:
        """Compare what is counted with the live requests and their cached tokens.

        Raises
        ------
        InvariantError
            When blocks were lost, invented or counted twice.
        """


def address_of(request: Request) -> int:
    """Address of a contiguous request's region.

    Raises
    ------
    InvariantError
        When it has none.
    """
    if not isinstance(request.blocks, int):
        raise InvariantError(f"{request} has no region")
    return request.blocks
