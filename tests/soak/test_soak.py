"""The soak tries a few worlds in every run of the tests; bugs that are planted are found."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from kvsim.simulator import clock, recorder
from kvsim.simulator.allocators.paged import Paged
from kvsim.simulator.allocators.prefix import Prefix
from kvsim.simulator.arrival_queue import ArrivalQueue
from kvsim.simulator.replica import Replica
from kvsim.simulator.schedulers import Scheduler, queues
from tests.soak.__main__ import failure, main, soak
from tests.soak.trial import try_seed
from tests.soak.worlds import draw_world
from tests.support import needs

pytest.importorskip("pyarrow")

QUICK, SLOW = 6, 60


def test_worlds_keep_every_law():
    for seed in range(SLOW if needs.SLOW_RUN else QUICK):
        seen = try_seed(seed)
        assert seen["worlds"] == 1


def test_a_seed_is_a_world(tmp_path):
    assert draw_world(5, tmp_path) == draw_world(5, tmp_path)
    assert draw_world(5, tmp_path) != draw_world(6, tmp_path)


# ---- bugs that it must find -----------------------------------------------------------------


def leaks_a_block(monkeypatch):
    free = Paged.free

    def leaking(self, request, *, preempted=False):
        free(self, request, preempted=preempted)
        if request.row % 5 == 3:
            self.free_blocks -= 1

    monkeypatch.setattr(Paged, "free", leaking)


def frees_too_much(monkeypatch):
    free = Paged.free

    def freeing(self, request, *, preempted=False):
        free(self, request, preempted=preempted)
        if preempted:
            self.free_blocks += 1

    monkeypatch.setattr(Paged, "free", freeing)


def admits_out_of_order(monkeypatch):
    def push(self, request):
        (self.appendleft if request.row % 7 == 5 else self.append)(request)

    monkeypatch.setattr(queues.FirstComeQueue, "push", push)


def loses_a_step(monkeypatch):
    decode_run = clock.StepClock.decode_run

    def short(self, batch, limit, gap, beyond=0):
        steps, seconds, lead = decode_run(self, batch, limit, gap, beyond)
        return steps, seconds * (steps - 1) / steps if steps > 9 else seconds, lead

    monkeypatch.setattr(clock.StepClock, "decode_run", short)


def drops_a_finish(monkeypatch):
    complete = Scheduler._complete

    def dropping(self, request, now):
        complete(self, request, now)
        if request.row % 11 == 4:
            self.recorder.finish_seconds[request.row] = float("nan")

    monkeypatch.setattr(Scheduler, "_complete", dropping)


def forgets_a_refusal(monkeypatch):
    def reject(self, row):
        if row % 2:
            self.rejected_rows.append(row)

    monkeypatch.setattr(recorder.Recorder, "reject", reject)


def loses_an_arrival(monkeypatch):
    pop = ArrivalQueue.pop

    def losing(self):
        request = pop(self)
        return pop(self) if request.row == 3 and self._head is not None else request

    monkeypatch.setattr(ArrivalQueue, "pop", losing)


def counts_a_hit_twice(monkeypatch):
    allocate = Prefix.allocate

    def generous(self, request, chunk_tokens, *, spare_blocks=0):
        cached = allocate(self, request, chunk_tokens, spare_blocks=spare_blocks)
        return cached - 1 if cached else cached

    monkeypatch.setattr(Prefix, "allocate", generous)


def runs_late_beside_others(monkeypatch):
    process = Replica.process

    def late(self, env, until=float("inf")):
        if env.peek() < until:  # somebody else is there
            self.clock.copy_seconds_per_token += 1e-6
            yield env.timeout(1e-3)
        yield from process(self, env, until)

    monkeypatch.setattr(Replica, "process", late)


def forgets_its_seed(monkeypatch):
    calls = Counter[str]()
    decode_run = clock.StepClock.decode_run

    def drifting(self, batch, limit, gap, beyond=0):
        calls["in all"] += 1
        steps, seconds, lead = decode_run(self, batch, limit, gap, beyond)
        return steps, seconds * (1 + 1e-15 * calls["in all"]), lead

    monkeypatch.setattr(clock.StepClock, "decode_run", drifting)


def swallows_an_interrupt(monkeypatch):
    finish = Scheduler.finish

    def deaf(self, plan, steps, now):
        try:
            return finish(self, plan, steps, now)
        except KeyboardInterrupt:
            return []

    monkeypatch.setattr(Scheduler, "finish", deaf)


BUGS = (
    *((leaks_a_block, 12), (admits_out_of_order, 12), (loses_a_step, 12), (drops_a_finish, 12)),
    *((forgets_a_refusal, 12), (loses_an_arrival, 12), (runs_late_beside_others, 12)),
    (forgets_its_seed, 12),
)
RARE_BUGS = ((frees_too_much, 50), (counts_a_hit_twice, 50), (swallows_an_interrupt, 50))


def _slow(bug, seeds):
    return pytest.param(bug, seeds, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("bug", "seeds"), [*BUGS, *(_slow(bug, seeds) for bug, seeds in RARE_BUGS)]
)
def test_a_planted_bug_is_found(monkeypatch, capsys, bug, seeds):
    """Within so many worlds, and the line that says so replays it."""
    bug(monkeypatch)
    code, _ = soak(range(seeds), 1e9)
    (line,) = capsys.readouterr().out.splitlines()
    assert code == 1
    seed = int(line.split("  #")[0].rpartition(" ")[2])
    assert main(["--world", str(seed)]) == 1
    assert capsys.readouterr().out.startswith(f"python -m tests.soak --world {seed}  # ")


# ---- the command -----------------------------------------------------------------------------


def test_time_is_up(capsys):
    asked = []

    def tried(seed):
        asked.append(seed)
        return Counter(worlds=1)

    code, seen = soak(range(100), 0.0, tried)
    assert (code, seen, asked) == (0, Counter(worlds=1), [0])
    assert capsys.readouterr().err == "no law was broken in 1 worlds\n"


def test_a_failure_is_one_line():
    said = failure(31, ValueError("two\n  lines"))
    assert said == "python -m tests.soak --world 31  # ValueError: two lines"


def test_a_world_is_replayed(capsys):
    assert main(["--world", "1"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("no law was broken in 1 worlds")
    assert "tests.soak.trial" in sys.modules
