"""vLLM's start-up log beside the plan: which terms differ, and the lines that close the gap.

Several releases are understood; each prints its own selection of the same few terms::

    0.4 - 0.6   Loading model weights took 14.9888 GB        # GPU blocks: 27896
    0.6 - 0.8   model weights take 14.99GiB; non_torch_memory takes 0.16GiB; ...
    0.7 -       Model loading took 14.9889 GiB               GPU KV cache size: 384,432 tokens
    0.10 -      torch peak memory increase: 1.89GiB; ...     Available KV cache memory: 58.11 GiB
    0.19 -      CUDA graph pool memory: 0.91 GiB (actual)

Where several ranks print, the tightest one counts: the largest term, the smallest cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kvsim.errors import InputError
from kvsim.planning.planner import Plan, plan
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.files import MAX_LOG_BYTES, read_text
from kvsim.specs.numbers import finite, shown, whole
from kvsim.units import GIB, MIB, format_bytes

__all__ = [
    "EngineLog",
    "LogComparison",
    "TermDifference",
    "compare_log",
    "parse_engine_log",
    "read_engine_log",
]

# What one line may call a term; the number is in GiB whatever the unit printed beside it.
# It starts where no digit stands before it: else a line of digits takes quadratic time.
_GIB = r"(?<![0-9.])([0-9]+(?:\.[0-9]*)?) ?Gi?B"
_TERMS: dict[str, tuple[str, ...]] = {
    "total_gib": (rf"total_gpu_memory[ (]+{_GIB}", rf"Free memory on device \([0-9.]+/{_GIB}"),
    "weights_gib": (
        rf"Loading model weights took {_GIB}",
        rf"model weights take +{_GIB}",
        rf"Model loading took {_GIB}",
        rf"weights memory: {_GIB}",
        rf"Actual usage is {_GIB} for weight",
    ),
    "activation_gib": (
        rf"PyTorch activation peak memory(?: takes)? +{_GIB}",
        rf"torch peak memory increase: {_GIB}",
        rf"{_GIB} for peak activation",
    ),
    "non_torch_gib": (
        rf"non_torch_memory(?: takes)? +{_GIB}",
        rf"non-torch forward increase memory: {_GIB}",
        rf"{_GIB} for non-torch memory",
    ),
    "cuda_graph_gib": (
        rf"Graph capturing finished in [0-9.]+ secs?, took {_GIB}",
        rf"CUDA graph pool memory: {_GIB} \(actual\)",
        rf"{_GIB} for CUDAGraph memory",
    ),
}
_ESTIMATED_GRAPH = rf"Estimated CUDA graph memory: {_GIB}"
_CACHE = {
    "kv_cache_gib": (
        rf"reserved for KV Cache is {_GIB}",
        rf"available_kv_cache_memory +{_GIB}",
        rf"Available KV cache memory: {_GIB}",
    ),
    "kv_tokens": (r"GPU KV cache size: ([0-9,]+) tokens",),
    "gpu_blocks": (r"# (?:GPU|cuda|CUDA) blocks: ([0-9,]+)",),
    "max_concurrency": (r"Maximum concurrency for [0-9,]+ tokens per request: ([0-9.]+)x",),
}
_LARGEST = 1e12  # tokens, blocks or GiB: beyond what any pool holds
_MAX_LEN = r"Maximum concurrency for ([0-9,]+) tokens per request"
_VERSION = r"(?:LLM engine \(v|API server version |vLLM version )([0-9]+\.[0-9]+[0-9a-z.]*)"

# Flag, and how the log's configuration line words it.
_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "tensor_parallel_size": (r"\btensor_parallel_size=([0-9]+)", whole),
    "pipeline_parallel_size": (r"\bpipeline_parallel_size=([0-9]+)", whole),
    "max_model_len": (r"\bmax_(?:seq|model)_len=([0-9]+)", whole),
    "enforce_eager": (r"\benforce_eager=(True|False)", lambda text: text == "True"),
    "kv_cache_dtype": (r"\bkv_cache_dtype='?([a-z0-9_]+)", str),
    "dtype": (r"\bdtype=torch\.([a-z0-9]+)", str),
    "gpu_memory_utilization": (
        r"gpu_memory_utilization(?:=|'?: | \(| +)([01]?\.[0-9]+)"
        r"|Requested memory: ([0-9.]+) \(util",
        finite,
    ),
    "max_num_seqs": (r"\bmax_num_seqs(?:=|'?: )([0-9]+)", whole),
    "max_num_batched_tokens": (r"\bmax_num_batched_tokens(?:=|'?: )([0-9]+)", whole),
}


@dataclass(frozen=True, slots=True)
class EngineLog:
    """What a start-up log states; None is what it does not.

    Parameters
    ----------
    version, model : str or None
        Release and model.
    options : mapping of str to value
        Engine flags that the log prints, as fields of `EngineOptions`.
    total_gib, weights_gib, activation_gib, non_torch_gib, cuda_graph_gib : float or None
        Memory terms of the tightest rank, GiB.
    estimated_graph_gib : float or None
        What newer releases take out of the budget for CUDA graphs before they capture any.
    kv_cache_gib, kv_tokens, gpu_blocks, max_concurrency : float or None
        What was left for KV cache, and what that holds.
    max_model_len : int or None
        Length that the concurrency is stated at.
    """

    version: str | None
    model: str | None
    options: Mapping[str, Any]
    total_gib: float | None = None
    weights_gib: float | None = None
    activation_gib: float | None = None
    non_torch_gib: float | None = None
    cuda_graph_gib: float | None = None
    estimated_graph_gib: float | None = None
    kv_cache_gib: float | None = None
    kv_tokens: float | None = None
    gpu_blocks: float | None = None
    max_concurrency: float | None = None
    max_model_len: int | None = None


def read_engine_log(path: Path) -> EngineLog:
    """Read vLLM's start-up log.

    Raises
    ------
    InputError
        When the file cannot be read, or holds no line that vLLM prints at start-up.
    """
    text = read_text(path, max_bytes=MAX_LOG_BYTES, undecodable="replace")
    try:
        log = parse_engine_log(text)
    except InputError as error:
        raise InputError(error.what, where=f"{path}, {error.where}", fix=error.fix) from None
    if not any(getattr(log, name) is not None for name in (*_TERMS, *_CACHE)):
        raise InputError(
            "no memory line of vLLM's start-up in it",
            where=str(path),
            fix="give the server's own log, from its first line to 'Application startup complete'",
        )
    return log


def parse_engine_log(text: str) -> EngineLog:
    """Find the terms in the text of a log.

    Raises
    ------
    InputError
        When a term is a number that no device has; the line is named.

    Examples
    --------
    >>> log = parse_engine_log("Model loading took 14.9889 GiB and 3.6 seconds")
    >>> log.weights_gib
    14.9889
    """
    length = _numbers(text, (_MAX_LEN,))
    options = _options(text)
    if length:
        options.setdefault("max_model_len", int(length[0]))
    model = re.search(r"\bmodel='([^']+)'", text)
    version = re.search(_VERSION, text)
    return EngineLog(
        version=version.group(1).rstrip(".") if version else None,
        model=model.group(1) if model else None,
        options=options,
        estimated_graph_gib=max(_numbers(text, (_ESTIMATED_GRAPH,)), default=None),
        max_model_len=int(length[0]) if length else None,
        **{name: max(_numbers(text, forms), default=None) for name, forms in _TERMS.items()},
        **{name: min(_numbers(text, forms), default=None) for name, forms in _CACHE.items()},
    )


def _numbers(text: str, forms: Sequence[str]) -> list[float]:
    """Every number that one of the forms finds."""
    found = [match for form in forms for match in re.finditer(form, text)]
    return [_number(match, finite) for match in found]


def _number(match: re.Match[str], rule: Callable[[str], Any]) -> Any:
    """Read the number that a form found, as the rule says, or name the line it stands in."""
    words = next(group for group in match.groups() if group).replace(",", "")
    try:
        number = rule(words)
        if number > _LARGEST:
            raise ValueError(f"should be at most {_LARGEST:.0e}")
    except ValueError as error:
        line = match.string.count("\n", 0, match.start()) + 1
        raise InputError(f"{shown(match.group())}: {error}", where=f"line {line}") from None
    return number


def _options(text: str) -> dict[str, Any]:
    """Flags that the log prints."""
    options = {}
    for name, (form, read) in _OPTIONS.items():
        match = re.search(form, text)
        if match is None:
            continue
        if read in (whole, finite):
            options[name] = _number(match, read)
        else:
            options[name] = read(match.group(1))
    return options


# ---- the plan beside it -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TermDifference:
    """One memory term, bytes: the plan's and the log's."""

    name: str
    plan_bytes: int
    log_bytes: int

    @property
    def difference_bytes(self) -> int:
        """How much more the log has than the plan."""
        return self.log_bytes - self.plan_bytes


@dataclass(frozen=True, slots=True)
class LogComparison:
    """A plan beside a log.

    Parameters
    ----------
    plan, closed_plan : Plan
        The plan as kvsim makes it, and with the log's own overheads in place of its own.
    log : EngineLog
        What vLLM printed.
    terms : tuple of TermDifference
        Terms that the log states.
    overrides : mapping of str to int
        Engine options that put the log's overheads into a plan, bytes.
    profile_lines : tuple of str
        Lines for the accelerator's profile.
    """

    plan: Plan
    closed_plan: Plan
    log: EngineLog
    terms: tuple[TermDifference, ...]
    overrides: Mapping[str, int]
    profile_lines: tuple[str, ...]

    def scenario_lines(self) -> list[str]:
        """The overrides as lines of a scenario's ``engine:`` block."""
        return [
            f"{name}: {size}  # {format_bytes(size)}, from the log"
            for name, size in self.overrides.items()
        ]

    def record(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {
            "kind": "kvsim-engine-log",
            "log": asdict(self.log),
            "terms": [
                {**asdict(term), "difference_bytes": term.difference_bytes} for term in self.terms
            ],
            "overrides": dict(self.overrides),
            "profile_lines": list(self.profile_lines),
            "plan_tokens": self.plan.kv_cache.capacity_tokens,
            "closed_plan_tokens": self.closed_plan.kv_cache.capacity_tokens,
        }


# Term: the log's field, the plan's, and the option that overrides it.
_PLANNED = {
    "total": ("total_gib", "total_bytes", None),
    "weights": ("weights_gib", "weights_bytes", None),
    "activation": ("activation_gib", "activation_bytes", "activation_bytes"),
    "non-torch": ("non_torch_gib", "non_torch_bytes", "non_torch_bytes"),
    "CUDA graphs": ("cuda_graph_gib", "cuda_graph_bytes", "cuda_graph_bytes"),
    "KV cache": ("kv_cache_gib", "kv_cache_bytes", None),
}
_SAME = 32 * MIB  # logs round to 0.01 GiB, some to 0.1: less than this is no difference
_SAME_TOTAL = 0.002  # of the memory, which drivers report to their own taste


def compare_log(
    log: EngineLog, gpu: str, model: str | None = None, options: EngineOptions | None = None
) -> LogComparison:
    """Plan what the log describes and set both side by side.

    Parameters
    ----------
    log : EngineLog
        From `read_engine_log`.
    gpu : str
        Accelerator: name, alias or profile.
    model : str, optional
        Instead of the log's.
    options : EngineOptions, optional
        Flags in place of those that the log prints.

    Raises
    ------
    InputError
        When neither the log nor the caller names the model, and as `kvsim.planning.planner.plan`.
    """
    name = model or log.model
    if name is None:
        raise InputError("the log does not name the model", fix="give --model")
    given = options.model_dump(exclude_defaults=True) if options else {}
    flags: dict[str, Any] = {**log.options, **given}
    planned = plan(name, gpu, engine_version=log.version or "", **flags)
    terms = _differences(planned, log)
    overrides = _overrides(planned, log, terms)
    closed = plan(name, gpu, engine_version=log.version or "", **(flags | overrides))
    return LogComparison(planned, closed, log, terms, overrides, _profile_lines(terms))


def _differences(planned: Plan, log: EngineLog) -> tuple[TermDifference, ...]:
    """Pair every term that the log states with the plan's."""
    found = []
    for name, (logged, field, _) in _PLANNED.items():
        size = getattr(log, logged)
        if size is not None:
            found.append(TermDifference(name, getattr(planned.memory, field), round(size * GIB)))
    return tuple(found)


def _overrides(planned: Plan, log: EngineLog, terms: Sequence[TermDifference]) -> dict[str, int]:
    """Options for the overheads that differ by more than a log's rounding.

    Where the release takes graphs out of the budget, what it takes is its own estimate.
    """
    overrides = {
        option: term.log_bytes
        for term in terms
        if (option := _PLANNED[term.name][2]) and abs(term.difference_bytes) > _SAME
    }
    if planned.memory.cuda_graph_in_budget and log.estimated_graph_gib is not None:
        overrides["cuda_graph_bytes"] = round(log.estimated_graph_gib * GIB)
    return overrides


def _profile_lines(terms: Sequence[TermDifference]) -> tuple[str, ...]:
    """The profile's memory, where the driver reported another size."""
    for term in terms:
        if term.name == "total" and abs(term.difference_bytes) > _SAME_TOTAL * term.plan_bytes:
            size = f"{term.log_bytes / GIB:.2f} GiB"
            return ("memory:", f"  value: {size}", '  source: "vLLM start-up log"')
    return ()
