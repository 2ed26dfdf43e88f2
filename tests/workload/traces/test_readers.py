"""Each format in a few rows of its own, and what is said of files that are not what they seem.

Rows are written in the shape that the README of the reference traces documents.
"""

import gzip
import io
import json
import tarfile

import pytest

from kvsim.errors import InputError, UnknownNameError, UnsupportedError
from kvsim.workload import NextRequest, RequestTable, build_workload, parse_workload
from kvsim.workload.streams import Streams
from kvsim.workload.traces import FORMATS, open_trace, read_lengths, source

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:16:01,879,55
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:01+00:00,2399,6
"""
MOONCAKE = """{"timestamp": 0, "input_length": 1300, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 1024, "output_length": 5, "hash_ids": [0, 3]}
"""
BAILIAN = """{"chat_id":7,"parent_chat_id":-1,"timestamp":0.5,"input_length":40,"output_length":9,\
"type":"text","turn":1,"hash_ids":[0,1,2]}
{"chat_id":8,"parent_chat_id":7,"timestamp":2.5,"input_length":70,"output_length":9,\
"type":"text","turn":2,"hash_ids":[0,1,3,4]}
{"chat_id":9,"parent_chat_id":8,"timestamp":4.5,"input_length":33,"output_length":1,\
"type":"text","turn":3,"hash_ids":[0,1]}
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
BURSTGPT_3 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,\
Total tokens,Log Type
5,a1,3.5,ChatGPT,472,18,490,Conversation log
45,b2,1.5,ChatGPT,10,7,17,Conversation log
118.5,a1,9,GPT-4,417,276,693,Conversation log
"""
VIDUR = """arrived_at,num_prefill_tokens,num_decode_tokens
0.25,100,10
1.5,200,20
"""
SPLITWISE = """request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,\
token_size
0,2,0,1,1,4096,32
1,2,0,3,1,2048,8
"""
SIM = """{"input_toks":20,"output_toks":7,"arrival_time_ns":1500000000}
{"input_toks":22,"output_toks":4,"arrival_time_ns":2500000000}
"""
KVSIM = """{"schema": "kvsim-trace/1", "hash_block_size": 16}
{"arrival_seconds": 0.0, "prompt_tokens": 40, "output_tokens": 5, "block_ids": [0, 1, 2]}
{"arrival_seconds": 0.5, "prompt_tokens": 32, "output_tokens": 5, "block_ids": [0, 3]}
"""
LENGTHS = """num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio
74,918,992,0.08
290,905,1195,0.32
"""
BENCH = json.dumps(
    {
        "duration": 3.0,
        "completed": 2,
        "total_input_tokens": 30,
        "total_output_tokens": 12,
        "request_throughput": 0.7,
        "input_lens": [10, 20, 99],
        "output_lens": [5, 7, 0],
        "start_times": [101.5, 100.0, 102.0],
        "errors": ["", "", "boom"],
    }
)


def written(folder, text, name="trace"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows_of(path, **keys):
    trace = open_trace(path, **keys)
    reading = trace.reading()
    return [tuple(row[1:4]) for row in trace.rows(reading)], reading.report


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("azure", AZURE, [(0.0, 374, 44), (4.314579, 396, 109), (14.31941, 879, 55)]),
        ("azure", AZURE_2024, [(0.0, 2162, 5), (0.99007, 2399, 6)]),
        ("mooncake", MOONCAKE, [(0.0, 1300, 500), (3.0, 1024, 5)]),
        ("bailian", BAILIAN, [(0.5, 40, 9), (2.5, 70, 9), (4.5, 33, 1)]),
        ("burstgpt", BURSTGPT, [(5, 472, 18), (118, 417, 276)]),
        ("burstgpt", BURSTGPT_3, [(5, 472, 18), (45, 10, 7), (118.5, 417, 276)]),
        ("vidur", VIDUR, [(0.25, 100, 10), (1.5, 200, 20)]),
        ("splitwise", SPLITWISE, [(1, 4096, 32), (3, 2048, 8)]),
        ("llmservingsim", SIM, [(1.5, 20, 7), (2.5, 22, 4)]),
        ("lengths", LENGTHS, [(None, 74, 918), (None, 290, 905)]),
        ("vllm-bench", BENCH, [(0.0, 20, 7), (1.5, 10, 5)]),
        ("kvsim", KVSIM, [(0.0, 40, 5), (0.5, 32, 5)]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_format_is_recognised_and_read(tmp_path, name, text, rows, packed):
    content = gzip.compress(text.encode(), mtime=0) if packed else text.replace("\n", "\r\n")
    path = written(tmp_path, content)
    assert open_trace(path).format.name == name
    found, report = rows_of(path)
    assert [row[1:] for row in found] == [row[1:] for row in rows]
    for (arrival, *_), (expected, *_) in zip(found, rows, strict=True):
        assert arrival == pytest.approx(expected, abs=1e-9)
    assert report.malformed == 0


def test_every_format_has_a_fixture_above():
    told_apart = {"azure", "mooncake", "bailian", "burstgpt", "vidur", "splitwise"}
    told_apart |= {"llmservingsim", "lengths", "vllm-bench", "kvsim"}
    assert set(FORMATS) == told_apart | {"weka", "servegen"}


def test_azure_keeps_its_seventh_digit(tmp_path):
    text = AZURE.splitlines()[0] + "\n2023-11-16 23:59:59.9999999,1,1\n2023-11-17 00:00:00,1,1\n"
    rows, _ = rows_of(written(tmp_path, text))
    assert rows[1][0] == pytest.approx(1e-7, rel=1e-9)


def test_azure_offsets_are_applied(tmp_path):
    header = AZURE.splitlines()[0]
    text = f"{header}\n2024-05-10 10:00:00+02:00,1,1\n2024-05-10 08:00:05Z,1,1\n"
    assert rows_of(written(tmp_path, text))[0][1][0] == 5.0


def test_failed_requests_are_dropped_and_counted(tmp_path):
    report = rows_of(written(tmp_path, BURSTGPT))[1]
    assert report.dropped == {"the request failed (0 response tokens)": 1}
    assert report.lines() == ["1 row dropped: the request failed (0 response tokens)"]


def test_sessions_are_chains_of_parents(tmp_path):
    trace = open_trace(written(tmp_path, BAILIAN))
    assert [row.session for row in trace.rows(trace.reading())] == [7, 7, 7]
    trace = open_trace(written(tmp_path, BURSTGPT_3))
    assert [row.session for row in trace.rows(trace.reading())] == [0, 1, 0]


def test_token_ids_become_chained_identities(tmp_path):
    shared, tokens = list(range(16)), {"output_toks": 1, "arrival_time_ns": 0}
    rows = [
        {"input_toks": 32, "input_tok_ids": shared + [1] * 16, **tokens},
        {"input_toks": 40, "input_tok_ids": shared + [2] * 24, **tokens},
        {"input_toks": 32, "input_tok_ids": [9] * 16 + [1] * 16, **tokens},
    ]
    trace = open_trace(written(tmp_path, "\n".join(map(json.dumps, rows))))
    first, second, third = (row.block_ids for row in trace.rows(trace.reading()))
    assert len(first) == len(second) == 2
    assert first[0] == second[0]
    assert len({first[1], second[1], third[0], third[1]}) == 4


def table_of(path, **trace):
    described = parse_workload({"trace": {"file": str(path), **trace}})
    return RequestTable.concat(build_workload(described).tables(Streams(0), 7))


def test_ids_reach_the_table_without_the_partial_block(tmp_path):
    table = table_of(written(tmp_path, MOONCAKE))
    assert table.content.block_ids(0, 512, 1300) == [0, 1]
    assert table.content.block_ids(1, 512, 1024) == [0, 3]


def test_no_ids_mean_no_sharing(tmp_path):
    assert table_of(written(tmp_path, VIDUR)).content is None


def test_rows_without_ids_among_rows_with_share_nothing(tmp_path):
    text = MOONCAKE + '{"timestamp": 9000, "input_length": 600, "output_length": 5}\n' * 2
    content = table_of(written(tmp_path, text)).content
    assert set(content.block_ids(2, 512, 600)).isdisjoint(content.block_ids(3, 512, 600))


def test_ids_that_do_not_fit_the_prompt_are_malformed(tmp_path):
    text = (
        MOONCAKE + '{"timestamp": 9000, "input_length": 600, "output_length": 5, "hash_ids": [1]}\n'
    )
    report = rows_of(written(tmp_path, text))[1]
    assert report.examples == []  # the full block is named, the partial one is not
    bad = text.replace("[1]", "[1, 2, 3]")
    report = rows_of(written(tmp_path, bad))[1]
    assert report.examples == [(3, "3 ids for 600 tokens in blocks of 512")]


def test_malformed_rows_are_counted_with_their_lines(tmp_path):
    text = VIDUR + "2.5,abc,1\n\n3.5,1\n4.5,1,1.5\n5.5,7,7\n"
    rows, report = rows_of(written(tmp_path, text))
    assert len(rows) == 3
    assert report.malformed == 3
    assert [line for line, _ in report.examples] == [4, 6, 7]
    assert report.examples[0][1] == "num_prefill_tokens 'abc' is not a whole number"
    assert report.examples[1][1] == "2 fields under a header of 3"
    assert report.lines()[0] == "3 malformed rows"


def test_only_twenty_malformed_rows_are_told(tmp_path):
    report = rows_of(written(tmp_path, VIDUR + "x,1,1\n" * 50))[1]
    assert (report.malformed, len(report.examples)) == (50, 20)
    assert report.lines()[-1] == "  and 30 more"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1.0,5,5", ":4: arrived_at: the time goes back from 1.5 s to 1.0 s"),
        ("nan,5,5", ":4: arrived_at: an arrival at nan s"),
        ("inf,5,5", ":4: arrived_at: an arrival at inf s"),
        ("-2,5,5", ":4: arrived_at: an arrival at -2.0 s"),
        ("2,0,5", ":4: num_prefill_tokens: a prompt of 0 tokens"),
        ("2,-5,5", ":4: num_prefill_tokens: a prompt of -5 tokens"),
        ("2,5,-1", ":4: num_decode_tokens: an output of -1 tokens"),
        ("2,9999999999,1", ":4: num_prefill_tokens: a prompt of 9999999999 tokens"),
    ],
)
def test_impossible_rows_stop_with_file_line_and_key(tmp_path, row, message):
    path = written(tmp_path, f"{VIDUR}{row}\n")
    with pytest.raises(InputError) as caught:
        rows_of(path)
    assert str(caught.value) == f"{path}{message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (VIDUR.splitlines()[0].encode(), "no request: the trace is empty"),
        (
            VIDUR.splitlines()[0].encode() + b"\nx,y,z\n",
            "no request: all 1 rows were left out (first: line 2: num_pre",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n",
            "this is a git-LFS pointer, not the trace itself; fetch the content with `git lfs",
        ),
        (b"a,b\0c\n", "the file is binary, not text"),
        (b"PAR1\x00\x01", "this is a Parquet file"),
        (b"PK\x03\x04junk", "this is a zip archive"),
        (b"a,b,c\n1,2,3\n", "the content (a, b, c) is no trace format kvsim knows"),
        (b'{"foo": 1}\n', "the content (foo) is no trace format kvsim knows"),
        (gzip.compress(VIDUR.encode(), mtime=0)[:-12], "the compressed file is damaged"),
        (b"\x1f\x8bnot gzip at all", "the compressed file is damaged"),
    ],
)
def test_files_that_are_no_trace_say_what_they_are(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(InputError) as caught:
        rows_of(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_folder_or_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_trace(tmp_path / "none")
    with pytest.raises(InputError, match="is a folder, and holds none of ServeGen's files"):
        open_trace(tmp_path)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "servegen"])
def test_a_format_by_name_does_not_make_a_trace_of_anything(tmp_path, name):
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a git-LFS pointer"),
        (b"TIMESTAMP\x00\x01", "the file is binary"),
        (b"", "the file is empty"),
    ):
        path = tmp_path / "trace"
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            open_trace(path, name)
    with pytest.raises(InputError, match="is a folder"):
        open_trace(tmp_path, name)


def test_a_format_by_name_is_believed_and_checked(tmp_path):
    path = written(tmp_path, VIDUR)
    with pytest.raises(InputError, match="no column TIMESTAMP"):
        rows_of(path, format_name="azure")
    with pytest.raises(UnknownNameError, match="did you mean vidur"):
        open_trace(path, "vidor")


def test_a_line_without_end_is_capped(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "MAX_LINE_BYTES", 1000)
    path = written(tmp_path, VIDUR + "1" * 2000)
    with pytest.raises(InputError, match="line 4 is over"):
        rows_of(path)


def test_a_gzip_bomb_is_capped(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_PACKING_ALLOWANCE", 1000)
    text = VIDUR + "\n" * 2_000_000
    with pytest.raises(InputError, match="the unpacked file is over"):
        rows_of(written(tmp_path, gzip.compress(text.encode(), mtime=0)))


def test_a_large_file_streams(tmp_path):
    """The first row comes although a later one would stop the reading."""
    path = written(tmp_path, VIDUR + "3,1,1\n" * 100_000 + "0,1,1\n")
    trace = open_trace(path)
    rows = trace.rows(trace.reading())
    assert next(rows).prompt_tokens == 100
    with pytest.raises(InputError, match=":100004: arrived_at"):
        list(rows)


def test_time_scale_and_limits(tmp_path):
    path = written(tmp_path, VIDUR + "3,1,1\n4,1,1\n")
    assert table_of(path, time_scale=0.5).arrival_seconds.tolist() == [0.125, 0.75, 1.5, 2.0]
    assert len(table_of(path, max_requests=3)) == 3


def test_jitter_moves_each_request_within_its_tick(tmp_path):
    rows = [
        {"timestamp": 3000 * (at // 10), "input_length": at + 1, "output_length": 1}
        for at in range(1000)
    ]
    path = written(tmp_path, "\n".join(map(json.dumps, rows)))
    table = table_of(path, jitter_seconds=3)
    for prompt, arrival in zip(table.prompt_tokens, table.arrival_seconds, strict=True):
        assert 3 * ((prompt - 1) // 10) <= arrival < 3 * ((prompt - 1) // 10) + 3
    assert len(set(table.arrival_seconds.tolist())) == 1000
    again = table_of(path, jitter_seconds=3)
    assert again.arrival_seconds.tolist() == table.arrival_seconds.tolist()


def test_lengths_files_cannot_be_replayed(tmp_path):
    path = written(tmp_path, LENGTHS)
    prompt, output = read_lengths(path)
    assert (prompt.tolist(), output.tolist()) == ([74, 290], [918, 905])
    with pytest.raises(InputError, match="lengths and no arrival times"):
        table_of(path)


def test_a_bench_result_without_details_says_which_flag(tmp_path):
    result = {key: value for key, value in json.loads(BENCH).items() if "lens" not in key}
    with pytest.raises(InputError, match="--save-detailed"):
        rows_of(written(tmp_path, json.dumps(result, indent=1)))


def test_a_bench_result_without_start_times_has_lengths_only(tmp_path):
    result = {key: value for key, value in json.loads(BENCH).items() if key != "start_times"}
    path = written(tmp_path, json.dumps(result))
    assert rows_of(path)[0] == [(None, 10, 5), (None, 20, 7)]
    with pytest.raises(InputError, match="lengths and no arrival times"):
        table_of(path)


# --- WEKA ----------------------------------------------------------------------------------


def turn(at, prompt, output, think, ids, **more):
    return {"t": at, "type": "n", "in": prompt, "out": output, "hash_ids": ids,
            "think_time": think, "api_time": 1.0, **more}  # fmt: skip


def talk(*requests):
    return json.dumps(
        {"id": "x", "block_size": 64, "hash_id_scope": "local", "requests": list(requests)}
    )


WEKA = "\n".join(
    [
        talk(
            turn(0, 130, 5, 0, [1, 2]),
            {"t": 4.0, "type": "subagent", "requests": [
                turn(0, 64, 2, 0, [9]),
                turn(3, 128, 2, 2, [9, 10]),
            ]},
            turn(11, 200, 0, 10, [1, 2, 3]),
        ),
        talk(turn(0, 70, 5, 0, [1]), turn(30, 140, 6, 20, [1, 2])),
    ]
)  # fmt: skip


def weka(folder, text=WEKA, **trace):
    path = written(folder, text)
    return build_workload(parse_workload({"trace": {"file": str(path), **trace}}))


def test_conversations_replay_by_think_time(tmp_path):
    """Start of a request = end of the one before it + think; the sub-agent runs beside."""
    loop = weka(tmp_path)
    table = loop.start(Streams(0))
    assert table.prompt_tokens.tolist() == [130, 70]
    assert loop.following(0, 100.0) == NextRequest(110.0, 200, 1, 0)  # an output of 0 becomes 1
    branch = NextRequest(103.0, 64, 2, 0)  # recorded 4.0 - (0 + api 1.0) after the end
    assert loop.branches(0, 100.0) == (branch,)
    assert loop.following(1, 50.0) == NextRequest(70.0, 140, 6, 1)
    assert loop.branches(1, 50.0) == ()
    assert loop.following(3, 104.0) == NextRequest(106.0, 128, 2, 0)
    assert [loop.following(row, 200.0) for row in (2, 4, 5)] == [None] * 3
    assert loop.report.notes == {"no output token; replayed with one": 1}


def test_a_conversation_may_be_a_file_of_its_own(tmp_path):
    """The published set has one indented JSON file a conversation."""
    line = WEKA.splitlines()[0]
    one, indented = weka(tmp_path, line), weka(tmp_path, json.dumps(json.loads(line), indent=2))
    for loop in (one, indented):
        assert loop.start(Streams(0)).prompt_tokens.tolist() == [130]
        assert loop.following(0, 100.0) == NextRequest(110.0, 200, 1, 0)


def test_identities_are_local_to_a_conversation(tmp_path):
    loop = weka(tmp_path)
    content = loop.start(Streams(0)).content
    loop.following(0, 1.0)
    loop.branches(0, 1.0)
    first, other, later, agent = (content.block_ids(row, 64, 64) for row in range(4))
    assert first == later
    assert len({*first, *other, *agent}) == 3


def test_clients_open_one_conversation_after_another(tmp_path):
    loop = weka(tmp_path, clients=1)
    assert len(loop.start(Streams(0))) == 1
    loop.following(0, 1.0)
    assert loop.following(1, 50.0) == NextRequest(50.0, 70, 5, 1)
    assert loop.following(2, 60.0) == NextRequest(80.0, 140, 6, 1)
    assert loop.following(3, 90.0) is None


def test_limits_and_time_scale_hold_in_conversations(tmp_path):
    loop = weka(tmp_path, max_requests=3, time_scale=0.5)
    loop.start(Streams(0))
    assert loop.following(0, 100.0).arrival_seconds == 105.0
    assert loop.branches(0, 100.0) == ()


def test_a_missing_think_time_is_the_recorded_gap(tmp_path):
    first, second = turn(0, 70, 5, 0, [1]), turn(30, 140, 6, 20, [1, 2])
    del second["think_time"]
    loop = weka(tmp_path, talk(first, second))
    loop.start(Streams(0))
    assert loop.following(0, 100.0).arrival_seconds == 129.0  # 30 - (0 + api 1.0)
    assert loop.report.notes == {"no think_time; the recorded gap is used": 1}


def test_malformed_conversations_are_counted(tmp_path):
    bad = talk(turn(0, 130, 5, 0, [1]))
    loop = weka(tmp_path, f"{WEKA}\n{bad}\nnot json\n{talk()}\n")
    assert len(loop.start(Streams(0))) == 2
    assert [line for line, _ in loop.report.examples] == [3, 4, 5]
    assert loop.report.examples[0][1] == "1 hash_ids for 130 tokens"
    with pytest.raises(InputError, match="all 1 rows were left out"):
        weka(tmp_path, bad).start(Streams(0))


# --- ServeGen ------------------------------------------------------------------------------

WINDOWS = "0,0.5,1.0,Gamma,1.0,2.0\n100,2,3.0,Weibull,0.5,0.2\n200,0,0,,0,0\n"
DATASET = json.dumps(
    {
        "0": {"input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": "{3: 1.0}"},
        "100": {"input_tokens": "{30: 1.0}", "output_tokens": "{4: 1}"},
        "200": {"input_tokens": "{}", "output_tokens": "{}"},
    }
)


def servegen(folder, windows=WINDOWS, dataset=DATASET):
    folder.mkdir(exist_ok=True)
    written(folder, windows, "chunk-3-trace.csv")
    written(folder, dataset, "chunk-3-dataset.json")
    return folder


def packed(folder):
    target = folder.parent / "clients.tar.gz"
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, "data")
    return target


def test_servegen_sends_what_its_windows_counted(tmp_path):
    folder = servegen(tmp_path / "s")
    assert open_trace(folder).format.name == "servegen"
    table = table_of(folder)
    first = table.arrival_seconds < 100
    assert (first.sum(), (~first).sum()) == (50, 200)
    assert table.arrival_seconds[-1] < 200
    assert set(table.prompt_tokens[first].tolist()) == {10, 20}
    assert set(table.prompt_tokens[~first].tolist()) == {30}
    archived = table_of(packed(folder))
    assert archived.arrival_seconds.tolist() == table.arrival_seconds.tolist()


@pytest.mark.parametrize(
    ("windows", "dataset", "message"),
    [
        (
            "0,x,1,Gamma,1,1",
            DATASET,
            "chunk-3-trace.csv:1: start, rate and shape '0', 'x', '1': each should be a finite",
        ),
        ("1e300,1,1,Gamma,1,1", DATASET, "each should be at most 1e+10 s"),
        ("0,1,1,Zeta,1,1", DATASET, "chunk-3-trace.csv:1: pattern 'Zeta'"),
        ("0,-1,1,Gamma,1,1", DATASET, "chunk-3-trace.csv:1: a rate of -1 is below 0"),
        ("0,0,0,,0,0", DATASET, "no chunk-N-trace.csv with a rate above 0"),
        ("5,1,1,Gamma,1,1\n0,1,1,Gamma,1,1", DATASET, "windows go back in time"),
        (WINDOWS, "{}", "no lengths for a client that sends"),
        (WINDOWS, DATASET.replace("{30: 1.0}", "__import__('os')"), "not a histogram"),
        (WINDOWS, DATASET.replace("{30: 1.0}", "{30: -1}"), "not a histogram"),
        (WINDOWS, "junk", "not a histogram: not JSON"),
    ],
)
def test_servegen_files_that_are_wrong_are_named(tmp_path, windows, dataset, message):
    folder = servegen(tmp_path / "s", windows, dataset)
    with pytest.raises(InputError) as caught:
        table_of(folder)
    assert message in str(caught.value)


def test_a_servegen_window_beyond_reason_is_refused(tmp_path):
    folder = servegen(tmp_path / "s", "0,1e12,1,Gamma,1,1\n600,0,0,,0,0\n")
    with pytest.raises(InputError, match=r"6e\+14 requests in the window at 0 s"):
        table_of(folder)


def test_servegen_is_no_list_of_requests(tmp_path):
    with pytest.raises(UnsupportedError, match="histograms, not"):
        read_lengths(servegen(tmp_path / "s"))


def test_an_archive_with_oversized_members_is_refused(tmp_path, monkeypatch):
    from kvsim.workload.traces.formats import servegen as module

    monkeypatch.setattr(module, "_MAX_MEMBER_BYTES", 10)
    with pytest.raises(InputError, match="too large"):
        table_of(packed(servegen(tmp_path / "s")))


def test_a_tar_of_something_else_is_no_servegen(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("readme")
        info.size = 2
        archive.addfile(info, io.BytesIO(b"hi"))
    with pytest.raises(InputError, match=r"no chunk-N-trace\.csv"):
        table_of(path)


def test_a_line_end_inside_a_quoted_header_is_one_clear_error(tmp_path):
    """Python's csv reader refuses a bare carriage return before a quote; so do we, in our words."""
    path = tmp_path / "odd.csv"
    path.write_bytes(b'a\r"')
    with pytest.raises(InputError, match=r"odd\.csv"):
        open_trace(path)


