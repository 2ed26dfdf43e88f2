"""The twin: real tensors behind the simulator's own scheduler and allocator."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import needs

needs.need("torch")
import torch

from kvsim.calibrate.fit import predict
from kvsim.calibrate.measure.kernels import Kernels
from kvsim.calibrate.twin import gathered as twin_gathered
from kvsim.calibrate.twin import validate as twin_command
from kvsim.calibrate.twin.blueprint import Blueprint, tiny_model
from kvsim.calibrate.twin.clock import StepSample
from kvsim.calibrate.twin.decoder import Decoder
from kvsim.calibrate.twin.device import Device
from kvsim.calibrate.twin.gathered import groups_of_like_length
from kvsim.calibrate.twin.memory import GATHER_BYTES, workspace_bytes
from kvsim.calibrate.twin.paged import BlockPool
from kvsim.calibrate.twin.questions import Question
from kvsim.calibrate.twin.serve import Twin
from kvsim.calibrate.twin.validate import ValidationRequest, validate
from kvsim.calibrate.twin.warmup import fit_samples, step_rows
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.cli import main
from kvsim.errors import (
    InputError,
    InvariantError,
    MissingExtraError,
    UnsupportedError,
)
from kvsim.figures.measured import validation_page
from kvsim.memory.tensors import parameter_count
from kvsim.runs.simulate import run_setup
from kvsim.simulator.prepare import prepare
from kvsim.simulator.request import Request
from kvsim.simulator.scenario import MemorySpec, Scenario
from kvsim.specs.attention import FullAttention
from kvsim.specs.hardware import (
    AcceleratorProfile,
    ByteQuantity,
    HostCost,
    Interconnect,
    Quantity,
    StepCoefficients,
)
from kvsim.specs.model import DenseMlp, LayerGroup, ModelSpec
from kvsim.steptime.model import StepLoad

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Two threads on a machine that others use wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_model(*, gpt2=False):
    """Two layers of grouped queries, or GPT-2's kind with biases and positions."""
    cache = FullAttention(
        heads=4, kv_heads=4 if gpt2 else 2, key_dim=8, value_dim=8, bias=gpt2, output_bias=gpt2
    )
    mlp = DenseMlp(intermediate_size=48, gated=not gpt2, bias=gpt2)
    return ModelSpec(
        name="small",
        hidden_size=32,
        vocab_size=64,
        position_embeddings=128 if gpt2 else 0,
        max_position_embeddings=128,
        tie_embeddings=gpt2,
        dtype="fp32",
        layer_groups=(LayerGroup(name="full", layers=(0, 1), caches=(cache,), mlp=mlp),),
    )


def sheet(coefficients=None):
    rate = Quantity(value=1e11, source="test")
    return AcceleratorProfile(
        name="test device",
        vendor="unknown",
        advertised_memory_gb=8,
        memory=ByteQuantity(value=8 * 2**30, source="test"),
        bandwidth=Quantity(value=2e10, source="test"),
        flops={"bf16": rate, "fp32": rate},
        interconnect=Interconnect(name="none", bytes_per_s=0),
        coefficients=coefficients,
    )


PLAIN = {"dtype": "fp32", "max_model_len": 96, "enable_prefix_caching": False}


def scenario(*, num_blocks=64, requests=12, policy="vllm-v1", **parts):
    content = {
        "model": "small",
        "accelerator": "test device",
        "engine": {
            "name": "sglang",  # which takes blocks of any size
            "dtype": "fp32",
            "max_num_seqs": 8,
            "max_num_batched_tokens": 32,
            "max_model_len": 96,
            "num_gpu_blocks_override": num_blocks,
            "block_size": 4,
            "enable_prefix_caching": False,
        },
        "workload": {
            "arrivals": {"kind": "at_once"},
            "lengths": {
                "prompt": {"kind": "uniform", "low": 3, "high": 30},
                "output": {"kind": "uniform", "low": 2, "high": 20},
            },
            "requests": requests,
        },
        "scheduler": {"policy": policy},
    }
    return Scenario.model_validate(content | parts)


def served(question, model=None, seed=3):
    setup = prepare(question, model=model or small_model(), accelerator=sheet())
    return Twin(setup, Device(CPU)).serve(seed=seed), setup


