"""``kvsim calibrate`` on a device: clocks, what is found, and the cases run in torch on a CPU."""

import csv
import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import kvsim
from kvsim.calibrate.measure.attention import DecodeCase, PagedDecodeCase, PrefillCase
from kvsim.calibrate.measure.case import LocalCase, summarise
from kvsim.calibrate.measure.collective import AllReduceCase
from kvsim.calibrate.measure.device import find_device, shipped_profile
from kvsim.calibrate.measure.gemm import GemmCase
from kvsim.calibrate.measure.grid import plan_cases
from kvsim.calibrate.measure.layers import LayersCase, ReplayedLayersCase
from kvsim.calibrate.measure.overhead import HostCase
from kvsim.calibrate.measure.timing import QUICK_PACE, Pace, TorchBench
from kvsim.calibrate.measure.workspace import steady_torch
from kvsim.calibrate.shapes import LLAMA_3_8B
from kvsim.cli import main
from kvsim.errors import InputError, MissingExtraError, UnsupportedError
from kvsim.units import GIB, MIB
from tests.support.planted import H200


def csv_rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


# --- samples and clocks --------------------------------------------------------------------


def test_a_timing_is_the_median_with_quartiles_and_counts_what_lies_far_out():
    timing = summarise([1.0, 1.1, 1.2, 1.3, 1.4, 9.0, 0.01])
    assert timing.seconds == 1.2
    assert (timing.low_seconds, timing.high_seconds) == pytest.approx((1.05, 1.35))
    assert timing.outliers == 2
    assert timing.spread == pytest.approx(0.25)


class FakeCuda:
    """As much of ``torch.cuda`` as timing and capturing use, with a log of what was done."""

    def __init__(self, log, capture_error=None):
        self.log, self.capture_error = log, capture_error
        self.clock = 0.0

    def Stream(self):  # noqa: N802 - torch's name
        return SimpleNamespace(wait_stream=lambda other: self.log.append("wait"))

    def current_stream(self):
        return self.Stream()

    def stream(self, side):
        return _Entered(self.log, "side")

    def CUDAGraph(self):  # noqa: N802 - torch's name
        return SimpleNamespace(replay=lambda: self.log.append("replay"))

    def graph(self, graph):
        return _Entered(self.log, "capture", self.capture_error)

    def Event(self, enable_timing):  # noqa: N802 - torch's name
        assert enable_timing
        event = SimpleNamespace(at=None, synchronize=lambda: None)
        event.record = lambda: setattr(event, "at", self.clock)
        event.elapsed_time = lambda other: other.at - event.at
        return event

    def synchronize(self):
        self.log.append("synchronize")


class _Entered:
    def __init__(self, log, name, error=None):
        self.log, self.name, self.error = log, name, error

    def __enter__(self):
        self.log.append(f"+{self.name}")

    def __exit__(self, *_):
        self.log.append(f"-{self.name}")
        if self.error is not None:
            raise self.error


def cuda_bench(capture_error=None):
    """A bench over a fake ``torch.cuda``, and its log."""
    from kvsim.calibrate.measure.timing import _CudaClock

    log = []
    torch = SimpleNamespace(cuda=FakeCuda(log, capture_error))
    bench = object.__new__(TorchBench)
    bench.space = SimpleNamespace(torch=torch, device=SimpleNamespace(type="cuda"))
    bench.space.keep_memory = lambda: log.append("keep memory")
    bench._clock, bench._pace = _CudaClock(torch), Pace(0.01, 3, 5)
    bench._capture_failure = ""
    return bench, log


def test_a_graph_is_captured_after_a_warm_up_on_a_side_stream():
    bench, log = cuda_bench()
    replay = bench._replay([lambda: log.append("call")] * 3)
    capture = ["+capture", "call", "call", "call", "-capture"]
    assert log == ["wait", "+side", "call", "call", "-side", "wait", *capture]
    replay()
    assert log[-1] == "replay"


