"""Host time from served runs: what an engine adds to a step beyond its kernels.

A run at fixed concurrency c, with prompts of P and answers of O tokens, has a mean time per
output token of::

    TPOT = decode step of c sequences at the mean context
         + host + c * sequence
         + share * (c - 1) / O * (what one more prompt adds to a step)

While a request makes its O tokens, up to ``c - 1`` others are prefilled; `share` is 1 when
requests are spread evenly and 0.5 when all begin together, and it depends on the load
generator and the scheduler. It is fitted and then forgotten; `host` and `sequence` are kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvsim.calibrate.fit import Free, least_squares, round_significant
from kvsim.calibrate.rows import Floats, number, read_csv
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines.base import Deployment, EngineOptions
from kvsim.errors import InputError
from kvsim.hardware import HostCost, StepCoefficients
from kvsim.precision import kv_format
from kvsim.steptime import KVReadCurve, StepLoad, StepTimeModel, prefill_pairs

__all__ = ["HostFit", "HostRules", "ServedRun", "fit_hosts", "host_cost", "read_served"]

_ENGINES = {"trtllm": "tensorrt-llm"}
_GOOD_PERCENT = 10.0
# A run whose mean TTFT exceeds the time to prefill all its prompts at once waited for memory
# or for slots: its batch is not its concurrency.
_WAITED = 1.5
_WAITED_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ServedRun:
    """One run at fixed concurrency.

    Parameters
    ----------
    engine, version, model, card : str
        What served what on what; `card` is the table's word ("h100_sxm").
    quantization : str or None
        Weight format, None for the model's own.
    kv_cache_dtype : str
        Format of K and V.
    tp : int
        Tensor-parallel ranks.
    concurrency, prompt_tokens, output_tokens : int
        The load.
    ttft_seconds, tpot_seconds : float
        Means that were measured.
    """

    engine: str
    version: str
    model: str
    card: str
    quantization: str | None
    kv_cache_dtype: str
    tp: int
    concurrency: int
    prompt_tokens: int
    output_tokens: int
    ttft_seconds: float
    tpot_seconds: float


@dataclass(frozen=True, slots=True)
class HostFit:
    """Host costs of one engine version and how well they describe its runs.

    Parameters
    ----------
    engine, version : str
        The engine.
    cost : HostCost
        The answer.
    share : float
        Part of the other requests' prefills that a request waits for.
    groups : mapping of (model, card) to (int, float)
        Runs of each group and their mean absolute error, percent.
    """

    engine: str
    version: str
    cost: HostCost
    share: float
    groups: Mapping[tuple[str, str], tuple[int, float]]


def read_served(path: Path) -> list[ServedRun]:
    """Read the runs of ``silicon_e2e.csv`` that tensor parallelism alone describes.

    Raises
    ------
    InputError
        For a missing column or a cell that is no number.
    """
    columns = ("backend", "model_path", "system", "tp_size", "silicon_tpot_ms", "osl")
    rows = enumerate(read_csv(path, columns), start=2)
    return [_run(row, f"{path}, line {line}") for line, row in rows if _is_plain(row)]


def _is_plain(row: Mapping[str, str]) -> bool:
    """Whether attention and experts are spread over the same ranks."""
    experts = int(float(row["moe_tp_size"] or 1)) * int(float(row["moe_ep_size"] or 1))
    return experts <= int(row["tp_size"])


def _run(row: Mapping[str, str], where: str) -> ServedRun:
    model = row["model_path"]
    quantised = bool(row["gemm_quant_mode"]) and "gpt-oss" not in model
    # ModelOpt's FP8 checkpoints ask for an fp8 cache, which vLLM's "auto" follows.
    fp8_cache = model.startswith("nvidia/") and model.endswith("FP8")
    return ServedRun(
        engine=_ENGINES.get(row["backend"], row["backend"]),
        version=row["backend_version"],
        model=model,
        card=row["system"],
        quantization="fp8" if quantised else None,
        kv_cache_dtype="fp8" if fp8_cache else "bf16",
        tp=int(row["tp_size"]),
        concurrency=int(float(row["concurrency"] or row["batch_size"])),
        prompt_tokens=int(row["isl"]),
        output_tokens=int(row["osl"]),
        ttft_seconds=number(row, "silicon_ttft_ms", where) * 1e-3,
        tpot_seconds=number(row, "silicon_tpot_ms", where) * 1e-3,
    )


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the kernels take in a run, seconds: a decode step, and what a prompt adds."""

    decode: float
    prompt: float


