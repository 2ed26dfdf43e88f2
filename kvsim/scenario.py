"""A scenario: one question to the simulator, read from `scenarios/*.yaml`.

Every key has a unit in its name or in its table below, and every key can be overridden by
its dotted path (``workload.arrivals.rate=20``), on the command line and in Python alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from kvsim.catalog.yaml_files import data_folder, described, read_yaml
from kvsim.engines.base import EngineOptions
from kvsim.errors import InputError, UnknownNameError
from kvsim.workload.spec import WorkloadSpec

__all__ = [
    "SLO",
    "EngineSpec",
    "MemorySpec",
    "RunSpec",
    "Scenario",
    "SchedulerSpec",
    "StepTimeSpec",
    "load_scenario",
    "scenario_names",
]

AllocatorName = Literal[
    "none", "reserve-max", "reserve-pow2", "reserve-oracle", "grow", "paged", "prefix", "virtual"
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineSpec(EngineOptions):
    """Which engine's accounting sizes the pool, and its flags (see ``kvsim plan --help``)."""

    name: str = "vllm"
    version: str = ""

    @property
    def options(self) -> EngineOptions:
        """The flags alone."""
        fields = {key: getattr(self, key) for key in EngineOptions.model_fields}
        return EngineOptions(**fields)


class MemorySpec(_Frozen):
    """How KV memory is handed out.

    Parameters
    ----------
    allocator : str
        "none", "reserve-max", "reserve-pow2", "reserve-oracle", "grow", "paged", "prefix"
        or "virtual".
    num_blocks : int or None
        Blocks of the pool; None takes what the plan for this model, card and engine says.
    block_size : int or None
        Tokens a block; None takes the engine's.
    eviction : str
        Order in which idle prefixes are forgotten: "lru", "fifo" or "lfu" (prefix).
    placement : str
        Where contiguous regions go: "first-fit", "best-fit" or "buddy" (reserve-*, grow).
    compaction : bool
        Whether regions may be slid together (reserve-*).
    page_bytes : int
        Physical page, bytes (virtual): 64 KiB to 2 MiB.
    """

    allocator: AllocatorName = "paged"
    num_blocks: PositiveInt | None = None
    block_size: PositiveInt | None = None
    eviction: str = "lru"
    placement: str = "first-fit"
    compaction: bool = False
    page_bytes: PositiveInt = 2 * 2**20


class SchedulerSpec(_Frozen):
    """Who runs next.

    Parameters
    ----------
    policy : str
        "vllm-v1", "vllm-v0", "orca", "static" or "sarathi".
    admission : str
        "fcfs", "priority" or "shortest-first".
    preemption : str
        "recompute" or "swap".
    long_prefill_token_threshold : int
        Most tokens of one prompt in one step; 0 is no limit.
    host_link_bytes_per_s : float
        Bandwidth of the host link that swapping uses, one direction, bytes/s.
    """

    policy: str = "vllm-v1"
    admission: str = "fcfs"
    preemption: Literal["recompute", "swap"] = "recompute"
    long_prefill_token_threshold: int = Field(default=0, ge=0)
    host_link_bytes_per_s: PositiveFloat = 25e9


class StepTimeSpec(_Frozen):
    """What a step costs.

    Parameters
    ----------
    kind : str
        "profile" takes the accelerator's coefficients; "constant" a fixed time.
    seconds : float or None
        The fixed time of a step (constant).
    """

    kind: Literal["profile", "constant"] = "profile"
    seconds: PositiveFloat | None = None


class SLO(_Frozen):
    """Service-level objectives in milliseconds; a request is good when it meets them all."""

    ttft_ms: PositiveFloat | None = None
    tpot_ms: PositiveFloat | None = None
    e2el_ms: PositiveFloat | None = None


class RunSpec(_Frozen):
    """How the simulation is run and judged.

    Parameters
    ----------
    seed : int
        Seed of every random stream.
    replications : int
        Independent runs; two or more give confidence intervals.
    warmup_fraction : float
        Share of the requests, the first to arrive, that latency statistics leave out.
    max_seconds : float or None
        Simulated time at which the run is cut.
    """

    seed: int = Field(default=0, ge=0)
    replications: PositiveInt = 1
    warmup_fraction: float = Field(default=0.0, ge=0, lt=1)
    max_seconds: PositiveFloat | None = None


class Scenario(_Frozen):
    """One question to the simulator.

    Parameters
    ----------
    name, question : str
        What the file is called and what it asks.
    model, accelerator : str
        Catalogue names or paths.
    engine : EngineSpec
        Engine and flags.
    workload : WorkloadSpec
        Who asks what, when.
    memory, scheduler, step_time, slo, run
        See their classes.
    """

    name: str = ""
    question: str = ""
    model: str
    accelerator: str
    engine: EngineSpec = EngineSpec()
    workload: WorkloadSpec
    memory: MemorySpec = MemorySpec()
    scheduler: SchedulerSpec = SchedulerSpec()
    step_time: StepTimeSpec = StepTimeSpec()
    slo: SLO = SLO()
    run: RunSpec = RunSpec()
    folder: Path = Path()


def scenario_names() -> list[str]:
    """Names of the scenarios that kvsim ships."""
    return sorted(path.stem for path in data_folder("scenarios").glob("*.yaml"))


def load_scenario(path: str | Path, overrides: Mapping[str, object] | None = None) -> Scenario:
    """Read a scenario from a file or by the name of a shipped one.

    Parameters
    ----------
    path : str or Path
        A YAML file, or a name such as "peer-w".
    overrides : mapping, optional
        Dotted keys to values: ``{"workload.arrivals.rate": 20}``.

    Raises
    ------
    InputError
        For a file that is missing or malformed, an unknown key or an impossible value; the
        message names file, line and key.
    """
    file = _find(Path(path))
    content = read_yaml(file)
    for key, value in (overrides or {}).items():
        _set(content, key, value)
    content.setdefault("name", file.stem)
    scenario = described(content, file, Scenario)
    return scenario.model_copy(update={"folder": file.resolve().parent})


def _find(path: Path) -> Path:
    """The file at `path`, or the shipped scenario of that name."""
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    shipped = data_folder("scenarios") / f"{path}.yaml"
    if path.name != str(path) or not shipped.is_file():
        raise UnknownNameError("scenario", str(path), scenario_names(), fix="or give a YAML file")
    return shipped


def _set(content: dict[str, Any], key: str, value: object) -> None:
    """Set a dotted key, making the mappings on the way."""
    *parents, last = key.split(".")
    at = content
    for depth, parent in enumerate(parents):
        inner = at.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise InputError(
                f"{'.'.join(parents[: depth + 1])} is {inner!r}, so it has no key {last!r}",
                where=f"override {key}",
            )
        at = inner
    at[last] = value
