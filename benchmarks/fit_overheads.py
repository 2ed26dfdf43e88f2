"""Fit vLLM's non-KV memory on what engines printed, and write the coefficients.

Reads ``$KVSIM_DATA/reference/kv_capacity_observed.csv``; writes
``kvsim/engines/data/vllm_overheads.yaml``. The rules themselves (which tensors compete for
the peak) are in ``kvsim/engines/vllm/overheads.py``; only these numbers are fitted:

    activation   copies of the logits, one number per sampler; a workspace for the one that
                 sorts nothing; residual streams kept at the sampler's peak, at the forward
                 peak, and by an encoder whose tensors are not counted (as by those that are)
    non_torch    one number per card generation and period; what NCCL adds when sharded, without
                 a workspace for fused all-reduces and beside one (whose size is computed)
    cuda_graph   a pool and a share per captured graph

``--check`` compares instead of writing and leaves 1 when the file would change;
``--leave-one-out`` prints each row's error when the fit never saw it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from observed_rows import Observation, UnpredictableRowError, observations
from reference_data import parsed, parser, written

from kvsim.engines.base import Deployment
from kvsim.engines.vllm.engine import VLLM
from kvsim.engines.vllm.overheads import (
    ProfiledStep,
    captured_graphs,
    fused_all_reduce_bytes,
    profiled_step,
    sampler_of,
)
from kvsim.engines.vllm.rules import architecture
from kvsim.units import GIB, MIB

TARGET = Path(__file__).parent.parent / "kvsim/engines/data/vllm_overheads.yaml"
# Release from which NCCL's and the libraries' share grew: 0.17 and 0.19 rows differ.
NEW_LIBRARIES = (0, 18)
# Generations without a row of their own take the numbers of their nearest relative.
RELATIVES = {"volta": "turing", "ada": "ampere", "blackwell": "hopper", "unknown": "hopper"}
# A row without a KV size still has an activation: state its error as a share of this much.
_TYPICAL_KV_GIB = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One row's profiled step and what was printed of it, GiB."""

    name: str
    deployment: Deployment
    release: tuple[int, ...]
    sampler: str
    step: ProfiledStep
    activation_gib: float | None
    non_torch_gib: float | None
    graphs_gib: float | None
    kv_gib: float
    workspace_gib: float


@dataclass(frozen=True, slots=True)
class Activation:
    """The fitted coefficients of the activation rule."""

    factors: dict[str, float]
    workspace_mib: float
    stream: float
    forward_stream: float

    def peaks_gib(self, sample: Sample) -> tuple[float, float]:
        """GiB at the sampler and in the forward pass, what is held in both."""
        step = sample.step
        workspace = self.workspace_mib * MIB * (sample.sampler == "sortless")
        sampler = self.factors[sample.sampler] * step.logits_bytes + workspace
        at_sampler = sampler + self.stream * step.stream_bytes
        at_forward = step.width_bytes + self.forward_stream * step.stream_bytes
        return (at_sampler + step.held_bytes) / GIB, (at_forward + step.held_bytes) / GIB


# A start near the truth, so that the first choice of the larger peak is the right one.
_START = Activation({"sorting": 9.0, "sortless": 3.5}, 0.0, 1.0, 4.0)


def read_samples(data: Path) -> list[Sample]:
    """Every vLLM row that prints one of the terms and states the flags that set it."""
    return [_sample(row) for row in observations(data) if _is_usable(row)]


def _is_usable(row: Observation) -> bool:
    if row.engine_name != "vllm" or row.version is None or row.card is None:
        return False
    try:
        return not row.is_unstated_multimodal
    except UnpredictableRowError:  # its model is not in the catalogue
        return False


def _sample(row: Observation) -> Sample:
    engine = VLLM(row.version or "")
    deployment = row.deployment()
    return Sample(
        name=row.name,
        deployment=deployment,
        release=engine.rules.release,
        sampler=sampler_of(deployment, engine.rules),
        step=profiled_step(deployment, engine.rank(deployment), engine.rules),
        activation_gib=row.number("activation_gib"),
        non_torch_gib=row.number("non_torch_gib"),
        graphs_gib=row.number("cudagraph_est_gib") or row.number("cudagraph_gib"),
        kv_gib=abs(row.kv_gib or _TYPICAL_KV_GIB),
        workspace_gib=fused_all_reduce_bytes(deployment, engine.rules) / GIB,
    )


