"""The totals of a few rows of steps, added up by hand.

::

    s        0   1   2   3   4   5   6   7   8   9   10      warm-up until 1 s
    A        |.|
    B          |..:...|                                      a prompt of 10, decoding nothing
    C                    |................|                  two sequences, four steps of 1 s
    D                                         |........|     three sequences and a prompt of 5
"""

from types import SimpleNamespace

import numpy as np
import pytest

from kvsim.errors import InvariantError
from kvsim.results.pool_parts import POOL_PARTS, pool_parts
from kvsim.results.step_totals import TotalsScope, step_totals
from kvsim.simulator.recorder import STEP_COLUMNS

ROWS = {
    "start_seconds": [0.0, 0.5, 3.0, 8.0],
    "seconds": [0.5, 1.5, 4.0, 2.0],
    "steps": [1, 1, 4, 1],
    "sequences": [1, 0, 2, 3],
    "prefill_tokens": [0, 10, 0, 5],
    "kv_read_bytes": [0, 0, 90, 300],
    "waiting": [9, 2, 0, 1],
    "claimed_slots": [33, 8, 16, 24],
    "held_slots": [33, 8, 16, 24],
    "grown_slots": [0, 8, 4, 0],
    "cached_slots": [7, 4, 6, 5],
}


class Costs:
    """Host 1 s, compute 0.2 s a token, bandwidth 0.01 s a byte; notes what it was asked."""

    kv_seconds_per_byte = 0.01
    launch_seconds = 0.0  # of the host's

    def __init__(self):
        self.asked = []

    def cost(self, load):
        self.asked.append((load.tokens, load.sequences))
        shares = {"bandwidth": 0.0, "compute": 0.2 * load.tokens, "link": 0.0, "host": 1.0}
        return SimpleNamespace(resource_seconds=shares, launch_seconds=self.launch_seconds)


def columns(**changes):
    filled = {name: np.array(ROWS.get(name, [0.0] * 4), dtype=float) for name in STEP_COLUMNS}
    return filled | {name: np.array(values, dtype=float) for name, values in changes.items()}


def totals(pages=((0, 4),), costs=None, first_tokens=None, rows=None, **limits):
    rows = rows or columns()
    scope = TotalsScope(
        costs=costs or Costs(),
        pool_slots=40,
        max_num_seqs=limits.get("seqs", 4),
        full_step_tokens=limits.get("tokens", np.inf),
        from_seconds=1.0,
        to_seconds=12.0,
        first_tokens=first_tokens,
    )
    cut = [{name: values[slice(*page)] for name, values in rows.items()} for page in pages]
    return step_totals(cut, scope)


PAGES = [((0, 4),), ((0, 1), (1, 3), (3, 3), (3, 4)), ((0, 2), (2, 4))]


@pytest.mark.parametrize("pages", PAGES)
def test_time_by_hand(pages):
    """Of B one second counts, of C and D all; A is warm-up."""
    found = totals(pages)
    assert found.span_seconds == 11
    assert found.busy_seconds == 1 + 4 + 2
    assert found.sequence_seconds == 0 * 1 + 2 * 4 + 3 * 2


@pytest.mark.parametrize("pages", PAGES)
def test_memory_by_hand(pages):
    """Kept prefixes: 4 for 1 s, 6 for 4 s and 5 for 2 s in runs; in the idle seconds from 2 to 3
    and from 7 to 8 what the next run finds, 6 and 5."""
    found = totals(pages)
    assert found.held_slot_seconds == (8 + 16) / 2 * 1 + (16 + 20) / 2 * 4 + 24 * 2
    assert found.peak_held_slots == 24  # 33 were held in the warm-up
    assert found.slot_seconds["cached"] == 4 * 1 + 6 * 4 + 5 * 2 + 6 + 5
    assert found.slot_seconds["internal"] == found.held_slot_seconds
    rest = 40 * 11 - found.held_slot_seconds - found.slot_seconds["cached"]
    assert found.slot_seconds["free"] == rest
    assert set(found.slot_seconds) == {*POOL_PARTS, "free"}


