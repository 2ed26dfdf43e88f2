"""A scenario: one question to the simulator, read from `scenarios/*.yaml`.

Every key has a unit in its name or in its table below, and every key can be overridden by
its dotted path (``workload.arrivals.rate=20``), on the command line and in Python alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from kvsim.errors import InputError, UnknownNameError
from kvsim.registry import PolicyName
from kvsim.simulator import choices
from kvsim.simulator.facts import (
    ContradictionError,
    named,
    overlay,
    replaced,
    settled,
    where_given,
)
from kvsim.simulator.families import FAMILIES, own_scheduler
from kvsim.simulator.overrides import Layer, closest, layer_of
from kvsim.specs.checked import FieldError, dotted, read, unknown_key
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.yaml_files import data_folder, dump_yaml, located, read_yaml
from kvsim.units import KIB, MIB
from kvsim.workload.described import Count, Described, Duration, Flag, Positive, Real, Tokens, Whole
from kvsim.workload.spec import WorkloadSpec
from kvsim.workload.validation import field_error

__all__ = [
    "SLO",
    "EngineSpec",
    "MemorySpec",
    "RunSpec",
    "Scenario",
    "SchedulerSpec",
    "StepTimeSpec",
    "allocator_names",
    "load_layers",
    "load_scenario",
    "scenario_names",
    "scheduler_names",
    "with_overrides",
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
        "virtual", or one of yours; "prefix" is ``engine.enable_prefix_caching: true``.
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


class SchedulerSpec(Described):
    """Who runs next.

    Parameters
    ----------
    policy : PolicyName
        "vllm-v1", "vllm-v0", "sglang", "orca", "static", "sarathi", or one of yours; the
        engine's own where none is said: "sglang" for sglang, "vllm-v1" for all others.
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


class SLO(Described):
    """Service-level objectives in milliseconds; a request is good when it meets them all."""

    ttft_ms: Positive | None = None
    tpot_ms: Positive | None = None
    e2el_ms: Positive | None = None


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

    def where(self, key: str, *, short: bool = False) -> str:
        """Say which override, or line of the file (`short`: without its folder), gave a key."""
        said = where_given(key, self._spelled, self._file)
        return said.replace(str(self._file), self._file.name) if short and self._file else said

    def to_yaml(self) -> str:
        """Write what was given as a YAML file that `load_scenario` reads.

        The folder that its files are relative to is left out: the same question has the same
        words everywhere.
        """
        given = _without_none(self.model_dump(mode="json", exclude_unset=True, exclude={"folder"}))
        return dump_yaml(given)


def _own_policy(scheduler: SchedulerSpec, engine: EngineSpec) -> SchedulerSpec:
    """Give a scheduler's section the policy of its engine where it states none."""
    own = own_scheduler(engine.name, engine.version)
    if "policy" in scheduler.model_fields_set or scheduler.policy == own:
        return scheduler
    chosen = scheduler.model_copy()
    chosen.__dict__["policy"] = PolicyName(own)  # and not as something that was said
    return chosen


_SECTIONS = sorted(Scenario.model_fields.keys() - {"folder"})  # that is where the file lies


def _without_none(content: Any) -> Any:
    """Leave out what was not decided."""
    if not isinstance(content, dict):
        return content
    return {key: _without_none(value) for key, value in content.items() if value is not None}


def allocator_names() -> list[str]:
    """Names of the memory policies: built in, registered, and offered by distributions."""
    return FAMILIES["allocators"].names()


def scheduler_names() -> list[str]:
    """Names of the schedulers: built in, registered, and offered by distributions."""
    return FAMILIES["schedulers"].names()


def scenario_names() -> list[str]:
    """Names of the scenarios that kvsim ships."""
    return sorted(path.stem for path in data_folder("scenarios").glob("*.yaml"))


