"""Fit what engines' own code costs, by release, and write ``kvsim/steptime/data/hosts.yaml``.

Each entry's terms are fitted to served runs (`host_cases`) with the simulator itself: what is
minimised is the logarithm of simulated over measured TPOT and, half as heavy, TTFT, every model
counting alike. Kernels are the cards' own, fitted elsewhere, and stay as they are. vLLM's front end
is that of the run whose single requests were written down: of those that met an empty server,
9.6 ms passed outside the engine.

    python benchmarks/fit_hosts.py [--only vllm] [--check]

Printed beside each entry: the median error on the runs that it was fitted on, and that of each
model's runs when the entry is fitted without that model. Of the latter ``time_bands.yaml`` is made.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from host_cases import Case, campaigns, replays, stages, static_batches, steps_of_2023
from reference_data import parsed, parser, written

from kvsim.calibrate.fit import round_significant
from kvsim.calibrate.minimise import Free, least_squares
from kvsim.calibrate.rows import Floats
from kvsim.memory.tensors import tensor_families
from kvsim.runs.simulate import run_setup
from kvsim.specs.hardware import FrontEnd, HostCost
from kvsim.steptime.bands import band_of, is_measured
from kvsim.steptime.model import StepTimeModel

_DATA = Path(__file__).parent.parent / "kvsim/steptime/data"
HOSTS, BANDS = _DATA / "hosts.yaml", _DATA / "time_bands.yaml"
_SOFT_ERROR = 0.1
_STEP = 0.05  # of a term's scale, for differences
_INSIDE = 0.05  # of a term's scale: where a search may begin
_FIRST, _AGAIN = 12, 5  # evaluations of the gradient
_SHARE = 0.9
_WEIGHTS = {"mean_tpot_ms": 1.0, "mean_e2el_ms": 1.0, "mean_ttft_ms": 0.5}
# Term: where its search begins, its scale and the most that it may be; seconds.
_TERMS = {
    "host_seconds": (1e-3, 1e-3, 20e-3),
    "sequence_seconds": (15e-6, 20e-6, 500e-6),
    "launch_seconds": (2e-4, 3e-4, 5e-3),
    "expert_launch_seconds": (2e-4, 3e-4, 5e-3),
    "transit_seconds": (4e-3, 3e-3, 50e-3),
}
_BATCH = ("host_seconds", "sequence_seconds")
_LAUNCHES = ("launch_seconds", "expert_launch_seconds")
_MINIMAX = "MiniMax"
_VLLM_FRONT = {"transit_seconds": 4.8e-3}
Errors = dict[str, float]


class _Entry(NamedTuple):
    """One entry of the file: whose it is, what is fitted, and on which runs.

    Runs `apart` are never fitted on; how far they are off is in the bands.
    """

    engine: str
    first: str
    last: str
    is_async: bool
    terms: tuple[str, ...]
    what: str
    cases: Callable[[Path, Path], Iterable[Case]]
    fixed: dict[str, Any] = {}  # noqa: RUF012 - never written to
    apart: Callable[[Path, Path], Iterable[Case]] = lambda folder, scratch: ()


def _of(backend: str, *prefixes: str, clients: int = 128, each: int = 4) -> Any:
    """Some of the runs of some releases in a backend's campaigns."""

    def cases(folder: Path, scratch: Path) -> Iterator[Case]:
        found = campaigns(folder, backend, clients)
        return islice((c for c in found if c.version.startswith(prefixes)), 0, None, each)

    return cases


def _vllm_14(folder: Path, scratch: Path) -> Iterator[Case]:
    yield from (case for case in _VLLM_14(folder, scratch) if _MINIMAX not in case.model)
    yield from stages(folder)


def _minimax_14(folder: Path, scratch: Path) -> Iterator[Case]:
    """MiniMax-M2.5: until 0.19 kernels that no coefficient has joined its ranks' norms.

    At 4 clients a step takes 20 to 75 us a layer more than from 0.19 on, whatever the host costs.
    """
    yield from (case for case in _VLLM_14(folder, scratch) if _MINIMAX in case.model)


_VLLM_14 = _of("vllm", "0.16", "0.17", "0.18", clients=32, each=4)


