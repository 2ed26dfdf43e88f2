"""``kvsim calibrate``: planted devices are recovered, and nothing that goes wrong loses a row.

Most of it needs no torch: a `Bench` that answers from planted rates stands in for the device.
"""

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import kvsim
from kvsim.calibrate.measure.attention import DecodeCase
from kvsim.calibrate.measure.bandwidth import ReadCase
from kvsim.calibrate.measure.calibrate import Outputs, measure
from kvsim.calibrate.measure.case import Row, summarise
from kvsim.calibrate.measure.coefficients import calibrate_rows
from kvsim.calibrate.measure.gemm import GemmCase
from kvsim.calibrate.measure.grid import Plan, plan_cases
from kvsim.calibrate.measure.overhead import LaunchCase
from kvsim.calibrate.measure.session import COLUMNS, Session, kept_timings
from kvsim.calibrate.measure.timing import QUICK_PACE, is_out_of_memory
from kvsim.cli.calibrate_report import found_sections, plan_sections
from kvsim.cli.render import emit
from kvsim.errors import InputError, UnsupportedError
from kvsim.units import GIB
from tests.support.planted import H200, PlantedBench, measured


def planted_values(bench, way="loop"):
    layers, decode = {"loop": ("layers", "decode_paged"), "kernels": ("layers_graph", "decode")}[
        way
    ]
    return {
        "weight_bytes_per_s": bench.weights,
        "flops_per_s": bench.flops,
        "norm": bench.norm,
        "layer_seconds": bench.layer[layers] + bench.decode_start,
        "kv_bytes_per_s": bench.kv[decode],
        "head_seconds": bench.head,
        "attention_flops_per_s": bench.attention,
        "attention_token_seconds": bench.token,
        "host_seconds": bench.host + 25e-6,
        "sequence_seconds": bench.sequence,
    }


# --- planted rates come back ---------------------------------------------------------------


@pytest.mark.parametrize("way", ["loop", "kernels"])
@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
def test_planted_coefficients_are_recovered_within_two_percent(tmp_path, way, quick):
    bench = PlantedBench()
    found, _ = measured(tmp_path, bench, quick=quick)
    rates = found["coefficients"][way]
    for name, value in planted_values(bench, way).items():
        assert rates[name] == pytest.approx(value, rel=0.02), name
    assert rates["error_percent"] < 0.5


def test_a_device_a_thousand_times_slower_is_recovered_too(tmp_path):
    """No unit is built into the fits: a slow CPU is no worse than an H200."""
    slow = PlantedBench(
        copy=9e9, weights=7e9, flops=0.2e12, kv={"decode": 6e9, "decode_paged": 2e9},
        layer={"layers": 300e-6, "layers_graph": 0.0}, decode_start=40e-6, head=2e-6,
        attention=0.08e12, token=9e-9,
    )  # fmt: skip
    laptop = replace(H200, kind="cpu", name="A Laptop 4 threads", dtypes=("fp32", "bf16"))
    found, profile = measured(tmp_path, slow, laptop)
    for name, value in planted_values(slow).items():
        assert found["coefficients"]["loop"][name] == pytest.approx(value, rel=0.02), name
    assert profile.name == "a-laptop-4-threads"
    assert profile.bandwidth_bytes_per_s == pytest.approx(slow.copy)


@pytest.mark.parametrize("factor", [3.0, 0.4], ids=["interrupted", "from a cache"])
def test_noise_and_a_bad_row_do_not_bend_the_fit_and_the_bad_row_is_named(factor):
    bench = PlantedBench()
    random = np.random.default_rng(4)
    plan = plan_cases(H200, quick=False)
    rows = []
    for case in plan.cases:
        seconds = bench.seconds(case) * random.normal(1, 0.01)
        rows.append(Row(case, summarise([seconds] * 5)))
    paged = [n for n, row in enumerate(rows) if row.case.kind == "decode_paged"]
    at = max(paged, key=lambda n: (rows[n].case.dtype == "bf16", rows[n].seconds))
    rows[at] = Row(rows[at].case, summarise([factor * rows[at].seconds] * 5))
    found = calibrate_rows(rows, H200, None, "2026-01-01")
    for name in ("weight_bytes_per_s", "flops_per_s", "kv_bytes_per_s", "attention_flops_per_s"):
        planted = planted_values(bench)[name]
        assert getattr(found.coefficients["loop"], name) == pytest.approx(planted, rel=0.03), name
    (worst,) = found.parts["loop decode"].outliers(beyond=0.25)
    assert worst.startswith(f"{rows[at].case.label}: {'-' if factor > 1 else '+'}")


