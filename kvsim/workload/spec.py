"""A workload as a person writes it, and how it becomes one that runs.

::

    workload:
      arrivals: {kind: poisson, rate: 4}
      lengths:
        prompt: {kind: fixed, tokens: 512}
        output: {kind: lognormal, mean: 128, cv: 1.2, max: 1024}
      prefix: {kind: groups, groups: 8, tokens: 1024}
      requests: 10000

    workload:
      trace: {file: mooncake.jsonl, jitter_seconds: 3}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from kvsim.errors import InputError, UnknownNameError
from kvsim.workload.arrivals import Arrivals, AtOnce, ClosedLoopArrivals, Piecewise
from kvsim.workload.base import ClosedLoop, Workload
from kvsim.workload.clients import ClientLoop
from kvsim.workload.described import (
    Count,
    Described,
    Duration,
    NonNegative,
    Positive,
    Seconds,
    Whole,
)
from kvsim.workload.generated import GeneratedWorkload, Limits, Marks
from kvsim.workload.lengths import Lengths, LengthsDraw, PairsFile
from kvsim.workload.prefix import Conversations, NoPrefix, Prefix
from kvsim.workload.validation import field_error

if TYPE_CHECKING:
    from kvsim.workload.traces import Trace

__all__ = ["TraceSpec", "WorkloadSpec", "build_workload", "parse_workload", "with_absolute_files"]


class TraceSpec(Described):
    """A recorded trace to replay.

    Parameters
    ----------
    file : str
        Relative to the scenario's folder.
    format : str, optional
        By default told by the content.
    time_scale : float
        Multiplies times (think times for WEKA); 0.5 doubles the request rate.
    jitter_seconds : float
        Spread each request uniformly over this many seconds after its tick.
    max_requests : int, optional
        Read no more than this.
    clients : int, optional
        Closed-loop traces: conversations open at once; all by default.
    hash_block_size : int, optional
        Tokens behind a block identity, where the file deviates from its format.
    """

    file: Annotated[str, Field(min_length=1)]
    format: str | None = None
    time_scale: Positive = 1.0
    jitter_seconds: Seconds = 0.0
    max_requests: Count | None = None
    clients: Count | None = None
    hash_block_size: Count | None = None


# What a trace says of its requests, and what leaves it to the trace to say.
_OF_A_TRACE = ("arrivals", "lengths", "prefix", "samples", "priorities")
_NOTHING: tuple[Any, ...] = (None, 1, {}, {"kind": "none"}, NoPrefix())


def _independent_by_default(value: Any) -> Any:
    """Let ``lengths: {prompt: ..., output: ...}`` go without its kind."""
    return {"kind": "independent", **value} if isinstance(value, dict) else value


class WorkloadSpec(Described):
    """Either a trace, or arrivals with lengths.

    Parameters
    ----------
    arrivals, lengths, prefix
        See `kvsim.workload.arrivals`, `lengths` and `prefix`.
    trace : TraceSpec, optional
        In place of arrivals and lengths.
    requests : int, optional
        End after this many.
    duration_seconds : float, optional
        End before this time.
    samples : int
        Parallel samples of each request.
    priorities : dict of int to float, optional
        Share of the requests at each priority (smaller is served first).
    """

    arrivals: Arrivals | None = None
    lengths: Annotated[Lengths, BeforeValidator(_independent_by_default)] | None = None
    prefix: Prefix = NoPrefix()
    trace: TraceSpec | None = None
    requests: Count | None = None
    duration_seconds: Duration | None = None
    samples: Annotated[Whole, Field(ge=1, le=1024)] = 1
    priorities: dict[Whole, NonNegative] | None = None

    @model_validator(mode="before")
    @classmethod
    def _trace_alone(cls, given: Any) -> Any:
        """Refuse what a trace brings itself before looking at what is wrong with it."""
        if isinstance(given, dict) and given.get("trace") is not None:
            beside = [name for name in _OF_A_TRACE if given.get(name) not in _NOTHING]
            if beside:
                raise ValueError(
                    f"a trace brings its own {', '.join(beside)}: leave one of them out"
                    " (workload.trace.time_scale changes the rate)"
                )
        return given

    @model_validator(mode="after")
    def _one_source(self) -> WorkloadSpec:
        if self.trace is not None:
            return self
        if self.arrivals is None or self.lengths is None:
            raise ValueError("give arrivals and lengths, or a trace")
        if self._endless():
            raise ValueError("the workload never ends: give requests or duration_seconds")
        if isinstance(self.arrivals, AtOnce) and isinstance(self.prefix, Conversations):
            raise ValueError("at_once would open endless conversations: use closed_loop clients")
        if self.priorities is not None and sum(self.priorities.values()) <= 0:
            raise ValueError("the shares of priorities sum to zero")
        return self

    def _endless(self) -> bool:
        if self.requests is not None:
            return False
        finite = isinstance(self.arrivals, Piecewise) and not self.arrivals.repeat
        if isinstance(self.arrivals, AtOnce):
            return True
        return self.duration_seconds is None and not finite

    @property
    def limits(self) -> Limits:
        """Where the workload ends."""
        most = [self.requests, self.trace.max_requests if self.trace else None]
        given = [count for count in most if count is not None]
        return Limits(min(given) if given else None, self.duration_seconds)


def build_workload(spec: WorkloadSpec, base_folder: Path | str = ".") -> Workload | ClosedLoop:
    """Return the workload that `spec` describes, ready for ``tables`` or ``start``.

    Parameters
    ----------
    spec : WorkloadSpec
        The description.
    base_folder : Path or str
        Folder that relative file names start from.

    Raises
    ------
    InputError
        For files that cannot be read or hold no arrivals, and keys that contradict the trace.
    """
    folder = Path(base_folder)
    if spec.trace is not None:
        return _replay(spec.trace, spec.limits, folder)
    lengths = _lengths(spec, folder)
    marks = Marks(spec.samples, tuple(sorted((spec.priorities or {}).items())))
    if isinstance(spec.arrivals, ClosedLoopArrivals):
        return ClientLoop(spec.arrivals, lengths, spec.prefix, spec.limits, marks)
    if spec.arrivals is None:
        raise InputError("give arrivals and lengths, or a trace", where="workload")
    return GeneratedWorkload(spec.arrivals, lengths, spec.prefix, spec.limits, marks)


def _lengths(spec: WorkloadSpec, folder: Path) -> LengthsDraw:
    if spec.lengths is None:
        raise InputError("give arrivals and lengths, or a trace", where="workload")
    return spec.lengths.load(folder) if isinstance(spec.lengths, PairsFile) else spec.lengths


def _replay(spec: TraceSpec, limits: Limits, folder: Path) -> Workload | ClosedLoop:
    trace = _opened(spec, folder)
    kind = trace.format.arrivals
    if kind == "none":
        raise InputError(
            f"{spec.file} has lengths and no arrival times",
            where="workload.trace.file",
            fix="use it as lengths: {kind: pairs, file: ...} beside arrivals",
        )
    if spec.clients is not None and kind != "closed-loop":
        raise InputError(
            f"{trace.format.name} records arrivals, so it has no clients",
            where="workload.trace.clients",
            fix="leave it out",
        )
    if spec.jitter_seconds and kind != "recorded":
        raise InputError(
            f"{trace.format.name} has no recorded arrivals to spread",
            where="workload.trace.jitter_seconds",
            fix="leave it out",
        )
    return _replayed(spec, trace, limits)


def _replayed(spec: TraceSpec, trace: Trace, limits: Limits) -> Workload | ClosedLoop:
    # Twelve formats and three ways to replay them are imported by who replays a trace.
    from kvsim.workload.conversation_replay import ConversationReplay
    from kvsim.workload.replay import TraceReplay
    from kvsim.workload.servegen import ServeGenWorkload

    kind = trace.format.arrivals
    if kind == "closed-loop":
        return ConversationReplay(trace, spec.clients, spec.time_scale, limits)
    if kind == "rates":
        return ServeGenWorkload(trace.path, spec.time_scale, limits)
    return TraceReplay(trace, spec.time_scale, spec.jitter_seconds, limits)


def _opened(spec: TraceSpec, folder: Path) -> Trace:
    from kvsim.workload.traces import open_trace

    try:
        return open_trace(folder / spec.file, spec.format, hash_block_size=spec.hash_block_size)
    except UnknownNameError as error:
        raise InputError(error.what, where="workload.trace.format") from None


class _Alone(Described):
    """A workload as the one section of a file, so that what is wrong has its dotted key."""

    workload: WorkloadSpec


def parse_workload(description: Any) -> WorkloadSpec:
    """Check a mapping (from YAML, say) and return the description it spells.

    Raises
    ------
    InputError
        One line for the first problem, with its dotted key.

    Examples
    --------
    >>> parse_workload({"arrivals": {"kind": "poisson", "rate": 0}})
    Traceback (most recent call last):
    kvsim.specs.checked.FieldError: workload.arrivals.rate = 0: should be greater than 0
    """
    content = {"workload": description}
    try:
        return _Alone.model_validate(content).workload
    except ValidationError as error:
        raise field_error(error, content, _Alone) from None


def with_absolute_files(description: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a description whose files need no folder: those of its trace and its lengths.

    Parameters
    ----------
    description : mapping
        As a file has it, unchecked.
    folder : Path
        Where relative names start from.
    """
    described = dict(description)
    for key in ("trace", "lengths"):
        section = described.get(key)
        if isinstance(section, Mapping) and isinstance(section.get("file"), str):
            described[key] = {**section, "file": str((folder / section["file"]).absolute())}
    return described