def test_a_call_that_cannot_be_captured_is_launched_instead():
    bench, log = cuda_bench(RuntimeError("operation not permitted when stream is capturing\nmore"))
    assert bench._replay([lambda: None]) is None
    assert log[-2:] == ["keep memory", "synchronize"]
    before = len(log)
    assert bench._replay([lambda: None]) is None  # and no second one is tried
    assert len(log) == before
    assert "(operation not permitted when stream is capturing)" in bench.notes[0]
    short, _ = cuda_bench(RuntimeError("CUDA out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        short._replay([lambda: None])


def test_events_are_milliseconds_and_a_run_is_shared_by_its_calls():
    bench, _ = cuda_bench()
    cuda = bench.space.torch.cuda

    def run():
        cuda.clock += 6.0  # milliseconds

    from kvsim.calibrate.measure.timing import _Run

    timing = bench._sample(_Run(run, 3, captured=True), bench._clock)
    assert timing.seconds == pytest.approx(2e-3)
    assert timing.captured


def test_ranks_that_do_not_meet_are_started_once_and_leave_the_catalogues_links(monkeypatch):
    attempts = []

    def fail(ranks, kind, samples):
        attempts.append(ranks)
        raise UnsupportedError("all-reduce over 2 ranks failed: no route")

    monkeypatch.setattr("kvsim.calibrate.measure.timing.all_reduce_timings", fail)
    bench, _ = cuda_bench()
    bench._links, bench.space.release = {}, lambda: None
    for message in (4096, 8192):
        case = AllReduceCase(dtype="bf16", ranks=2, message=message)
        assert case.optional
        with pytest.raises(UnsupportedError, match="no route"):
            bench.time(case)
    assert attempts == [2]


class FakeBackends:
    """The switch of cuDNN's attention, and what it was set to."""

    def __init__(self, enabled):
        self.states = [enabled]

    def cudnn_sdp_enabled(self):
        return self.states[-1]

    def enable_cudnn_sdp(self, enabled):
        self.states.append(enabled)


@pytest.mark.parametrize(
    ("kind", "before", "states", "threads"),
    [
        ("cuda", True, [True, False, True], 8),
        ("cuda", False, [False], 8),
        ("cpu", True, [True], 1),
    ],
)
def test_torch_is_held_still_while_something_is_timed(kind, before, states, threads):
    set_to = [8]
    backend = FakeBackends(before)
    torch = SimpleNamespace(
        backends=SimpleNamespace(cuda=backend),
        get_num_threads=lambda: set_to[-1],
        set_num_threads=set_to.append,
    )
    held = steady_torch(torch, kind)
    held.__enter__()
    assert backend.cudnn_sdp_enabled() is (before and kind == "cpu")
    assert set_to[-1] == threads
    held.__exit__(None, None, None)
    assert backend.states == states
    assert set_to[-1] == 8


# --- which device --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gib", "profile"),
    [
        ("NVIDIA H200", 139.8, "H200-SXM-141GB"),
        ("NVIDIA H100 80GB HBM3", 79.19, "H100-SXM5-80GB"),
        ("NVIDIA GeForce RTX 4090", 23.6, "RTX4090"),
        ("NVIDIA H200 NVL", 139.8, None),
        ("NVIDIA GeForce RTX 4090 D", 23.6, None),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 94.9, "RTXPRO6000-Blackwell-Server"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 94.9, None),
        ("NVIDIA H100 80GB HBM3 MIG 7g.80gb", 79.0, "H100-SXM5-80GB"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9.8, None),
        ("NVIDIA A10-12Q", 12.0, None),
        ("NVIDIA Unheard-of", 80.0, None),
    ],
)
def test_the_catalogues_card_is_found_by_the_drivers_name_and_memory(name, gib, profile):
    facts = replace(H200, name=name, memory_bytes=round(gib * GIB))
    found = shipped_profile(facts)
    assert (found and found.name) == profile


def fake_torch(capability, hip=None):
    properties = SimpleNamespace(name="NVIDIA Test", L2_cache_size=50 * MIB, uuid=None)
    cuda = SimpleNamespace(
        is_available=lambda: True,
        init=lambda: None,
        get_device_properties=lambda index: properties,
        mem_get_info=lambda index: (70 * GIB, 79 * GIB),
        device_count=lambda: 2,
        get_device_capability=lambda index: capability,
    )
    version = SimpleNamespace(cuda="12.8", hip=hip)
    return SimpleNamespace(
        cuda=cuda, version=version, backends=SimpleNamespace(), __version__="2.11.0"
    )