@pytest.mark.parametrize("pages", PAGES)
def test_a_step_is_bound_by_its_largest_share(pages):
    """B computes 10 tokens in 2 s; C reads 90 bytes in 0.9 s; D reads 300 in 3 s, and its 8 tokens
    take 1.6. A prompt beside three decodes is a fourth sequence."""
    costs = Costs()
    found = totals(pages, costs)
    assert found.bound_seconds == {"compute": 1.0, "host": 4.0, "bandwidth": 2.0}


@pytest.mark.parametrize(
    ("launches", "reads", "bound"),
    [(0.0, 90, "host"), (0.2, 90, "bandwidth"), (0.9, 0, "host"), (0.9, 40, "host")],
)
def test_launches_are_waited_for_only_while_nothing_is_read(launches, reads, bound):
    """C's 90 bytes take 0.9 s; of its host's second launches pass meanwhile, and no more."""
    costs = Costs()
    costs.launch_seconds = launches
    rows = columns(kv_read_bytes=[0, 0, reads, 300])
    assert totals(costs=costs, rows=rows).bound_seconds[bound] >= 4.0
    assert {(10, 1), (2, 2), (8, 4), (1, 1)} <= set(costs.asked)
    assert len(costs.asked) == len(set(costs.asked))


@pytest.mark.parametrize(
    ("seqs", "tokens", "starved"),
    [
        (4, np.inf, 1.0),  # D's four sequences are as many as the step takes
        (5, np.inf, 3.0),
        (5, 10, 2.0),  # B's ten tokens are as many as the step takes
        (5, 8, 0.0),
        (5, 9, 2.0),
        (1, np.inf, 0.0),
    ],
)
def test_memory_keeps_requests_out_only_where_the_step_had_room(seqs, tokens, starved):
    """Two wait in B and one in D, none in C."""
    assert totals(seqs=seqs, tokens=tokens).starved_seconds == starved


def test_one_token_of_a_prompt_is_a_sequence_too():
    """B's prompt has a token left: one sequence of as many as the step takes."""
    rows = columns(prefill_tokens=[0, 1, 0, 5])
    assert totals(rows=rows, seqs=1, tokens=np.inf).starved_seconds == 0.0
    assert totals(rows=rows, seqs=2, tokens=np.inf).starved_seconds == 1.0


def test_a_span_shorter_than_a_second_is_as_long_as_it_is():
    """Of D's two seconds, and of nothing else, the first half counts."""
    scope = TotalsScope(
        costs=Costs(),
        pool_slots=40,
        max_num_seqs=4,
        full_step_tokens=np.inf,
        from_seconds=9.5,
        to_seconds=10.0,
    )
    found = step_totals([columns()], scope)
    assert (found.span_seconds, found.busy_seconds) == (0.5, 0.5)
    assert sum(found.slot_seconds.values()) == 40 * 0.5


def gaps(found):
    counted = {}
    for seconds, tokens in zip(found.gap_seconds.tolist(), found.gap_tokens.tolist(), strict=True):
        counted[seconds] = counted.get(seconds, 0) + tokens
    return {seconds: tokens for seconds, tokens in counted.items() if tokens}


@pytest.mark.parametrize("pages", PAGES)
def test_every_decode_step_is_a_latency_of_each_of_its_sequences(pages):
    """C: 2 sequences in 4 steps of 1 s; D: 3 in one step of 2 s; the warm-up's do not count."""
    assert gaps(totals(pages)) == {1.0: 8, 2.0: 3}


@pytest.mark.parametrize("pages", PAGES)
def test_a_wait_for_prefills_is_in_the_first_latency(pages):
    """First tokens at 2, 2 and 7.5 s. C's two waited 1 s before their first step of 1 s; in D the
    two old ones waited from 7 to 8, the new one for half a second, before a step of 2 s."""
    found = totals(pages, first_tokens=np.array([2.0, 2.0, 7.5]))
    assert gaps(found) == {2.0: 2, 1.0: 6, 3.0: 2, 2.5: 1}


def test_an_old_sequence_of_the_first_run_has_not_waited_forever():
    """One first token at 2 s for C's two sequences: the other came before the time that counts."""
    found = totals(first_tokens=np.array([2.0]), rows=columns(sequences=[1, 0, 1, 1]))
    assert gaps(found) == {2.0: 1, 1.0: 3, 3.0: 1}


