"""A card whose physics are planted: its rates and its steps come back, launched and replayed."""

from dataclasses import replace

import pytest

from kvsim.calibrate.measure.grid import plan_cases
from kvsim.calibrate.shapes import PUBLIC_SHAPES
from kvsim.catalog.accelerators import load_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines.base import Deployment
from kvsim.memory.footprint import bytes_per_token
from kvsim.specs.engine_options import EngineOptions
from kvsim.specs.precision import kv_format
from kvsim.steptime.model import StepLoad, StepTimeModel
from kvsim.steptime.rates import TWIN
from tests.support.physics import ATTENTION_FLOPS_PER_S, BYTES_PER_S, FLOPS_PER_S, Physics
from tests.support.planted import H200, measured

SHAPE = next(shape for shape in PUBLIC_SHAPES if shape.name == "Llama-3-8B")
MODEL = find_model("llama3-8b")
CARD = replace(H200, name="NVIDIA Planted")
SLOW_HOST = 25e-6  # a kernel: nearly every step of decodes waits for it


@pytest.fixture(scope="module", params=[4.5e-6, SLOW_HOST], ids=["quick host", "slow host"])
def calibrated(request, tmp_path_factory):
    physics, folder = Physics(request.param), tmp_path_factory.mktemp("card")
    found, _ = measured(folder, physics, CARD)
    return physics, found, folder


def steps_of(profile):
    """The twin's own host, as `kvsim validate` takes it."""
    rates = profile.coefficients.model_copy(update={"engine": TWIN})
    return StepTimeModel.from_deployment(Deployment(MODEL, profile, EngineOptions()), rates)


def loads():
    read = bytes_per_token(MODEL, kv_format("bf16"))
    for batch in (1, 4, 16, 64, 128):
        for context in (512, 2048, 4000):
            yield batch, context, StepLoad(batch, batch, batch * context * read)


def test_rates_come_back_within_five_percent(calibrated):
    _, found, _ = calibrated
    for rates in found["coefficients"].values():
        assert rates["weight_bytes_per_s"] == pytest.approx(BYTES_PER_S, rel=0.05)
        assert rates["flops_per_s"] == pytest.approx(FLOPS_PER_S, rel=0.05)
        assert rates["kv_bytes_per_s"] == pytest.approx(0.85 * BYTES_PER_S, rel=0.05)
        assert rates["attention_flops_per_s"] == pytest.approx(ATTENTION_FLOPS_PER_S, rel=0.05)


@pytest.mark.parametrize(("file", "replayed"), [("card.yaml", False), ("card.kernels.yaml", True)])
def test_steps_come_back_within_five_percent(calibrated, file, replayed):
    physics, _, folder = calibrated
    steps = steps_of(load_accelerator(folder / file))
    for batch, context, load in loads():
        true = physics.decode_step(SHAPE, batch, context, replayed=replayed)
        assert steps.seconds(load) == pytest.approx(true, rel=0.05), (batch, context)
    for tokens in (128, 512, 2048, 8192):
        true = physics.prefill_step(SHAPE, tokens, replayed=replayed)
        load = StepLoad(tokens, 1, prefill_pairs=tokens * (tokens + 1) / 2)
        assert steps.seconds(load) == pytest.approx(true, rel=0.05), tokens


def test_launched_stacks_are_explained_though_nothing_was_fitted_to_them(calibrated):
    _, found, _ = calibrated
    assert found["check_percent"]["launched stacks"] < 5


def test_host_and_device_stand_apart(calibrated):
    physics, found, _ = calibrated
    kernels = 8 + 2 + 2  # of a layer, of its attention, and the writes of K and V
    for step in found["steps"]:
        launched = step["way"] == "launched"
        launches = 32 * kernels * physics.launch if launched else 0.0
        assert step["launch_seconds"] == pytest.approx(launches, rel=0.05)
        longer = max(step["launch_seconds"], step["device_seconds"])
        assert step["step_seconds"] == pytest.approx(step["ends_seconds"] + longer)
    assert {step["way"] for step in found["steps"]} == {"launched", "replayed"}


@pytest.mark.parametrize("quick", [False, True])
def test_a_dry_run_says_what_the_cases_take(quick):
    """By the card's physics, case by case as sampled; what torch needs beside is assumed."""
    plan, card = plan_cases(CARD, quick=quick), Physics()
    spent = sum(
        plan.pace.expected_seconds(case.calls_in_turn * card.time(case).seconds)
        for case in plan.cases
    )
    beside = replace(plan, cases=()).expected_seconds
    beside += 0.15 * len(plan.cases) + sum(case.buffer_bytes for case in plan.cases) / 2e11
    assert plan.expected_seconds == pytest.approx(spent + beside, rel=0.25)
    assert plan.expected_seconds < 540  # a stage of what a GPU is lent for


@pytest.mark.parametrize("gathered", [0, 6])
def test_where_nothing_is_captured_launches_are_not_taken_for_the_device(tmp_path, gathered):
    """Nor where sequences are gathered one by one, and launches grow with them."""
    physics = Physics(captures=False, gathered=gathered)
    found, profile = measured(tmp_path, physics, CARD)
    assert set(found["coefficients"]) == {"loop"}
    rates = found["coefficients"]["loop"]
    assert rates["weight_bytes_per_s"] == pytest.approx(BYTES_PER_S, rel=0.05)
    assert rates["flops_per_s"] == pytest.approx(FLOPS_PER_S, rel=0.05)
    assert rates["kv_bytes_per_s"] == pytest.approx(0.85 * BYTES_PER_S, rel=0.05)
    assert rates["head_seconds"] == pytest.approx(10e-9, rel=0.1)
    each = rates["sequence_launch_seconds"]
    assert each == pytest.approx(gathered * physics.launch, rel=0.05, abs=1e-8)
    for batch, context, load in loads():
        true = physics.decode_step(SHAPE, batch, context, replayed=False)
        assert steps_of(profile).seconds(load) == pytest.approx(true, rel=0.05), (batch, context)
