"""One connection to a Dask cluster: who answers there, in which versions, and what it is asked.

Whatever Dask says of a scheduler that is gone, or of a worker that lacks something, is one line
here; its own messages and warnings are kept silent meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kvsim.errors import InputError, MissingExtraError
from kvsim.search.sweep.task import Outcome, StoppedError, Task, run
from kvsim.version import __version__

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Answer", "Connection", "about", "run_batch", "said_apart"]

_ANSWER_SECONDS = 10.0
_CLOSED_SECONDS = 2.0


class Answer(NamedTuple):
    """What came of a batch, the seconds that it took, and the versions of who did it."""

    outcomes: list[Outcome]
    seconds: float
    versions: dict[str, str]


def about() -> dict[str, str]:
    """Versions on which the bytes of an answer depend."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"kvsim": __version__, "Python": python, "numpy": np.__version__}


def said_apart(versions: Mapping[str, str]) -> str:
    """Say how versions differ from those here, or nothing.

    Examples
    --------
    >>> said_apart(about())
    ''
    >>> said_apart(about() | {"numpy": "1.0"}).partition(" and")[0]
    'has numpy 1.0'
    """
    here = about()
    apart = [name for name in here if versions.get(name) != here[name]]
    if not apart:
        return ""
    there = ", ".join(f"{name} {versions.get(name, 'of no version')}" for name in apart)
    ours = ", ".join(f"{name} {here[name]}" for name in apart)
    return f"has {there} and this process {ours}: install the same on both"


def run_batch(tasks: Sequence[Task]) -> Answer:
    """Do some runs, on a worker."""
    start = perf_counter()
    outcomes = [run(task) for task in tasks]
    return Answer(outcomes, perf_counter() - start, about())


class Connection:
    """A connection to a scheduler whose workers are fit for this process's runs.

    Parameters
    ----------
    address : str
        Such as ``tcp://10.0.0.1:8786``.

    Raises
    ------
    MissingExtraError
        Without the package distributed.
    InputError
        When no scheduler or no worker answers in time, or versions differ from those here.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._client: Client | None = None
        self._silenced: list[logging.Logger] = []
        try:
            self._silenced = _silenced()
            self._client = _connected(address)
            _check(self._client, address)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster, and whatever was asked of it."""
        if self._client is not None:
            with suppress(Exception):  # a scheduler that is gone
                self._client.close(timeout=_CLOSED_SECONDS)
        for logger in self._silenced:
            logger.disabled = False

    def submit(self, batch: list[Task]) -> Future:
        """Put a batch under way."""
        with self._answering() as client:
            return client.submit(run_batch, batch, pure=False)

    def threads(self) -> int:
        """How many runs the cluster does at once; 0 without a worker."""
        with self._answering() as client:
            return sum(client.nthreads().values())

    def answer(self, future: Future) -> Answer | None:
        """Return what came of a batch that has ended; None where Dask gave it up.

        Raises
        ------
        StoppedError
            When the scheduler is gone, or a worker could not begin.
        """
        from distributed import KilledWorker

        if future.cancelled():
            raise StoppedError(f"the scheduler at {self.address} is gone")
        error = future.exception()
        if isinstance(error, KilledWorker):
            return None
        if error is not None:
            said = f"{type(error).__name__}: {error}"
            raise StoppedError(f"a worker at {self.address} could not begin a run ({said})")
        answer: Answer = future.result()
        return answer

    @contextmanager
    def _answering(self) -> Iterator[Client]:
        if self._client is None:
            raise StoppedError(f"the scheduler at {self.address} was left")
        try:
            yield self._client
        except Exception as error:  # Dask raises this and that of a scheduler that is gone
            raise StoppedError(f"the scheduler at {self.address} is gone") from error


def _silenced() -> list[logging.Logger]:
    """Have Dask log nothing: what matters of it is one line of ours."""
    try:
        import distributed  # noqa: F401 - it sets its loggers up
    except ImportError:
        raise MissingExtraError("distributed", "cluster", "a sweep on a Dask cluster") from None
    known = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    loggers = [logging.getLogger(name) for name in known]
    spoke = [logger for logger in loggers if not logger.disabled]
    for logger in spoke:
        logger.disabled = True
    return spoke


def _connected(address: str) -> Client:
    from distributed import Client

    try:
        with ThreadPoolExecutor(1) as apart:  # a loop may run in this thread, as in a notebook
            apart.submit(asyncio.run, _answers(address)).result()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions are compared here
            return Client(address, timeout=_ANSWER_SECONDS, set_as_default=False)
    except (OSError, TimeoutError):
        what = f"no Dask scheduler answers within {_ANSWER_SECONDS:g} s"
        fix = "start one: dask scheduler"
    except (ValueError, TypeError, RuntimeError) as error:
        what, fix = f"is no address of a Dask scheduler ({error})", "write tcp://host:8786"
    raise InputError(what, where=f"--scheduler {address}", fix=fix)


async def _answers(address: str) -> None:
    """Ask who is there: a client would wait for ever for what takes a connection and is silent."""
    from distributed.core import rpc

    async with asyncio.timeout(_ANSWER_SECONDS), rpc(address, timeout=_ANSWER_SECONDS) as there:
        await there.identity()


def _check(client: Client, address: str) -> None:
    """Refuse a cluster without workers, or one whose scheduler or workers are not as we are."""
    where = f"--scheduler {address}"
    try:
        client.wait_for_workers(1, timeout=_ANSWER_SECONDS)
    except (OSError, TimeoutError):
        fix = f"start one: dask worker {address} --nthreads 1"
        raise InputError("has no worker", where=where, fix=fix) from None
    who = {"its scheduler": _asked(client.run_on_scheduler)}
    who |= {f"its worker {name}": found for name, found in _asked_all(client).items()}
    for name, found in who.items():
        said = said_apart(found) if isinstance(found, dict) else _lacks_us(found)
        if said:
            raise InputError(f"{name} {said}", where=where)


def _asked(ask: Any) -> Any:
    try:
        return ask(about)
    except Exception as error:  # whatever a process without kvsim makes of the question
        return error


def _asked_all(client: Client) -> dict[str, Any]:
    try:
        found: dict[str, Any] = client.run(about, on_error="return")
    except Exception as error:
        return {"": error}
    # One that has gone is no worker any more; who comes later tells versions as it answers.
    return {name: each for name, each in found.items() if not isinstance(each, OSError)}


def _lacks_us(error: object) -> str:
    said = f"{type(error).__name__}: {error}"
    return f"cannot be asked ({said}): install kvsim {__version__} where it runs"