# --- what no trace may hold, whatever its format ---


@pytest.mark.parametrize("at", ["1e300", "1.0000001e10", "1e400", "9" * 400])
def test_a_time_beyond_the_clock_is_refused_with_its_line(tmp_path, at):
    path = tmp_path / "late.csv"
    path.write_text(f"arrived_at,num_prefill_tokens,num_decode_tokens\n0,3,4\n{at},3,4\n")
    with pytest.raises(InputError, match=r"late\.csv:3: arrived_at: an arrival at (1e\+|inf)"):
        table_of(path)


def test_a_clock_of_nanoseconds_may_be_read(tmp_path):
    """Times since 1970 are within the bound: they are written down in earnest."""
    path = tmp_path / "epoch.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n1700000000.5,3,4\n")
    assert table_of(path).arrival_seconds.tolist() == [1700000000.5]


def test_scaled_times_keep_to_the_clock_too(tmp_path):
    path = tmp_path / "epoch.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n1700000000.5,3,4\n")
    workload = build_workload(parse_workload({"trace": {"file": str(path), "time_scale": 100}}))
    with pytest.raises(InputError, match=r"a request arrives at 1\.7e\+11 s; the clock goes to"):
        list(workload.tables(Streams(0)))


@pytest.mark.parametrize(
    "content",
    [
        b"arrived_at,num_prefill_tokens,num_decode_tokens\r0,3,4\r1,3,4\r",
        b'arrived_at,"num_prefill_tokens",num_decode_tokens\r0,3,4',
        b'{"timestamp": 0, "input_length": 4, "output_length": 5}\r{"timestamp": 1}',
    ],
)
def test_bare_carriage_returns_are_named_with_what_helps(tmp_path, content):
    path = tmp_path / "mac.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        table_of(path)
    fix = "convert it: tr '\\r' '\\n' < FILE > NEW"
    assert str(caught.value) == f"{path}: its lines end in a bare carriage return; {fix}"


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens,arrived_at\n0,3,4,9\n")
    with pytest.raises(InputError, match=r"twice\.csv:1: the column arrived_at is there twice"):
        table_of(path)


@pytest.mark.parametrize("value", [True, "x", 1.5, None, -1])
def test_a_result_of_one_file_is_refused_for_one_wrong_length(tmp_path, value):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"input_lens": [3, value], "output_lens": [4, 5]}))
    with pytest.raises(InputError, match=r"result\.json: request 2: input_lens|:2: input_lens"):
        read_lengths(path)


def test_a_device_is_no_trace():
    with pytest.raises(InputError, match="is a pipe or a device, not a file; save it to a file"):
        open_trace("/dev/zero")
