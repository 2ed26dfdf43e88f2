"""What is read many lines at a time is what each line says, and what is odd is left to be told.

The reference is the reading line by line (`json.loads`, `str.split`), which the tests of each
format hold to the published traces.
"""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import KVSimError
from kvsim.workload.content import IdRuns
from kvsim.workload.replay import batched
from kvsim.workload.traces import open_trace, plain_lines, source
from kvsim.workload.traces.columns import Columns, TraceRow
from kvsim.workload.traces.id_lists import with_id_runs
from kvsim.workload.traces.plain_json import JsonBlock
from kvsim.workload.traces.plain_lines import CsvBlock, NotPlain, PlainLines


def block_of(*lines):
    return JsonBlock(PlainLines.of(1, "".join(f"{line}\n" for line in lines).encode()))


def test_numbers_are_found_by_key_whatever_stands_around_the_list():
    block = block_of(
        '{"at": 0.5, "ids": [7, 800, 9], "out": 12}', '{"at": 12, "ids": [0, 41], "out": 3}'
    )
    assert block.reals("at").tolist() == [0.5, 12.0]
    assert list(map(list, block.lists("ids"))) == [[7, 800, 9], [0, 41]]
    assert block.integers("out").tolist() == [12, 3]
    assert block.lists("other") is None


@pytest.mark.parametrize("text", ["0.1", "4.314579", "0.30000000000000004", "123456789012345.678"])
def test_decimals_round_as_pythons_do(text):
    assert block_of(f'{{"at": {text}}}').reals("at").tolist() == [float(text)]


GOOD = '{"at": 5, "ids": [1, 2]}'


@pytest.mark.parametrize(
    "line",
    [
        '{"at": 05, "ids": [1, 2]}',
        '{"at": 5, "ids": [1, 02]}',
        '{"at": 5., "ids": [1, 2]}',
        '{"at": .5, "ids": [1, 2]}',
        '{"at": 1.2.3, "ids": [1, 2]}',
        '{"at": 5e3, "ids": [1, 2]}',
        '{"at": -5, "ids": [1, 2]}',
        '{"at": , "ids": [1, 2]}',
        '{"at": 5 5, "ids": [1, 2]}',
        '{"at": 5, "ids": [1,, 2]}',
        '{"at": 5, "ids": [1, 2,]}',
        '{"at": 5, "ids": [1 2]}',
        '{"at": 5, "ids": [1, [2]]}',
        '{"at": 5, "ids": []}',
        '{"at": 5, "ids": [1, 2]',
        '{"at": 5, "ids": [1, 2]}}',
        '{"at": 5, "ids": [1, 2]} 7',
        '{"at": 5 "ids": [1, 2]}',
        '{"a1t": 5, "ids": [1, 2]}',
        '{"ids": [1, 2], "at": 5}',
        '{"at": 5, "at": 5, "ids": [1, 2]}',
        '{"at": "5", "ids": [1, 2]}',
        '{"at": 5, "ids": [1, 2], "è": 5}',
        '{"at": ' + "5" * 5000 + ', "ids": [1, 2]}',
        "{}",
        "5",
        "",
        "\x0c",
    ],
)
def test_a_line_unlike_the_others_is_not_plain(line):
    for lines in ((GOOD, line, GOOD), (GOOD, line), (line, GOOD)):
        with pytest.raises(NotPlain):
            block_of(*lines)
    assert list(map(list, block_of(GOOD, GOOD).lists("ids"))) == [[1, 2]] * 2


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), min_size=1, max_size=9))
def test_lists_are_parted_whether_their_members_follow_one_another_or_not(lists):
    """Runs end with their list, also where the next list goes on counting."""
    found = block_of(*(json.dumps({"ids": ids}) for ids in lists)).lists("ids")
    assert list(map(list, found)) == lists
    if {IdRuns} == set(map(type, found)):
        assert [row.runs for row in found] == [IdRuns.of(ids).runs for ids in lists]


