"""How near kvsim's capacity comes to what real engines printed: one line per row, no drops.

``exact``      given the KV bytes that the row prints, blocks, tokens and concurrency agree
``error``      given only model, card, flags and version, KV GiB against the printed one

``not fitted`` start-ups of 2025-2026 that no coefficient was fitted on, apart from the others

A printed size is rounded to 0.01 GiB, so exact means: some byte count within that rounding
gives every printed number. Run: KVSIM_DATA=<folder with reference/> python
benchmarks/capacity_accuracy.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from capacity_cases import CLASSES, Case, by_class, cases, mean_and_worst
from observed_rows import Observation, UnpredictableRowError, observations
from reference_data import parsed, parser

from kvsim.engines import Capacity, Deployment, Engine
from kvsim.engines.llama_cpp.engine import LlamaCpp
from kvsim.errors import KVSimError
from kvsim.units import GIB, MIB

MEAN_GOAL_PERCENT = 3.0
WORST_GOAL_PERCENT = 8.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row's comparison.

    Parameters
    ----------
    row : Observation
        The row.
    exact : bool or None
        Whether the arithmetic agrees; None where it cannot be checked.
    predicted_gib, error_percent : float or None
        Predicted KV GiB and its error; None where it cannot be predicted.
    why : str
        Why something is None, or what disagrees.
    """

    row: Observation
    exact: bool | None
    predicted_gib: float | None
    error_percent: float | None
    why: str


def outcomes(data: Path) -> Iterator[Outcome]:
    """Compare every row of the table."""
    for row in observations(data):
        yield compare(row)


def compare(row: Observation) -> Outcome:
    """Check a row's arithmetic, and predict its KV size."""
    exact, disagreement = _exactness(row)
    try:
        predicted, obstacle = _predict(row)
    except (KVSimError, UnpredictableRowError) as error:
        predicted, obstacle = None, str(error)
    error = None
    if predicted is not None and row.printed_gib:
        error = 100 * (predicted - row.printed_gib) / abs(row.printed_gib)
    why = "; ".join(dict.fromkeys(filter(None, (disagreement, obstacle))))
    return Outcome(row, exact, predicted, error, why)


def _exactness(row: Observation) -> tuple[bool | None, str]:
    try:
        if row.engine_name == "llama.cpp":
            return _llama_exactness(row)
        return _block_exactness(row)
    except (KVSimError, UnpredictableRowError) as error:
        return None, str(error)


def _llama_exactness(row: Observation) -> tuple[bool | None, str]:
    predicted, printed = _llama_mib(row), row.number("kv_mib") or 0.0
    same = abs(predicted - printed) < 0.01
    return same, "" if same else f"{predicted:.2f} MiB, printed {printed:.2f}"


def _block_exactness(row: Observation) -> tuple[bool | None, str]:
    if not row.prints_counts:
        return None, "prints no blocks, tokens or concurrency"
    engine, deployment = row.engine, row.layout_deployment()
    if row.kv_bytes_range is None:
        return None, "prints no KV size to lay blocks over"
    disagreement = "no byte count gives the printed numbers"
    for capacity in _capacities(engine, deployment, row.kv_bytes_range):
        disagreement = _disagreement(row, capacity)
        if not disagreement:
            return True, ""
    return False, disagreement


