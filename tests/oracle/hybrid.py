"""Blocks of known content in several groups of layers: prefixes of windows, chunks and states.

The rules are those that vLLM's runs show (``tests/engine_oracle``), one block at a time: what can
be found is looked for from the longest prefix down, and a block is an object that somebody holds.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .jobs import Job
from .memory import Ready
from .shared import Block


class Layers(NamedTuple):
    """Layers with a block every `size` tokens; those of a window, a chunk or a recurrent state.

    A state leaves so many `checkpoints` beside it; an admission asks a window for `admitted`.
    """

    size: int
    window: int | None = None
    chunk: int | None = None
    checkpoints: int | None = None
    admitted: int | None = None

    @property
    def is_state(self) -> bool:
        """Whether it keeps nothing but what all tokens so far come to."""
        return self.checkpoints is not None

    @property
    def before(self) -> int:
        """Blocks before a place that whoever begins there needs."""
        return 1 if self.is_state else -(-((self.window or 1) - 1) // self.size)

    def seen(self, tokens: int) -> int:
        """First block that whoever comes after so many tokens looks back on."""
        if self.chunk is not None:
            return tokens // self.chunk * self.chunk // self.size
        if self.is_state:
            return max(0, tokens - 1) // self.size
        return max(0, tokens - self.window + 1) // self.size if self.window is not None else 0

    def accepts(self, tokens: int, known: Callable[[int], bool]) -> bool:
        """Whether so many tokens may be skipped, of a prompt whose blocks are known or not."""
        stop = tokens // self.size
        if self.is_state or self.window is not None:
            return all(known(number) for number in range(max(0, stop - self.before), stop))
        return all(known(number) for number in range(self.seen(tokens), stop))

    def taken(self, missing: int, beside: int) -> int:
        """Blocks that are taken of those that are missing: of states the last ones."""
        return min(missing, 1 + beside) if self.is_state else missing


class HybridBlocks(Ready):
    """A queue of blocks for all groups; a table of each for every job."""

    in_order = True

    def __init__(
        self,
        total: int,
        groups: Sequence[Layers],
        *,
        interval: int | None = 0,
        unknown: int = 0,
        longest: int = 0,
    ) -> None:
        self.groups, self.interval, self.unknown, self.longest = groups, interval, unknown, longest
        self.total = total
        self.idle = [Block() for _ in range(total)]
        self.known: dict[tuple[int, object], list[Block]] = {}
        self.tables: dict[Job, list[dict[int, Block]]] = {}
        self.reached: dict[Job, list[int]] = {}
        self.looked: dict[Job, list[int]] = {}  # blocks that have had their chance of a name
        self.junction: dict[Job, int] = {}
        self.fresh: set[tuple[int, object]] = set()
        self.align = 1
        while any(self.align % group.size for group in groups):
            self.align += 1

    # ---- names ----------------------------------------------------------------------------

    def name(self, job: Job, size: int, number: int) -> object:
        """Name of the prefix up to the end of a block."""
        names = job.names(size, (number + 1) * size) if job.content is not None else None
        return (size, names[number] if names else ("own", job.row, number))

    def is_kept(self, group: Layers, job: Job, number: int) -> bool:
        """Whether a full block may be found again: windows and states at some places alone."""
        if group.window is None and not group.is_state:
            return True
        places = {(job.prompt - 1) // self.align * self.align}
        places.add(self.junction[job] // self.align * self.align)
        every = self.align if self.interval is None else self.interval
        ends = range(number + 1, number + 1 + group.before)
        regular = every and any(end * group.size % every == 0 for end in ends)
        return bool(regular) or any(end * group.size in places for end in ends)

    def begin_step(self) -> None:
        """States that were written in the step before are there now."""
        self.fresh = set()

    def _name(self, job: Job, tokens: int) -> None:
        tokens -= tokens % self.align
        for at, group in enumerate(self.groups):
            for number in range(self.looked[job][at], tokens // group.size):
                block = self.tables[job][at].get(number)
                if block is None or block.name is not None or not self.is_kept(group, job, number):
                    continue
                block.name = at, self.name(job, group.size, number)
                self.known.setdefault(block.name, []).append(block)
                if group.is_state:
                    self.fresh.add(block.name)
            self.looked[job][at] = max(self.looked[job][at], tokens // group.size)

    # ---- blocks ---------------------------------------------------------------------------

    def _take(self) -> Block:
        block = self.idle.pop(0)
        if block.name is not None:
            self.known[block.name].remove(block)
            block.name = None
        block.holders = 1
        return block

    def _let_go(self, block: Block) -> None:
        block.holders -= 1
        if not block.holders:
            self.idle.insert(0 if block.name is None else len(self.idle), block)

    def _drop(self, job: Job, at: int, before: int) -> None:
        """Give a group's blocks before a number back, the last of them first."""
        table = self.tables[job][at]
        for number in sorted((each for each in table if each < before), reverse=True):
            self._let_go(table.pop(number))

    def _leave(self, job: Job) -> None:
        """Give back what no token to come looks back on: a step in flight still does."""
        for at, group in enumerate(self.groups):
            self._drop(job, at, group.seen(max(0, job.computed - job.flying)))

    def _missing(self, job: Job, at: int, tokens: int) -> int:
        return max(0, -(-tokens // self.groups[at].size) - self.reached[job][at])

    def _grow(self, job: Job, tokens: int, beside: int) -> None:
        for at, group in enumerate(self.groups):
            missing = self._missing(job, at, tokens)
            stop = self.reached[job][at] + missing
            for number in range(stop - group.taken(missing, beside), stop):
                self.tables[job][at][number] = self._take()
            self.reached[job][at] = stop

    def _needed(self, job: Job, tokens: int, beside: int) -> int:
        return sum(
            group.taken(self._missing(job, at, tokens), beside)
            for at, group in enumerate(self.groups)
        )

    # ---- states ---------------------------------------------------------------------------

    def _state(self) -> Layers | None:
        return next((group for group in self.groups if group.is_state), None)

    def cut(self, job: Job, start: int, count: int) -> int:
        """Tokens of a chunk, which ends where a state is of use."""
        state, until = self._state(), max(job.prompt, job.target - 1)
        if state is None or start >= until:
            return count
        size, end = state.size, start + count
        if end < until and (end - end % size > start or size <= self.longest):
            end -= end % size
        leaves = end >= until and self._leaves(start, end, (until - 1) // size * size)
        stops = []
        if start < self.junction[job] < end:
            stops.append(start + (self.junction[job] - start) // size * size)
        if not leaves:
            stops.append((job.target - 1) // size * size)
            stops += [start - start % size + size] if start % size else []
        return max(0, min([end, *(stop for stop in stops if start < stop < end)]) - start)

    def _leaves(self, start: int, end: int, place: int) -> bool:
        """Whether a chunk leaves the state of a place in a block of its own."""
        state = self._state()
        if state is None or not state.checkpoints or start % state.size:
            return False
        between = -(-end // state.size) - 1 - start // state.size  # whole blocks before the last
        return between >= 1 and start + state.size <= place < end

    def _beside(self, job: Job, start: int, end: int) -> int:
        state = self._state()
        if state is None or (self.interval == 0 and end < max(job.prompt, job.target - 1)):
            return 0
        return int(self._leaves(start, end, (end - 1) // state.size * state.size))

    # ---- what an engine asks --------------------------------------------------------------

    def ever_holds(self, job: Job) -> bool:
        """Whatever is asked of it here."""
        return True

    def _found(self, job: Job, tokens: int, groups: Sequence[int]) -> bool:
        def known(at: int, number: int) -> bool:
            return bool(self.known.get((at, self.name(job, self.groups[at].size, number))))

        return all(
            self.groups[at].accepts(tokens, lambda number, at=at: known(at, number))  # type: ignore[misc]
            for at in groups
        )

    def _hits(self, job: Job) -> int:
        """Tokens that all groups know, and where those that come first know more."""
        lengths = range((job.target - 1) // self.align * self.align, 0, -self.align)
        everybody = range(len(self.groups))
        found = next((n for n in lengths if self._found(job, n, everybody)), 0)
        full = [at for at in everybody if self.groups[at] == Layers(self.groups[at].size)]
        first = self.groups[full[0] if full else 0]
        alike = [at for at in everybody if self.groups[at] == first]
        longest = next((n for n in lengths if self._found(job, n, alike)), 0)
        self.junction[job] = longest if longest > found else 0
        return found

    def admit(self, job: Job, chunk: int, spare: int, decoding: Sequence[Job]) -> int | None:
        """Hold what was found; the rest of the prompt must fit beside it."""
        cached = self._hits(job)
        self.tables[job] = [{} for _ in self.groups]
        self.reached[job] = [cached // group.size for group in self.groups]
        self.looked[job] = list(self.reached[job])
        hits = []
        for at, group in enumerate(self.groups):
            for number in range(group.seen(cached), cached // group.size):
                key = at, self.name(job, group.size, number)
                hits.append((at, number, self.known[key][0]))
                if group.is_state and number == cached // group.size - 1 and key in self.fresh:
                    return self._refuse(job)
        count = self.cut(job, cached, min(chunk, job.target - cached))
        gate = 0
        for at, group in enumerate(self.groups):
            missing = self._missing(job, at, job.target)
            if group.admitted is not None and not group.is_state:
                due = min(-(-job.target // group.size), group.admitted)
                missing = max(0, due - self.reached[job][at])
            gate += group.taken(missing, self._beside(job, cached, job.target))
        idle = sum(block.holders == 0 for _, _, block in hits)
        beside = self._beside(job, cached, cached + count)
        need = max(gate, self._needed(job, cached + count, beside)) + idle + spare
        if count == 0 or need > len(self.idle):
            return self._refuse(job)
        for at, number, block in hits:
            if block.holders == 0:
                self.idle.remove(block)
            block.holders += 1
            self.tables[job][at][number] = block
        self._grow(job, cached + count, beside)
        self._name(job, cached + count)
        return cached

    def _refuse(self, job: Job) -> None:
        del self.tables[job], self.reached[job], self.looked[job]

    def extend(self, job: Job, tokens: int, spare: int, decoding: Sequence[Job]) -> bool:
        """Another chunk, or a token, after giving back what is behind."""
        self._leave(job)
        prompt = job.computed < job.target
        beside = self._beside(job, job.computed, tokens) if prompt else 0
        if self._needed(job, tokens, beside) + spare > len(self.idle):
            return False
        self._grow(job, tokens, beside)
        self._name(job, tokens if prompt else tokens - self.unknown)
        return True

    def restore(self, job: Job, spare: int, decoding: Sequence[Job]) -> bool:
        """Nobody is sent to the host."""
        raise NotImplementedError

    def release(self, job: Job, *, preempted: bool) -> None:
        """Group after group, the tail first; what has ended is known to its last token."""
        if not preempted:
            self._name(job, job.computed)
        for at in range(len(self.groups)):
            self._drop(job, at, self.reached[job][at])
        self._refuse(job)

    @property
    def held(self) -> int:
        """Blocks that are not idle."""
        return self.total - len(self.idle)
