"""What vLLM's scheduler can be told: refused where the engine or its release refuses it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from kvsim import EngineOptions, find_accelerator, find_model, load_scenario, plan, simulate
from kvsim.engines import Deployment, get_engine
from kvsim.errors import InputError
from kvsim.simulator.assemble import make_scheduler
from kvsim.simulator.prepare import prepare
from kvsim.simulator.recorder import Recorder


def told(engine: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    """Overrides of peer-w: a few requests, and what the scheduler is told."""
    engine = engine or {}
    return {
        "workload.requests": 50,
        "scheduler.policy": {"name": "vllm-v1", **parameters},
        **{f"engine.{name}": value for name, value in engine.items()},
    }


@dataclass(frozen=True)
class Wrong:
    """A value, and the words that must be said of it."""

    name: str
    value: Any
    words: str
    beside: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong("watermark", 1, "from 0 to below 1"),
        Wrong("watermark", "much", "from 0 to below 1"),
        Wrong("max_num_active_seqs", 0, "from 1 to 256, max_num_seqs"),
        Wrong("max_num_active_seqs", 257, "from 1 to 256, max_num_seqs"),
        Wrong("prefill_schedule_interval", 0, "at least 1"),
        Wrong("prefill_schedule_interval", 1.5, "at least 1"),
        Wrong("scheduler_reserve_full_isl", 3, "true or false"),
        Wrong("long_prefill_token_threshold_adaptive", 3, "true or false"),
        Wrong("long_prefill_token_threshold_adaptive", True, "there is none"),
    ],
    ids=lambda wrong: f"{wrong.name}={wrong.value}",
)
def test_wrong_values_are_refused_in_one_line(wrong: Wrong) -> None:
    """As ``SchedulerConfig`` refuses them, with the name and what it should be."""
    with pytest.raises(InputError) as caught:
        simulate(load_scenario("peer-w", told(**{wrong.name: wrong.value})))
    (line,) = str(caught.value).splitlines()
    assert wrong.name in line
    assert wrong.words in line


@pytest.mark.parametrize(
    ("release", "name", "value", "first"),
    [
        ("0.18.1", "scheduler_reserve_full_isl", True, "0.19"),
        ("0.23.0", "watermark", 0.1, "0.24"),
        ("0.30.0", "max_num_active_seqs", 8, "0.31"),
        ("0.31.0", "prefill_schedule_interval", 4, "0.33"),
    ],
)
def test_a_release_without_the_flag_refuses_it(
    release: str, name: str, value: Any, first: str
) -> None:
    """`scheduler_flags` of the release rules."""
    with pytest.raises(InputError, match=f"{name}.*choose release {first} or newer"):
        simulate(load_scenario("peer-w", told({"version": release}, **{name: value})))


@pytest.mark.parametrize("release", ["0.11.2", "0.19.1", "0.27.1", "0.32.0", "0.33.0"])
def test_the_rules_of_the_release_reach_the_scheduler(release: str) -> None:
    """`release_limits`, with which `tests.engine_oracle` runs each release."""
    setup = prepare(load_scenario("peer-w", told({"version": release})))
    limits = make_scheduler(setup, Recorder()).limits
    parts = tuple(map(int, release.split(".")))
    assert limits.scheduler_reserve_full_isl == (parts >= (0, 19))
    assert limits.skips_behind_idle_victims == (parts < (0, 28))
    assert limits.waives_threshold == (parts >= (0, 31))
    assert limits.goes_on_after_own_preemption == (parts >= (0, 33))


def test_more_samples_than_active_seats_are_refused_at_arrival() -> None:
    """`max_num_active_seqs` is the number of seats: who needs more would wait for ever."""
    samples = {**told(max_num_active_seqs=2), "workload.samples": 3}
    result = simulate(load_scenario("peer-w", samples))
    assert result.requests["rejected"].all()


def test_stages_are_not_asynchronous_in_a_release_that_cannot() -> None:
    """0.14 turned asynchronous scheduling on, and pipeline stages off it; 0.15 took both."""

    def is_async(release: str, stages: int) -> bool | None:
        asked = Deployment(
            find_model("llama3.1-8b"),
            find_accelerator("h100"),
            EngineOptions(pipeline_parallel_size=stages),
        )
        return get_engine("vllm", release).resolve(asked).options.async_scheduling

    assert is_async("0.14.1", 1)
    assert not is_async("0.14.1", 2)
    assert is_async("0.15.1", 2)
    with pytest.raises(InputError, match="pipeline stages asynchronously"):
        plan(
            "llama3.1-8b",
            "h100",
            engine_version="0.14.1",
            pipeline_parallel_size=2,
            async_scheduling=True,
        )
