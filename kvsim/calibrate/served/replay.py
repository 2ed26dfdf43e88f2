"""The requests of a file sent again, at their own times, to a simulated server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from kvsim.calibrate.served.requests import ServedRequests
from kvsim.calibrate.served.terms import Server
from kvsim.errors import InputError
from kvsim.runs.simulate import run_setup
from kvsim.simulator.prepare import Setup, prepare
from kvsim.simulator.scenario import RunSpec, Scenario
from kvsim.specs.hardware import AcceleratorProfile
from kvsim.steptime.model import StepTimeModel
from kvsim.steptime.rates import TWIN
from kvsim.workload.spec import parse_workload
from kvsim.workload.traces import TraceRow
from kvsim.workload.traces.formats.kvsim_format import kvsim_lines

__all__ = ["METRICS", "Latencies", "Replay", "measured", "replaying"]

Floats = NDArray[np.float64]
Latencies = dict[str, Floats]

METRICS = ("ttft", "tpot", "e2el")
_MOST_CROWDED = 0.05  # share of requests that may find a full server


def measured(requests: ServedRequests) -> Latencies:
    """What the client measured, by `METRICS`: seconds, NaN where it measured nothing."""
    columns = (requests.ttft_seconds, requests.tpot_seconds, requests.e2e_seconds)
    return dict(zip(METRICS, columns, strict=True))


@dataclass(frozen=True, slots=True)
class Replay:
    """Requests, ready to be sent to any variant of a server.

    Parameters
    ----------
    setup : Setup
        The server as it is known, and the requests as its workload.
    server : Server
        Its terms.
    """

    setup: Setup
    server: Server

    def latencies(self, accelerator: AcceleratorProfile) -> Latencies:
        """What clients would have measured of the same server on another card, seconds.

        Raises
        ------
        KeyboardInterrupt
            When a signal cut the simulation.
        """
        setup = prepare(self.setup.scenario, accelerator=accelerator)
        result = run_setup(setup, 0)
        if result.recording.interrupted:
            raise KeyboardInterrupt
        return {name: result.latencies[name] for name in METRICS}


@contextmanager
def replaying(
    requests: ServedRequests, scenario: Scenario, accelerator: AcceleratorProfile | None = None
) -> Iterator[Replay]:
    """Make requests ready to be sent again, for as long as the context lasts.

    Parameters
    ----------
    requests : ServedRequests
        What was sent.
    scenario : Scenario
        What served; its workload is not looked at.
    accelerator : AcceleratorProfile, optional
        In place of the one that the scenario names.

    Raises
    ------
    InputError
        When its steps take a constant time or are the twin's, or it could not have served them.
    """
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "requests.jsonl"
        trace.write_text("\n".join(kvsim_lines(_rows(requests), None)) + "\n", "utf-8")
        workload = parse_workload({"trace": {"file": str(trace), "format": "kvsim"}})
        alone = {"workload": workload, "run": RunSpec()}
        setup = prepare(scenario.model_copy(update=alone), accelerator=accelerator)
        yield Replay(setup, _server(scenario, setup, requests))


def _rows(requests: ServedRequests) -> Iterator[TraceRow]:
    columns = (requests.send_seconds, requests.prompt_tokens, requests.output_tokens)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for number, (sent, prompt, output) in enumerate(rows, start=1):
        yield TraceRow(number, sent, prompt, output)


def _server(scenario: Scenario, setup: Setup, requests: ServedRequests) -> Server:
    """Whose terms may be learned."""
    step_time, card = setup.step_time, setup.deployment.accelerator
    if not isinstance(step_time, StepTimeModel):
        raise InputError(
            "steps of a constant time have no terms to learn",
            where=scenario.where("step_time.kind"),
            fix="set step_time.kind: profile",
        )
    if step_time.coefficients.engine == TWIN:
        raise InputError(
            f"{card.name}'s coefficients are those of kvsim's own torch loop",
            where=scenario.where("accelerator"),
            fix="name its .kernels.yaml, or a card of `kvsim gpus`",
        )
    _refuse_overlong(scenario, setup, requests)
    _refuse_crowded(scenario, setup, requests)
    return Server(card, step_time.coefficients, setup.sizing.engine.name, step_time.host)


def _refuse_overlong(scenario: Scenario, setup: Setup, requests: ServedRequests) -> None:
    """Refuse requests that the server could not have answered."""
    longest = int((requests.prompt_tokens + requests.output_tokens).max())
    most = setup.deployment.options.max_model_len
    if longest > most:
        raise InputError(
            f"a request of {longest:,} tokens was answered, more than max_model_len {most:,}",
            where=scenario.where("engine.max_model_len"),
            fix="set engine.max_model_len to the server's",
        )


def _refuse_crowded(scenario: Scenario, setup: Setup, requests: ServedRequests) -> None:
    """Refuse a run whose requests waited for one another to end: that wait is what it measured."""
    most = setup.deployment.options.max_num_seqs
    if float(np.mean(requests.in_flight > most)) > _MOST_CROWDED:
        raise InputError(
            f"{requests.in_flight.max():,} requests were in flight at once, more than"
            f" max_num_seqs {most:,}: they measured the queue",
            where=str(requests.path),
            fix="take a run at a lower rate or of fewer clients, or set engine.max_num_seqs to"
            " the server's",
        )
