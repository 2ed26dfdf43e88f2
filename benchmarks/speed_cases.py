"""The workloads of ``simulator_speed.py``: what is asked of both simulators, and the goal.

A goal is kvsim's requests per second of CPU time over DynoSim's, which is at least to be reached,
unless the case says otherwise.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path

from kvsim import load_scenario
from kvsim.simulator.scenario import Scenario
from kvsim.workload.base import Workload
from kvsim.workload.spec import build_workload
from kvsim.workload.streams import Streams

__all__ = ["CASES", "Case", "Generated", "Replayed"]

_DATA = Path(os.environ.get("KVSIM_DATA", "/nowhere"))
_MOONCAKE_BLOCK = 512  # tokens behind an identity of its format


@dataclass(frozen=True)
class Generated:
    """Requests of one length at random times, drawn by each simulator for itself.

    Parameters
    ----------
    prompt_tokens, output_tokens : int
        Lengths; of the prompt, the shared prefix included.
    rate : float
        Requests per second.
    groups, shared_tokens : int
        Prefixes that requests open with, one of so many at random, and their tokens.
    """

    prompt_tokens: int
    output_tokens: int
    rate: float
    groups: int = 0
    shared_tokens: int = 0

    def keys(self) -> dict[str, object]:
        """The scenario's keys for it."""
        keys: dict[str, object] = {
            "workload.arrivals.rate": self.rate,
            "workload.lengths.prompt.tokens": self.prompt_tokens - self.shared_tokens,
            "workload.lengths.output.tokens": self.output_tokens,
        }
        if self.groups:
            keys["workload.prefix"] = {
                "kind": "groups", "groups": self.groups, "tokens": self.shared_tokens,
            }  # fmt: skip
        return keys


@dataclass(frozen=True)
class Replayed:
    """Requests that each simulator reads from a file, DynoSim in Mooncake's format.

    Parameters
    ----------
    file : str
        Below the folder ``KVSIM_DATA``; empty: `drawn`, written in Mooncake's format.
    drawn : Generated, optional
        What a file of so many requests is made of.
    """

    file: str = ""
    drawn: Generated | None = None


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Parameters
    ----------
    name : str
        How it is called.
    asked : Generated or Replayed
        The requests.
    goal : float
        Least ratio to DynoSim, or requests per second where it cannot run the case.
    keys : dict
        What else differs from the scenario.
    scenario : str
        Where all that is not said here comes from.
    steps_oracle : bool
        Whether the plain engine of the tests is timed beside it.
    rival_runs_it : bool
        Whether DynoSim can run it.
    """

    name: str
    asked: Generated | Replayed
    goal: float
    keys: dict[str, object] = field(default_factory=dict)
    scenario: str = "peer-w"
    steps_oracle: bool = False
    rival_runs_it: bool = True

    @property
    def takes_a_size(self) -> bool:
        """Whether there are as many requests as are asked for, and not a file of them."""
        return not (isinstance(self.asked, Replayed) and self.asked.file)

    @property
    def is_there(self) -> bool:
        """Whether there is something to run."""
        return self.takes_a_size or self.file(0, Path()).exists()

    def scenario_of(self, requests: int, folder: Path) -> Scenario:
        """The case as a scenario of so many requests; what is written for it goes to a folder."""
        if isinstance(self.asked, Generated):
            keys = {**self.asked.keys(), "workload.requests": requests}
        else:
            keys = {"workload": {"trace": {"file": str(self.file(requests, folder))}}}
        return load_scenario(self.scenario, {**keys, **self.keys})

    def file(self, requests: int, folder: Path) -> Path:
        """The file that kvsim reads."""
        if not isinstance(self.asked, Replayed):
            raise TypeError(f"{self.name} reads no file")
        if self.asked.drawn is None:
            return _DATA / self.asked.file
        path = folder / f"{requests}-drawn.jsonl"
        if not path.exists():
            drawn = {**self.asked.drawn.keys(), "workload.requests": requests}
            _write_mooncake(path, _drawn(load_scenario(self.scenario, drawn)))
        return path

    def rival_file(self, requests: int, folder: Path) -> Path:
        """The same requests in Mooncake's format."""
        path = self.file(requests, folder)
        if path.suffix != ".csv":
            return path
        written = folder / f"{path.stem}.jsonl"
        if not written.exists():
            _write_mooncake(written, _azure(path))
        return written