def test_fp8_products_and_links_are_fitted_where_they_were_measured(tmp_path):
    _, profile = measured(tmp_path, PlantedBench(), replace(H200, count=4))
    rates = profile.coefficients
    narrow = rates.gemms["fp8"]  # 1.6 times as fast, with half the bytes
    assert narrow.bytes_per_s == pytest.approx(1.6 / 2 * rates.weight_bytes_per_s, rel=1e-3)
    assert narrow.flops_per_s == pytest.approx(1.6 * rates.flops_per_s, rel=1e-3)
    for degree in (2, 4):
        assert rates.collectives[degree].seconds == pytest.approx(5e-6, rel=0.02)
        assert rates.collectives[degree].bytes_per_s == pytest.approx(200e9, rel=0.02)
    shipped = kvsim.find_accelerator("h200").coefficients
    assert rates.collectives[8] == shipped.collectives[8]  # no eight devices here


def test_what_torch_cannot_measure_stays_as_the_catalogue_has_it(tmp_path):
    _, profile = measured(tmp_path, PlantedBench())
    shipped = kvsim.find_accelerator("h200")
    assert profile.bandwidth == shipped.bandwidth
    assert profile.price == shipped.price
    assert profile.memory_bytes == H200.memory_bytes
    rates = profile.coefficients
    assert rates.host_costs == {}  # those of serving engines are the catalogue's, for any card
    assert rates.fp8_kv_speedup == shipped.coefficients.fp8_kv_speedup
    assert "torch 2.11.0+cu130, driver 580.159.03" in rates.source
    assert "512 MiB taken before the first tensor" in profile.notes


def test_measured_links_leave_the_catalogues_own_alone(tmp_path):
    shipped = kvsim.find_accelerator("h200").coefficients.model_dump()
    _, profile = measured(tmp_path, PlantedBench(), replace(H200, count=2))
    assert profile.coefficients.collectives[2].bytes_per_s == pytest.approx(200e9, rel=0.01)
    assert profile.coefficients.collectives[8].model_dump() == shipped["collectives"][8]
    assert kvsim.find_accelerator("h200").coefficients.model_dump() == shipped


class ErraticBench(PlantedBench):
    """A device on which every other case takes four times as long."""

    calls = 0

    def time(self, case):
        timing, self.calls = super().time(case), self.calls + 1
        return replace(timing, seconds=timing.seconds * (4 if self.calls % 2 else 1))


def test_a_fit_that_misses_its_own_rows_is_a_warning(tmp_path, capsys):
    sound, _ = measured(tmp_path, PlantedBench())
    assert sound["warnings"] == []
    found, _ = measured(tmp_path, ErraticBench())
    assert found["warnings"]
    for line in found["warnings"]:
        assert re.fullmatch(
            r"the fit of .* misses its own rows by \d+ %, over 20 %: do not trust .*", line
        )
    emit(found_sections(found), found, "table")
    assert f"- {found['warnings'][0]}" in " ".join(capsys.readouterr().out.split())


def test_every_number_stands_beside_the_datasheet(tmp_path, capsys):
    found, _ = measured(tmp_path, PlantedBench())
    shares = {entry["name"]: entry["share"] for entry in found["comparisons"]}
    assert shares["copy"] == pytest.approx(4.3 / 4.8)
    assert shares["bf16 GEMM"] == pytest.approx(750 / 989, rel=0.01)
    emit(found_sections(found), found, "table")
    page = capsys.readouterr().out
    line = next(line for line in page.splitlines() if line.strip().startswith("copy"))
    assert "4.3 TB/s" in line
    assert "4.8 TB/s" in line
    assert "90 %" in line
    assert line.count("█") + line.count("#") == 18  # of 20 cells