def load_scenario(
    path: str | Path,
    overrides: Mapping[str, object] | None = None,
    *,
    spelled: Mapping[str, str] | None = None,
) -> Scenario:
    """Read a scenario from a file or by the name of a shipped one.

    Parameters
    ----------
    path : str or Path
        A YAML file, or a name such as "peer-w".
    overrides : mapping, optional
        Dotted keys, or names of flags, to values: ``{"workload.arrivals.rate": 20}``.
    spelled : mapping, optional
        How somebody wrote each override, to say which one is wrong; "override key=value" by
        default.

    Raises
    ------
    InputError
        For a file that is missing or malformed, an unknown key or an impossible value; the
        message names file, line and key, or the override.
    """
    return load_layers(path, [layer_of(overrides or {}, spelled or {})])


def load_layers(path: str | Path, layers: Sequence[Layer]) -> Scenario:
    """Read a scenario, and lay overrides over it: the last layer has the last word.

    Raises
    ------
    InputError
        As `load_scenario`.
    """
    file = _find(Path(path))
    with located(file):
        content = named(read_yaml(file), _SECTIONS)
    content.setdefault("name", file.stem)
    scenario = _overridden(content, layers, file)
    scenario._file = file
    return scenario.model_copy(update={"folder": file.resolve().parent})


def with_overrides(
    scenario: Scenario,
    overrides: Mapping[str, object],
    *,
    spelled: Mapping[str, str] | None = None,
) -> Scenario:
    """Return the scenario with other values; keys and `spelled` as in `load_scenario`.

    Raises
    ------
    InputError
        For an unknown key or an impossible value, with the key.

    Examples
    --------
    >>> faster = with_overrides(load_scenario("peer-w"), {"workload.arrivals.rate": 20})
    >>> faster.workload.arrivals.rate
    20.0
    """
    content = scenario.model_dump(exclude_unset=True, exclude={"folder"})
    changed = _overridden(content, [layer_of(overrides, spelled or {})], scenario._file)
    changed._file = scenario._file
    changed._spelled = scenario._spelled | changed._spelled
    return changed.model_copy(update={"folder": scenario.folder})


def _overridden(content: dict[str, Any], layers: Sequence[Layer], file: Path | None) -> Scenario:
    """Build a scenario; blame an override for what is wrong, unless the file said it before."""
    changed, words = deepcopy(content), dict[str, str]()
    for layer in layers:
        words |= overlay(changed, layer, _SECTIONS)
    try:
        scenario = _validated(changed)
    except ContradictionError as wrong:
        places = [where_given(key, words, file).removesuffix(f": {key}") for key in wrong.given]
        raise ContradictionError(wrong.given, places) from None
    except FieldError as wrong:
        blamed = None if _is_in(content, wrong) else closest(wrong.place, words)
        if blamed is not None:
            fix = _whole_section(wrong, blamed) or wrong.fix
            raise InputError(wrong.what, where=words[blamed], fix=fix) from None
        with located(file or Path("scenario")):
            raise
    scenario._spelled = words
    return scenario


def _whole_section(wrong: FieldError, blamed: str) -> str:
    """How to change a kind: the keys of the one before do not fit the new one."""
    section = dotted(wrong.place[:-1])
    if blamed != f"{section}.kind" or not wrong.what.startswith("unknown key"):
        return ""
    return f"the section had it before: set all of it, as {section}={{kind: ..., ...}}"


def _validated(content: dict[str, Any]) -> Scenario:
    """Build a scenario; what is wrong comes with its place."""
    if "folder" in content:
        raise unknown_key(("folder",), _SECTIONS)
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        raise field_error(error, content, Scenario) from None


def _is_in(content: dict[str, Any], wrong: FieldError) -> bool:
    """Whether the same is wrong with what the file alone says."""
    try:
        _validated(content)
    except FieldError as before:
        return before.what == wrong.what
    except ContradictionError:  # it comes after what is wrong with a field
        return False
    return False


def _find(path: Path) -> Path:
    """The file at `path`, or the shipped scenario of that name."""
    with suppress(OSError):  # too long to be a file's name
        if path.suffix in (".yaml", ".yml") or path.is_file():
            return path
    if str(path) not in scenario_names():
        raise UnknownNameError("scenario", str(path), scenario_names(), fix="or give a YAML file")
    return data_folder("scenarios") / f"{path}.yaml"
