"""The simulator is a queueing system, so queueing theory holds: closed forms, laws, and Ciw.

What can be expressed: with one output token a request is served in one step, so an engine of
one sequence is a single server whose service time is the step time (constant: M/D/1; in
proportion to the prompt: M/G/1). With `max_num_seqs` = c and steps of constant length s, a
request of n output tokens keeps one of c servers busy for n * s, and starts at the end of the
step that is under way: a G/G/c queue whose arrivals are rounded up to a multiple of s.

References
----------
Harchol-Balter, Performance Modeling and Design of Computer Systems (2013): Little's law
(ch. 6), M/M/c and Erlang-C (ch. 14), Pollaczek-Khinchine (ch. 23).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import factorial

import ciw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.memory.growth import BlockCurve
from kvsim.results.statistics import confidence_interval
from kvsim.simulator.replica import Replica, run_replica
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers import SCHEDULERS, Scheduler, SchedulerLimits
from kvsim.steptime.model import ConstantStepTime, StepCost, StepLoad
from kvsim.workload.spec import build_workload, parse_workload
from tests.support.parts import Case, Given, Log, Pool, build, simulated, table

Floats = np.ndarray


@dataclass(frozen=True)
class PromptTime:
    """A step takes as long as its tokens: a server whose service follows from the prompt."""

    seconds_per_token: float
    kv_seconds_per_byte: float = 0.0

    def cost(self, load: StepLoad) -> StepCost:
        """All of it is host time."""
        return StepCost(host_seconds=self.seconds_per_token * load.tokens)


def engine(step_time: ConstantStepTime | PromptTime, servers: int = 1) -> Case:
    """An engine with room for everything but `servers` sequences."""
    bounds = SchedulerLimits(servers, 10**9, 10**9)
    pool = Pool("paged", 10**9, BlockCurve(1))
    return Case("vllm-v1", pool, bounds, step_time=step_time)  # type: ignore[arg-type]


def waits(log: Log, arrivals: Floats) -> Floats:
    """Seconds that each request spent in the queue."""
    return np.array(log.scheduled_seconds) - arrivals


def poisson(rate: float, count: int, seed: int) -> Floats:
    """Arrival times."""
    return np.random.default_rng(seed).exponential(1 / rate, count).cumsum()


def assert_mean(values: Floats, expected: float, slack: float = 0.0) -> None:
    """The mean is as expected, to the width of a 95 % interval of 20 batch means (and slack)."""
    batches = np.array([batch.mean() for batch in np.array_split(values, 20)])
    found = confidence_interval(batches)
    half_width = found.high - found.mean
    assert half_width < 0.15 * expected  # else nothing would be shown
    assert abs(found.mean - expected) < half_width + slack


# ---- one server -------------------------------------------------------------------------


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_a_constant_step_is_an_m_d_1_server(load: float) -> None:
    """Pollaczek-Khinchine: the mean wait is load * s / (2 * (1 - load)), s the step."""
    step = 0.25
    arrivals = poisson(load / step, 30_000, 1)
    ones = np.ones(len(arrivals), dtype=int)
    log = simulated(
        engine(ConstantStepTime(step)), Given([table(arrivals, ones, ones)]), checked=False
    )
    waited = waits(log, arrivals)
    assert_mean(waited, load * step / (2 * (1 - load)))
    assert (waited < 1e-12).mean() == pytest.approx(1 - load, abs=0.02)  # PASTA
    served = np.array(log.finish_seconds) - np.array(log.scheduled_seconds)
    np.testing.assert_allclose(served, step, rtol=1e-9)


@pytest.mark.parametrize("load", [0.5, 0.75])
def test_exponential_prompts_make_an_m_m_1_server(load: float) -> None:
    """Prompts are geometric with mean m tokens, the exponential law on a grid.

    M/G/1: rate * E[S^2] / (2 * (1 - load)), with E[S^2] = (2 m^2 - m) t^2 for t seconds a
    token; m is so large that this is M/M/1's load / (service rate - rate) to 0.1 %.
    """
    mean, seconds_per_token = 1000, 1e-3
    service = mean * seconds_per_token
    rate = load / service
    arrivals = poisson(rate, 60_000, 2)
    prompts = np.random.default_rng(3).geometric(1 / mean, len(arrivals))
    ones = np.ones_like(prompts)
    workload = Given([table(arrivals, prompts, ones)])
    log = simulated(engine(PromptTime(seconds_per_token)), workload, checked=False)
    second_moment = (2 * mean**2 - mean) * seconds_per_token**2
    expected = rate * second_moment / (2 * (1 - load))
    assert expected == pytest.approx(load / (1 / service - rate), rel=1e-3)
    assert_mean(waits(log, arrivals), expected)


def lindley(arrivals: Floats, services: Floats) -> Floats:
    """Waits in a single-server queue, one after the other: max(0, wait + service - gap)."""
    found = [0.0]
    for service, gap in zip(services, np.diff(arrivals), strict=False):
        found.append(max(0.0, found[-1] + service - gap))
    return np.array(found)


@given(
    gaps=st.lists(st.integers(0, 3000), min_size=1, max_size=60),
    prompts=st.lists(st.integers(1, 2000), min_size=60, max_size=60),
)
def test_every_wait_is_lindleys(gaps: list[int], prompts: list[int]) -> None:
    """Request by request, whatever the arrivals and the services."""
    arrivals, services = np.cumsum(gaps) * 0.7713e-3, np.array(prompts[: len(gaps)])
    ones = np.ones_like(services)
    log = simulated(engine(PromptTime(1e-3)), Given([table(arrivals, services, ones)]))
    expected = lindley(arrivals, services * 1e-3)
    np.testing.assert_allclose(waits(log, arrivals), expected, rtol=1e-9, atol=1e-9)


class Listed(ciw.dists.Distribution):
    """The given times, one after the other.

    ciw's own, Sequential, holds an iterator, and copying one is deprecated since Python 3.12.
    """

    def __init__(self, seconds: Iterable[float]) -> None:
        self.seconds = [float(each) for each in seconds]
        self.drawn = 0

    def sample(self, t: float | None = None, ind: object = None) -> float:
        self.drawn += 1
        return self.seconds[self.drawn - 1]


def ciw_waits(arrivals: Floats, services: Floats, servers: int) -> Floats:
    """Waits of the same customers in Ciw."""
    network = ciw.create_network(
        arrival_distributions=[Listed([*np.diff(arrivals, prepend=0.0), 1e9])],
        service_distributions=[Listed(services)],
        number_of_servers=[servers],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(len(arrivals), method="Finish")
    records = sorted(simulation.get_all_records(), key=lambda record: record.id_number)
    return np.array([record.waiting_time for record in records])


def test_one_server_waits_as_in_ciw() -> None:
    """Another program, the same customers: every wait, not only the mean."""
    arrivals = poisson(0.8, 1500, 4)
    prompts = np.random.default_rng(5).geometric(1e-3, len(arrivals))
    ones = np.ones_like(prompts)
    log = simulated(engine(PromptTime(1e-3)), Given([table(arrivals, prompts, ones)]))
    expected = ciw_waits(arrivals, prompts * 1e-3, 1)
    assert expected.max() > 5
    np.testing.assert_allclose(waits(log, arrivals), expected, rtol=1e-9, atol=1e-9)


# ---- several servers --------------------------------------------------------------------


def erlang_c_wait(rate: float, service: float, servers: int) -> float:
    """Mean wait of M/M/c: Erlang's C over the spare capacity."""
    offered = rate * service
    full = offered**servers / factorial(servers) * servers / (servers - offered)
    below = sum(offered**n / factorial(n) for n in range(servers))
    return full / (full + below) * service / (servers - offered)