@pytest.mark.parametrize(
    "model",
    [small_model(), small_model(gpt2=True), tiny_model()],
    ids=["grouped", "gpt2-like", "tiny"],
)
def test_the_decoder_has_the_parameters_that_the_plan_counts(model):
    decoder = Decoder(Blueprint.of(model), CPU, torch.float32)
    assert decoder.parameter_count == parameter_count(model)


class Naive:
    """Attention written out: scores, mask, softmax, weighted sum, one head at a time."""

    def __call__(self, layer, query, key, value):
        tokens, heads, dim = query.shape
        share = heads // key.shape[1]
        out = torch.empty_like(query)
        for head in range(heads):
            scores = query[:, head] @ key[:, head // share].T / dim**0.5
            above = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
            weights = scores.masked_fill(above, float("-inf")).softmax(-1)
            out[:, head] = weights @ value[:, head // share]
        return out


@pytest.mark.parametrize("gpt2", [False, True])
def test_what_the_twin_serves_is_what_computing_everything_at_once_generates(gpt2):
    """Chunked prefill, paged decode and preemption change no token."""
    model = small_model(gpt2=gpt2)
    run, setup = served(scenario(num_blocks=24), model)
    assert run.result.summary["preemptions"] > 0
    decoder = Decoder(Blueprint.of(setup.deployment.model), CPU, torch.float32)
    columns = run.result.columns
    for row, text in run.texts.items():
        prompt = int(columns["prompt_tokens"][row])
        assert len(text) == prompt + columns["output_tokens"][row]
        tokens = torch.tensor(text[:-1])
        positions = torch.arange(len(tokens))
        logits = decoder.logits(tokens, positions, Naive(), positions)
        assert logits.argmax(-1)[prompt - 1 :].tolist() == text[prompt:]


def test_the_same_seed_gives_the_same_texts_and_another_gives_others():
    first, second, third = (served(scenario(), seed=seed)[0].texts for seed in (1, 1, 2))
    assert first == second
    assert first != third


@pytest.mark.parametrize("policy", ["vllm-v1", "vllm-v0", "orca", "static", "sarathi"])
def test_the_twin_runs_the_very_steps_that_the_simulator_predicts(policy):
    """When everything arrives at once the schedule does not depend on how long steps take."""
    run, setup = served(scenario(num_blocks=30, policy=policy))
    predicted = run_setup(setup, 3)
    assert predicted.summary["completed"] == run.result.summary["completed"] == 12
    same = ("preemptions", "total_output_tokens", "recomputed_tokens")
    assert [run.result.summary[k] for k in same] == [predicted.summary[k] for k in same]
    steps = predicted.steps
    assert len(run.samples) == steps["steps"].sum()
    computed = sum(sample.load.tokens for sample in run.samples)
    assert computed == (steps["steps"] * steps["sequences"] + steps["prefill_tokens"]).sum()
    peak = predicted.kv_cache()["usage_peak"] * setup.num_blocks
    assert run.memory.peak_blocks == pytest.approx(peak)


def test_the_clock_moves_by_what_the_steps_took():
    run, _ = served(scenario())
    seconds = sum(sample.seconds for sample in run.samples)
    assert run.result.recording.end_seconds == pytest.approx(seconds)


def test_a_pool_that_disagrees_with_the_allocator_is_noticed():
    pool = BlockPool(Blueprint.of(small_model()), 4, 4, device=CPU, dtype=torch.float32)
    request = Request(0, 0.0, 4, 4)
    pool.allocate(request, 3)
    pool.check(3)
    with pytest.raises(InvariantError, match="allocator counts 2 blocks, tables hold 3"):
        pool.check(2)
    with pytest.raises(InvariantError, match="promised 6, with 1 free"):
        pool.allocate(request, 6)


def test_a_preempted_request_gives_its_blocks_back_even_when_it_runs_again_at_once():
    pool = BlockPool(Blueprint.of(small_model()), 4, 4, device=CPU, dtype=torch.float32)
    request = Request(0, 0.0, 4, 4)
    pool.allocate(request, 3)
    request.preemptions += 1
    pool.free_all_but([request])
    assert pool.held_blocks == 0


@given(st.lists(st.integers(1, 50), max_size=40), st.sampled_from([0.5, 1.0]))
def test_groups_are_a_partition_in_which_nobody_is_padded_beyond_the_share(lengths, share):
    groups = list(groups_of_like_length(lengths, 10**6, share))
    assert sorted(at for group in groups for at in group) == list(range(len(lengths)))
    for group in groups:
        contexts = [lengths[at] for at in group]
        assert share * max(contexts) <= min(contexts)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40), st.integers(1, 20_000))