def test_a_number_beyond_63_bits_or_with_a_point_is_no_plain_integer():
    for text in ("9" * 19, "5.0"):
        with pytest.raises(NotPlain):
            block_of(f'{{"at": {text}}}').integers("at")
    assert block_of(f'{{"at": {"9" * 18}}}').integers("at").tolist() == [10**18 - 1]


def csv(text, width, places):
    return CsvBlock(PlainLines.of(1, text), width, places)


def test_fields_are_found_by_their_place():
    block = csv(b"1.5,a b,007\r\n20, c ,8\r\n", 3, (2, 0, 1))
    assert block.integers(0).tolist() == [7, 8]
    assert block.reals(1).tolist() == [1.5, 20.0]
    assert block.texts(2) == ["a b", "c"]


@pytest.mark.parametrize(
    "text", [b"1,2\n3\n", b"1\n2,3\n4,5,6\n", b"1,2\n\n3,4\n", b'1,"2"\n', b"1,2\r3,4\n", b"\n"]
)
def test_a_line_of_other_fields_is_not_plain(text):
    with pytest.raises(NotPlain):
        csv(text, 2, (0, 1))


@pytest.mark.parametrize("text", [b",2", b"-1,2", b"1 ,2", b"1_0,2", b"1e3,2", b"1;0,2", b"x,2"])
def test_a_field_that_is_no_plain_number_is_left_to_be_read_alone(text):
    block = csv(text, 2, (0, 1))
    with pytest.raises(NotPlain):
        block.reals(0)
    assert block.integers(1).tolist() == [2]


# --- whole files: many lines together, and the same lines one by one ---


def read(path, name):
    """Everything that reading a file gives: rows, counts, and the error that stopped it."""
    trace = open_trace(path, name)
    reading = trace.reading()
    rows, problem = [], None
    try:
        for row in trace.rows(reading):
            rows.append(row._replace(block_ids=row.block_ids and list(row.block_ids)))
    except KVSimError as error:
        problem = str(error)
    report = reading.report
    return rows, problem, report.rows, report.malformed, dict(report.dropped), report.examples


def refused(*_):
    raise NotPlain


def azure(at):
    return f"2023-11-16 {18 + at // 3600:02}:{at // 60 % 60:02}:{at % 60:02}.4680590,{9 + at},4"


def in_words(**record):
    return json.dumps(record)


FILES = {
    "azure": ("TIMESTAMP,ContextTokens,GeneratedTokens", azure),
    "burstgpt": (
        "Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type",
        lambda at: f"{at / 8},s{at % 7},GPT-4,{at + 1},{at % 5},0,API log",
    ),
    "vidur": (
        "arrived_at,num_prefill_tokens,num_decode_tokens",
        lambda at: f"{at / 7},{at + 1},3",
    ),
    "lengths": ("num_prefill_tokens,num_decode_tokens", lambda at: f"{at + 1},{at + 2}"),
    "mooncake": (
        None,
        lambda at: in_words(timestamp=at, input_length=600, output_length=at + 1, hash_ids=[0, at]),
    ),
    "llmservingsim": (
        None,
        lambda at: in_words(input_toks=at + 1, output_toks=3, arrival_time_ns=at * 10**7),
    ),
    "kvsim": (
        '{"schema": "kvsim-trace/1", "hash_block_size": 16}',
        lambda at: in_words(
            arrival_seconds=at / 3, prompt_tokens=30, output_tokens=9, block_ids=[0, at], session=at
        ),
    ),
}
ODD = {  # lines that no format understands, or that some refuse
    "blank": "",
    "junk": "x",
    "quoted": '"1","2","3"',
    "short": "1",
    "an empty object": "{}",
    "not ASCII": "é,1,1",
}


@pytest.mark.parametrize("odd", [None, *ODD])
@pytest.mark.parametrize("name", FILES)
def test_lines_read_together_say_what_each_says(tmp_path, monkeypatch, name, odd):
    header, line = FILES[name]
    lines = [line(at) for at in range(700)]
    if odd is not None:
        lines[300:300] = [ODD[odd]]
    path = tmp_path / "trace"
    path.write_text("\n".join(lines if header is None else [header, *lines]), encoding="utf-8")
    together = read(path, name)
    monkeypatch.setattr(plain_lines.PlainLines, "of", refused)
    assert read(path, name) == together
    assert len(together[0]) >= 300