class _Kernels:
    """Step-time models without host costs, built once a deployment."""

    def __init__(self, coefficients: Mapping[str, StepCoefficients]) -> None:
        bare = {"host_seconds": 0.0, "sequence_seconds": 0.0}
        self._rates = {card: c.model_copy(update=bare) for card, c in coefficients.items()}
        self._built: dict[tuple[str, ...], tuple[StepTimeModel, KVReadCurve]] = {}

    def covers(self, run: ServedRun) -> bool:
        """Whether there are coefficients for the run's card."""
        return run.card in self._rates

    def terms(self, run: ServedRun) -> _Terms:
        """Kernel time of the run's steps."""
        steps, reads = self._model(run)
        batch, prompt = run.concurrency, run.prompt_tokens
        thirds = (prompt + run.output_tokens * part // 6 for part in (1, 3, 5))
        kv_bytes = batch * sum(map(reads.bytes_at, thirds)) / 3
        decode = steps.seconds(StepLoad(batch, batch, kv_bytes))
        pairs = prefill_pairs(steps.model, 0, prompt)
        mixed = steps.seconds(StepLoad(batch + prompt, batch + 1, kv_bytes, pairs))
        return _Terms(decode, mixed - decode)

    def _model(self, run: ServedRun) -> tuple[StepTimeModel, KVReadCurve]:
        key = (run.model, run.card, run.quantization or "", run.kv_cache_dtype, str(run.tp))
        if key not in self._built:
            options = EngineOptions(
                tensor_parallel_size=run.tp,
                quantization=run.quantization,
                kv_cache_dtype=run.kv_cache_dtype,
            )
            card = find_accelerator(run.card.removesuffix("_sxm"))
            deployment = Deployment(find_model(run.model), card, options)
            steps = StepTimeModel.from_deployment(deployment, self._rates[run.card])
            fmt = kv_format(run.kv_cache_dtype)
            self._built[key] = steps, KVReadCurve.from_model(deployment.model, fmt, run.tp)
        return self._built[key]


@dataclass(frozen=True, slots=True)
class HostRules:
    """What a host fit takes for one engine, and which runs it leaves out.

    Parameters
    ----------
    by_version : bool
        Whether each version of an engine has costs of its own.
    least_share, most_share : float
        Bounds of the fitted `share`.
    fewest_runs : int
        Groups of a model and a card with fewer runs are left out.
    keep_waiting : bool
        Whether runs that waited for memory or slots count too.
    """

    by_version: bool = True
    least_share: float = 0.5
    most_share: float = 1.0
    fewest_runs: int = 8
    keep_waiting: bool = False


def fit_hosts(
    runs: Sequence[ServedRun],
    coefficients: Mapping[str, StepCoefficients],
    rules: HostRules | None = None,
) -> list[HostFit]:
    """Fit each engine's host costs on all its runs at once.

    Parameters
    ----------
    runs : sequence of ServedRun
        Runs.
    coefficients : mapping of str to StepCoefficients
        Kernel rates by the table's word for the card.
    rules : HostRules, optional
        What counts as one engine, and which runs count.

    Returns
    -------
    list of HostFit
        By engine and version.
    """
    kernels, rules = _Kernels(coefficients), rules or HostRules()
    by_engine: dict[tuple[str, str], list[tuple[ServedRun, _Terms]]] = {}
    for run in runs:
        if not kernels.covers(run):
            continue
        terms = kernels.terms(run)
        if rules.keep_waiting or not _waited(run, terms):
            version = run.version if rules.by_version else "(all versions)"
            by_engine.setdefault((run.engine, version), []).append((run, terms))
    fits = [_fit_engine(name, served, rules) for name, served in sorted(by_engine.items())]
    return [fit for fit in fits if fit is not None]


def _waited(run: ServedRun, terms: _Terms) -> bool:
    return run.ttft_seconds > _WAITED * run.concurrency * terms.prompt + _WAITED_SECONDS


def _fit_engine(
    name: tuple[str, str], served: list[tuple[ServedRun, _Terms]], rules: HostRules
) -> HostFit | None:
    """One engine version; None with too few runs of every model."""
    groups: dict[tuple[str, str], list[int]] = {}
    for run, _ in served:
        groups.setdefault((run.model, run.card), []).append(0)
    enough = {group for group, members in groups.items() if len(members) >= rules.fewest_runs}
    served = [(run, terms) for run, terms in served if (run.model, run.card) in enough]
    if not served:
        return None
    measured = np.array([run.tpot_seconds for run, _ in served])
    batch = np.array([float(run.concurrency) for run, _ in served])
    decode = np.array([terms.decode for _, terms in served])
    waits = np.array([(r.concurrency - 1) * t.prompt / r.output_tokens for r, t in served])
    low, high = rules.least_share, rules.most_share
    free = (
        Free("host", 2.0, 0.0, 60.0),
        Free("sequence", 30.0, 0.0, 500.0),
        Free("share", (low + high) / 2, low, high),
    )

    def errors(values: Floats) -> Floats:
        host, sequence, share = values
        predicted = decode + host * 1e-3 + sequence * 1e-6 * batch + share * waits
        return np.asarray(predicted / measured - 1)

    values = least_squares(errors, free)
    percent = 100 * np.abs(errors(values))
    keys = [(run.model, run.card) for run, _ in served]
    return HostFit(
        engine=name[0],
        version=name[1],
        cost=_cost(values, name, len(served)),
        share=round_significant(values[2], 2),
        groups={key: _group(keys, key, percent) for key in sorted(enough)},
    )


def _cost(values: Floats, name: tuple[str, str], count: int) -> HostCost:
    return HostCost(
        host_seconds=round_significant(values[0] * 1e-3, 3),
        sequence_seconds=round_significant(values[1] * 1e-6, 3),
        source=f"{count} served runs of {name[0]} {name[1]}".strip(),
    )


def _group(keys: list[tuple[str, str]], key: tuple[str, str], percent: Floats) -> tuple[int, float]:
    mine = np.array([other == key for other in keys])
    return int(mine.sum()), float(percent[mine].mean())


def host_cost(fits: Sequence[HostFit], engine: str) -> HostCost:
    """Return the host costs of the engine's newest version that fits all its groups to 10 %.

    Newer versions overlap more of the host's work with the device's, so an older version's
    costs are no guide to them. Where none fits so well, the best fit counts.

    Raises
    ------
    InputError
        When no version of that engine was fitted.
    """
    mine = [fit for fit in fits if fit.engine == engine]
    if not mine:
        raise InputError(f"no served runs of {engine}")
    good = [fit for fit in mine if _worst_group(fit) <= _GOOD_PERCENT]
    if good:
        return max(good, key=lambda fit: _version_key(fit.version)).cost
    return min(mine, key=_worst_group).cost


def _worst_group(fit: HostFit) -> float:
    return max(error for _, error in fit.groups.values())


def _version_key(version: str) -> tuple[int, ...]:
    """Order of versions by their numbers; none at all is oldest."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