def test_a_group_is_gathered_within_the_tokens_that_it_may_have(lengths, most):
    groups = list(groups_of_like_length(lengths, most))
    assert sorted(at for group in groups for at in group) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * max(lengths[at] for at in group)
        assert padded <= most or len(group) == 1


def test_small_gathers_change_no_token(monkeypatch):
    whole, _ = served(scenario(num_blocks=24))
    each = 2 * small_model().layer_groups[0].caches[0].kv_heads * 8 * 4
    monkeypatch.setattr(twin_gathered, "GATHER_BYTES", 20 * each)
    parts, _ = served(scenario(num_blocks=24))
    assert parts.texts == whole.texts
    assert len(parts.samples) == len(whole.samples)


def test_the_workspace_is_the_largest_moment_of_a_step():
    # Llama-2-7B in fp16, 2,048 tokens per step: 4 streams of 4,096 and 4 widths of 11,008
    question = scenario(
        engine={"dtype": "fp16", "max_num_batched_tokens": 2048, "max_model_len": 1024},
        memory={"num_blocks": 65, "block_size": 16},  # one of them is vLLM's null block
    )
    setup = prepare(question, model=find_model("llama2-7b"), accelerator=find_accelerator("h200"))
    assert setup.pool_slots == 64 * 16  # 16,384 bytes per token in a layer: 16 MiB
    assert workspace_bytes(setup, 2) == 2048 * 4 * (4096 + 11_008) * 2
    large = prepare(
        question.model_copy(update={"memory": MemorySpec(num_blocks=8192, block_size=16)}),
        model=find_model("llama2-7b"),
        accelerator=find_accelerator("h200"),
    )
    assert workspace_bytes(large, 2) == GATHER_BYTES == 512 * 2**20
    assert workspace_bytes(large, 2, gathers=False) == workspace_bytes(setup, 2)


# ---- the fit ------------------------------------------------------------------------------


KNOWN = StepCoefficients(
    engine="twin",
    source="made up",
    date="2026-01-01",
    weight_bytes_per_s=8e9,
    flops_per_s=3e10,
    kv_bytes_per_s=4e9,
    attention_flops_per_s=1e10,
    layer_seconds=2e-4,
    sequence_seconds=3e-5,
)


def loads():
    for batch in (1, 2, 4, 8, 16, 32):
        for context in (64, 256, 1024):
            yield StepLoad(batch, batch, kv_read_bytes=4096.0 * batch * context)
            pairs = context * (context + 1) / 2
            yield StepLoad(batch + context, batch + 1, 4096.0 * batch * context, pairs)


LAUNCHED = KNOWN.model_copy(update={"launch_seconds": 1e-3, "sequence_launch_seconds": 1e-5})


@pytest.mark.parametrize("launch", [0.0, 1e-3])
def test_the_fit_gives_known_coefficients_times_back(launch):
    """Of the planted decode steps some wait for the launches, 1 ms a layer, and some do not."""
    known = KNOWN.model_copy(update={"launch_seconds": launch})
    setup = prepare(scenario(), model=tiny_model(), accelerator=sheet(known))
    samples = [StepSample(load, setup.step_time.cost(load).seconds) for load in loads()]
    waiting = [setup.step_time.cost(load).launch_seconds > 0 for load in loads()]
    assert sum(waiting) == (8 if launch else 0)
    fitted = fit_samples(samples, setup.deployment, launches=launch > 0)
    assert fitted.launch_seconds == pytest.approx(launch, rel=0.02)
    again = prepare(scenario(), model=tiny_model(), accelerator=sheet(fitted)).step_time
    for sample in samples:
        assert again.cost(sample.load).seconds == pytest.approx(sample.seconds, rel=0.03)
    assert fitted.error_percent < 2
    assert fitted.engine == "twin"