def _vllm_19(folder: Path, scratch: Path) -> Iterator[Case]:
    yield from _of("vllm", "0.19")(folder, scratch)
    yield from replays(folder, scratch, "agg_4rps")


def _trtllm(folder: Path, scratch: Path) -> Iterator[Case]:
    """One entry for all releases: but for 1.0, of one model and its kin there are runs."""
    yield from _of("trtllm", "1.0", each=12)(folder, scratch)
    yield from _of("trtllm", "1.1", "1.2", "1.3", each=6)(folder, scratch)


def _argonne(framework: str, **engine: str) -> Any:
    def cases(folder: Path, scratch: Path) -> Iterator[Case]:
        return islice(static_batches(folder, framework, dict(engine)), 0, None, 2)

    return cases


_SERVED = (*_BATCH, *_LAUNCHES)
_FRONTED = (*_SERVED, "transit_seconds")
ENTRIES = (
    _Entry(
        "vllm", "0.2.0", "0.2.6", False, ("launch_seconds", "sequence_seconds"),
        "Splitwise's batches of Llama-2-70B on A100 (MIT)",
        lambda folder, scratch: steps_of_2023(folder), {"graphs": False, "host_seconds": 0.0},
    ),
    _Entry(
        "vllm", "0.2.7", "0.7", False, _BATCH,
        "LLM-Inference-Bench's static batches on A100 and H100 (BSD-3-Clause)",
        _argonne("vLLM", name="vllm", version="0.5.0"),
    ),
    _Entry("vllm", "0.8", "0.13", False, _SERVED, "served runs of 0.11.2 and 0.12.0",
           _of("vllm", "0.11", "0.12"), _VLLM_FRONT),
    _Entry("vllm", "0.14", "0.18", True, _SERVED, "served runs of 0.15.1 to 0.18.0", _vllm_14,
           _VLLM_FRONT, _minimax_14),
    _Entry("vllm", "0.19", "0.23", True, _SERVED, "served runs of 0.19.0 and 0.23.0", _vllm_19,
           _VLLM_FRONT),
    _Entry("sglang", "0.5.1", "0.5.9", False, _FRONTED, "served runs of 0.5.1 to 0.5.9",
           _of("sglang", "0.5", each=12)),
    _Entry("tensorrt-llm", "1.0", "1.3", False, _FRONTED, "served runs of 1.0.0rc3 to 1.3.0rc1",
           _trtllm),
    _Entry("llama.cpp", "b1", "master", False, ("host_seconds",),
           "LLM-Inference-Bench's sequences on A100 and H100 (BSD-3-Clause)",
           _argonne("llama.cpp", name="llama.cpp")),
)  # fmt: skip
# Nobody measured these: each takes an entry that was.
_ASSUMED = """\
transformers:
  - first: "4"
    last: "99"
    async: false
    host_seconds: 0.0
    launch_seconds: {launch_seconds}
    graphs: false
    source: "assumed: launches as vLLM's before it had CUDA graphs; no run was measured"
"""


