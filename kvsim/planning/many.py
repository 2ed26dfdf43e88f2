"""Plans of many points: a table of questions in, the main numbers of each answer out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kvsim.errors import InputError, KVSimError, nearest
from kvsim.planning.plan_types import Plan
from kvsim.planning.planner import plan
from kvsim.specs.checked import defaults
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.specs.model import ModelSpec
from kvsim.specs.numbers import shown, whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ANSWERS", "plan_many"]

Questions: TypeAlias = "pd.DataFrame | Iterable[Mapping[str, Any]]"

# Column of the answer: the pandas type that holds it, and nothing where there is no plan.
ANSWERS = {
    "fits": "boolean",
    "weights_bytes": "Int64",
    "kv_cache_bytes": "Int64",
    "kv_within_bytes": "Int64",
    "num_blocks": "Int64",
    "capacity_tokens": "Int64",
    "max_concurrency": "Float64",
    "at_tokens": "Int64",
    "requests": "Int64",
    "running": "Int64",
    "error": "object",
}
_NEEDED = ("model", "gpu")
_WORDS: dict[str, tuple[type, ...]] = {
    "model": (str, Path, ModelSpec),
    "gpu": (str, Path, AcceleratorProfile),
    "engine": (str,),
    "engine_version": (str,),
    "retention": (str, list, tuple),
}


def plan_many(questions: Questions) -> pd.DataFrame:
    """Plan every row of a table; a row that cannot be planned says why and loses no other.

    Parameters
    ----------
    questions : DataFrame or iterable of mapping
        One point a row; columns (keys) are arguments of `plan`, "model" and "gpu" among them.
        A cell that is empty (None, NaN, a key left out) is an argument left out.

    Returns
    -------
    DataFrame
        The columns asked, as they came and in their order, with the index of a DataFrame; beside
        them those of each plan, for one rank: `fits`; `weights_bytes`; `kv_cache_bytes`, sure to
        `kv_within_bytes`; `num_blocks` and `capacity_tokens`, as the engine's log has them;
        `max_concurrency` of requests of ``max_model_len``; of sequences of `at_tokens`
        (``context_len``, or 2,048) the `requests` that memory holds and those `running` at once;
        and `error`, "" where there is a plan, else one line, the other columns being empty.

    Raises
    ------
    InputError
        For a column that is no argument of `plan` (with the nearest that is), one that is
        given twice, rows that are no mappings, and a table without models or cards.

    Notes
    -----
    Numbers are those of `plan`, whose suggestions are not worked out: they take most of the time
    of a plan that does not fit.

    Examples
    --------
    >>> from kvsim import plan_many
    >>> asked = [{"model": "llama3.1-8b", "gpu": card} for card in ("h100", "l4", "abacus")]
    >>> answer = plan_many(asked)
    >>> answer["fits"].tolist()
    [True, False, <NA>]
    >>> answer["error"][2].split(";")[0]
    "unknown accelerator 'abacus'"
    """
    import pandas as pd

    table = _table(questions)
    _check_columns(list(table.columns))
    rows = [_answer(dict(zip(table.columns, cells, strict=True))) for cells in _rows(table)]
    found = pd.DataFrame(rows, columns=list(ANSWERS), index=table.index)
    return pd.concat([table, found.astype(ANSWERS)], axis="columns")


def _table(questions: Questions) -> pd.DataFrame:
    """The questions as they came; of mappings, with the union of their keys."""
    import pandas as pd

    if isinstance(questions, pd.DataFrame):
        return questions
    if isinstance(questions, str | Mapping) or not isinstance(questions, Iterable):
        raise InputError(
            f"{shown(questions)} is no table of questions",
            fix="give a DataFrame, or a list of mappings such as {'model': ..., 'gpu': ...}",
        )
    rows = list(questions)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(f"{shown(row)} is no mapping of arguments", where=f"row {number}")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = {name: [row.get(name) for row in rows] for name in columns}
    return pd.DataFrame({name: pd.Series(found, dtype=object) for name, found in cells.items()})


def _rows(table: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].tolist() for name in table.columns), strict=True)


def _check_columns(columns: list[Any]) -> None:
    """Refuse what is no argument of `plan`, and a table that lacks those that it needs."""
    named = inspect.signature(plan).parameters.values()
    known = [each.name for each in named if each.kind is not each.VAR_KEYWORD]
    known.remove("suggests")  # what would fit is a plan's own question
    known += defaults(EngineOptions)
    for at, name in enumerate(columns):
        if name not in known:
            close = nearest(str(name), known)
            fix = f"did you mean {', '.join(close)}?" if close else "see kvsim.plan"
            raise InputError(f"the column {shown(name)} is no argument of plan", fix=fix)
        if name in columns[:at]:
            raise InputError(f"the column {name!r} is given twice")
    for name in _NEEDED:
        if name not in columns:
            raise InputError(f"there is no column {name!r}", fix="each row needs a model and a gpu")


def _answer(cells: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {**_numbers(plan(**_question(cells), suggests=False)), "error": ""}
    except KVSimError as error:
        return {"error": str(error)}


def _question(cells: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one row: what is empty is left out, and each is of a type that fits."""
    given = {name: _plain(value) for name, value in cells.items()}
    question = {name: value for name, value in given.items() if value is not None}
    for name in _NEEDED:
        if name not in question:
            raise InputError("is empty", where=name)
    for name, kinds in _WORDS.items():
        if name in question and not isinstance(question[name], kinds):
            fix = "read the column as text" if isinstance(question[name], int | float) else ""
            raise InputError(f"{shown(cells[name])} should be text", where=name, fix=fix)
    if "context_len" in question:
        try:
            question["context_len"] = whole(question["context_len"])
        except ValueError as error:
            raise InputError(
                f"{shown(cells['context_len'])}: {error}", where="context_len"
            ) from None
    return question


def _plain(value: Any) -> Any:
    """A cell in Python's own types; None when it is empty.

    pandas holds whole numbers beside an empty cell as floats; they become whole again.
    """
    import pandas as pd

    value = value.item() if type(value).__module__ == "numpy" and not value.shape else value
    if value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def _numbers(answer: Plan) -> dict[str, Any]:
    """The columns of one plan."""
    context = answer.contiguous_vs_paged.context_len
    at = next(row for row in answer.concurrency if row.context_len == context)
    return {
        "fits": answer.fits,
        "weights_bytes": answer.memory.weights_bytes,
        "kv_cache_bytes": answer.memory.kv_cache_bytes,
        "kv_within_bytes": answer.kv_band.within_bytes,
        "num_blocks": answer.kv_cache.num_blocks,
        "capacity_tokens": answer.kv_cache.capacity_tokens,
        "max_concurrency": answer.kv_cache.max_concurrency,
        "at_tokens": context,
        "requests": at.requests,
        "running": at.running,
    }
