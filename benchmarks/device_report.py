"""What was measured on a device, as the section of docs/accuracy.md that speaks of it.

Pure: the records that ``kvsim calibrate``, ``validate`` and ``study cache`` write as JSON go
in, Markdown comes out. `written_between` puts it into the page, between two marks, so that
writing it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvsim.cli.calibrate_report import amount
from kvsim.errors import InputError
from kvsim.units import format_bytes

__all__ = ["BEGIN", "END", "Measured", "section", "written_between"]

Record = Mapping[str, Any]

BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
# Goals of the twin on a GPU, percent: (name, what it is read from).
GOALS = {
    "single step, median": 5.0,
    "single step, p95": 10.0,
    "mean TPOT": 5.0,
    "mean E2E": 5.0,
    "peak memory": 2.0,
}
_PAIRS = {
    "mean TTFT": "mean_ttft_ms",
    "mean TPOT": "mean_tpot_ms",
    "mean E2E": "mean_e2el_ms",
    "output tokens/s": "output_throughput",
    "peak memory": "peak_bytes",
}


@dataclass(frozen=True)
class Measured:
    """All records of one device.

    Parameters
    ----------
    date : str
        Of the calibration, ISO.
    calibration : mapping
        What ``kvsim calibrate --format json`` printed.
    validations, studies : sequence of mapping
        ``comparison.json`` and ``study.json`` of every model and load.
    kept : sequence of str
        Where the raw results lie, relative to the repository.
    """

    date: str
    calibration: Record
    validations: Sequence[Record] = ()
    studies: Sequence[Record] = ()
    kept: Sequence[str] = ()


def section(measured: Measured) -> str:
    """Write the section, its heading included."""
    return "\n".join(
        [
            *_head(measured),
            *_calibration_lines(measured.calibration),
            *_validation_lines(measured.validations),
            *[line for study in measured.studies for line in _study_lines(study)],
        ]
    )


def written_between(page: str, body: str, begin: str = BEGIN, end: str = END) -> str:
    r"""Return the page with the body between its two marks, in place of what was there.

    Raises
    ------
    InputError
        When the page has not exactly one of each mark, in this order.

    Examples
    --------
    >>> written_between("a [ old ] b", "new", "[", "]")
    'a [\n\nnew\n\n] b'
    """
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise InputError(f"the page needs one {begin} and after it one {end}")
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{body.strip()}\n\n{end}{after}"


def _head(measured: Measured) -> Iterator[str]:
    device = measured.calibration["device"]
    software = ", ".join(filter(None, (f"torch {device['torch_version']}", device["driver"])))
    yield f"### On a GPU: {device['name']} (measured {measured.date})"
    yield ""
    clocks = f"; at the start {device['clocks']}" if device["clocks"] else ""
    yield f"Written by `make gpu`. {software}{clocks}."
    if measured.kept:
        yield f"Raw results: {', '.join(f'`{path}`' for path in measured.kept)}."
    yield ""


# ---- calibration -----------------------------------------------------------------------------


def _calibration_lines(record: Record) -> Iterator[str]:
    yield "Measured beside the datasheet; the fits miss their own rows by"
    parts = (f"{name} {error:g} %" for name, error in record["error_percent"].items())
    yield f"{', '.join(parts)}."
    yield ""
    rows = [
        (
            entry["name"],
            amount(entry["measured"], entry["unit"]),
            amount(entry["datasheet"], entry["unit"]) if entry["datasheet"] else "-",
            f"{100 * entry['share']:.0f} %" if entry["share"] else "-",
        )
        for entry in record["comparisons"]
    ]
    yield from _table(("quantity", "measured", "datasheet", "share"), rows)
    for what in ("shrunk", "skipped", "outliers"):
        if record[what]:
            yield f"{what.capitalize()}: {'; '.join(record[what])}."
            yield ""


# ---- the twin --------------------------------------------------------------------------------


def _validation_lines(records: Sequence[Record]) -> Iterator[str]:
    if not records:
        return
    yield "The twin, predicted from that profile; predicted over measured, percent:"
    yield ""
    rows, missed = [], []
    for record in records:
        for run in record["runs"]:
            errors = _errors(run)
            rows.append(
                (f"{record['model']}, {run['label']}", f"{run['steps']:,}", *_signed(errors))
            )
            missed += _missed(f"{record['model']}, {run['label']}", errors)
    head = ("run", "steps", "single step, median", "single step, p95", "all steps", *_PAIRS)
    yield from _table(head, rows)
    goals = ", ".join(f"{name} {percent:g} %" for name, percent in GOALS.items())
    verdict = f"missed: {'; '.join(missed)}" if missed else "all met"
    yield f"Goals: {goals}: {verdict}."
    yield ""


def _errors(run: Record) -> dict[str, float | None]:
    """Percent errors of one run by the columns of the table; None of what was not counted."""
    pairs = {pair["name"]: pair["error_percent"] for pair in (*run["latency"], *run["memory"])}
    errors = run["step_errors"]
    return {
        "single step, median": errors["median_percent"],
        "single step, p95": errors["p95_percent"],
        "all steps": errors["total_percent"],
        **{column: pairs.get(name) for column, name in _PAIRS.items()},
    }


def _signed(errors: Mapping[str, float | None]) -> Iterator[str]:
    for name, value in errors.items():
        sign = "" if name.startswith("single") else "+"
        yield "-" if value is None else f"{value:{sign}.1f}"


def _missed(label: str, errors: Mapping[str, float | None]) -> list[str]:
    return [
        f"{name} of {label}"
        for name, goal in GOALS.items()
        if (value := errors[name]) is not None and abs(value) > goal
    ]


# ---- the study -------------------------------------------------------------------------------


def _study_lines(record: Record) -> Iterator[str]:
    most = max((row["batch"], row["tokens"]) for row in record["rows"])
    yield (
        f"The cache study, {record['model']} in {record['dtype']}: batch {most[0]},"
        f" {most[1]:,} tokens; all four generated the same {record['checked_tokens']} tokens"
    )
    yield "(growth: exponent of a token's seconds over its context):"
    yield ""
    slopes = record["exponents"]
    rows = [
        (
            row["cache"],
            f"{row['total_seconds']:.3g}",
            f"{row['simulated_seconds']:.3g}",
            f"{100 * (row['simulated_seconds'] / row['total_seconds'] - 1):+.1f} %",
            format_bytes(row["kv_peak_bytes"]),
            format_bytes(row["simulated_kv_bytes"]),
            _slope(slopes.get(row["cache"], {}).get(str(row["batch"]))),
        )
        for row in record["rows"]
        if (row["batch"], row["tokens"]) == most
    ]
    head = ("cache", "seconds measured", "simulated", "off by", "peak KV measured", "simulated")
    yield from _table((*head, "growth"), rows)


def _slope(found: Mapping[str, float] | None) -> str:
    return f"{found['token']:.2f}" if found else "-"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| --- |{' ---: |' * (len(head) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