@pytest.mark.parametrize(
    ("capability", "hip", "dtypes"),
    [
        ((7, 5), None, ("fp16",)),
        ((8, 0), None, ("bf16", "fp16")),
        ((8, 9), None, ("bf16", "fp16", "fp8")),
        ((9, 0), None, ("bf16", "fp16", "fp8")),
        ((9, 4), "6.2", ("bf16", "fp16")),
    ],
)
def test_a_gpu_is_described_without_a_tensor(monkeypatch, capability, hip, dtypes):
    monkeypatch.setattr(
        "kvsim.calibrate.measure.device.load_torch", lambda: fake_torch(capability, hip)
    )
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    facts = find_device()
    assert (facts.kind, facts.count, facts.dtypes) == ("cuda", 2, dtypes)
    assert facts.context_bytes == 9 * GIB
    assert facts.l2_bytes == 50 * MIB
    assert facts.driver == (f"HIP {hip}" if hip else "CUDA 12.8")
    with pytest.raises(InputError) as raised:
        find_device("mps")
    assert str(raised.value).endswith("sees no mps device; there is cuda and cpu")
    assert [find_device(name).torch_name for name in ("cuda", "cuda:1", "cpu")] == [
        "cuda:0", "cuda:1", "cpu",
    ]  # fmt: skip
    for name, said in (
        ("cuda:2", "there is no cuda:2: torch sees 2 of them; choose cuda:0 to cuda:1"),
        ("toaster", "'toaster' is no device; choose cuda, cuda:1, cpu or mps"),
        ("cpu:1", "'cpu:1' is no device"),
    ):
        with pytest.raises(InputError, match=said):
            find_device(name)


def test_a_gpu_that_does_not_answer_is_one_line(monkeypatch):
    def lost(index):
        raise RuntimeError("CUDA error: device lost\nmore")

    torch = fake_torch((9, 0))
    torch.cuda.mem_get_info = lost
    monkeypatch.setattr("kvsim.calibrate.measure.device.load_torch", lambda: torch)
    with pytest.raises(UnsupportedError) as raised:
        find_device("cuda")
    assert str(raised.value) == "the cuda device does not answer: CUDA error: device lost"


def tool(folder, name, prints, code=0):
    """A program of the machine, for the time of a test."""
    script = folder / name
    script.write_text(f"#!/bin/sh\necho '{prints}'\nexit {code}\n")
    script.chmod(0o755)


@pytest.mark.parametrize(
    ("prints", "code", "software", "clocks"),
    [
        (
            "570.1, 1980 MHz, 1980 MHz, 2619 MHz, 700.00 W",
            0,
            "driver 570.1, CUDA 12.8",
            "clocks.sm 1980 MHz, clocks.max.sm 1980 MHz, clocks.mem 2619 MHz, power.limit 700.00 W",
        ),
        ("570.1, 1980 MHz", 0, "CUDA 12.8", ""),  # of a driver that answers less
        ("Failed to initialize NVML, a, b, c, d", 9, "CUDA 12.8", ""),
    ],
)
def test_the_driver_says_its_version_and_clocks(
    monkeypatch, tmp_path, prints, code, software, clocks
):
    tool(tmp_path, "nvidia-smi", prints, code)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("kvsim.calibrate.measure.device.load_torch", lambda: fake_torch((9, 0)))
    facts = find_device("cuda")
    assert (facts.driver, facts.clocks) == (software, clocks)


@pytest.mark.parametrize(
    ("prints", "code", "name"), [("Apple M3 Max", 0, "Apple M3 Max"), ("?", 1, "Apple GPU")]
)
def test_a_mac_is_what_torch_and_sysctl_say(monkeypatch, tmp_path, prints, code, name):
    tool(tmp_path, "sysctl", prints, code)
    monkeypatch.setenv("PATH", str(tmp_path))
    torch = fake_torch((9, 0))
    torch.cuda.is_available = lambda: False
    torch.backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: True))
    torch.mps = SimpleNamespace(
        recommended_max_memory=lambda: 48 * GIB, driver_allocated_memory=lambda: GIB
    )
    monkeypatch.setattr("kvsim.calibrate.measure.device.load_torch", lambda: torch)
    facts = find_device()
    assert (facts.kind, facts.name, facts.count) == ("mps", name, 1)
    assert (facts.memory_bytes, facts.free_bytes) == (48 * GIB, 47 * GIB)
    assert facts.dtype == "fp16"


def test_without_torch_one_line_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError):
        find_device()
    with pytest.raises(SystemExit) as left:
        main(["calibrate"])
    assert left.value.code == 2
    message = capsys.readouterr().err.strip()
    assert message.splitlines() == [message]
    assert "pip install 'kvsim[calibrate]'" in message