@dataclass(frozen=True)
class _Group:
    """Runs of one entry, and the terms that are fitted to them."""

    entry: _Entry
    cases: Sequence[Case]

    @property
    def models(self) -> list[str]:
        """Whose runs there are."""
        return sorted({case.model for case in self.cases})

    def cost(self, values: Iterable[float]) -> HostCost:
        """Host costs with the terms at these values, seconds."""
        named = {**self.entry.fixed, **dict(zip(self.entry.terms, values, strict=True))}
        front = FrontEnd(transit_seconds=named.pop("transit_seconds", 0.0))
        source = f"fitted to {len(self.cases)} {self.entry.what}"
        return HostCost(**named, front_end=front, source=source)

    def errors(self, cost: HostCost) -> list[Errors]:
        """Logarithms of simulated over measured, by run and key."""
        return [_errors(case, cost) for case in self.cases]

    def fit(self, start: HostCost | None = None) -> HostCost:
        """Fit the terms to the runs, from a cost that is known to be near or from nothing."""
        starts, scales, most = np.array([_TERMS[name] for name in self.entry.terms]).T
        if start is not None:
            known = start.model_dump() | start.front_end.model_dump()
            starts = np.array([known[name] for name in self.entry.terms])
        begun = np.clip(starts / scales, _INSIDE, None)
        bounds = zip(self.entry.terms, begun, most / scales, strict=True)
        free = tuple(Free(name, float(first), 0.0, float(high)) for name, first, high in bounds)
        weights = self._weights()

        def residuals(values: Floats) -> Floats:
            errors = zip(self.errors(self.cost(values * scales)), weights, strict=True)
            return np.array(
                [w * _WEIGHTS[key] * e for each, w in errors for key, e in each.items()]
            )

        def slopes(values: Floats) -> Floats:
            at = residuals(values)
            moved = (values + _STEP * one for one in np.eye(len(values)))
            return np.array([(residuals(each) - at) / _STEP for each in moved]).T

        rounds = _FIRST if start is None else _AGAIN
        found = least_squares(residuals, free, slopes=slopes, soft=_SOFT_ERROR, most=rounds)
        return self.cost(round_significant(value, 3) for value in found * scales)

    def _weights(self) -> list[float]:
        """A weight for each run, so that every model counts alike however many runs it has."""
        runs = Counter(case.model for case in self.cases)
        fair = len(self.cases) / len(runs)
        return [math.sqrt(fair / runs[case.model]) for case in self.cases]

    def without(self, model: str) -> _Group:
        """All runs but a model's."""
        return _Group(self.entry, [case for case in self.cases if case.model != model])

    def only(self, model: str) -> _Group:
        """A model's runs."""
        return _Group(self.entry, [case for case in self.cases if case.model == model])


class _Residual(NamedTuple):
    """How far one run was off when its model was left out of the fit."""

    engine: str
    measured: bool
    experts: bool
    key: str
    error: float


class _Found(NamedTuple):
    """One entry, fitted: its place in `ENTRIES`, and what is said of it."""

    place: int
    cost: HostCost
    report: list[str]
    residuals: list[_Residual]


def _errors(case: Case, cost: HostCost) -> Errors:
    """Simulate one run with these host costs."""
    setup, engine = case.setup, case.setup.sizing.engine
    known = setup.step_time
    assert isinstance(known, StepTimeModel)
    given = known.coefficients.model_copy(update={"host_costs": {engine.name: cost}})
    steps = StepTimeModel.from_deployment(setup.deployment, given, engine=engine)
    seen = run_setup(replace(setup, step_time=steps), 0).observed
    return {key: math.log(seen[key] / value) for key, value in case.measured.items()}


def _fitted(place: int, folder: Path) -> _Found:
    """Fit the entry at this place, and again without each model."""
    entry = ENTRIES[place]
    with tempfile.TemporaryDirectory() as scratch:
        group = _Group(entry, list(entry.cases(folder, Path(scratch))))
        cost = group.fit()
        report = [
            f"{entry.engine} {entry.first} to {entry.last}: {_shown(cost)}",
            f"  fitted on  {len(group.cases):3d} runs  {_medians(group.errors(cost))}",
        ]
        residuals: list[_Residual] = []
        for model in group.models if len(group.models) > 1 else ():
            left = group.only(model)
            errors = left.errors(group.without(model).fit(cost))
            fitted = _medians(left.errors(cost))
            report.append(
                f"  left out   {len(left.cases):3d} runs  {_medians(errors)}  {model}"
                f" (fitted: {fitted})"
            )
            residuals += _residuals(entry, left.cases, errors)
        apart = _Group(entry, list(entry.apart(folder, Path(scratch))))
        if apart.cases:
            errors = apart.errors(cost)
            report.append(f"  apart      {len(apart.cases):3d} runs  {_medians(errors)}")
            residuals += _residuals(entry, apart.cases, errors)
    return _Found(place, cost, report, residuals)


def _residuals(
    entry: _Entry, cases: Iterable[Case], errors: Iterable[Errors]
) -> Iterator[_Residual]:
    for case, each in zip(cases, errors, strict=True):
        for key, error in (each | _implied(case, each)).items():
            yield _residual(entry, case, key, error)