def _capacities(
    engine: Engine, deployment: Deployment, span: tuple[int, int]
) -> Iterator[Capacity]:
    """Yield the capacity of every number of blocks that the printed size allows."""
    least, most = span
    block = engine.capacity(deployment, most).bytes_per_block
    for blocks in range(max(0, least) // block, max(0, most) // block + 1):
        yield engine.capacity(deployment, blocks * block)


def _disagreement(row: Observation, capacity: Capacity) -> str:
    """Return the first printed number that a capacity contradicts, or ""."""
    printed = (
        ("blocks", row.count("gpu_blocks"), capacity.num_blocks),
        ("tokens", row.count("kv_tokens"), capacity.logged_tokens),
    )
    for what, there, here in printed:
        if there is not None and there != here:
            return f"{what}: {here:,}, printed {there:,}"
    concurrency = row.number("max_concurrency")
    if concurrency is not None and abs(capacity.max_concurrency - concurrency) > 0.00501:
        return f"concurrency: {capacity.max_concurrency:.2f}, printed {concurrency:.2f}"
    return ""


def _predict(row: Observation) -> tuple[float | None, str]:
    """Predict KV GiB from model, card, flags and version; or say why not."""
    if row.engine_name == "llama.cpp":
        return _llama_mib(row) * MIB / GIB, ""
    obstacle = row.obstacle()
    if obstacle:
        return None, obstacle
    return row.engine.budget(row.deployment()).kv_cache_bytes / GIB, ""


def _llama_mib(row: Observation) -> float:
    engine = row.engine
    if not isinstance(engine, LlamaCpp):
        raise UnpredictableRowError(f"{row.name} is no row of llama.cpp")
    return sum(engine.kv_mib(row.deployment()))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--engine", default="", help="only this engine's rows")
    chosen = parsed(options)
    compared = [o for o in outcomes(chosen.data) if chosen.engine in ("", o.row.engine_name)]
    print(f"{'row':5} {'engine':19} {'model':34} {'printed':>8} {'kvsim':>8} {'error':>7} exact")
    for outcome in compared:
        print(_line(outcome))
    missed = _summarise(compared)
    not_fitted = [c for c in cases(chosen.data) if c.release.startswith(chosen.engine)]
    if not_fitted:
        _print_not_fitted(not_fitted)
    return missed


def _line(outcome: Outcome) -> str:
    row = outcome.row
    engine = f"{row.engine_name} {row.version or '?'}"[:19]
    printed = _number(row.printed_gib, "8.2f")
    predicted = _number(outcome.predicted_gib, "8.2f")
    error = _number(outcome.error_percent, "+6.2f", "%")
    exact = {True: "yes", False: "NO", None: "-"}[outcome.exact]
    head = f"{row.name:5} {engine:19} {row.row['model'][:34]:34} {printed} {predicted} {error}"
    return f"{head} {exact:5} {outcome.why}".rstrip()


def _number(value: float | None, form: str, unit: str = "") -> str:
    width = int(form.lstrip("+").split(".")[0] or 0) + len(unit)
    return f"{value:{form}}{unit}" if value is not None else "-".rjust(width)


def _print_not_fitted(found: list[Case]) -> None:
    """Print the start-ups that nothing was fitted on, one a line, and each class of them."""
    print("\nnot fitted, capacity_2026:")
    print(f"{'row':5} {'start-up':56} {'printed':>8} {'kvsim':>8} {'KV':>7} {'tokens':>7} exact")
    for case in found:
        exact = {True: "yes", False: "NO", None: "-"}[case.exact]
        printed = _number(case.printed_gib, "8.2f")
        error = _number(case.kv_percent, "+6.1f", "%")
        tokens = _number(case.tokens_percent, "+6.1f", "%")
        weights = _number(case.weights_percent, "+.1f", "%") if case.weights_percent else ""
        print(
            f"{case.name:5} {case.what[:56]:56} {printed} {case.predicted_gib:8.2f} {error}"
            f" {tokens} {exact:5} {weights and f'weights {weights}'}".rstrip()
        )
    print(_class_line("all", found))
    for what in CLASSES:
        for name, mine in by_class(found, what):
            print(_class_line(f"{what} {name}", mine))


def _class_line(name: str, mine: list[Case]) -> str:
    errors = [case.kv_percent for case in mine if case.kv_percent is not None]
    over, under = sum(error > 0 for error in errors), sum(error < 0 for error in errors)
    checked = [case.exact for case in mine if case.exact is not None]
    accuracy = mean_and_worst(mine)
    off = f"mean {accuracy[0]:.1f} %, worst {accuracy[1]:.1f} %" if accuracy else "no bytes printed"
    return (
        f"{name:26} {len(mine):2} rows: KV bytes {over} over, {under} under, {off};"
        f" tokens exact on {sum(checked)} of {len(checked)}"
    )


def _summarise(compared: list[Outcome]) -> int:
    """Print the totals; 1 when a goal is missed."""
    missed = 0
    print()
    for engine in dict.fromkeys(outcome.row.engine_name for outcome in compared):
        missed += _summarise_engine(engine, [o for o in compared if o.row.engine_name == engine])
    return min(missed, 1)


def _summarise_engine(engine: str, mine: list[Outcome]) -> int:
    errors = [(abs(o.error_percent), o.row.name) for o in mine if o.error_percent is not None]
    checked = [o for o in mine if o.exact is not None and o.row.is_consistent]
    exact = sum(bool(o.exact) for o in checked)
    print(
        f"{engine}: exact on {exact} of {len(checked)} consistent rows that print counts;", end=" "
    )
    if not errors:
        print(f"none of {len(mine)} rows can be predicted")
        return int(exact < len(checked))
    mean, (worst, name) = sum(e for e, _ in errors) / len(errors), max(errors)
    print(
        f"KV GiB predicted on {len(errors)} of {len(mine)} rows: mean absolute error"
        f" {mean:.2f} % (goal {MEAN_GOAL_PERCENT} %), worst {worst:.2f} % on {name}"
        f" (goal {WORST_GOAL_PERCENT} %)"
    )
    return int(exact < len(checked) or mean > MEAN_GOAL_PERCENT or worst > WORST_GOAL_PERCENT)


if __name__ == "__main__":
    sys.exit(main())
