"""``kvsim calibrate``: planted devices are recovered, and nothing that goes wrong loses a row.

Most of it needs no torch: a `Bench` that answers from planted rates stands in for the device.
"""

import re
from dataclasses import replace

import numpy as np
import pytest

import kvsim
from kvsim.calibrate.measure.attention import DecodeCase
from kvsim.calibrate.measure.case import Row, summarise
from kvsim.calibrate.measure.coefficients import calibrate_rows
from kvsim.calibrate.measure.fitting import NO_LAUNCHES
from kvsim.calibrate.measure.gemm import GemmCase
from kvsim.calibrate.measure.grid import plan_cases
from kvsim.cli.calibrate_report import found_sections, plan_sections
from kvsim.cli.render import emit
from kvsim.units import GIB, MIB
from tests.support.planted import H200, PlantedBench, measured


def planted_values(bench, way="loop"):
    decode, launches = {"loop": "decode_paged", "kernels": "decode"}[way], {}
    if way == "loop":
        known = bench.launches
        launches = {"launch_seconds": known.layer + known.attention}
        launches["sequence_launch_seconds"] = known.sequence
    return launches | {
        "weight_bytes_per_s": bench.weights,
        "flops_per_s": bench.flops,
        "norm": bench.norm,
        "layer_seconds": bench.layer + bench.decode_start,
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
        layer=300e-6, launches=NO_LAUNCHES, decode_start=40e-6, head=2e-6,
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
        assert getattr(found.coefficients["loop"], name) == pytest.approx(planted, rel=0.04), name
    (worst,) = found.parts["loop decode"].outliers(beyond=0.25)
    assert worst.startswith(f"{rows[at].case.label}: {'-' if factor > 1 else '+'}")


def test_fp8_products_and_links_are_fitted_where_they_were_measured(tmp_path):
    _, loop = measured(tmp_path, PlantedBench(), replace(H200, count=4))
    profile = kvsim.find_accelerator(tmp_path / "card.kernels.yaml")
    rates = profile.coefficients
    assert loop.coefficients.collectives[2].seconds == pytest.approx(35e-6, rel=0.02)
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
        if case.rotates and isinstance(case, GemmCase | DecodeCase):
            each = case.moved_bytes if isinstance(case, DecodeCase) else case.n * case.k
            bytes_a_set = each * (1 if isinstance(case, DecodeCase) else case.element_bytes)
            rotated = bytes_a_set * case.sets
            reached = 4 * H200.l2_bytes if case.sets < 256 else 2 * H200.l2_bytes
            assert rotated >= reached, case.label


def test_a_gpu_whose_cache_is_larger_than_it_says_is_not_read_from_it():
    """ROCm reports the 4 MiB of its L2, and MI300X has 256 MiB behind it."""
    mi300x = replace(H200, name="AMD Instinct MI300X", l2_bytes=4 * MIB)
    for case in plan_cases(mi300x, quick=False).cases:
        if case.rotates and isinstance(case, GemmCase | DecodeCase):
            weights = case.n * case.k * case.element_bytes if isinstance(case, GemmCase) else 0
            assert (weights or case.moved_bytes) * case.sets >= 512 * MIB, case.label


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