@pytest.mark.parametrize("name", FILES)
def test_a_clean_file_comes_in_one_piece(tmp_path, name):
    header, line = FILES[name]
    lines = [line(at) for at in range(500)]
    path = tmp_path / "trace"
    path.write_text("".join(f"{line}\n" for line in [header, *lines] if line))
    trace = open_trace(path, name)
    pieces = list(trace.pieces(trace.reading()))
    assert [type(piece) for piece in pieces] == [Columns]


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 2**20])
def test_the_size_of_a_block_changes_nothing(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(source, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "trace"
    path.write_bytes(b"\xef\xbb\xbfa,b\r\n\r\n1,2\n" + b"x" * 100 + b"\n3,4")
    assert list(source.LineSource(path).lines()) == [
        (1, "a,b"), (2, ""), (3, "1,2"), (4, "x" * 100), (5, "3,4"),
    ]  # fmt: skip


def test_batches_have_their_size_and_ask_for_no_more():
    asked = []

    def pieces():
        for at in range(5):
            asked.append(at)
            row = TraceRow(at, float(at), 1, 1, (at,))
            yield row if at % 2 else Columns.of_rows([row] * 3)

    batches = batched(pieces(), 4)
    assert [row.line for row in next(batches).rows()] == [0, 0, 0, 1]
    assert asked == [0, 1]
    assert [len(batch) for batch in batches] == [4, 3]


def test_rows_without_ids_are_joined_to_rows_with():
    some = Columns.of_rows([TraceRow(1, 0.0, 1, 1, (7,))])
    none = Columns(range(2, 4), np.zeros(2), np.ones(2, np.int64), np.ones(2, np.int64))
    assert [row.block_ids for row in Columns.concat([some, none]).rows()] == [(7,), None, None]


# --- lists of ids in a conversation ---

lists_of_ids = st.lists(
    st.lists(st.integers(0, 130), max_size=6).flatmap(
        lambda tail: st.tuples(st.integers(0, 9), st.just(tail))
    ),
    max_size=8,
)


@given(changes=lists_of_ids, separators=st.sampled_from([(",", ":"), (", ", " : ")]))
def test_runs_hold_what_json_reads(changes, separators):
    """Each list keeps some of the one before it, digit by digit alike or not, and goes on."""
    ids, record = [], []
    for kept, tail in changes:
        ids = [*ids[:kept], *tail]
        record.append({"ids": list(ids), "t": "]"})
    text = json.dumps(record, separators=separators)
    found = with_id_runs(text, "ids", 2**32, 5 << 32)
    for row, expected in zip(found, record, strict=True):
        whole = IdRuns.of(expected["ids"]).shifted(5 << 32)
        assert row["ids"].runs == whole.runs
        assert [one - (5 << 32) for one in row["ids"]] == expected["ids"]


@pytest.mark.parametrize(
    "ids", ["1,2,", "1,,2", ",3", "1 2", "01", "-1", "4294967296", "1.5", "true", '"1"', "[1]"]
)
def test_a_list_that_is_not_of_ids_is_left_to_be_read_alone(ids):
    text = f'[{{"ids":[1,2]}},{{"ids":[{ids}]}}]'
    with pytest.raises(NotPlain):
        with_id_runs(text, "ids", 2**32, 0)


@pytest.mark.parametrize("text", ['{"ids":[1', '{"ids":[ ]},{"ids":[ ,5]}', '{"t":NaN,"ids":[1]}'])
def test_a_text_that_is_not_whole_is_left_to_be_read_alone(text):
    with pytest.raises(NotPlain):
        with_id_runs(text, "ids", 2**32, 0)


def test_an_infinity_keeps_its_value_beside_lists():
    found = with_id_runs('{"t":Infinity,"ids":[3],"u":-Infinity}', "ids", 2**32, 0)
    assert (found["t"], list(found["ids"]), found["u"]) == (float("inf"), [3], float("-inf"))