# --- the grid ------------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
def test_rotated_inputs_exceed_four_times_the_cache_and_all_fits(quick):
    plan = plan_cases(H200, quick=quick)
    for case in plan.cases:
        assert case.buffer_bytes <= 0.6 * H200.free_bytes, case.label
        if isinstance(case, GemmCase | DecodeCase):
            each = case.moved_bytes if isinstance(case, DecodeCase) else case.n * case.k
            bytes_a_set = each * (1 if isinstance(case, DecodeCase) else case.element_bytes)
            rotated = bytes_a_set * case.sets
            reached = 4 * H200.l2_bytes if case.sets < 256 else 2 * H200.l2_bytes
            assert rotated >= reached, case.label


def test_a_small_memory_leaves_cases_out_and_says_so():
    small = replace(H200, memory_bytes=8 * GIB, free_bytes=7 * GIB)
    plan = plan_cases(small, quick=False)
    assert max(case.buffer_bytes for case in plan.cases) <= 0.6 * 7 * GIB
    left_out = len(plan_cases(H200, quick=False).cases) - len(plan.cases)
    assert plan.notes == (f"{left_out} cases need more than 4.2 GiB and are left out",)
    assert left_out > 0


def test_a_quick_grid_is_part_of_the_time(capsys):
    full, quick = plan_cases(H200, quick=False), plan_cases(H200, quick=True)
    assert quick.expected_seconds < full.expected_seconds / 3
    assert full.expected_seconds < 600  # "minutes"
    content = {
        "device": H200.to_dict(), "cases": len(quick.cases), "buffer_bytes": quick.buffer_bytes,
        "expected_seconds": quick.expected_seconds, "grid": quick.summary(), "notes": [],
    }  # fmt: skip
    assert sum(entry["cases"] for entry in quick.summary()) == len(quick.cases)
    emit(plan_sections(content), content, "markdown")
    assert "| decode_paged | fp8 |" in capsys.readouterr().out


# --- what goes wrong -----------------------------------------------------------------------


@dataclass
class TroubledBench:
    """A bench that raises when `raises(case, calls so far)` gives an error."""

    raises: object
    calls: int = 0
    released: int = 0

    def time(self, case):
        self.calls += 1
        error = self.raises(case, self.calls)
        if error is not None:
            raise error
        return PlantedBench().time(case)

    def release(self):
        self.released += 1


def session_of(tmp_path, raises, cases):
    plan = Plan(tuple(cases), QUICK_PACE, "cuda")
    session = Session(TroubledBench(raises), tmp_path / "rows.csv")
    return session, plan


def csv_rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "mps", "python"],
)
def test_out_of_memory_shrinks_the_case_and_says_so(tmp_path, error):
    room = 3 * GIB
    case = DecodeCase(dtype="bf16", batch=64, context=32768, kv_heads=8)
    assert case.buffer_bytes == 8 * GIB
    session, plan = session_of(
        tmp_path, lambda case, _: error if case.buffer_bytes > room else None, [case]
    )
    rows = session.run(plan)
    assert rows[0].case == replace(case, batch=16)
    assert session.shrunk == [f"{case.label}: out of memory, batch 64 to 16"]
    assert session.bench.released == 2
    assert csv_rows(session.csv_path)[0]["batch"] == "16"


def test_what_fits_at_no_size_is_left_out_and_named(tmp_path):
    launch, decode = (
        LaunchCase(dtype="bf16"),
        DecodeCase(dtype="bf16", batch=2, context=64, kv_heads=1),
    )
    session, plan = session_of(
        tmp_path,
        lambda case, _: MemoryError() if isinstance(case, DecodeCase) else None,
        [decode, launch],
    )
    assert [row.case for row in session.run(plan)] == [launch]
    assert session.shrunk == [f"{decode.label}: does not fit at any size, left out"]