def fit_activation(samples: list[Sample]) -> Activation:
    """Least squares of the printed peaks, GiB.

    The rule is the larger of two linear forms, so it is fitted in rounds: choose the larger
    form of each row with the last coefficients, solve, until the choice stays.
    """
    rows = [sample for sample in samples if sample.activation_gib is not None]
    fitted, chosen = _START, None
    while True:
        peaks = [fitted.peaks_gib(sample) for sample in rows]
        choice = [sampler >= forward for sampler, forward in peaks]
        if choice == chosen:
            return fitted
        fitted, chosen = _solve(rows, choice), choice


def _solve(rows: list[Sample], choice: list[bool]) -> Activation:
    design, printed = [], []
    for sample, at_sampler in zip(rows, choice, strict=True):
        step = sample.step
        sorts = sample.sampler == "sorting"
        stream, logits = step.stream_bytes / GIB, step.logits_bytes / GIB
        columns = [
            logits * (at_sampler and sorts),
            logits * (at_sampler and not sorts),
            MIB / GIB * (at_sampler and not sorts),
            stream * at_sampler,
            stream * (not at_sampler),
        ]
        known = (0.0 if at_sampler else step.width_bytes / GIB) + step.held_bytes / GIB
        design.append(columns)
        printed.append((sample.activation_gib or 0.0) - known)
    solved = np.linalg.lstsq(np.array(design), np.array(printed), rcond=None)[0]
    sorting, sortless, workspace, stream, forward = (float(x) for x in solved)
    factors = {"sorting": sorting, "sortless": sortless}
    return Activation(factors, workspace, stream, forward)


def encoder_stream(samples: list[Sample]) -> float:
    """Median of what counted encoders leave for the step, in residual streams: for the others."""
    steps = [sample.step for sample in samples if sample.deployment.model.vision]
    return median(step.held_bytes / step.stream_bytes for step in steps)


def fit_non_torch(samples: list[Sample]) -> tuple[list[dict[str, object]], float]:
    """Medians by generation and period, and NCCL's beside a workspace of fused all-reduces.

    The step between periods is the measured card's. No row of the second period is sharded
    without such a workspace, so NCCL keeps what it had in the first.
    """
    old = [sample for sample in samples if sample.release < NEW_LIBRARIES]
    new = [sample for sample in samples if sample.release >= NEW_LIBRARIES]
    before, after = _alone(old), _alone(new)
    grown = after["hopper"] - before["hopper"]
    shifted = {card: round(gib + grown, 3) for card, gib in before.items()} | after
    shifted["rocm"] = before["rocm"]
    sharded = _sharded(old, before["hopper"], is_fused=False)
    periods = [
        {"since": "0.1", "gib": before, "sharded_gib": sharded},
        {"since": "0.18", "gib": shifted, "sharded_gib": sharded},
    ]
    return periods, _sharded(new, after["hopper"], is_fused=True)


def _alone(samples: list[Sample]) -> dict[str, float]:
    printed: dict[str, list[float]] = {}
    for sample in samples:
        if sample.non_torch_gib is not None and not _is_sharded(sample):
            generation = architecture(sample.deployment.accelerator)
            printed.setdefault(generation, []).append(sample.non_torch_gib)
    gib = {generation: round(median(values), 3) for generation, values in printed.items()}
    gib |= _unprinted_rocm(samples)
    return gib | {card: gib[like] for card, like in RELATIVES.items() if like in gib}


def _sharded(samples: list[Sample], alone_gib: float, *, is_fused: bool) -> float:
    """GiB that sharding adds to a Hopper's, less the workspace; every such row is a Hopper's."""
    rests = [
        sample.non_torch_gib - alone_gib - sample.workspace_gib
        for sample in samples
        if sample.non_torch_gib is not None
        and _is_sharded(sample)
        and (sample.workspace_gib > 0) is is_fused
    ]
    return round(median(rests), 3)


def _is_sharded(sample: Sample) -> bool:
    options = sample.deployment.options
    return options.tensor_parallel_size * options.pipeline_parallel_size > 1


