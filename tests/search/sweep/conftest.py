"""Sweeps without processes of their own."""

import pytest

from kvsim.search.sweep import runner, sweep
from kvsim.search.sweep.task import run


class Here:
    """Workers' stand-in: does every task in this process, and remembers which."""

    def __init__(self, stop_after=None):
        self.done, self.stop_after = [], stop_after

    def outcomes(self, tasks):
        for task in tasks:
            if self.stop_after == len(self.done):
                raise KeyboardInterrupt
            self.done.append(task.key)
            yield []
            yield [run(task)]


@pytest.fixture
def here(monkeypatch):
    """Return a function that sweeps in this process, and tells which runs it did."""

    def swept(space, folder, stop_after=None, **options):
        workers = Here(stop_after)
        monkeypatch.setattr(runner, "Pool", lambda _: workers)
        return sweep(space, folder, **options), workers.done

    return swept
