"""What is asked of the engine, and when."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kvsim.workload.base import ClosedLoop, RequestTable, Workload
from kvsim.workload.content import PrefixContent
from kvsim.workload.streams import Streams


@dataclass(eq=False)
class Job:
    """A request. `computed` counts the cached tokens of one of its sequences."""

    row: int
    arrival: float
    prompt: int
    output: int
    priority: int = 0
    samples: int = 1
    content: PrefixContent | None = None
    content_row: int = 0
    computed: int = 0
    generated: int = 0
    swapped: bool = False
    preempted: bool = False
    memory: Any = None
    named: int = 0
    flying: int = 0  # tokens of the last step, while the next one is planned without its outcome

    def __post_init__(self) -> None:
        self.target = self.prompt  # tokens to compute before the next one can be produced

    @property
    def final(self) -> int:
        """Cached tokens of a sequence at the end: the last token is never written."""
        return self.prompt + self.output - 1

    def names(self, block_size: int, tokens: int) -> Sequence[object] | None:
        """Names of the full blocks; None for a request that shares nothing with anybody."""
        if self.content is not None:
            return self.content.block_ids(self.content_row, block_size, tokens)
        if self.preempted:
            return [("own", self.row, i) for i in range(tokens // block_size)]
        return None


@dataclass
class Arrivals:
    """The jobs to come, in order of time; each way from a client and back takes `transit`."""

    workload: Workload | ClosedLoop
    seed: int = 0
    transit: float = 0.0
    coming: list[Job] = field(default_factory=list)
    rows: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.workload, ClosedLoop):
            self._add(self.workload.start(Streams(self.seed)))
        else:
            for table in self.workload.tables(Streams(self.seed)):
                self._add(table)

    def _add(self, table: RequestTable) -> None:
        for at in range(len(table)):
            job = Job(
                self.rows,
                float(table.arrival_seconds[at]) + self.transit,
                int(table.prompt_tokens[at]),
                int(table.output_tokens[at]),
                0 if table.priority is None else int(table.priority[at]),
                1 if table.samples is None else int(table.samples[at]),
                table.content,
                at,
            )
            self.coming.append(job)
            self.rows += 1
        self.coming.sort(key=lambda job: (job.arrival, job.row))

    def due(self, now: float) -> Job | None:
        """Remove and return the first job that has arrived."""
        return self.coming.pop(0) if self.coming and self.coming[0].arrival <= now else None

    def finished(self, row: int, now: float) -> None:
        """Let the clients of a closed loop ask again."""
        if not isinstance(self.workload, ClosedLoop):
            return
        heard = now + self.transit
        asked = [self.workload.following(row, heard), *self.workload.branches(row, heard)]
        for new in asked:
            if new is not None:
                queued = new.arrival_seconds + self.transit
                job = Job(self.rows, queued, new.prompt_tokens, new.output_tokens)
                job.samples = new.samples
                job.content, job.content_row = self.workload.content, job.row
                self.coming.append(job)
                self.rows += 1
        self.coming.sort(key=lambda job: (job.arrival, job.row))