def test_erlang_c_is_the_published_one() -> None:
    """One server is M/M/1; c = 2 at load 0.5: C = 1/3, wait 1/3 of a service."""
    assert erlang_c_wait(0.8, 1.0, 1) == pytest.approx(0.8 / 0.2)
    assert erlang_c_wait(1.0, 1.0, 2) == pytest.approx(1 / 3)


@pytest.mark.parametrize("servers", [2, 5])
def test_geometric_outputs_make_an_m_m_c_queue(servers: int) -> None:
    """Outputs of 200 steps in the mean; a step is 1/200 of a service, and that much may differ."""
    step, mean = 0.005, 200
    rate = 0.65 * servers / (step * mean)
    arrivals = poisson(rate, 30_000, 6)
    outputs = np.random.default_rng(7).geometric(1 / mean, len(arrivals))
    workload = Given([table(arrivals, np.ones_like(outputs), outputs)])
    log = simulated(engine(ConstantStepTime(step), servers), workload, checked=False)
    assert_mean(waits(log, arrivals), erlang_c_wait(rate, step * mean, servers), slack=step)


def test_several_servers_wait_as_in_ciw_up_to_one_step() -> None:
    """Rounding arrivals up to the end of a step delays every start by 0 to 1 step, no more."""
    step = 0.01
    arrivals = poisson(2.6, 1500, 8)
    outputs = np.random.default_rng(9).geometric(0.01, len(arrivals))
    workload = Given([table(arrivals, np.ones_like(outputs), outputs)])
    log = simulated(engine(ConstantStepTime(step), 3), workload)
    expected = ciw_waits(arrivals, outputs * step, 3)
    late = waits(log, arrivals) - expected
    assert expected.max() > 2
    assert late.min() > -1e-9
    assert late.max() < step + 1e-9
    assert late.max() > 0.9 * step


