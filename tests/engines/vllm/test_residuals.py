"""How sure a KV size is: what a start-up has, and how its parts add up."""

import math

import pytest

from kvsim import plan
from kvsim.catalog.accelerators import find_accelerator
from kvsim.catalog.models import find_model
from kvsim.engines import Deployment, get_engine
from kvsim.engines.base import Band
from kvsim.engines.vllm import residuals
from kvsim.engines.vllm.residuals import TRAITS, kv_band, traits_of
from kvsim.planning.certainty import certainty
from kvsim.specs.engine_options import EngineOptions
from kvsim.units import GIB

COVERED = {"fitted_to": [0, 19], "cards": ["ada", "ampere", "hopper"]}
# Round numbers: sigma is 1 % of a plain start-up, and its parts are told apart.
SHARES = {name: 10.0**power for power, name in enumerate(TRAITS)}
DATA = COVERED | {
    "share": 0.9,
    "quantile": 2.0,
    "percent_squared": {"plain": 1.0, **SHARES},
    "start_ups": [
        {"row": "A", "percent": 0.1, "traits": []},
        {"row": "B", "percent": 0.1, "traits": ["newer"]},
        {"row": "C", "percent": 0.1, "traits": ["experts", "newer"]},
        {"row": "D", "percent": 0.1, "traits": ["newer", "experts"]},
    ],
}


def started(model="llama3-8b", gpu="h100", version="0.19.0", **options):
    engine = get_engine("vllm", version)
    question = Deployment(find_model(model), find_accelerator(gpu), EngineOptions(**options))
    return engine, engine.resolve(question)


TWO = {"tensor_parallel_size": 2}


@pytest.mark.parametrize(
    ("model", "gpu", "version", "options", "expected"),
    [
        ("llama3-8b", "h100", "0.19.0", {}, ()),
        ("llama3-8b", "h100", "0.19.0", TWO, ()),  # NVSwitches
        ("llama3-8b", "h100", "0.20.0", {}, ("newer",)),
        ("llama3-8b", "l40s", "0.19.0", TWO, ("unswitched",)),
        ("llama3-8b", "rtx4090", "0.19.0", {}, ("desktop",)),
        ("llama3-8b", "tpu-v6e", "0.19.0", {}, ("vendor", "uncompared")),
        ("llama3-8b", "mi300x", "0.19.0", {}, ("vendor", "uncompared")),
        ("llama3-8b", "b200", "0.19.0", {}, ("uncompared",)),
        ("gemma3-12b", "h100", "0.19.0", {}, ("encoder",)),
        ("mixtral-8x7b", "h100", "0.19.0", TWO, ("experts",)),
        ("deepseek-v3.2", "h200", "0.19.0", {"tensor_parallel_size": 8}, ("indexer", "experts")),
        ("qwen3.5-27b", "h100", "0.20.0", {}, ("newer", "states", "encoder")),
    ],
)
def test_what_a_start_up_has(model, gpu, version, options, expected):
    engine, deployment = started(model, gpu, version, **options)
    assert traits_of(deployment, engine.rules, COVERED) == expected


@pytest.mark.parametrize(
    ("model", "version", "squared", "start_ups"),
    [
        ("llama3-8b", "0.19.0", 1.0, 1),
        ("llama3-8b", "0.20.0", 1.0 + SHARES["newer"], 1),
        ("mixtral-8x7b", "0.20.0", 1.0 + SHARES["newer"] + SHARES["experts"], 2),
        ("mixtral-8x7b", "0.19.0", 1.0 + SHARES["experts"], 0),
    ],
)
def test_every_trait_widens_the_band_by_its_share(monkeypatch, model, version, squared, start_ups):
    """Twice the root of the sum, in per cent of 79.19 GiB."""
    monkeypatch.setattr(residuals, "read_data", lambda name: DATA)
    engine, deployment = started(model, version=version, **TWO)
    budget = engine.budget(deployment)
    band = kv_band(deployment, engine.rules, budget)
    assert band.within_bytes == round(2 * math.sqrt(squared) / 100 * budget.total_bytes)
    assert (band.share, band.start_ups, band.is_extrapolated) == (0.9, start_ups, False)


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ("b200", ("no card like B200-SXM-180GB was compared",)),
        ("mi300x", ("a device that is not NVIDIA's", "no card like MI300X was compared")),
        ("gaudi3", ("a device that is not NVIDIA's", "no card like Gaudi3 was compared")),
    ],
)
def test_a_device_that_little_was_compared_with_is_extrapolated(monkeypatch, gpu, words):
    monkeypatch.setattr(residuals, "read_data", lambda name: DATA)
    engine, deployment = started(gpu=gpu)
    band = kv_band(deployment, engine.rules, engine.budget(deployment))
    assert band.is_extrapolated
    assert band.like == words


def test_a_size_that_is_given_is_sure():
    given = plan("llama3-8b", "h100", kv_cache_memory_bytes=10 * GIB).kv_band
    assert (given.share, given.within_bytes) == (1.0, 0)


@pytest.mark.parametrize("engine", ["sglang", "tensorrt-llm", "llama.cpp", "transformers"])
def test_an_engine_that_was_hardly_compared_is_as_unsure_as_a_card_that_was_not(engine):
    other = plan("llama3-8b", "h100", engine=engine).kv_band
    assert other.is_extrapolated
    assert other.like == (f"another engine, {engine}",)
    known = plan("llama3-8b", "h100").kv_band
    unlike = plan("llama3-8b", "b200", engine_version="0.19.0")
    assert known.within_bytes < other.within_bytes
    share = unlike.kv_band.within_bytes / unlike.memory.total_bytes
    assert other.within_bytes == pytest.approx(share * 79.19 * GIB, rel=0.01)


@pytest.mark.parametrize(
    ("band", "kv_bytes", "expected"),
    [
        (
            Band(0.9, GIB, 2, ("a release after 0.19",), "41 start-ups", is_extrapolated=False),
            50 * GIB,
            "KV cache 50.00 GiB ± 1.00 (2.0%), 90% sure: of 41 start-ups that were compared 2 had"
            " just this: a release after 0.19.",
        ),
        (
            Band(
                0.9, GIB, 0, ("no card like X was compared",), "9 start-ups", is_extrapolated=True
            ),
            -GIB,  # nothing is left, so nothing is a share of it
            "KV cache -1.00 GiB ± 1.00, extrapolated: of 9 start-ups that were compared none had"
            " all of this: no card like X was compared.",
        ),
        (Band.exact("given"), GIB, ""),
    ],
)
def test_how_sure_in_one_sentence(band, kv_bytes, expected):
    assert certainty(band, kv_bytes) == expected


def test_what_was_never_compared_is_no_surer_than_what_was():
    """The shipped numbers: an unknown card has at least the share of the least sure known one."""
    shares = residuals.read_data("vllm_residuals")["percent_squared"]
    assert shares["uncompared"] == max(shares.values())
    assert min(shares.values()) >= 0 < shares["plain"]