def test_one_slow_step_in_ten_does_not_move_the_fit():
    setup = prepare(scenario(), model=tiny_model(), accelerator=sheet(KNOWN))
    samples = [StepSample(load, setup.step_time.cost(load).seconds) for load in loads()]
    noisy = [replace(s, seconds=5 * s.seconds) if i % 10 == 3 else s for i, s in enumerate(samples)]
    again = fit_samples(noisy, setup.deployment)
    model = prepare(scenario(), model=tiny_model(), accelerator=sheet(again)).step_time
    errors = [model.cost(s.load).seconds / s.seconds - 1 for s in samples]
    assert np.median(np.abs(errors)) < 0.05


@pytest.mark.parametrize("known", [KNOWN, LAUNCHED], ids=["replayed", "launched"])
def test_the_fit_and_the_simulator_read_coefficients_alike(known):
    """`kvsim.calibrate.fit.predict` and `StepTimeModel.cost` are two forms of one formula."""
    setup = prepare(scenario(), model=tiny_model(), accelerator=sheet(known))
    samples = [StepSample(load, 1.0) for load in loads()]
    columns = predict(step_rows(samples, setup.deployment), known)
    costs = [setup.step_time.cost(sample.load).seconds for sample in samples]
    np.testing.assert_allclose(columns, costs, rtol=1e-9)


def test_too_few_steps_are_refused():
    setup = prepare(scenario(), model=tiny_model(), accelerator=sheet())
    with pytest.raises(InputError, match="3 steps are too few"):
        fit_samples([StepSample(StepLoad(1, 1), 1.0)] * 3, setup.deployment)


# ---- validate -----------------------------------------------------------------------------


BAND_PERCENT = 25  # docs/accuracy.md


@pytest.fixture(scope="module")
def validation():
    """The first of three tries that is within the band: others may work on the machine, too."""
    for _ in range(3):
        found = validate(ValidationRequest(quick=True, loads=(0.5,), seed=1))
        (run,) = found.runs
        if run.step_errors.median_percent < BAND_PERCENT + found.drift_percent:
            break
    return found


@pytest.mark.slow
def test_predicted_and_measured_agree_within_the_stated_band(validation):
    """The band of docs/accuracy.md: a quarter, and what the machine itself drifted meanwhile."""
    (run,) = validation.runs
    band = BAND_PERCENT + validation.drift_percent
    assert run.pair("completed").predicted == run.pair("completed").measured == 40
    assert abs(run.step_errors.total_percent) < band
    assert run.step_errors.median_percent < band
    assert abs(run.pair("mean_e2el_ms").error_percent) < 2 * band
    assert abs(run.pair("output_throughput").error_percent) < band


def test_a_given_profile_predicts_and_nothing_is_calibrated(tmp_path):
    """A profile ten times too slow is believed, and found to be ten times too slow."""
    path = tmp_path / "slow.yaml"
    slow = KNOWN.model_copy(update={"layer_seconds": 1.0})
    path.write_text(json.dumps(sheet(slow).model_dump(mode="json", exclude_none=True)))
    question = tmp_path / "question.yaml"
    content = scenario(requests=3).model_dump(mode="json", exclude_none=True)
    content.pop("folder")
    content |= {"accelerator": "h100", "model": "twin-tiny"}
    question.write_text(json.dumps(content))
    found = validate(ValidationRequest(profile=str(path), scenario=str(question)))
    assert found.drift_percent is None
    assert found.profile.coefficients.layer_seconds == 1.0
    assert found.runs[0].step_errors.median_percent > 1000


@pytest.mark.slow
def test_no_serving_engines_host_cost_is_put_in_place_of_the_loops(tmp_path):
    """A measured profile keeps vLLM's host cost beside the loop's own; none of vLLM runs here."""
    costs = {"vllm": HostCost(host_seconds=0.9)}
    path = tmp_path / "card.yaml"
    profile = sheet(KNOWN.model_copy(update={"host_costs": costs, "layer_seconds": 1e-3}))
    path.write_text(json.dumps(profile.model_dump(mode="json", exclude_none=True)))
    found = validate(ValidationRequest(profile=str(path), loads=(0.5,), quick=True))
    assert found.runs[0].step_errors.median_percent < 1000


