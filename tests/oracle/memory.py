"""What an engine asks of its memory, and memory without any."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from .jobs import Job


class Memory(ABC):
    """What an engine asks of its memory."""

    cached = 0  # slots of finished prefixes
    evictions = 0  # slots of finished prefixes that were given up for something else
    in_chunks = True
    in_order = False  # whether vLLM's loop, one running job after the other, is for it

    def begin_step(self) -> None:  # noqa: B027 - few mind
        """Note that another step is planned."""

    def cut(self, job: Job, start: int, count: int) -> int:
        """Tokens of a prompt's next chunk, of those that the step has for it."""
        return count

    def closed(self) -> int:
        """Slots that decodes have given back since the last call."""
        return 0

    @abstractmethod
    def ever_holds(self, job: Job) -> bool:
        """Whether the job fits when it is alone."""

    @abstractmethod
    def admit(self, job: Job, chunk: int, spare: int, decoding: Sequence[Job]) -> int | None:
        """Make room for the first chunk if the whole target would fit; return what is cached."""

    @abstractmethod
    def extend(self, job: Job, tokens: int, spare: int, decoding: Sequence[Job]) -> bool:
        """Make room for the first `tokens` tokens."""

    @abstractmethod
    def restore(self, job: Job, spare: int, decoding: Sequence[Job]) -> bool:
        """Make room for a swapped-out job, and for one token more."""

    @abstractmethod
    def opening(self, decoding: Sequence[Job]) -> int:
        """Blocks that one token more of each takes; of the first pool, if there are several."""

    @abstractmethod
    def can_write(self, decoding: Sequence[Job]) -> bool:
        """Whether one token more of each fits."""

    @abstractmethod
    def write(self, decoding: Sequence[Job]) -> int:
        """Write one token of each; return the tokens copied on the way."""

    @abstractmethod
    def release(self, job: Job, *, preempted: bool) -> None:
        """Take everything back."""

    @property
    @abstractmethod
    def held(self) -> int:
        """Slots that are held."""

    def filled(self, tokens: int) -> int:
        """Slots that the first `tokens` tokens of a sequence fill."""
        return tokens

    def shared(self, copies: Sequence[tuple[Job, int]]) -> int:
        """Slots that several sequences fill together, for each but the first of them.

        `copies` are the running jobs, with the sequences that have written what is cached.
        """
        return 0

    def reserved(self, written: int, coming: int) -> int:
        """Held slots that will be written later: by this step's prompts, if by nobody else."""
        return coming

    def external(self, head: Job | None) -> int:
        """Free slots that the head of the queue cannot use."""
        return 0

    def copied(self) -> int:
        """Tokens copied by compaction since the last call."""
        return 0


class Ready(Memory):
    """Memory in which every planned token finds its room ready, or has none to find."""

    def opening(self, decoding: Sequence[Job]) -> int:
        """Nothing is taken."""
        return 0

    def can_write(self, decoding: Sequence[Job]) -> bool:
        """The room is there."""
        return True

    def write(self, decoding: Sequence[Job]) -> int:
        """Nothing to take."""
        return 0


class Nothing(Ready):
    """No cache."""

    held = 0

    def filled(self, tokens: int) -> int:
        """Nothing is kept."""
        return 0

    def reserved(self, written: int, coming: int) -> int:
        """Nothing is held."""
        return 0

    def ever_holds(self, job: Job) -> bool:
        """Nothing is held."""
        return True

    def admit(self, job: Job, chunk: int, spare: int, decoding: Sequence[Job]) -> int | None:
        """Nothing is cached."""
        return 0

    def extend(self, job: Job, tokens: int, spare: int, decoding: Sequence[Job]) -> bool:
        """Nothing to do."""
        return True

    def restore(self, job: Job, spare: int, decoding: Sequence[Job]) -> bool:
        """Nothing to do."""
        return True

    def release(self, job: Job, *, preempted: bool) -> None:
        """Nothing to do."""