# --- in torch, on this CPU -----------------------------------------------------------------


@pytest.fixture
def run(run_kvsim):
    """Run kvsim in this process: (exit code, stdout, stderr)."""
    return run_kvsim


@dataclass(frozen=True, slots=True, kw_only=True)
class CountingCase(LocalCase):
    """Three calls that count themselves."""

    kind = "counting"
    counts: list

    @property
    def buffer_bytes(self):
        return 0.0

    def calls(self, space):
        def count(at):
            self.counts[at] += 1

        return [lambda at=at: count(at) for at in range(len(self.counts))]


def test_rotated_calls_take_equal_turns(torch):
    counts = [0, 0, 0]
    timing = TorchBench("cpu", QUICK_PACE).time(CountingCase(dtype="fp32", counts=counts))
    assert counts[0] > timing.samples
    assert len(set(counts)) == 1
    assert timing.samples >= 3
    assert not timing.captured


def attended(torch, query, keys, values):
    """Attention by its definition, in float64."""
    query, keys, values = (tensor.double() for tensor in (query, keys, values))
    weights = (query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    return weights @ values


def test_decode_attention_attends_contiguous_and_paged(torch, monkeypatch):
    sizes = {"dtype": "fp32", "batch": 3, "context": 64, "kv_heads": 2, "head_dim": 16, "sets": 2}
    space = TorchBench("cpu", QUICK_PACE).space
    query = torch.randn(3, 2, 4, 16)
    monkeypatch.setattr(space, "random", lambda shape, dtype: query.view(*shape))
    for number, call in enumerate(DecodeCase(**sizes).calls(space)):
        caches = space.views(4, (3, 2, 64, 16), "fp32")
        want = attended(torch, query, *caches[2 * number : 2 * number + 2])
        torch.testing.assert_close(call().double(), want, rtol=1e-4, atol=1e-5)


def test_paged_decode_attends_to_every_sequences_own_blocks(torch):
    case = PagedDecodeCase(dtype="fp32", batch=3, context=64, kv_heads=2, head_dim=16, sets=2)
    assert case.lengths == [43, 64, 85]
    space = TorchBench("cpu", QUICK_PACE).space
    tables = case.tables(space)
    assert sorted(block for table in tables for block in table) == list(range(3 + 4 + 6))
    step = case.step(space, tables)
    keys, values = (
        each.flatten(1, 2).transpose(1, 2) for each in space.views(2, (2, 13, 16, 2, 16), "fp32")
    )
    query, new_key, new_value = torch.randn(3, 8, 16), torch.randn(3, 2, 16), torch.randn(3, 2, 16)

    for layer in range(case.sets):
        found = step(layer, query, new_key, new_value)
        for row, (table, length) in enumerate(zip(tables, case.lengths, strict=True)):
            slots = torch.tensor([16 * block + at for block in table for at in range(16)])[:length]
            mine, theirs = keys[layer][:, slots], values[layer][:, slots]
            torch.testing.assert_close(mine[:, -1], new_key[row])
            torch.testing.assert_close(theirs[:, -1], new_value[row])
            want = attended(torch, query[row].view(2, 4, 16), mine, theirs).reshape(8, 16)
            torch.testing.assert_close(found[row].double(), want, rtol=1e-4, atol=1e-5)


def test_the_host_is_timed_in_the_twins_own_step(torch):
    space = TorchBench("cpu", QUICK_PACE).space
    case = HostCase(dtype="fp32", sequences=5, vocabulary=32)
    (step,) = case.calls(space)
    engine = step.func.__self__
    for _ in range(3):
        step()
    assert engine.pool.held_blocks == 5 * 1024 // 16
    assert {len(text) for text in engine.texts.values()} == {1024 + 3}
    assert engine.decoder.shape.layers == 0


def test_fp8_blocks_are_gathered_and_widened(torch):
    space = TorchBench("cpu", QUICK_PACE).space
    case = PagedDecodeCase(dtype="fp8", batch=2, context=32, kv_heads=2, head_dim=16, sets=1)
    found = case.calls(space)[0]()
    assert found.dtype == torch.bfloat16
    assert found.shape == (2, 2, 4, 16)
    assert torch.isfinite(found).all()


def test_a_case_counts_the_bytes_and_flops_that_torch_moves(torch):
    space = TorchBench("cpu", QUICK_PACE).space
    shape = replace(
        LLAMA_3_8B, hidden_size=64, heads=4, kv_heads=2, intermediate_size=96, head_dim=16
    )
    layers = LayersCase(dtype="fp32", shape=shape, layers=3, tokens=5)
    logits = layers.calls(space)[0]()
    assert logits.shape == (1, 128)
    decoder = space.decoder(layers._blueprint(), "fp32")
    other = 2 * 128 * 64 + (1 + 2 * 3) * 64  # embedding, head, norms
    assert layers.moved_bytes == 4 * (decoder.parameter_count - other)
    gemm = GemmCase(dtype="bf16", m=5, n=7, k=11)
    assert gemm.calls(space)[0]().shape == (5, 7)
    assert gemm.moved_bytes == 2 * (7 * 11 + 5 * 11 + 5 * 7)
    assert gemm.flops == 2 * 5 * 7 * 11
    prefill = PrefillCase(dtype="fp32", batch=2, prompt=3, heads=4, head_dim=8)
    assert prefill.flops == 2 * 4 * (3 + 2 + 1) * 4 * 8
    assert prefill.calls(space)[0]().shape == (2, 4, 3, 8)
    assert ReplayedLayersCase(dtype="fp32", shape=shape, layers=3, tokens=5).captured


def test_all_reduce_is_timed_between_processes(torch):
    from kvsim.calibrate.measure.collective import all_reduce_timings

    if not torch.distributed.is_available():
        pytest.skip("this torch is built without collectives")
    launched, replayed, failure = all_reduce_timings(2, "cpu", 3, (4096, 65536))
    assert sorted(launched) == [4096, 65536]
    assert all(timing.seconds > 0 and timing.samples == 3 for timing in launched.values())
    assert (replayed, failure) == ({}, "")


def test_ranks_that_take_too_long_are_ended(torch):
    from kvsim.calibrate.measure.collective import all_reduce_timings

    if not torch.distributed.is_available():
        pytest.skip("this torch is built without collectives")
    with pytest.raises(UnsupportedError, match=r"^all-reduce over 2 ranks failed: not done within"):
        all_reduce_timings(2, "cpu", 10**9, (4096,), most_seconds=0.1)


class FakeLink:
    """As much of torch as a rank uses, with a clock that every all-reduce moves."""

    def __init__(self, launch, device, capture_error=None):
        self.clock, self.device, self.is_capturing, self.inside = 0.0, device, False, 0
        self.launch = launch
        graph = SimpleNamespace(replay=lambda: self.work(self.inside))
        self.bfloat16, self.zeros = SimpleNamespace(itemsize=2), lambda *_, **__: "message"
        self.distributed = SimpleNamespace(all_reduce=self.all_reduce, barrier=lambda: None)
        self.cuda = SimpleNamespace(
            CUDAGraph=lambda: graph, graph=self.capturing, synchronize=lambda: None,
            Event=lambda enable_timing: self.event(),
        )  # fmt: skip
        self.capture_error = capture_error

    def work(self, count):
        self.clock += count * self.device

    def all_reduce(self, message):
        if self.is_capturing:
            self.inside += 1
        else:
            self.clock += self.launch

    @contextmanager
    def capturing(self, graph):
        self.is_capturing, self.inside = True, 0
        yield
        self.is_capturing = False
        if self.capture_error is not None:
            raise self.capture_error

    def event(self):
        event = SimpleNamespace(at=None, synchronize=lambda: None)
        event.record = lambda: setattr(event, "at", self.clock)
        event.elapsed_time = lambda other: 1e3 * (other.at - event.at)
        return event


def test_a_replayed_all_reduce_is_the_devices_time_and_a_launched_one_the_hosts(monkeypatch):
    from kvsim.calibrate.measure import collective

    torch = FakeLink(launch=30e-6, device=5e-6)
    monkeypatch.setattr(collective, "perf_counter", lambda: torch.clock)
    found = collective._Link(torch, "cuda", 3).timed((4096,))
    assert found["launched"][4096] == pytest.approx([30e-6] * 3)
    assert found["replayed"][4096] == pytest.approx([5e-6] * 3)
    assert found["failure"] == ""


def test_an_all_reduce_that_cannot_be_captured_is_said_and_not_tried_again(monkeypatch):
    from kvsim.calibrate.measure import collective

    torch = FakeLink(30e-6, 5e-6, RuntimeError("operation not permitted\nmore"))
    monkeypatch.setattr(collective, "perf_counter", lambda: torch.clock)
    found = collective._Link(torch, "cuda", 3).timed((4096, 8192))
    assert (found["replayed"], found["failure"]) == ({}, "operation not permitted")
    assert sorted(found["launched"]) == [4096, 8192]


def test_ranks_that_fail_say_why_in_one_line(torch):
    """A rank's own error arrives with a traceback of its own."""
    from kvsim.calibrate.measure.collective import all_reduce_timings

    if not torch.distributed.is_available() or torch.cuda.is_available():
        pytest.skip("asks a GPU of a torch that has none, and has collectives")
    with pytest.raises(UnsupportedError, match=r"^all-reduce over 2 ranks failed: .*\S$"):
        all_reduce_timings(2, "cuda", 3, (4096,))


def test_a_torch_without_collectives_is_told(monkeypatch):
    from kvsim.calibrate.measure import collective

    torch = SimpleNamespace(distributed=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(collective, "load_torch", lambda: torch)
    with pytest.raises(UnsupportedError, match="built without collectives"):
        collective.all_reduce_timings(2, "cpu", 3)


def test_a_dry_run_prints_the_grid_and_makes_no_tensor(torch, monkeypatch, tmp_path, run):
    def refuse(*_, **__):
        raise AssertionError("a tensor was made")

    for name in ("empty", "ones", "zeros", "rand", "randn", "tensor", "arange", "manual_seed"):
        monkeypatch.setattr(torch, name, refuse)
    monkeypatch.chdir(tmp_path)
    code, out, err = run("calibrate", "--dry-run", "--device", "cpu", "--format", "json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["expected_seconds"] > 0
    assert {"copy", "gemm", "layers", "decode", "decode_paged", "prefill"} <= {
        entry["kind"] for entry in content["grid"]
    }
    assert content["buffer_bytes"] == max(entry["buffer_bytes"] for entry in content["grid"])
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_command_says_what_it_kept(torch, monkeypatch, tmp_path, run):
    def stop(self, case):
        raise KeyboardInterrupt

    monkeypatch.setattr(TorchBench, "time", stop)
    code, out, err = run("calibrate", "--quick", "--device", "cpu", "-o", tmp_path / "a.yaml")
    assert (code, out) == (130, "")
    assert f"stopped: 0 rows are in {tmp_path / 'a.csv'}" in err
    assert "\nkind,dtype," in (tmp_path / "a.csv").read_text()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--device", "tpu"), "--device"),
        (("-o", "card.json"), "'card.json' is no name of a profile; write card.json.yaml"),
        (("--quick", "fit", "--gpu", "a100"), "--quick before fit would measure"),
        (("fit",), "--gpu"),
    ],
)
def test_a_bad_option_is_one_line(run, words, complaint):
    code, out, err = run("calibrate", *words)
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.strip().splitlines()) == 1


