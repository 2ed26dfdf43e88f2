"""How a sweep shares its runs with a cluster, told by a cluster that is none."""

from collections import Counter
from itertools import count
from types import SimpleNamespace

import pytest

from kvsim import InputError, Space, load_scenario, sweep
from kvsim.search.sweep import cluster
from kvsim.search.sweep.cluster import Cluster
from kvsim.search.sweep.connection import Answer, about
from kvsim.search.sweep.task import Outcome, StoppedError


class Stage:
    """A connection's stand-in: batches end in order, as told; a deadly run ends its worker."""

    def __init__(self, threads=2, seconds=1.0, deadly=(), beside=False, said=None):
        self.address, self.seconds, self.deadly, self.beside = (
            "tcp://here:1",
            seconds,
            deadly,
            beside,
        )
        self.said = about() if said is None else said
        self.workers, self.most, self.sizes = threads, 0, []
        self.open, self.done, self.numbers = {}, Counter(), count()

    def submit(self, batch):
        future = SimpleNamespace(key=next(self.numbers), add_done_callback=lambda end: end(future))
        self.open[future.key] = batch
        self.most = max(self.most, len(self.open))
        self.sizes.append(len(batch))
        return future

    def threads(self):
        return self.workers

    def answer(self, future):
        others = [key for batch in self.open.values() for key in batch]
        batch = self.open.pop(future.key)
        if set(batch) & set(self.deadly) or (self.beside and set(others) & set(self.deadly)):
            return None
        self.done.update(batch)
        return Answer([Outcome(task.key, row="{}") for task in batch], self.seconds, self.said)

    def close(self):
        self.workers = 0


class Named(str):
    """A task that is its key."""

    @property
    def key(self):
        return str(self)


@pytest.fixture
def on(monkeypatch):
    """Return a function that does tasks on a stage: the outcomes by key."""

    def done(stage, tasks):
        monkeypatch.setattr(cluster, "Connection", lambda _: stage)
        found = Cluster("tcp://here:1").outcomes(map(Named, map(str, range(tasks))))
        return {outcome.key: outcome for outcomes in found for outcome in outcomes}

    return done


def test_no_more_is_under_way_than_keeps_the_workers_busy(on):
    stage = Stage(threads=2)
    assert len(on(stage, 1000)) == 1000
    assert stage.most == 6
    assert set(stage.done.values()) == {1}


def test_tasks_are_made_when_they_are_needed(on, monkeypatch):
    """A million runs are not a million objects: of an endless sweep the first answers come."""
    monkeypatch.setattr(cluster, "Connection", lambda _: Stage())
    endless = Cluster("tcp://here:1").outcomes(map(Named, map(str, count())))
    assert next(endless)[0].key == "0"
    endless.close()


@pytest.mark.parametrize(("seconds", "most"), [(1.0, 1), (0.01, 10), (0.0001, 64)])
def test_short_runs_go_in_batches_of_a_tenth_of_a_second(on, seconds, most):
    class Even(Stage):
        def answer(self, future):
            self.seconds = seconds * len(self.open[future.key])
            return super().answer(future)

    stage = Even()
    assert len(on(stage, 2000)) == 2000
    assert max(stage.sizes) == most
    assert stage.sizes[0] == 1


def test_what_died_beside_a_deadly_run_is_done_and_only_that_one_failed(on):
    stage = Stage(deadly={"7"}, beside=True)
    found = on(stage, 40)
    assert len(found) == 40
    assert [key for key, outcome in found.items() if outcome.reason] == ["7"]
    assert found["7"].reason.startswith("its worker died 3 times or more")


def test_a_worker_of_another_version_that_joins_ends_the_sweep(on):
    with pytest.raises(StoppedError, match=r"a worker at .* has kvsim 9.9 and this process kvsim"):
        on(Stage(said=about() | {"kvsim": "9.9"}), 3)


def test_a_worker_that_lacks_a_file_ends_the_sweep(on):
    class Lacking(Stage):
        def answer(self, future):
            (task,) = self.open.pop(future.key)
            return Answer([Outcome(task.key, unfit="t.csv: no such file")], 1.0, about())

    with pytest.raises(StoppedError, match=r"cannot do a run: t.csv: no such file"):
        on(Lacking(), 3)


def test_a_cluster_that_stays_empty_is_given_up(on, monkeypatch):
    monkeypatch.setattr(cluster, "_COUNTED_SECONDS", -1.0)
    monkeypatch.setattr(cluster, "_ALONE_SECONDS", -1.0)
    with pytest.raises(StoppedError, match="no worker is left at tcp://here:1"):
        on(Stage(threads=0), 3)


def test_jobs_and_a_scheduler_contradict_each_other(tmp_path):
    space = Space(load_scenario("peer-w"), {"tp": [1]})
    with pytest.raises(InputError, match="leave jobs or scheduler out"):
        sweep(space, tmp_path, jobs=2, scheduler="tcp://here:1")