def test_clients_that_think_are_the_machine_repair_model() -> None:
    """M/M/1//N: N clients that think 3 s and are served in 1 s, both exponential.

    Throughput is (1 - p0) / service with 1 / p0 = sum of N! / (N - k)! * (service / think)^k.
    """
    clients, think, service = 4, 3.0, 1.0
    described = {
        "arrivals": {
            "kind": "closed_loop",
            "clients": clients,
            "think": {"kind": "exponential", "mean": think},
        },
        "lengths": {
            "prompt": {"kind": "exponential", "mean": 1000},
            "output": {"kind": "fixed", "tokens": 1},
        },
        "requests": 20_000,
    }
    loop = build_workload(parse_workload(described))
    log = simulated(engine(PromptTime(service / 1000)), loop, checked=False)
    ratios = [factorial(clients) / factorial(clients - k) for k in range(clients + 1)]
    idle = 1 / sum(ways * (service / think) ** k for k, ways in enumerate(ratios))
    throughput = len(log.finish_seconds) / max(log.finish_seconds)
    assert throughput == pytest.approx((1 - idle) / service, rel=0.02)


# ---- Little's law -----------------------------------------------------------------------


class Crowd(Log):
    """A recorder that adds up how many requests are in the scheduler, for how long.

    A request that comes during a step is let in at its end; behind a blocked queue at the end
    of the run of steps, as nothing would have come of it before. That is the wait at the door.
    """

    def __init__(self) -> None:
        super().__init__()
        self.in_scheduler = self.at_the_door = 0.0
        self.scheduler: Scheduler | None = None

    def watch(self, replica: Replica) -> None:
        """Count at every run of steps, and time every request at the door."""
        self.scheduler = replica.scheduler
        add_request = replica.scheduler.add_request

        def met(request: Request) -> bool:
            self.at_the_door += replica.now - request.arrival_seconds
            return add_request(request)

        self.scheduler.add_request = met  # type: ignore[method-assign]

    def run_begins(self, row: Mapping[str, float]) -> None:
        """A run of steps begins; nobody comes or goes before its end."""
        assert self.scheduler is not None
        present = len(self.scheduler.waiting) + len(self.scheduler.running)
        self.in_scheduler += present * row["seconds"]


PRESSED = {
    "roomy": Pool("paged", 400, BlockCurve(4)),
    "preempting": Pool("paged", 30, BlockCurve(4)),
    "reserved": Pool("reserve-pow2", 60, BlockCurve(4), max_model_len=100),
    "shared": Pool("prefix", 40, BlockCurve(4)),
}


@pytest.mark.parametrize("pool", PRESSED)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32), preemption=st.sampled_from(["recompute", "swap"]))
def test_littles_law(scheduler: str, pool: str, seed: int, preemption: str) -> None:
    """Time-average number in the system = arrival rate * mean time in it, exactly.

    Over a run that begins and ends empty both sides times its length are: the integral of the
    number present, as the scheduler counts it, and the sum of sojourns, as requests record it.
    """
    dice = np.random.default_rng(seed)
    arrivals = dice.exponential(0.02, 40).cumsum()
    rows = table(arrivals, dice.integers(1, 40, 40), dice.integers(1, 40, 40))
    bounds = SchedulerLimits(8, 64, 100, preemption=preemption)
    crowd = Crowd()
    replica = build(Case(scheduler, PRESSED[pool], bounds), Given([rows]), crowd)
    crowd.watch(replica)
    run_replica(replica)
    sojourns = np.array(crowd.finish_seconds) - arrivals
    assert crowd.in_scheduler + crowd.at_the_door == pytest.approx(sojourns.sum(), rel=1e-9)
    length = max(crowd.finish_seconds)
    number, rate = (crowd.in_scheduler + crowd.at_the_door) / length, len(arrivals) / length
    assert number == pytest.approx(rate * sojourns.mean(), rel=1e-9)


@pytest.mark.parametrize("scheduler", ["vllm-v1", "orca", "sarathi"])
def test_littles_law_of_the_batch(scheduler: str) -> None:
    """Sequences decoding, summed over the step rows = time from first to last token, summed."""
    dice = np.random.default_rng(11)
    arrivals = dice.exponential(0.05, 300).cumsum()
    rows = table(arrivals, dice.integers(1, 90, 300), dice.integers(1, 60, 300))
    pool = Pool("paged", 10**6, BlockCurve(16))
    log = simulated(Case(scheduler, pool, SchedulerLimits(20, 128, 1000)), Given([rows]))
    columns = log.step_columns()
    decoding = np.array(log.finish_seconds) - np.array(log.first_token_seconds)
    area = (columns["sequences"] * columns["seconds"]).sum()
    assert area == pytest.approx(decoding.sum(), rel=1e-9)