def _implied(case: Case, errors: Errors) -> Errors:
    """The error of E2E that those of TTFT and TPOT come to; nothing where it was measured."""
    if not case.output_tokens:
        return {}
    weights = {"mean_ttft_ms": 1.0, "mean_tpot_ms": case.output_tokens - 1}
    measured = {key: weight * case.measured[key] for key, weight in weights.items()}
    simulated = sum(math.exp(errors[key]) * value for key, value in measured.items())
    return {"mean_e2el_ms": math.log(simulated / sum(measured.values()))}


def _residual(entry: _Entry, case: Case, key: str, error: float) -> _Residual:
    deployment = case.setup.deployment
    measured = is_measured(deployment.accelerator)
    experts = any(family.is_routed for family in tensor_families(deployment.model))
    return _Residual(entry.engine, measured, experts, key.split("_")[1], error)


def _medians(errors: Iterable[Errors]) -> str:
    """Median error and sign of each key, per cent."""
    by_key: dict[str, list[float]] = {}
    for each in errors:
        for key, value in each.items():
            by_key.setdefault(key, []).append(100 * math.expm1(value))
    return "  ".join(
        f"{key.split('_')[1].upper()} {median(map(abs, v)):5.1f} % ({median(v):+5.1f})"
        for key, v in by_key.items()
    )


def _shown(cost: HostCost) -> str:
    return " ".join(line.strip() for line in _fields(cost))


def _fields(cost: HostCost) -> list[str]:
    """Host costs as lines of YAML."""
    fields: dict[str, Any] = cost.model_dump(exclude_defaults=True)
    front, source = fields.pop("front_end", {}), fields.pop("source")
    lines = [f"    {name}: {_yaml(value)}" for name, value in fields.items()]
    if front:
        inner = ", ".join(f"{name}: {_yaml(value)}" for name, value in front.items())
        lines.append(f"    front_end: {{{inner}}}")
    return [*lines, f'    source: "{source}"']


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    mantissa, mark, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}{mark}{exponent}"


def _hosts(found: Sequence[_Found]) -> str:
    """The catalogue's file."""
    lines = ["# Written by benchmarks/fit_hosts.py; what it means: kvsim/steptime/hosts.py."]
    engine = ""
    for place, cost, _, _ in found:
        entry = ENTRIES[place]
        lines += [f"{entry.engine}:"] if entry.engine != engine else []
        lines += [f'  - first: "{entry.first}"', f'    last: "{entry.last}"']
        lines += [f"    async: {str(entry.is_async).lower()}", *_fields(cost)]
        engine = entry.engine
    launches = next(each.cost.launch_seconds for each in found if not each.cost.graphs)
    return "\n".join(lines) + "\n" + _ASSUMED.format(launch_seconds=_yaml(launches))


def _bands(residuals: Iterable[_Residual]) -> str:
    """The file of bands: nine in ten measured times, over those simulated, by class."""
    classes: dict[tuple[Any, ...], list[float]] = {}
    for each in residuals:
        classes.setdefault(each[:4], []).append(each.error)
    lines = [
        "# Written by benchmarks/fit_hosts.py; what it means: kvsim/steptime/bands.py.",
        "# Runs whose model was left out of the fit.",
        "bands:",
    ]
    for (engine, measured, experts, key), errors in sorted(classes.items()):
        low, high = band_of([-error for error in errors], _SHARE)
        lines.append(
            f"  - {{engine: {engine}, measured: {str(measured).lower()},"
            f" experts: {str(experts).lower()}, key: {key},"
            f" low: {low:.3g}, high: {high:.3g}, runs: {len(errors)}}}"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Fit every entry, and write both files or compare them."""
    options = parser(__doc__)
    options.add_argument("--only", default="", help="entries to fit and print; nothing is written")
    options.add_argument("--check", action="store_true")
    args = parsed(options)
    chosen = [e for e in ENTRIES if f"{e.engine} {e.first}".startswith(args.only)]
    found = []
    with ProcessPoolExecutor() as pool:
        for each in pool.map(_fitted, [ENTRIES.index(e) for e in chosen], repeat(args.data)):
            print(*each.report, sep="\n", flush=True)
            found.append(each)
    if args.only:
        return 0
    bands = _bands(residual for each in found for residual in each.residuals)
    return max(
        written(_hosts(found), HOSTS, check=args.check),
        written(bands, BANDS, check=args.check),
    )


if __name__ == "__main__":
    sys.exit(main())
