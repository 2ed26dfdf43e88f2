"""What goes wrong while a device is timed: memory, captures, interrupts, another's rows."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kvsim.calibrate.measure.attention import DecodeCase
from kvsim.calibrate.measure.bandwidth import ReadCase
from kvsim.calibrate.measure.calibrate import Outputs, measure
from kvsim.calibrate.measure.gemm import GemmCase
from kvsim.calibrate.measure.grid import Plan, plan_cases
from kvsim.calibrate.measure.kernels import Kernels
from kvsim.calibrate.measure.origin import Origin
from kvsim.calibrate.measure.overhead import HostCase, LaunchCase
from kvsim.calibrate.measure.session import COLUMNS, Session, kept_timings
from kvsim.calibrate.measure.timing import QUICK_PACE, is_out_of_memory
from kvsim.errors import InputError, UnsupportedError
from kvsim.units import GIB, MIB
from tests.support.planted import H200, PlantedBench, measured


@dataclass
class TroubledBench:
    """A bench that raises when `raises(case, calls so far)` gives an error."""

    raises: object
    calls: int = 0
    released: int = 0
    full: str = "1 GiB of 80 GiB are free, torch holds 2 GiB"
    notes = ()

    def memory(self):
        return self.full

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
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError(
            "NCCL error: unhandled cuda error, Last error: Cuda failure 2 'out of memory'"
        ),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "mps", "cublas", "nccl", "python"],
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
    assert session.bench.released == 3  # the first size twice
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


def test_what_lay_in_the_way_is_given_back_before_anything_shrinks(tmp_path):
    case = DecodeCase(dtype="bf16", batch=64, context=4096, kv_heads=8)
    session, plan = session_of(
        tmp_path, lambda _, calls: MemoryError() if calls == 1 else None, [case]
    )
    assert session.run(plan)[0].case == case
    assert session.shrunk == []


def test_no_case_shrinks_into_a_cache(tmp_path):
    case = DecodeCase(dtype="bf16", batch=8, context=4096, kv_heads=8, sets=4)  # 512 MiB
    session, plan = session_of(tmp_path, lambda *_: MemoryError(), [case])
    session.least_bytes = 200 * MIB
    tried = []
    session.bench.raises = lambda attempt, _: tried.append(attempt.buffer_bytes) or MemoryError()
    assert session.run(plan) == []
    assert tried == [512 * MIB, 512 * MIB, 256 * MIB]
    small = replace(case, batch=1, sets=1)  # never that large: it may be halved
    tried.clear()
    Session(session.bench, tmp_path / "b.csv", least_bytes=200 * MIB).run(
        replace(plan, cases=(small,))
    )
    assert min(tried) == small.buffer_bytes


def test_three_cases_in_a_row_without_room_end_the_session_with_the_figures(tmp_path):
    cases = [LaunchCase(dtype="bf16")]
    cases += [HostCase(dtype="bf16", sequences=n, vocabulary=8) for n in (1, 2, 4, 8)]
    session, plan = session_of(
        tmp_path, lambda case, _: MemoryError() if isinstance(case, HostCase) else None, cases
    )
    said = r"3 cases in a row fit at no size \(1 GiB of 80 GiB are free.*\); the 1 rows before"
    with pytest.raises(UnsupportedError, match=said):
        session.run(plan)
    assert len(csv_rows(session.csv_path)) == 1


def test_a_device_that_is_lost_while_memory_is_given_back_is_one_line(tmp_path):
    session, plan = session_of(tmp_path, lambda *_: MemoryError(), [LaunchCase(dtype="bf16")])

    def lost():
        raise RuntimeError("CUDA error: unspecified launch failure\nsee the manual")

    session.bench.release = lost
    said = r"the device failed at launch bf16.* \(CUDA error: unspecified launch failure\); the 0"
    with pytest.raises(UnsupportedError, match=said):
        session.run(plan)


def test_without_graphs_there_is_a_profile_of_the_loop_alone(tmp_path):
    """A failed capture leaves launches behind, and those tell nothing of the kernels."""

    class Launched(PlantedBench):
        def time(self, case):
            return replace(super().time(case), captured=case.kind == "decode")

        notes = ("a CUDA graph could not be captured",)

    found, _ = measured(tmp_path, Launched())
    assert set(found["coefficients"]) == {"loop"}
    assert found["files"]["kernels_profile"] is None
    assert not (tmp_path / "card.kernels.yaml").exists()
    assert found["notes"][-2:] == [
        "a CUDA graph could not be captured",
        "too few rows were replayed from a CUDA graph: there is no profile of the kernels",
    ]


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


KERNELS = Kernels("one", "two")


def test_the_head_of_the_rows_says_whose_they_are_and_no_others_are_resumed(tmp_path):
    facts = replace(H200, uuid="6f2a")
    origin, path = Origin.of(facts, KERNELS), tmp_path / "rows.csv"
    plan = Plan(plan_cases(H200, quick=True).cases[:3], QUICK_PACE, "cuda")
    Session(TroubledBench(lambda *_: None), path, head=origin.head).run(plan)
    assert path.read_text().splitlines()[:6] == [
        "# device: NVIDIA H200",
        "# uuid: 6f2a",
        "# torch: 2.11.0+cu130",
        "# driver: driver 580.159.03, CUDA 13.0",
        "# kernels: attention: one; norms, rotary, gates: two",
        ",".join(COLUMNS),
    ]
    assert len(kept_timings(path, origin)) == 3
    for change, said in (
        ({"uuid": "77"}, "its rows are of uuid '6f2a', and this is '77'"),
        ({"name": "NVIDIA H100"}, "its rows are of device 'NVIDIA H200', and this is 'NVIDIA H100"),
        ({"torch_version": "2.5.0"}, "its rows are of torch '2.11.0"),
        ({"driver": "driver 590"}, "its rows are of driver 'driver 580"),
    ):
        with pytest.raises(InputError, match=said):
            kept_timings(path, Origin.of(replace(facts, **change), KERNELS))
    with pytest.raises(InputError, match="its rows are of kernels 'attention: one; "):
        kept_timings(path, Origin.of(facts, Kernels("another", "two")))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[2:]))
    with pytest.raises(InputError, match="its head does not say device"):
        kept_timings(path, origin)


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
    with pytest.raises(InputError, match=r"rows of .* are too few to fit"):
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
