"""Fit what engines' own code costs, by release, and write ``kvsim/steptime/data/hosts.yaml``.

Each entry's terms are fitted to served runs (`host_cases`) with the simulator itself: a run is
simulated with the terms, and what is minimised is the logarithm of simulated over measured TPOT and,
half as heavy, TTFT. Kernels are the cards' own, fitted elsewhere, and stay as they are.

    python benchmarks/fit_hosts.py [--only vllm] [--check]

Printed beside each entry: the median error on the runs that it was fitted on, and that of each model's
runs when the entry is fitted without that model.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from host_cases import Case, campaigns, replays, stages, static_batches, steps_of_2023
from reference_data import parsed, parser, written
from scipy.optimize import least_squares

from kvsim.calibrate.fit import round_significant
from kvsim.runs.simulate import run_setup
from kvsim.specs.hardware import FrontEnd, HostCost
from kvsim.steptime.model import StepTimeModel

TARGET = Path(__file__).parent.parent / "kvsim/steptime/data/hosts.yaml"
_SOFT_ERROR = 0.1
_STEP = 0.05  # of a term's scale, for differences
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


class _Entry(NamedTuple):
    """One entry of the file: whose it is, what is fitted, and on which runs."""

    engine: str
    first: str
    last: str
    is_async: bool
    terms: tuple[str, ...]
    what: str
    cases: Callable[[Path, Path], Iterable[Case]]
    fixed: dict[str, Any] = {}  # noqa: RUF012 - never written to


def _of(backend: str, *prefixes: str, clients: int = 64, each: int = 3) -> Any:
    """Every third run of some releases of a backend's campaigns."""

    def cases(folder: Path, scratch: Path) -> Iterator[Case]:
        found = campaigns(folder, backend, clients)
        return islice((c for c in found if c.version.startswith(prefixes)), 0, None, each)

    return cases


def _vllm_14(folder: Path, scratch: Path) -> Iterator[Case]:
    yield from _of("vllm", "0.16", "0.17", "0.18")(folder, scratch)
    yield from stages(folder)


def _vllm_19(folder: Path, scratch: Path) -> Iterator[Case]:
    yield from _of("vllm", "0.19")(folder, scratch)
    yield from replays(folder, scratch, "agg_4rps")


def _argonne(framework: str, **engine: str) -> Any:
    def cases(folder: Path, scratch: Path) -> Iterator[Case]:
        return islice(static_batches(folder, framework, dict(engine)), 0, None, 2)

    return cases


