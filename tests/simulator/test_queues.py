"""Who is next: first come, by priority, or the shortest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import UnknownNameError
from kvsim.simulator.request import Request
from kvsim.simulator.schedulers.queues import ADMISSION_POLICIES
from tests.support.parts import request


def four() -> list[Request]:
    """Requests 0 to 3 with prompts 30, 10, 20, 10 and priorities 1, 0, 1, 0."""
    lengths = [(30, 1), (10, 0), (20, 1), (10, 0)]
    return [request(row, prompt, 5, priority=prio) for row, (prompt, prio) in enumerate(lengths)]


def drained(policy: str) -> list[int]:
    """Rows in the order in which the queue hands them out."""
    queue = ADMISSION_POLICIES.find(policy)()
    for waiting in four():
        queue.push(waiting)
    assert next(iter(queue)) is queue.head()
    return [queue.pop().row for _ in range(len(queue))]


def test_each_policy_has_its_order() -> None:
    """Ties go to whoever came first."""
    assert drained("fcfs") == [0, 1, 2, 3]
    assert drained("priority") == [1, 3, 0, 2]
    assert drained("shortest-first") == [1, 3, 2, 0]


def test_a_preempted_request_goes_to_the_front_or_to_its_place() -> None:
    """The last of several victims, the oldest, ends up in front of the others, as in vLLM."""
    first, second, third, _ = four()
    for policy, expected in [("fcfs", [1, 2, 0]), ("priority", [1, 0, 2])]:
        queue = ADMISSION_POLICIES.find(policy)()
        queue.push(first)
        queue.push_back(third)
        queue.push_back(second)
        assert [one.row for one in queue] == expected


def test_only_sorted_queues_let_arrivals_overtake() -> None:
    """Behind a blocked first-come queue an arrival changes nothing, so runs are not cut."""
    overtaking = {
        name: ADMISSION_POLICIES.find(name)().arrivals_can_overtake for name in ADMISSION_POLICIES
    }
    assert overtaking == {"fcfs": False, "priority": True, "shortest-first": True}


@pytest.mark.parametrize("policy", ADMISSION_POLICIES)
def test_an_empty_queue_has_no_head(policy: str) -> None:
    """Misuse raises."""
    queue = ADMISSION_POLICIES.find(policy)()
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.head()
    with pytest.raises(IndexError):
        queue.pop()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.booleans()), max_size=30))
def test_sorted_queues_are_sorted_at_any_time(moves: list[tuple[int, int, bool]]) -> None:
    """Against a plain list that is searched for its least."""
    queues = {name: ADMISSION_POLICIES.find(name)() for name in ("priority", "shortest-first")}
    keys = {
        "priority": lambda one: (one.priority, one.row),
        "shortest-first": lambda one: (one.prompt_tokens, one.row),
    }
    for name, queue in queues.items():
        plain: list[Request] = []
        for row, (prompt, priority, leaves) in enumerate(moves):
            plain.append(request(row, prompt, 1, priority=priority))
            queue.push(plain[-1])
            if leaves:
                least = min(plain, key=keys[name])
                assert queue.head() is least
                assert queue.pop() is least
                plain.remove(least)
        assert list(queue) == sorted(plain, key=keys[name])


def test_an_unknown_policy_names_the_known_ones() -> None:
    """One clear line."""
    with pytest.raises(UnknownNameError, match="fcfs"):
        ADMISSION_POLICIES.find("lifo")()