def test_no_cuda_says_what_there_is(torch, run):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    code, _, err = run("calibrate", "--device", "cuda")
    assert code == 2
    assert "sees no cuda device; there is" in err


@pytest.mark.slow
def test_calibrate_quick_writes_a_profile_that_every_command_takes(torch, tmp_path, run):
    path = tmp_path / "cpu.yaml"
    code, out, err = run("calibrate", "--quick", "--device", "cpu", "-o", path, "--format", "json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["skipped"] == content["shrunk"] == []
    for file in (path, tmp_path / "cpu.kernels.yaml"):
        profile = kvsim.find_accelerator(file)
        assert profile.coefficients.engine == "torch"
        assert f"torch {torch.__version__}" in profile.coefficients.source
        assert profile.memory_bytes == find_device("cpu").memory_bytes
    rows = csv_rows(tmp_path / "cpu.csv")
    assert len(rows) == len(plan_cases(find_device("cpu"), quick=True).cases)
    answer = kvsim.plan("qwen2.5-0.5b", str(path))
    assert answer.fits
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(
        f"model: qwen2.5-0.5b\naccelerator: {path}\n"
        "engine: {max_model_len: 512, max_num_seqs: 8}\n"
        "workload:\n  requests: 12\n  arrivals: {kind: poisson, rate: 1}\n"
        "  lengths:\n    prompt: {kind: fixed, tokens: 64}\n    output: {kind: fixed, tokens: 16}\n"
        "memory: {allocator: paged, num_blocks: 512, block_size: 16}\n"
    )
    result = kvsim.simulate(kvsim.load_scenario(scenario))
    assert result.summary["completed"] == 12
