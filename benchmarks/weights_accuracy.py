"""How near kvsim's weights come to what is published and to what engines loaded.

    python benchmarks/weights_accuracy.py [--data FOLDER]

FOLDER holds ``reference/``; the default is $KVSIM_DATA. Nothing is fitted: parameters are
counted from shapes, and bytes follow from the format of every tensor.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from observed_rows import Observation, UnpredictableRowError, observations
from reference_data import parsed, parser

from kvsim.catalog.models import find_model
from kvsim.errors import KVSimError
from kvsim.memory.tensors import parameter_count
from kvsim.units import GIB


@dataclass(frozen=True, slots=True)
class Compared:
    """One published number beside kvsim's, in one unit."""

    name: str
    published: float
    ours: float

    @property
    def error_percent(self) -> float:
        """How far ours is off, percent."""
        return 100 * (self.ours / self.published - 1)


def parameters(data: Path) -> list[Compared]:
    """Billions of parameters of the models whose published count is sure."""
    with (data / "reference" / "model_facts.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["params_billion"]]
    return [
        Compared(
            row["name"],
            float(row["params_billion"]),
            parameter_count(find_model(row["name"])) / 1e9,
        )
        for row in rows
        if row["confidence"] == "high"
    ]


def loaded(data: Path) -> list[Compared]:
    """GiB that an engine printed after loading, on one rank, wherever it can be predicted."""
    return list(_loaded(data))


def _loaded(data: Path) -> Iterator[Compared]:
    for row in observations(data):
        printed = row.number("weights_gib")
        if printed is None or row.engine_name == "llama.cpp":
            continue
        predicted = _predicted_gib(row)
        if predicted is not None:
            yield Compared(f"{row.name} {row.row['model']}", printed, predicted)


def _predicted_gib(row: Observation) -> float | None:
    """Weights of one rank; None for a row that names no model, card or release known here."""
    try:
        return row.engine.budget(row.deployment()).weights_bytes / GIB
    except (KVSimError, UnpredictableRowError):
        return None


def mean_error_percent(compared: list[Compared]) -> float:
    """Mean absolute error, percent."""
    return sum(abs(each.error_percent) for each in compared) / len(compared)


def summary(what: str, compared: list[Compared]) -> Iterator[str]:
    """Say the mean and every row that is more than 1 % apart."""
    apart = [each for each in compared if abs(each.error_percent) > 1]
    yield (
        f"{what}: {len(compared)} rows, mean absolute error"
        f" {mean_error_percent(compared):.2f} %, {len(apart)} more than 1 % apart"
    )
    for each in apart:
        numbers = f"{each.published:9.3f} {each.ours:9.3f} {each.error_percent:+6.2f} %"
        yield f"  {each.name:52} {numbers}"


def main() -> None:
    data = parsed(parser(__doc__)).data
    print("\n".join(summary("parameters, billions", parameters(data))))
    print("\n".join(summary("loaded weights, GiB per rank", loaded(data))))


if __name__ == "__main__":
    main()