Requests = Iterator[tuple[float, int, int]]  # seconds, prompt tokens, output tokens


def _drawn(scenario: Scenario) -> Requests:
    workload = build_workload(scenario.workload)
    if not isinstance(workload, Workload):
        raise TypeError("a closed loop has no times to write down")
    for table in workload.tables(Streams(scenario.run.seed)):
        columns = table.arrival_seconds, table.prompt_tokens, table.output_tokens
        yield from zip(*(column.tolist() for column in columns), strict=True)


def _azure(path: Path) -> Requests:
    begin = None
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            at = datetime.fromisoformat(row["TIMESTAMP"][:26])
            begin = begin or at
            tokens = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            yield (at - begin).total_seconds(), *tokens


def _write_mooncake(path: Path, requests: Requests) -> None:
    """Write requests that share nothing, each with identities of its own."""
    fresh = count()
    with path.open("w") as lines:
        for seconds, prompt_tokens, output_tokens in requests:
            line = {
                "timestamp": round(seconds * 1000, 3),
                "input_length": prompt_tokens,
                "output_length": output_tokens,
                "hash_ids": [next(fresh) for _ in range(0, prompt_tokens, _MOONCAKE_BLOCK)],
            }
            lines.write(json.dumps(line, separators=(",", ":")) + "\n")


_CACHE_ON: dict[str, object] = {"enable_prefix_caching": True}

CASES = (
    Case("peer-w, 4/s", Generated(512, 128, 4), 6, steps_oracle=True),
    Case("peer-w, 20/s", Generated(512, 128, 20), 5, steps_oracle=True),
    Case("overload, 200/s", Generated(512, 128, 200), 6, steps_oracle=True),
    Case(
        "long outputs, 4/s",
        Generated(512, 1280, 4),
        6,
        {"num_gpu_blocks_override": 37_000},
        steps_oracle=True,
    ),
    Case(
        "pressed, cache on, 20/s",
        Generated(512, 128, 20),
        2.5,
        {"num_gpu_blocks_override": 1200, **_CACHE_ON},
        steps_oracle=True,
    ),
    Case(
        "pressed, sharing, 20/s",
        Generated(512, 128, 20, groups=16, shared_tokens=256),
        2.5,
        {"num_gpu_blocks_override": 800, **_CACHE_ON},
    ),
    Case("256 + 16 tokens, 100/s", Generated(256, 16, 100), 1.5),
    Case("the same from a file", Replayed(drawn=Generated(256, 16, 100)), 1.3),
    Case(
        "16 prefixes of 2,048, 4/s",
        Generated(2560, 128, 4, groups=16, shared_tokens=2048),
        1.5,
        _CACHE_ON,
    ),
    Case(
        "Azure conversation, cache on",
        Replayed("traces/azure_2023_conv.csv"),
        2.5,
        _CACHE_ON,
        scenario="azure-conversation",
    ),
    Case(
        "Mooncake conversation",
        Replayed("traces/mooncake_fast25_conversation.jsonl"),
        3,
        {**_CACHE_ON, "block_size": 16},
        scenario="mooncake-prefix-reuse",
    ),
    Case(
        "WEKA, 71 conversations",
        Replayed("traces/weka_agentic_71.jsonl.gz"),
        2000,
        {**_CACHE_ON, "max_model_len": 1_000_000, "block_size": 16},
        scenario="mooncake-prefix-reuse",
        rival_runs_it=False,  # its agents' replay wants a model of its own
    ),
)