def test_a_peak_of_half_a_second_is_a_peak():
    """Of A half a second counts, when 33 were held."""
    rows = columns(seconds=[1.5, 0.0, 4.0, 2.0], start_seconds=[0.0, 2.0, 3.0, 8.0])
    assert totals(rows=rows).peak_held_slots == 33


def test_a_run_of_nothing():
    found = totals(pages=())
    assert (found.span_seconds, found.busy_seconds, found.peak_held_slots) == (11, 0, 0)
    assert found.bound_seconds == {}
    assert len(found.gap_seconds) == len(found.gap_tokens) == 0
    assert totals(pages=((0, 0),)).busy_seconds == 0


# --- the parts of the pool ------------------------------------------------------------------------


def parts_of(pool_slots=40.0, **columns):
    columns.setdefault("claimed", columns["held"])
    rows = dict.fromkeys(STEP_COLUMNS, np.zeros(1))
    rows |= {f"{name}_slots": np.array([float(value)]) for name, value in columns.items()}
    found = pool_parts(rows, pool_slots)
    ends = {name: (start.item(), end.item()) for name, (start, end) in found.items()}
    free = ends.pop("free")
    assert [sum(at) for at in zip(free, *ends.values(), strict=True)] == [pool_slots, pool_slots]
    return {name: pair for name, pair in ends.items() if pair != (0, 0)}


def test_paged_blocks_fill_up():
    """10 slots held of which 7 are written; 4 more are allocated and 6 written."""
    assert parts_of(held=10, grown=4, filled=7, filling=6) == {
        "token_states": (7, 13),
        "internal": (3, 1),
    }


def test_a_reservation_is_used_up():
    """20 held, 5 written, 12 to come, 3 never used; 4 are written."""
    assert parts_of(held=20, filled=5, filling=4, reserved=12) == {
        "token_states": (5, 9),
        "reserved": (12, 8),
        "internal": (3, 3),
    }


def test_what_a_prompt_writes_beside_decodes_was_reserved():
    """A step prefills 7 into 12 held slots, and 3 sequences decode, of which one opens a block."""
    assert parts_of(held=12, grown=4, filled=2, filling=10, reserved=7) == {
        "token_states": (2, 12),
        "reserved": (7, 0),
        "internal": (3, 4),
    }


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"held": 10, "claimed": 9, "filled": 7}, "39 of 40 slots: .* internal 2,.* free 30"),
        ({"held": 10, "claimed": 11, "filled": 7}, "41 of 40 slots"),
        ({"held": 10, "filled": 11}, "internal -1"),
        ({"held": 10, "filled": 7, "reserved": 4}, "internal -1"),
        ({"held": 10, "filled": 7, "filling": 4}, "internal -1"),
        ({"held": 10, "grown": 31, "filled": 7}, "free -1"),
        ({"held": 10, "filled": 7, "external": 20, "cached": 11}, "free -1"),
        ({"held": 10, "filled": -1}, "token_states -1"),
    ],
)
def test_parts_that_are_not_the_pool_are_refused(columns, said):
    """A slot that nobody is due, one that nobody holds, one written or promised beyond them."""
    with pytest.raises(InvariantError, match=said):
        parts_of(**columns)


def test_what_is_kept_gives_way_first_to_what_is_held_then_to_what_lies_between():
    """30 slots, 20 held and then 26: of the 4 left, 3 lie in gaps, so one may be kept."""
    assert parts_of(30.0, held=20, grown=6, filled=20, filling=6, external=3, cached=5) == {
        "token_states": (20, 26),
        "external": (3, 3),
        "cached": (5, 1),
    }
    assert parts_of(30.0, held=20, grown=9, filled=20, filling=9, external=3, cached=5) == {
        "token_states": (20, 29),
        "external": (3, 1),
        "cached": (5, 0),
    }


def test_a_full_pool_keeps_nothing():
    """30 of 30 slots are held at the end: neither gaps nor prefixes are left."""
    assert parts_of(30.0, held=20, grown=10, filled=20, filling=10, external=3, cached=5) == {
        "token_states": (20, 30),
        "external": (3, 0),
        "cached": (5, 0),
    }
