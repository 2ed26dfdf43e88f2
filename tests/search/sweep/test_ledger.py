"""A sweep's folder: what is refused, what is damaged, and what is read beside it."""

import json
import shutil
import sqlite3

import pytest

from kvsim import InputError, sweep
from kvsim.search.sweep.results import ResultRun, write_results
from kvsim.search.sweep.task import Outcome, StoppedError
from tests.search.sweep.sweeping import rows, space


def test_a_folder_with_other_things_is_refused(here, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"holds 'thesis.tex' and is no sweep's folder"):
        here(space(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at" * 30])
def test_a_ledger_that_is_none_is_refused(here, tmp_path, content):
    (tmp_path / "ledger.sqlite").write_bytes(content)
    with pytest.raises(InputError, match=r"ledger.sqlite: is no ledger of a sweep"):
        here(space(), tmp_path)
    assert (tmp_path / "ledger.sqlite").read_bytes() == content


@pytest.mark.parametrize(
    "change", ["row = '{\"a\": 1'", "row = '{\"mean_ttft_ms\": 1}'", "row = ''"]
)
def test_a_row_that_is_no_runs_is_refused(here, tmp_path, change):
    here(space({"tp": [1]}), tmp_path)
    rows = sqlite3.connect(tmp_path / "ledger.sqlite")
    with rows:
        rows.execute(f"UPDATE runs SET {change}")
    rows.close()
    with pytest.raises(
        InputError, match=r"ledger.sqlite: is damaged \(a row is no run's\); delete"
    ):
        here(space({"tp": [1]}), tmp_path)


def test_a_ledger_with_lost_pages_is_refused(here, tmp_path):
    here(space({"tp": [1]}, seeds=20), tmp_path)
    path = tmp_path / "ledger.sqlite"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    with pytest.raises(InputError, match=r"ledger.sqlite: (is damaged|is no ledger)"):
        here(space({"tp": [1]}, seeds=20), tmp_path)


def test_somebody_elses_database_is_refused(here, tmp_path):
    other = sqlite3.connect(tmp_path / "ledger.sqlite")
    other.execute("CREATE TABLE runs (key TEXT)")
    other.close()
    with pytest.raises(InputError, match="is no ledger that this release reads"):
        here(space(), tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(here, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be a sweep's folder"):
        here(space(), tmp_path / "file" / "out")


def test_a_second_sweep_in_a_folder_is_refused(here, tmp_path):
    def watch(_):
        with pytest.raises(InputError, match="another sweep is at work here"):
            sweep(space(), tmp_path)

    found, _ = here(space({"tp": [1]}), tmp_path, watch=watch)
    assert found.finished == 2


def test_the_ledger_can_be_read_while_a_sweep_is_at_work(here, tmp_path):
    seen = []
    here(
        space({"tp": [1]}), tmp_path, watch=lambda now: seen.append((now.done, len(rows(tmp_path))))
    )
    assert seen
    assert all(done == there for done, there in seen)


def test_results_without_pyarrow_are_a_table_of_sqlite(here, tmp_path, monkeypatch):
    monkeypatch.setattr("kvsim.search.sweep.results.find_spec", lambda _: None)
    found, _ = here(space(), tmp_path)
    assert found.results.name == "results.sqlite"
    table = sqlite3.connect(found.results)
    names = [row[1] for row in table.execute("PRAGMA table_info(results)")]
    asked = 'SELECT tp, seed, "kv_cache.usage_mean" FROM results'
    cells = table.execute(asked).fetchall()
    table.close()
    assert names[:4] == ["key", "tp", "workload.arrivals.rate", "seed"]
    assert [cell[:2] for cell in cells] == [(tp, seed) for tp in (1, 1, 2, 2) for seed in (0, 1)]
    assert all(0 < usage < 1 for *_, usage in cells)


def test_columns_hold_every_run_whatever_it_has(tmp_path):
    """A number that only some runs have, whole and broken ones, and values that are no number."""
    pytest.importorskip("pyarrow", reason="results in parquet need pyarrow")

    def runs():
        for at, row in enumerate(({"a": 1}, {"a": 2.5, "b": 7}, {"b": None})):
            policy = {"name": "x"} if at else "y"
            yield ResultRun({"policy": policy}, at, Outcome(str(at), json.dumps(row)))

    from pyarrow import parquet

    table = parquet.read_table(write_results(tmp_path, runs)).to_pylist()
    assert [row["a"] for row in table] == [1.0, 2.5, None]
    assert [row["b"] for row in table] == [None, 7, None]
    assert [row["policy"] for row in table] == ["y", '{"name": "x"}', '{"name": "x"}']


def test_results_that_cannot_be_written_say_so_and_leave_nothing(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    shutil.rmtree(folder)
    with pytest.raises(StoppedError, match=r"results\.\w+: cannot be written"):
        write_results(folder, lambda: [ResultRun({}, 0, Outcome("k", '{"a": 1}'))])
