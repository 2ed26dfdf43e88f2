"""Whose host costs price a step: by engine, release and asynchronous scheduling."""

import pytest

from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import ENGINE_NAMES, get_engine
from kvsim.engines.base import Deployment
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.hardware import HostCost, StepCoefficients
from kvsim.steptime.hosts import host_cost
from kvsim.steptime.model import StepLoad, StepTimeModel

FREE = {
    "engine": "vllm",
    "source": "made up",
    "date": "2026-01-01",
    "weight_bytes_per_s": 1e12,
    "flops_per_s": 1e15,
    "kv_bytes_per_s": 1e12,
    "attention_flops_per_s": 1e15,
    "layer_seconds": 0.0,
}


def cost_of(release, *, is_async, engine="vllm"):
    return host_cost(get_engine(engine, release), is_async=is_async)


def steps(cost, model="llama3-8b", **options):
    rates = StepCoefficients(**FREE, host_costs={"vllm": cost})
    deployment = Deployment(find_model(model), find_accelerator("h100"), EngineOptions(**options))
    return StepTimeModel.from_deployment(deployment, rates, engine=get_engine("vllm"))


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_every_engine_has_host_costs_with_a_source(name):
    assert cost_of("", is_async=False, engine=name).source


def test_releases_of_one_fit_are_priced_alike_and_those_of_another_are_not():
    assert cost_of("0.9.2", is_async=False) == cost_of("0.12.0", is_async=False)
    assert cost_of("0.20.0", is_async=True) == cost_of("0.23.0", is_async=True)
    found = [cost_of(r, is_async=r > "0.13") for r in ("0.15.1", "0.20.0")]
    old = [cost_of(r, is_async=False) for r in ("0.2.2", "0.5.0", "0.12.0")]
    assert len({repr(cost) for cost in (*found, *old)}) == 5


def test_a_release_that_nobody_measured_says_whose_costs_it_has():
    known, newer = cost_of("0.23.0", is_async=True), cost_of("0.33.0", is_async=True)
    assert "priced with" not in known.source
    assert "priced with 0.19 to 0.23's, with asynchronous scheduling" in newer.source
    assert newer.host_seconds == known.host_seconds
    off = cost_of("0.23.0", is_async=False)
    assert "priced with 0.8 to 0.13's, without asynchronous scheduling" in off.source


def test_a_last_release_holds_its_patches():
    """0.13.5 is 0.13's, and 0.23.4 is 0.23's."""
    assert cost_of("0.13.5", is_async=False) == cost_of("0.13.0", is_async=False)
    assert "priced with" not in cost_of("0.13.5", is_async=False).source
    assert "priced with" not in cost_of("0.23.4", is_async=True).source


def test_engines_of_2023_launch_every_kernel_of_a_decode_step():
    """Splitwise, Llama-2-70B on four A100: 44.5 ms a token; the kernels alone take 28."""
    model, card = find_model("llama2-70b"), find_accelerator("a100")
    deployment = Deployment(model, card, EngineOptions(tensor_parallel_size=4))
    old = StepTimeModel.from_deployment(deployment, engine=get_engine("vllm", "0.2.2"))
    new = StepTimeModel.from_deployment(deployment, engine=get_engine("vllm", "0.23.0"))
    load = StepLoad(1, 1, kv_read_bytes=600 * 81920)
    assert old.seconds(load) == pytest.approx(44.5e-3, rel=0.05)
    assert new.seconds(load) < 0.8 * old.seconds(load)


def test_a_step_that_no_graph_replays_takes_at_least_its_launches():
    cost = HostCost(host_seconds=0.0, launch_seconds=1e-3)
    prompt, decode = StepLoad(64, 1), StepLoad(8, 8)
    assert steps(cost).seconds(prompt) == pytest.approx(32 * 1e-3)  # 32 layers
    assert steps(cost).seconds(decode) == steps(HostCost(host_seconds=0.0)).seconds(decode) < 0.03
    eager = steps(cost, enforce_eager=True)
    assert eager.seconds(decode) == pytest.approx(32 * 1e-3)
    assert eager.cost(decode).bound_by == "host"
    long = StepLoad(100_000, 1)  # the device has more to do than the host to launch
    assert steps(cost).seconds(long) == steps(HostCost(host_seconds=0.0)).seconds(long)


def test_what_attention_reads_is_free_until_it_outlasts_the_launches():
    """32 layers of 1 ms; their weights take 15 ms, so 17 ms of reads go unnoticed."""
    cost = HostCost(host_seconds=2e-3, launch_seconds=1e-3)
    eager, replayed = steps(cost, enforce_eager=True), steps(cost)
    weights = replayed.cost(StepLoad(8, 8)).device_seconds
    assert 0.01 < weights < 0.03
    for reads, expected in ((0.0, 32e-3), (31e-3 - weights, 32e-3), (40e-3, weights + 40e-3)):
        load = StepLoad(8, 8, kv_read_bytes=reads * FREE["kv_bytes_per_s"])
        assert eager.seconds(load) == pytest.approx(expected + 2e-3)
        assert replayed.seconds(load) == pytest.approx(weights + reads + 2e-3)


def test_experts_are_launched_too():
    cost = HostCost(host_seconds=0.0, expert_launch_seconds=2e-3, launch_seconds=1e-3)
    assert steps(cost, "mixtral-8x7b").seconds(StepLoad(9, 1)) == pytest.approx(32 * 3e-3)


def test_the_cost_of_a_batch_may_grow_less_than_the_batch():
    cost = HostCost(host_seconds=1e-3, sequence_seconds=1e-4, batch_exponent=0.5)
    one, many = (steps(cost).cost(StepLoad(n, n)) for n in (1, 400))
    assert many.sequence_seconds == pytest.approx(20 * one.sequence_seconds)
    assert many.host_seconds == one.host_seconds == 1e-3
