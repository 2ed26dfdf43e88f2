"""``--jobs``: other processes, started before this one has read what they will do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.runs.crew import Jobs

__all__ = ["crew", "refuse_idle", "stated_requests"]

_KEYS = ("workload.requests", "requests")


@contextmanager
def crew(jobs: int | None, runs: int | None, requests: int | None) -> Iterator[Jobs]:
    """Start other processes as early as may be: they boot while this one reads its scenario.

    Parameters
    ----------
    jobs : int or None
        As asked on the command line.
    runs : int or None
        Simulations that there will be; None is what the scenario says, when it is read.
    requests : int or None
        Of one of them, as far as can be told by now; None is not at all.

    Yields
    ------
    int, Crew or None
        What to hand to `kvsim.replicate` and `kvsim.compare`, which start what this did not.
    """
    from kvsim.runs.crew import Crew, at_once

    count = 1 if runs is None or requests is None else at_once(jobs, runs, runs * requests)
    if count == 1:
        yield jobs
        return
    with Crew(count - 1) as others:
        yield others


def stated_requests(scenario: str, settings: tuple[str, ...]) -> int | None:
    """Requests that a scenario's file, or a ``--set``, states in so many digits; None otherwise.

    Only to know early: what it finds is read and checked with all the rest afterwards.
    """
    from kvsim.specs.yaml_files import data_folder, read_yaml

    given = dict(setting.partition("=")[::2] for setting in settings)
    stated = next((given[key] for key in _KEYS if key in given), None)
    if stated is not None:
        return int(stated) if stated.isdecimal() and len(stated) < 10 else None
    is_path = Path(scenario).suffix in (".yaml", ".yml")
    try:
        file = Path(scenario) if is_path else data_folder("scenarios") / f"{scenario}.yaml"
        workload = read_yaml(file).get("workload")
    except InputError:  # said when it is read
        return None
    found = workload.get("requests") if isinstance(workload, dict) else None
    return found if isinstance(found, int) else None


def refuse_idle(jobs: int | None, runs: int) -> None:
    """Refuse several processes for one run.

    Raises
    ------
    InputError
        With what would give them work.
    """
    if jobs is not None and jobs > 1 and runs == 1:
        raise InputError(
            "one run keeps one process busy",
            where=f"--jobs {jobs}",
            fix="ask for --replications 2 or more, or leave it out",
        )
