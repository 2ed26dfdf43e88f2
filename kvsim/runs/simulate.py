"""One run of one scenario, judged."""

from __future__ import annotations

from kvsim.results.result import SimulationResult
from kvsim.simulator.camera import Camera
from kvsim.simulator.prepare import Setup, prepare
from kvsim.simulator.replica import Watch
from kvsim.simulator.run import record
from kvsim.simulator.scenario import Scenario

__all__ = ["run_setup", "simulate"]


def simulate(
    scenario: Scenario,
    seed: int | None = None,
    *,
    watch: Watch | None = None,
    camera: Camera | None = None,
) -> SimulationResult:
    """Run one scenario once.

    Parameters
    ----------
    scenario : Scenario
        The question; see `kvsim.load_scenario`.
    seed : int, optional
        Seed of every random stream; the scenario's own when left out.
    watch : callable, optional
        ``watch(simulated_seconds, requests_done, pool_usage)``, called now and then; done is
        who was finished or refused. A ``KeyboardInterrupt`` raised anywhere ends the run and
        keeps what was finished.
    camera : Camera, optional
        Keeps frames of who holds which blocks; see `kvsim.simulator.camera`.

    Raises
    ------
    InputError, UnsupportedError
        For a scenario that cannot be run; see the message.
    """
    start = scenario.run.seed if seed is None else seed
    return run_setup(prepare(scenario), start, watch=watch, camera=camera)


def run_setup(
    setup: Setup, seed: int, *, watch: Watch | None = None, camera: Camera | None = None
) -> SimulationResult:
    """Run a prepared scenario with one seed; see `simulate`."""
    return SimulationResult(record(setup, seed, watch=watch, camera=camera))