def _unprinted_rocm(samples: list[Sample]) -> dict[str, float]:
    """AMD's rows print blocks only: what is missing there after all other terms."""
    rests = []
    for sample in samples:
        if architecture(sample.deployment.accelerator) == "rocm" and sample.kv_gib:
            engine = _engine(sample)
            budget = engine.rank_budget(sample.deployment, engine.rank(sample.deployment))
            taken = budget.weights_bytes + budget.activation_bytes
            rests.append((budget.budget_bytes - taken) / GIB - sample.kv_gib)
    return {"rocm": round(median(rests), 2)} if rests else {}


def _engine(sample: Sample) -> VLLM:
    return VLLM(".".join(str(part) for part in sample.release))


def fit_graphs(samples: list[Sample]) -> dict[str, float]:
    """Least squares of printed graph memory on the number of captured graphs."""
    rows = graph_samples(samples)
    graphs = [captured_graphs(row.deployment, _engine(row).rules) for row in rows]
    printed_mib = [(row.graphs_gib or 0.0) * GIB / MIB for row in rows]
    slope, pool = np.polyfit(graphs, printed_mib, 1)
    return {"pool_mib": round(float(pool), 1), "graph_mib": round(float(slope), 2)}


def graph_samples(samples: list[Sample]) -> list[Sample]:
    """Rows with graph memory; a release that prints negative ones measures something else."""
    odd = {s.release for s in samples if s.graphs_gib is not None and s.graphs_gib < 0}
    return [s for s in samples if s.graphs_gib is not None and s.release not in odd]


def render(samples: list[Sample]) -> str:
    """Write the data file: coefficients with the rows that they come from."""
    fitted = fit_activation(samples)
    graphs = fit_graphs(samples)
    libraries, nccl_gib = fit_non_torch(samples)
    lines = [
        "# Written by benchmarks/fit_overheads.py; do not edit: edit the rule or the fit.",
        "# Fitted on the vLLM start-up logs of the reference table; GiB is 2**30 bytes.",
        "activation:",
        "  samplers:",
        f"    sorting: {{logits_factor: {fitted.factors['sorting']:.3f}, workspace_mib: 0}}",
        f"    sortless: {{logits_factor: {fitted.factors['sortless']:.3f},"
        f" workspace_mib: {fitted.workspace_mib:.1f}}}",
        f"  stream_factor: {fitted.stream:.3f}",
        f"  forward_stream_factor: {fitted.forward_stream:.3f}",
        f"  encoder_stream_factor: {encoder_stream(samples):.3f}",
        "non_torch:",
        *[line for period in libraries for line in _render_period(period)],
        f"fused_all_reduce: {{nccl_gib: {nccl_gib}}}",
        f"cuda_graph: {{pool_mib: {graphs['pool_mib']}, graph_mib: {graphs['graph_mib']}}}",
        "sources:",
        f"  activation: start-up logs {_names(samples, 'activation_gib')}",
        f"  non_torch: start-up logs {_names(samples, 'non_torch_gib')}",
        f"  cuda_graph: start-up logs {_names(graph_samples(samples), 'graphs_gib')}",
    ]
    return "\n".join(lines) + "\n"


def _render_period(period: dict[str, object]) -> list[str]:
    table = ", ".join(f"{card}: {gib}" for card, gib in sorted(period["gib"].items()))
    return [
        f'  - since: "{period["since"]}"',
        f"    gib: {{{table}}}",
        f"    sharded_gib: {period['sharded_gib']}",
    ]


def _names(samples: list[Sample], term: str) -> str:
    return " ".join(s.name for s in samples if getattr(s, term) is not None)


def leave_one_out(samples: list[Sample]) -> list[tuple[str, float, float]]:
    """Each row's activation error when it is left out, GiB and percent of its KV cache."""
    errors = []
    for sample in samples:
        if sample.activation_gib is None:
            continue
        fitted = fit_activation([other for other in samples if other is not sample])
        error = max(fitted.peaks_gib(sample)) - sample.activation_gib
        errors.append((sample.name, error, 100 * error / sample.kv_gib))
    return errors


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--check", action="store_true", help="compare, do not write")
    options.add_argument("--leave-one-out", action="store_true", help="print each row's error")
    chosen = parsed(options)
    samples = read_samples(chosen.data)
    if chosen.leave_one_out:
        for name, gib, percent in leave_one_out(samples):
            print(f"{name}  {gib:+.3f} GiB  {percent:+.2f} % of KV")
        return 0
    return written(render(samples), TARGET, check=chosen.check)


if __name__ == "__main__":
    sys.exit(main())
