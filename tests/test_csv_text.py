"""Every CSV is written in one way, and none has a cell that a spreadsheet would run."""

import ast
import csv
import io
from pathlib import Path

import pytest

from kvsim.cli.render import emit, print_records
from kvsim.csv_text import csv_cell, csv_lines, csv_text

ROOT = Path(__file__).resolve().parents[1]
WRITERS = {"writer", "DictWriter", "to_csv"}
FOLDERS = ("kvsim", "app", "scripts", "benchmarks")


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A1", "-2+3", "@SUM(A1)", "\tx", "\rx", "-", "-1_000", "+٣"]
)
def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe(text):
    assert csv_cell(text) == f"'{text}"
    assert csv_cell(csv_cell(text)) == csv_cell(text)


@pytest.mark.parametrize("value", ["-1.5", "+3", "-2.", "-.5e-3", "-inf", "a=b", "", -1.5, 0, True])
def test_a_plain_number_and_any_other_text_stay(value):
    assert csv_cell(value) is value


def test_what_is_not_there_is_an_empty_cell():
    assert (csv_cell(None), csv_cell(float("nan"))) == ("", "")


def test_lines_are_those_of_the_text():
    rows = [("a", "b"), ('say "x"', "1,5"), ("two\nlines", None), ("a\rb", 1)]
    assert "".join(f"{line}\n" for line in csv_lines(rows)) == csv_text(rows)
    read = list(csv.reader(io.StringIO(csv_text(rows), newline="")))
    assert read == [["" if cell is None else str(cell) for cell in row] for row in rows]


@pytest.mark.parametrize(
    "print_it",
    [
        lambda: emit([], {"=key": {"@name": "=1+1", "less": -5}}, "csv"),
        lambda: print_records([{"=key": "@name", "less": -5}], [], "csv"),
    ],
)
def test_the_command_line_prints_none_either(print_it, capsys):
    print_it()
    cells = [cell for row in csv.reader(io.StringIO(capsys.readouterr().out)) for cell in row]
    assert "-5" in cells
    assert len(cells) >= 4
    assert not [cell for cell in cells if cell[:1] in "=+@\t\r" and cell]


# --- the law: nobody else writes a CSV -----------------------------------------------------------


def csv_writers(source):
    """Lines that use the csv module's writers or a frame's to_csv; a `Table` has one of its own."""
    tree = ast.parse(source)
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    named = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    lines = [node.lineno for node in used if node.attr in WRITERS and not _is_table(node)]
    return lines + [node.lineno for node in named if node.module == "csv" and _writes(node)]


def _writes(node):
    return any(alias.name in WRITERS for alias in node.names)


def _is_table(node):
    """figures.Table.to_csv, Table(...).to_csv: the safe way, by a table of kvsim.figures."""
    owner = node.value.func if isinstance(node.value, ast.Call) else node.value
    return node.attr == "to_csv" and getattr(owner, "attr", getattr(owner, "id", "")) == "Table"


def test_there_is_one_place_that_writes_csv():
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if csv_writers(path.read_text("utf-8"))
    }
    assert found == {"kvsim/csv_text.py"}


@pytest.mark.parametrize(
    "source",
    [
        "csv.writer(f)",
        "import csv\ncsv.DictWriter(f, [])",
        "from csv import writer",
        "frame.to_csv()",
        "make().to_csv(index=False)",
    ],
)
def test_the_law_sees_a_second_place(source):
    assert csv_writers(source)