_SERVED = (*_BATCH, "launch_seconds", "expert_launch_seconds", "transit_seconds")
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
           _of("vllm", "0.11", "0.12")),
    _Entry("vllm", "0.14", "0.18", True, _SERVED, "served runs of 0.15.1 to 0.18.0", _vllm_14),
    _Entry("vllm", "0.19", "0.23", True, _SERVED, "served runs of 0.19.0 and 0.23.0", _vllm_19),
    _Entry("sglang", "0.5.1", "0.5.9", False, _SERVED, "served runs of 0.5.1 to 0.5.9",
           _of("sglang", "0.5")),
    _Entry("tensorrt-llm", "1.0", "1.0", False, _SERVED, "served runs of 1.0.0rc3",
           _of("trtllm", "1.0", each=8)),
    _Entry("tensorrt-llm", "1.1", "1.3", False, _SERVED, "served runs of 1.1.0rc2 to 1.3.0rc1",
           _of("trtllm", "1.1", "1.2", "1.3")),
    _Entry("llama.cpp", "b1", "b9999", False, ("host_seconds",),
           "LLM-Inference-Bench's sequences on A100 and H100 (BSD-3-Clause)",
           _argonne("llama.cpp", name="llama.cpp")),
)  # fmt: skip
# Nobody measured these: each takes an entry that was.
_ASSUMED = """\
transformers:
  - first: "4"
    last: "9"
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
    _known: dict[Any, list[float]] = field(default_factory=dict)

    def cost(self, values: Iterable[float]) -> HostCost:
        """Host costs with the terms at these values, seconds."""
        named = dict(zip(self.entry.terms, values, strict=True))
        front = FrontEnd(transit_seconds=named.pop("transit_seconds", 0.0))
        source = f"fitted to {len(self.cases)} {self.entry.what}"
        return HostCost(**{**self.entry.fixed, **named}, front_end=front, source=source)

    def errors(self, cost: HostCost) -> list[dict[str, float]]:
        """Logarithms of simulated over measured, by run and key."""
        return [_errors(case, cost) for case in self.cases]

    def fit(self) -> HostCost:
        """Fit the terms to the runs."""
        starts, scales, most = np.array([_TERMS[name] for name in self.entry.terms]).T

        def residuals(values: Any) -> Any:
            errors = self.errors(self.cost(np.maximum(0, values * scales)))
            return [_WEIGHTS[key] * e for each in errors for key, e in each.items()]

        found = least_squares(
            residuals, starts / scales, bounds=(0, most / scales), diff_step=_STEP,
            loss="soft_l1", f_scale=_SOFT_ERROR, max_nfev=12, xtol=1e-3, ftol=1e-3,
        )  # fmt: skip
        return self.cost(round_significant(value, 3) for value in found.x * scales)

    def without(self, model: str) -> _Group:
        return _Group(self.entry, [case for case in self.cases if case.model != model])

    def only(self, model: str) -> _Group:
        return _Group(self.entry, [case for case in self.cases if case.model == model])


def _errors(case: Case, cost: HostCost) -> dict[str, float]:
    """Simulate one run with these host costs."""
    setup = case.setup
    known = setup.step_time
    assert isinstance(known, StepTimeModel)
    given = known.coefficients.model_copy(update={"host_costs": {setup.sizing.engine.name: cost}})
    steps = StepTimeModel.from_deployment(setup.deployment, given, engine=setup.sizing.engine)
    seen = run_setup(replace(setup, step_time=steps), 0).observed
    return {key: math.log(seen[key] / value) for key, value in case.measured.items()}


def _medians(errors: Iterable[dict[str, float]]) -> str:
    """Median error and sign of each key, per cent."""
    by_key: dict[str, list[float]] = {}
    for each in errors:
        for key, value in each.items():
            by_key.setdefault(key, []).append(100 * math.expm1(value))
    return "  ".join(
        f"{key.split('_')[1].upper()} {median(map(abs, v)):5.1f} % ({median(v):+5.1f})"
        for key, v in by_key.items()
    )


def _report(group: _Group, cost: HostCost) -> None:
    """Print one entry's errors, and those of each model without it in the fit."""
    print(f"{group.entry.engine} {group.entry.first} to {group.entry.last}: {cost}")
    print(f"  fitted     {len(group.cases):3d} runs  {_medians(group.errors(cost))}", flush=True)
    models = sorted({case.model for case in group.cases})
    for model in models if len(models) > 1 else ():
        left = group.only(model)
        one_out = group.without(model).fit()
        print(f"  left out   {len(left.cases):3d} runs  {_medians(left.errors(one_out))}  {model}"
              f" (fitted: {_medians(left.errors(cost))})", flush=True)  # fmt: skip


def _lines(entry: _Entry, cost: HostCost) -> list[str]:
    """One entry as YAML."""
    fields: dict[str, Any] = cost.model_dump(exclude_defaults=True)
    front = fields.pop("front_end", {})
    source = fields.pop("source")
    lines = [f'  - first: "{entry.first}"', f'    last: "{entry.last}"']
    lines.append(f"    async: {str(entry.is_async).lower()}")
    lines += [f"    {name}: {_yaml(value)}" for name, value in fields.items()]
    if front:
        inner = ", ".join(f"{name}: {_yaml(value)}" for name, value in front.items())
        lines.append(f"    front_end: {{{inner}}}")
    return [*lines, f'    source: "{source}"']


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:.3g}"
    return text if "." in text or "e" not in text else text.replace("e", ".0e")


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--only", default="", help="engines to print, and write nothing")
    options.add_argument("--brief", action="store_true", help="leave no model out")
    options.add_argument("--check", action="store_true")
    args = parsed(options)
    lines = [f"# Written by benchmarks/fit_hosts.py; see kvsim/steptime/hosts.py."]
    with tempfile.TemporaryDirectory() as scratch:
        engine = ""
        for entry in ENTRIES:
            if args.only and not f"{entry.engine} {entry.first}".startswith(args.only):
                continue
            group = _Group(entry, list(entry.cases(args.data, Path(scratch))))
            cost = group.fit()
            _report(
                group if not args.brief else _Group(entry, group.cases), cost
            ) if not args.brief else print(
                entry[:3], cost, _medians(group.errors(cost)), flush=True
            )
            lines += [f"{entry.engine}:"] if entry.engine != engine else []
            lines += _lines(entry, cost)
            engine = entry.engine
    if args.only:
        print("\n".join(lines))
        return 0
    return written("\n".join(lines) + "\n", TARGET, check=args.check)


if __name__ == "__main__":
    sys.exit(main())