def test_only_memory_trouble_counts_as_such():
    assert not is_out_of_memory(RuntimeError("CUDA error: unspecified launch failure"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_resumed_session_times_only_what_is_missing(tmp_path):
    cases = plan_cases(H200, quick=True).cases
    plan = Plan(cases, QUICK_PACE, "cuda")
    whole = Session(TroubledBench(lambda *_: None), tmp_path / "whole.csv").run(plan)
    stopped = Session(
        TroubledBench(lambda _, calls: KeyboardInterrupt() if calls > 30 else None),
        tmp_path / "rows.csv",
    )
    with pytest.raises(KeyboardInterrupt):
        stopped.run(plan)
    with stopped.csv_path.open("a") as file:
        file.write("gemm,bf16,,16")  # the process died in the middle of a line

    bench = TroubledBench(lambda *_: None)
    resumed = Session(bench, stopped.csv_path, kept=kept_timings(stopped.csv_path))
    rows = resumed.run(plan)

    assert bench.calls == len(cases) - 30
    assert [row.case for row in rows] == list(cases)
    for row, other in zip(rows, whole, strict=True):
        assert row.seconds == pytest.approx(other.seconds, rel=1e-5)
    assert len(csv_rows(stopped.csv_path)) == len(cases)


def test_an_interrupt_while_resuming_loses_nothing(tmp_path):
    cases = plan_cases(H200, quick=True).cases
    plan, path = Plan(cases, QUICK_PACE, "cuda"), tmp_path / "rows.csv"
    for allowed in (40, 10):

        def stop(_, calls, allowed=allowed):
            return KeyboardInterrupt() if calls > allowed else None

        with pytest.raises(KeyboardInterrupt):
            Session(TroubledBench(stop), path, kept=kept_timings(path)).run(plan)
    assert len(csv_rows(path)) == 50


def test_a_session_that_cannot_begin_leaves_the_earlier_rows(tmp_path, monkeypatch):
    plan, path = (
        Plan(plan_cases(H200, quick=True).cases[:3], QUICK_PACE, "cuda"),
        tmp_path / "r.csv",
    )
    Session(TroubledBench(lambda *_: None), path).run(plan)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(InputError, match="No space left"):
        Session(TroubledBench(lambda *_: None), path, kept=kept_timings(path)).run(plan)
    assert path.read_bytes() == before


def test_two_sessions_do_not_write_into_one_file(tmp_path):
    plan, path = (
        Plan(plan_cases(H200, quick=True).cases[:3], QUICK_PACE, "cuda"),
        tmp_path / "r.csv",
    )

    def another(_, calls):
        with pytest.raises(InputError, match="another calibration is writing it"):
            Session(TroubledBench(lambda *_: None), path).run(plan)

    Session(TroubledBench(another), path).run(plan)
    assert len(csv_rows(path)) == 3
    Session(TroubledBench(lambda *_: None), path).run(plan)  # and then it may


def test_rows_that_cannot_be_resumed_are_named(tmp_path):
    path = tmp_path / "rows.csv"
    assert kept_timings(path) == {}
    path.write_text("kind,seconds\ncopy,1\n")
    with pytest.raises(InputError, match=r"rows\.csv, line 1: no column dtype"):
        kept_timings(path)
    Session(TroubledBench(lambda *_: None), path).run(
        Plan(plan_cases(H200, quick=True).cases[:2], QUICK_PACE, "cuda")
    )
    lines = path.read_text().splitlines()
    cells = lines[2].split(",")
    cells[COLUMNS.index("seconds")] = "fast"
    path.write_text("\n".join([*lines[:2], ",".join(cells), ""]))
    with pytest.raises(InputError, match="line 3: seconds = 'fast': should be a finite number"):
        kept_timings(path)


def test_an_interrupt_keeps_the_rows_so_far(tmp_path):
    cases = plan_cases(H200, quick=True).cases
    session, plan = session_of(
        tmp_path, lambda _, calls: KeyboardInterrupt() if calls == 8 else None, cases
    )
    with pytest.raises(KeyboardInterrupt, match=r"7 rows are in .*rows\.csv"):
        session.run(plan)
    kept = csv_rows(session.csv_path)
    assert [row["kind"] for row in kept] == [case.kind for case in cases[:7]]
    assert float(kept[0]["seconds"]) == pytest.approx(PlantedBench().seconds(cases[0]), rel=1e-5)


def test_a_device_that_disappears_is_one_line_that_says_where_the_rows_are(tmp_path):
    cases = plan_cases(H200, quick=True).cases
    gone = RuntimeError("CUDA error: device lost\nCompile with TORCH_USE_CUDA_DSA")
    session, plan = session_of(tmp_path, lambda _, calls: gone if calls > 3 else None, cases)
    with pytest.raises(UnsupportedError) as raised:
        session.run(plan)
    message = str(raised.value)
    assert "\n" not in message
    assert f"{cases[3].label} (CUDA error: device lost); the 3 rows before it" in message
    assert len(csv_rows(session.csv_path)) == 3


def test_fp8_that_this_torch_lacks_is_skipped_and_named(tmp_path):
    narrow, wide = (GemmCase(dtype=dtype, m=16, n=64, k=64) for dtype in ("fp8", "bf16"))
    lacking = AttributeError("module 'torch' has no attribute '_scaled_mm'")
    session, plan = session_of(
        tmp_path, lambda case, _: lacking if case.dtype == "fp8" else None, [narrow, wide]
    )
    assert [row.case for row in session.run(plan)] == [wide]
    assert session.skipped == [f"{narrow.label}: {lacking}"]


def test_a_bug_of_ours_is_not_blamed_on_the_device(tmp_path):
    session, plan = session_of(
        tmp_path, lambda *_: TypeError("unexpected keyword"), [LaunchCase(dtype="bf16")]
    )
    with pytest.raises(TypeError, match="unexpected keyword"):
        session.run(plan)


def test_every_size_of_every_case_has_a_column(tmp_path):
    plan = plan_cases(replace(H200, count=2), quick=False)
    session = Session(PlantedBench(), tmp_path / "rows.csv")
    session.run(plan)
    assert {name for case in plan.cases for name in case.sizes()} <= set(COLUMNS)
    kept = csv_rows(session.csv_path)
    assert len(kept) == len(plan.cases)
    assert session.csv_path.stat().st_size < 2**20  # small enough to be committed


def test_progress_counts_the_cases(tmp_path):
    seen = []
    cases = [LaunchCase(dtype="bf16"), ReadCase(dtype="bf16", buffer=GIB)]
    session = Session(PlantedBench(), tmp_path / "rows.csv", lambda *step: seen.append(step))
    session.run(Plan(tuple(cases), QUICK_PACE, "cuda"))
    assert seen == [
        (0, 2, "launch bf16 "),
        (1, 2, f"read bf16 buffer={GIB}"),
        (2, 2, "fitting"),
    ]


def test_too_few_rows_are_no_calibration(tmp_path):
    plan = Plan((LaunchCase(dtype="bf16"),), QUICK_PACE, "cuda")
    with pytest.raises(InputError, match="rows are too few to fit"):
        measure(H200, plan, tmp_path / "card.yaml", lambda *_: None, PlantedBench())
    assert not (tmp_path / "card.yaml").exists()


def test_a_folder_that_takes_no_file_is_one_line(tmp_path):
    (tmp_path / "rows.csv").mkdir()
    session, plan = session_of(tmp_path, lambda *_: None, [LaunchCase(dtype="bf16")])
    with pytest.raises(InputError, match=r"rows\.csv: cannot be written"):
        session.run(plan)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("card", "-o: 'card' is no name of a profile; write card.yaml"),
        ("nowhere/card.yaml", "-o: there is no folder 'nowhere'"),
    ],
)
def test_a_bad_output_is_refused_before_anything_is_measured(path, message):
    with pytest.raises(InputError) as raised:
        Outputs.beside(Path(path))
    assert str(raised.value) == message
