"""A scenario: one question to the simulator, read from `scenarios/*.yaml`.

Every key has a unit in its name or in its table below, and every key can be overridden by
its dotted path (``workload.arrivals.rate=20``), on the command line and in Python alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    model_validator,
)

from kvsim.registry import PolicyName
from kvsim.simulator import choices
from kvsim.simulator.facts import (
    replaced,
    settled,
    where_given,
)
from kvsim.simulator.families import own_scheduler
from kvsim.specs.checked import read
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.yaml_files import dump_yaml
from kvsim.units import KIB, MIB
from kvsim.workload.described import Count, Described, Duration, Flag, Positive, Real, Tokens, Whole
from kvsim.workload.spec import WorkloadSpec

__all__ = [
    "SLO",
    "EngineSpec",
    "MemorySpec",
    "RunSpec",
    "Scenario",
    "SchedulerSpec",
    "StepTimeSpec",
]


class EngineSpec(EngineOptions):
    """Which engine's accounting sizes the pool, and its flags (see ``kvsim plan --help``)."""

    name: str = "vllm"
    version: str = ""

    @property
    def options(self) -> EngineOptions:
        """The flags alone."""
        return EngineOptions(**self.model_dump(exclude=("name", "version")))


def _engine(given: object) -> EngineSpec:
    if isinstance(given, EngineSpec):
        return given
    named = {"name": given} if isinstance(given, str) else given  # engine: sglang
    return read(EngineSpec, named, ("engine",))


class MemorySpec(Described):
    """How KV memory is handed out.

    A policy is chosen by its name, or by a mapping with `name` and the policy's own
    parameters: ``{name: my-lru, k: 2}`` (docs/extending.md).

    Parameters
    ----------
    allocator : PolicyName
        "none", "reserve-max", "reserve-pow2", "reserve-oracle", "grow", "paged", "prefix",
        "virtual", or one of yours; "prefix" is ``engine.enable_prefix_caching: true``. Where
        neither is said it is "prefix" if the engine caches by default and that is modelled
        (`kvsim.simulator.caching`), else "paged".
    num_blocks, block_size : int or None
        Other spellings of ``engine.num_gpu_blocks_override`` and ``engine.block_size``, where
        a scenario keeps them: here they are None in every `Scenario`.
    eviction : PolicyName
        Order in which idle prefixes are forgotten: "lru", "fifo", "lfu" (prefix), or yours.
    placement : PolicyName
        Where contiguous regions go: "first-fit", "best-fit", "buddy" (reserve-*, grow), or
        yours.
    compaction : bool
        Whether regions may be slid together (reserve-*).
    page_bytes : int
        Physical page, bytes (virtual): 64 KiB to 2 MiB.
    """

    allocator: choices.AllocatorName = PolicyName("paged")
    num_blocks: Count | None = Field(default=None, exclude=True)
    block_size: Tokens | None = Field(default=None, exclude=True)
    eviction: choices.EvictionName = PolicyName("lru")
    placement: choices.PlacementName = PolicyName("first-fit")
    compaction: Flag = False
    page_bytes: Annotated[Whole, Field(ge=64 * KIB, le=2 * MIB)] = 2 * MIB

    @property
    def caches_prefixes(self) -> bool:
        """Whether prefixes are kept and looked up."""
        return str(self.allocator) == "prefix"


class SchedulerSpec(Described):
    """Who runs next.

    Parameters
    ----------
    policy : PolicyName
        "vllm-v1", "vllm-v0", "sglang", "orca", "static", "sarathi", or one of yours; the
        engine's own where none is said: "sglang" for sglang, "vllm-v0" for vLLM before 0.8,
        "vllm-v1" for all others.
    admission : PolicyName
        "fcfs", "priority", "shortest-first", or one of yours.
    preemption : str
        "recompute" or "swap".
    long_prefill_token_threshold : int
        Most tokens of one prompt in one step; 0 is no limit.
    host_link_bytes_per_s : float
        Bandwidth of the host link that swapping uses, one direction, bytes/s.
    """

    policy: choices.SchedulerName = PolicyName("vllm-v1")
    admission: choices.AdmissionName = PolicyName("fcfs")
    preemption: Literal["recompute", "swap"] = "recompute"
    long_prefill_token_threshold: Annotated[Whole, Field(ge=0)] = 0
    host_link_bytes_per_s: Positive = 25e9


class StepTimeSpec(Described):
    """What a step costs.

    Parameters
    ----------
    kind : str
        "profile" takes the accelerator's coefficients; "constant" a fixed time.
    seconds : float or None
        The fixed time of a step (constant).
    """

    kind: Literal["profile", "constant"] = "profile"
    seconds: Duration | None = None


Percentile = Annotated[Real, Field(gt=0, le=100)]