@pytest.mark.parametrize(
    ("rate", "seconds", "requests"),
    [(2.0, 60.0, 120), (0.1, 60.0, 48), (50.0, 60.0, 500), (2.0, None, 500), (None, 60.0, 500)],
)
def test_a_gpu_is_asked_for_as_much_as_comes_in_the_time_there_is(rate, seconds, requests):
    question = Question(500, (4, 8), (4, 8), 8, 64, None, seconds)
    asked = question.scenario(small_model(), "fp32", rate)
    assert asked.workload.limits.requests == requests


@pytest.mark.slow
def test_the_twin_holds_the_bytes_that_the_plan_says(validation):
    (run,) = validation.runs
    assert run.pair("weights_bytes").error_percent == 0
    assert run.pair("pool_bytes").error_percent == 0


@pytest.mark.slow
def test_the_record_is_json_and_its_page_holds_both_charts(validation):
    record = json.loads(json.dumps(validation.record()))
    assert {run["label"] for run in record["runs"]} == {validation.runs[0].label}
    groups = record["runs"][0]["step_groups"]
    assert sum(group["steps"] for group in groups) == validation.runs[0].steps
    pytest.importorskip("plotly")
    page = validation_page(record)
    assert "figure-steps" in page
    assert "figure-errors" in page
    assert "src=" not in page.split("</script>")[-1]


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"engine": PLAIN | {"enable_prefix_caching": True}}, "'prefix'"),
        ({"scheduler": {"preemption": "swap"}}, "swapping"),
        ({"run": {"max_seconds": 1.0}}, "a time limit"),
        ({"engine": PLAIN | {"kv_cache_dtype": "fp8"}}, "fp8"),
    ],
)
def test_what_the_twin_does_not_do_is_refused(parts, problem):
    with pytest.raises(UnsupportedError, match=problem):
        served(scenario(**parts))


@pytest.mark.parametrize(
    ("name", "why"), [("mixtral-8x7b", "not dense"), ("gemma2-9b", "plain full attention")]
)
def test_a_model_that_the_twin_cannot_build_is_refused(name, why):
    with pytest.raises(UnsupportedError, match=why):
        Blueprint.of(find_model(name))


def test_a_workload_that_cannot_be_is_blamed_on_the_scenarios_key():
    arrivals = {"kind": "closed_loop", "clients": 2, "think": {"kind": "fixed", "seconds": 0}}
    question = scenario()
    broken = {**question.workload.model_dump(), "arrivals": arrivals, "priorities": {0: 1, 1: 1}}
    question = Scenario.model_validate({**question.model_dump(), "workload": broken})
    with pytest.raises(InputError, match=r"^workload\.priorities: "):
        served(question)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="unknown device 'gpu0'"):
        Device.named("gpu0")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="sees no CUDA device"):
            Device.named("cuda")


def test_a_gpu_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Device.named("cuda:1").torch_device.index == 1
    with pytest.raises(InputError, match="there is no cuda:2: torch sees 2 of them; choose cuda:0"):
        Device.named("cuda:2")


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("cuda", RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), "ran out of"),
        ("cpu", RuntimeError("DefaultCPUAllocator: can't allocate memory"), "ran out of memory"),
        ("cuda", RuntimeError("CUDA error: unspecified launch failure\nmore"), "failed while"),
        ("cuda", RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), "ran out of memory while serving"),
        ("cuda", RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"), "failed while serving: CUBLAS"),
    ],
)
def test_a_device_that_fails_or_is_full_is_one_line(monkeypatch, kind, error, message):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Test")
    with (
        pytest.raises(UnsupportedError, match=message) as raised,
        Device(torch.device(kind)).answering("serving"),
    ):
        raise error
    assert "\n" not in str(raised.value)
    assert "while serving" in str(raised.value)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_mistake_of_ours_is_not_blamed_on_the_device(kind):
    with (
        pytest.raises(RuntimeError, match="mat1 and mat2"),
        Device(torch.device(kind)).answering("serving"),
    ):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("capability", "native", "served"),
    [
        ((7, 5), "bf16", "fp16"),  # no bf16: as it is calibrated
        ((8, 0), "bf16", "bf16"),
        ((8, 0), "fp16", "fp16"),
        ((9, 0), "fp32", "bf16"),  # GPT-2, which nobody serves in 32 bits
    ],
)
def test_a_gpu_computes_in_what_the_model_is_served_in(monkeypatch, capability, native, served):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert Device(torch.device("cuda")).dtype_for(native) == served
    assert Device(CPU).dtype_for(native) == "fp32"


