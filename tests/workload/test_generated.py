"""Open-loop workloads: the seed decides, the chunk does not; sharing is what was described."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.workload import RequestTable, Workload, build_workload, parse_workload
from kvsim.workload.base import cut, in_time_order, rechunked
from kvsim.workload.streams import Streams

LENGTHS = {
    "prompt": {"kind": "lognormal", "mean": 300, "cv": 1},
    "output": {"kind": "uniform", "low": 1, "high": 200},
}
TALKS = {
    "kind": "conversations",
    "turns": {"kind": "uniform", "low": 1, "high": 6},
    "think": {"kind": "exponential", "mean": 20},
    "groups": 3,
    "tokens": 64,
}
ARRIVALS = [
    {"kind": "poisson", "rate": 4},
    {"kind": "gamma", "rate": 4, "cv": 2},
    {"kind": "weibull", "rate": 4, "cv": 2},
    {"kind": "constant", "rate": 4},
    {"kind": "at_once"},
    {"kind": "piecewise", "phases": [{"seconds": 9, "rate": 3}], "repeat": True},
    {"kind": "on_off", "on_rate": 9, "on_seconds": 3, "off_seconds": 5},
    {"kind": "diurnal", "rate": 4, "period_seconds": 100},
]


def built(**description):
    return build_workload(parse_workload({"lengths": LENGTHS, **description}))


def whole(workload, seed=0, chunk_rows=5000):
    return RequestTable.concat(workload.tables(Streams(seed), chunk_rows))


def columns(table, block=16):
    rows = range(0, len(table), 97)
    content = table.content
    ids = (
        [list(content.block_ids(r, block, int(table.prompt_tokens[r]))) for r in rows]
        if content
        else None
    )
    optional = [None if c is None else c.tolist() for c in (table.session, table.priority)]
    return (
        table.arrival_seconds.tolist(),
        table.prompt_tokens.tolist(),
        table.output_tokens.tolist(),
        optional,
        ids,
    )


@pytest.mark.parametrize("arrivals", ARRIVALS, ids=lambda at: at["kind"])
@pytest.mark.parametrize("prefix", [{"kind": "none"}, {"kind": "groups", "tokens": 40}, TALKS])
def test_requests_do_not_depend_on_the_chunk(arrivals, prefix):
    if arrivals["kind"] == "at_once" and prefix["kind"] == "conversations":
        with pytest.raises(InputError, match="at_once would open endless conversations"):
            built(arrivals=arrivals, prefix=prefix, requests=9)
        return
    described = {
        "arrivals": arrivals,
        "prefix": prefix,
        "requests": 6000,
        "priorities": {0: 1, 5: 2},
    }
    small, large = (columns(whole(built(**described), 3, rows)) for rows in (37, 100_000))
    assert small == large
    assert small != columns(whole(built(**described), 4))


def test_chunks_are_no_larger_than_asked():
    tables = list(built(arrivals=ARRIVALS[0], requests=1000).tables(Streams(0), 300))
    assert [len(table) for table in tables] == [300, 300, 300, 100]
    assert isinstance(built(arrivals=ARRIVALS[0], requests=1), Workload)


def test_the_first_request_needs_no_pass_over_all():
    """A billion requests begin at once: tables are made as they are asked for."""
    tables = built(arrivals=ARRIVALS[0], requests=10**9).tables(Streams(0))
    assert len(next(tables)) == 16_384


def test_duration_and_number_limit_what_comes():
    fewer = whole(built(arrivals=ARRIVALS[0], requests=500))
    timed = whole(built(arrivals=ARRIVALS[0], duration_seconds=50.0))
    assert len(fewer) == 500
    assert timed.arrival_seconds[-1] < 50 <= fewer.arrival_seconds[len(timed)]
    np.testing.assert_array_equal(timed.arrival_seconds, fewer.arrival_seconds[: len(timed)])


def test_two_prefix_structures_meet_the_same_arrivals_and_lengths():
    plain = whole(built(arrivals=ARRIVALS[0], requests=300))
    grouped = whole(
        built(arrivals=ARRIVALS[0], requests=300, prefix={"kind": "groups", "tokens": 70})
    )
    np.testing.assert_array_equal(plain.arrival_seconds, grouped.arrival_seconds)
    np.testing.assert_array_equal(plain.prompt_tokens + 70, grouped.prompt_tokens)
    assert plain.content is None


def test_a_group_shares_its_system_prompt_and_nothing_else():
    prefix = {"kind": "groups", "groups": 2, "tokens": 64}
    table = whole(built(arrivals=ARRIVALS[0], requests=200, prefix=prefix))
    ids = [table.content.block_ids(row, 16, int(table.prompt_tokens[row])) for row in range(200)]
    assert {tuple(found[:4]) for found in ids} == {
        tuple(ids[0][:4]),
        tuple(next(found for found in ids if found[0] != ids[0][0])[:4]),
    }
    tails = [identity for found in ids for identity in found[4:]]
    assert len(tails) == len(set(tails))


def test_group_popularity_follows_the_exponent():
    prefix = {"kind": "groups", "groups": 3, "tokens": 16, "exponent": 2.0}
    table = whole(built(arrivals=ARRIVALS[0], requests=20_000, prefix=prefix))
    heads = [table.content.block_ids(row, 16, 16)[0] for row in range(len(table))]
    shares = np.sort(np.unique(heads, return_counts=True)[1])[::-1] / len(table)
    expected = np.array([1, 1 / 4, 1 / 9]) / (1 + 1 / 4 + 1 / 9)
    np.testing.assert_allclose(shares, expected, atol=5 * 0.5 / np.sqrt(20_000))


def test_a_conversation_grows_by_its_own_history():
    table = whole(built(arrivals=ARRIVALS[0], requests=3000, prefix=TALKS))
    turns = {}
    for row in range(len(table)):
        turns.setdefault(int(table.session[row]), []).append(row)
    longest = max(turns.values(), key=len)
    assert len(longest) == 6
    for before, after in pairwise(longest):
        written = int(table.prompt_tokens[before] + table.output_tokens[before])
        assert table.prompt_tokens[after] > written
        assert table.arrival_seconds[after] >= table.arrival_seconds[before]
        old = list(table.content.block_ids(before, 16, written))
        new = list(table.content.block_ids(after, 16, int(table.prompt_tokens[after])))
        assert new[: len(old)] == old  # the next turn finds what this one wrote


def test_think_times_separate_the_turns():
    two = {"turns": {"kind": "fixed", "tokens": 2}, "think": {"kind": "fixed", "seconds": 30}}
    constant = {"kind": "constant", "rate": 4}
    table = whole(built(arrivals=constant, requests=6000, prefix={**TALKS, **two}))
    seen: dict[int, float] = {}
    for session, arrival in zip(table.session, table.arrival_seconds, strict=True):
        if session in seen:
            assert arrival - seen[session] == pytest.approx(30)
        seen[session] = arrival
    assert len(seen) < 6000


def test_context_limit_ends_a_conversation():
    limited = {**TALKS, "turns": {"kind": "fixed", "tokens": 50}, "max_context_tokens": 2000}
    table = whole(built(arrivals=ARRIVALS[0], requests=3000, prefix=limited))
    assert (table.prompt_tokens + table.output_tokens).max() <= 2000


def test_a_context_limit_below_every_first_turn_is_one_clear_line():
    lengths = {kind: {"kind": "fixed", "tokens": 500} for kind in ("prompt", "output")}
    workload = built(
        arrivals=ARRIVALS[0],
        requests=5,
        lengths=lengths,
        prefix={**TALKS, "max_context_tokens": 900},
    )
    with pytest.raises(InputError, match=r"max_context_tokens: no first turn"):
        list(workload.tables(Streams(0)))


def test_samples_and_priorities_are_columns():
    table = whole(built(arrivals=ARRIVALS[0], requests=9000, samples=4, priorities={0: 3, 7: 1}))
    assert set(table.samples.tolist()) == {4}
    assert (table.priority == 7).mean() == pytest.approx(0.25, abs=5 * 0.433 / np.sqrt(9000))


def plain(times):
    times = np.asarray(times, dtype=float)
    ones = np.ones(len(times), np.int64)
    return RequestTable(times, ones, ones, session=np.arange(len(times)))


@pytest.mark.parametrize(
    ("columns_given", "words"),
    [
        (([1.0, 0.5], [1, 1], [1, 1]), "goes back"),
        (([0.0, np.nan], [1, 1], [1, 1]), "not finite"),
        (([0.0], [0], [1]), "at least 1"),
        (([0.0], [1], [0]), "at least 1"),
        (([0.0, 1.0], [1], [1, 1]), "has 1 rows"),
    ],
)
def test_a_table_refuses_what_cannot_be(columns_given, words):
    arrivals, prompts, outputs = columns_given
    with pytest.raises(InputError, match=words):
        RequestTable(np.array(arrivals), np.array(prompts), np.array(outputs))


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.floats(0, 50), max_size=20), max_size=5),
    st.integers(1, 9),
    st.integers(0, 40) | st.none(),
)
def test_merging_cutting_and_rechunking_keep_every_row_in_order(batches, chunk, most):
    """Batch k starts no earlier than 10 k: the horizon its predecessors are given."""
    tables = [
        (
            RequestTable.in_order(
                **{
                    **vars(plain([0.0] * len(times))),
                    "arrival_seconds": np.array(times, float) + 10 * at,
                }
            ),
            10.0 * (at + 1),
        )
        for at, times in enumerate(batches)
    ]
    everything = sorted(time + 10 * at for at, times in enumerate(batches) for time in times)
    found = list(rechunked(cut(in_time_order(tables), most, None), chunk))
    times = [time for table in found for time in table.arrival_seconds.tolist()]
    assert times == everything[:most]
    assert all(len(table) == chunk for table in found[:-1])


def test_arrivals_beyond_the_clock_are_refused():
    rare = {
        "arrivals": {"kind": "poisson", "rate": 1e-12},
        "lengths": {
            "prompt": {"kind": "fixed", "tokens": 9},
            "output": {"kind": "fixed", "tokens": 9},
        },
        "requests": 3,
    }
    with pytest.raises(InputError, match=r"workload: a request arrives at .* the clock goes to 1e"):
        list(build_workload(parse_workload(rare)).tables(Streams(0)))