class SLO(Described):
    """Service-level objectives in milliseconds; a request is good when it meets them all.

    The percentiles say at which a search for a rate or a fleet holds each of them; its settings
    say it where they are None.
    """

    ttft_ms: Positive | None = None
    tpot_ms: Positive | None = None
    e2el_ms: Positive | None = None
    ttft_percentile: Percentile | None = None
    tpot_percentile: Percentile | None = None
    e2el_percentile: Percentile | None = None


class RunSpec(Described):
    """How the simulation is run and judged.

    Parameters
    ----------
    seed : int
        Seed of every random stream.
    replications : int
        Independent runs; two or more give confidence intervals.
    warmup_fraction : float
        Share of the requests, the first to arrive, that statistics of latency, memory and
        batches leave out; totals and rates cover the whole run.
    max_seconds : float or None
        Simulated time at which the run is cut.
    """

    seed: Annotated[Whole, Field(ge=0)] = 0
    replications: Count = 1
    warmup_fraction: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    max_seconds: Duration | None = None


class Scenario(Described):
    """One question to the simulator.

    Parameters
    ----------
    name, question : str
        What the file is called and what it asks.
    model, accelerator : str
        Catalogue names or paths.
    engine : EngineSpec
        Engine and flags, pool and block size among them (`kvsim.simulator.facts`).
    workload : WorkloadSpec
        Who asks what, when.
    memory, scheduler, step_time, slo, run
        See their classes.
    """

    name: str = ""
    question: str = ""
    model: str
    accelerator: str
    engine: Annotated[
        EngineSpec, PlainValidator(_engine), PlainSerializer(EngineSpec.model_dump)
    ] = EngineSpec()
    workload: WorkloadSpec
    # Constructed, not called: to check nothing each class would build a validator of its own.
    memory: MemorySpec = MemorySpec.model_construct()
    scheduler: SchedulerSpec = SchedulerSpec.model_construct()
    step_time: StepTimeSpec = StepTimeSpec.model_construct()
    slo: SLO = SLO.model_construct()
    run: RunSpec = RunSpec.model_construct()
    folder: Path = Path()
    _file: Path | None = PrivateAttr(default=None)
    _spelled: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _keep_one_key_per_fact(self) -> Self:
        sections = zip(("engine", "memory"), settled(self.engine, self.memory), strict=True)
        for name, section in sections:
            if section != getattr(self, name):
                self.model_fields_set.add(name)
            self.__dict__[name] = section  # frozen to everybody else
        self.__dict__["scheduler"] = _own_policy(self.scheduler, self.engine)
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values; a new `engine` or `memory` has the last word.

        Raises
        ------
        InputError
            When the two state one fact with two values.
        """
        update = dict(update or {})
        if {"engine", "memory"} & update.keys():
            update["engine"], update["memory"] = replaced(self.engine, self.memory, update)
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__["scheduler"] = _own_policy(copy.scheduler, copy.engine)
        return copy

    def with_prefixes_cached(self) -> Self:
        """Return a copy that caches prefixes as its engine does, and not as something said."""
        copy = super().model_copy()
        copy.__dict__["memory"] = memory = self.memory.model_copy()
        memory.__dict__["allocator"] = PolicyName("prefix")
        return copy

    @property
    def origin(self) -> tuple[Path | None, dict[str, str]]:
        """The file that it was read from, if it was, and the words that set each override."""
        return self._file, self._spelled

    def from_origin(self, file: Path | None, spelled: Mapping[str, str]) -> Self:
        """Return a copy that knows where it comes from; see `origin`."""
        copy = super().model_copy()
        copy._file, copy._spelled = file, dict(spelled)
        return copy

    def where(self, key: str, *, short: bool = False) -> str:
        """Say which override, or line of the file (`short`: without its folder), gave a key."""
        said = where_given(key, self._spelled, self._file)
        return said.replace(str(self._file), self._file.name) if short and self._file else said

    def to_yaml(self, *, named: bool = True) -> str:
        """Write what was given as a YAML file that `load_scenario` reads.

        The folder that its files are relative to is left out: the same question has the same
        words everywhere; so are flags of the engine at their defaults. Without its name (`named`)
        it is called after the file.
        """
        beside = {"folder"} if named else {"folder", "name"}
        given = self.model_dump(mode="json", exclude_unset=True, exclude=beside)
        given["engine"] = self.engine.model_dump(mode="json", exclude_defaults=True)
        return dump_yaml({key: value for key, value in _without_none(given).items() if value != {}})


def _own_policy(scheduler: SchedulerSpec, engine: EngineSpec) -> SchedulerSpec:
    """Give a scheduler's section the policy of its engine where it states none."""
    own = own_scheduler(engine.name, engine.version)
    if "policy" in scheduler.model_fields_set or scheduler.policy == own:
        return scheduler
    chosen = scheduler.model_copy()
    chosen.__dict__["policy"] = PolicyName(own)  # and not as something that was said
    return chosen


def _without_none(content: Any) -> Any:
    """Leave out what was not decided."""
    if not isinstance(content, dict):
        return content
    return {key: _without_none(value) for key, value in content.items() if value is not None}