@pytest.mark.parametrize(
    ("capability", "dtype"), [((9, 0), torch.bfloat16), ((7, 5), torch.float16)]
)
def test_an_unknown_gpu_is_tried_in_the_dtype_it_serves_in(monkeypatch, capability, dtype):
    """In fp32 its peak would be a fraction of what tensor cores do."""
    made, ones = [], torch.ones

    def on_the_cpu(*size, device, dtype):
        made.append((size, dtype))
        return ones(1, 1, dtype=dtype)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch, "ones", on_the_cpu)
    monkeypatch.setattr(Device, "_fastest", lambda self, work: work() is None or 2e-3)
    device = Device(torch.device("cuda"))
    rate = device._product_rate(device.dtype_for("bf16"))
    assert made == [((8192, 8192), dtype)]
    assert rate == pytest.approx(2 * 8192**3 / 2e-3)


def test_a_given_profile_does_not_let_the_first_request_pay_for_what_is_done_once(monkeypatch):
    from types import SimpleNamespace

    from kvsim.calibrate.twin import validate, warmup

    rounds = []
    monkeypatch.setattr(warmup, "WarmUp", lambda twin, quick: rounds.append((twin, quick)))
    profile = find_accelerator("h100")
    case = SimpleNamespace(profile=profile)
    request = ValidationRequest(profile="h100")
    calibration = validate._Calibration.of(case, "twin", request, lambda line: None)
    assert rounds == [("twin", True)]
    assert calibration.warm_up is None


def test_a_model_that_does_not_fit_is_refused_before_it_is_built():
    device = Device(CPU)
    with pytest.raises(UnsupportedError, match="choose a smaller model"):
        device.refuse_if_too_large(2**60, "this")


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(twin_command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"kvsim\[calibrate\]"):
        validate(ValidationRequest())


def test_torch_is_imported_by_nothing_but_the_modules_made_of_it():
    """Their commands, their figures and the log's reader start without it."""
    modules = (
        "kvsim.calibrate.twin.validate, kvsim.calibrate.study.study_caches,"
        " kvsim.calibrate.served.engine_log,"
        " kvsim.calibrate.outputs, kvsim.figures.measured, kvsim.figures.study,"
        " kvsim.cli.validate, kvsim.cli.study"
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def run_cli(*arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


def test_a_missing_device_is_one_line_on_the_command_line(capsys):
    assert run_cli("validate", "--device", "toaster") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["kvsim: --device: unknown device 'toaster'; choose cpu or cuda"]


# ---- a validation that is cut -------------------------------------------------------------


@pytest.mark.parametrize("loads", [1, 3])
def test_an_interrupt_keeps_the_loads_that_were_served(monkeypatch, loads):
    from types import SimpleNamespace

    from kvsim.calibrate.twin import serve, validate

    class Twin:
        def __init__(self, setup, device):
            self.served = 0
            self.kernels = Kernels("plain", "plain")

        def serve(self, setup, seed):
            self.served += 1
            if self.served == loads:
                raise KeyboardInterrupt
            return f"run {self.served}"

    calibration = SimpleNamespace(profile=lambda: None, again=lambda: None)
    monkeypatch.setattr(serve, "Twin", Twin)
    monkeypatch.setattr(validate._Calibration, "of", lambda *_: calibration)
    case = SimpleNamespace(
        model=SimpleNamespace(name="tiny"),
        scenario=lambda: None,
        setup=lambda scenario: SimpleNamespace(num_blocks=9),
        questions=lambda request, profile: [(f"load {n}", None) for n in (1, 2, 3)],
    )

    def served():
        device = SimpleNamespace(name="cpu")
        return validate._serve(case, device, ValidationRequest(), lambda line: None)

    if loads == 1:
        with pytest.raises(KeyboardInterrupt):
            served()
    else:
        expected = [("load 1", None, "run 1"), ("load 2", None, "run 2")]
        words = "attention: plain; norms, rotary, gates: plain"
        assert served() == (expected, words, calibration, True)
