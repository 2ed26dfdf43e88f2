"""Whatever a file holds, reading it gives requests or one clear error, never a traceback."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import KVSimError
from kvsim.workload import ClosedLoop, build_workload, parse_workload
from kvsim.workload.streams import Streams
from kvsim.workload.traces import FORMATS
from kvsim.workload.traces.stats import trace_stats
from tests.support.needs import examples

HEADERS = [
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
    "arrived_at,num_prefill_tokens,num_decode_tokens",
    "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size",
    "num_prefill_tokens,num_decode_tokens",
]
KEYS = [
    "timestamp", "input_length", "output_length", "hash_ids", "chat_id", "parent_chat_id",
    "input_toks", "output_toks", "arrival_time_ns", "input_tok_ids", "block_size",
    "hash_id_scope", "requests", "t", "in", "out", "think_time", "type", "schema",
    "hash_block_size", "arrival_seconds", "prompt_tokens", "output_tokens", "block_ids",
    "session", "samples", "input_lens", "output_lens", "start_times",
]  # fmt: skip

numbers = st.one_of(
    st.integers(-3, 3000), st.integers(), st.floats(), st.just(10**400), st.just(True), st.none()
)
cells = st.one_of(
    numbers.map(str),
    st.text(max_size=8),
    st.just("2023-11-16 18:15:46.6805900"),
    st.just("2023-99-99 99:99:99+99:99"),
    st.just('"'),
)
json_values = st.recursive(
    st.one_of(numbers, st.text(max_size=5), st.just("kvsim-trace/1"), st.just("subagent")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)
    ),
    max_leaves=12,
)
csv_files = st.tuples(
    st.sampled_from(HEADERS), st.lists(st.lists(cells, max_size=7).map(",".join), max_size=6)
).map(lambda file: "\n".join([file[0], *file[1]]).encode(errors="replace"))
json_files = st.lists(
    st.dictionaries(st.sampled_from(KEYS), json_values, max_size=12), min_size=1, max_size=4
).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
files = st.one_of(st.binary(max_size=300), csv_files, json_files)


def requests_of(path, format_name):
    """Return how many requests a file replays."""
    described = parse_workload({"trace": {"file": str(path), "format": format_name}})
    workload = build_workload(described)
    if isinstance(workload, ClosedLoop):
        return len(workload.start(Streams(0)))
    return sum(map(len, workload.tables(Streams(0))))


def attempt(call, *arguments):
    """Return the result and no problem, or the one line of a KVSimError; the rest escapes."""
    try:
        return call(*arguments), None
    except KVSimError as error:
        return None, str(error)


def replay(path, format_name):
    """Read a file as a workload and as statistics: requests, or one line that says why not."""
    found, problem = attempt(requests_of, path, format_name)
    assert found or (problem and "\n" not in problem)
    stats, problem = attempt(trace_stats, path, format_name)
    assert stats or (problem and "\n" not in problem)


@settings(max_examples=examples(300))
@given(
    content=files,
    packed=st.booleans(),
    format_name=st.sampled_from([None, None, *sorted(FORMATS)]),
)
def test_any_bytes_give_requests_or_one_clear_error(tmp_path_factory, content, packed, format_name):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(gzip.compress(content) if packed else content)
    replay(path, format_name)


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a":' * 50_000, b'{"timestamp": ' + b"9" * 5000 + b"}"],
    ids=["brackets", "objects", "digits"],
)
@pytest.mark.parametrize("format_name", [None, *sorted(FORMATS)])
def test_what_overflows_a_parser_is_one_clear_error(tmp_path, content, format_name):
    path = tmp_path / "deep"
    path.write_bytes(content)
    problem = attempt(requests_of, path, format_name)[1]
    assert problem
    assert "\n" not in problem


BASES = {
    "mooncake": {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]},
    "bailian": {
        "chat_id": 1, "parent_chat_id": -1, "timestamp": 0.5, "input_length": 40,
        "output_length": 9, "type": "text", "turn": 1, "hash_ids": [0, 1],
    },
    "llmservingsim": {
        "input_toks": 2, "output_toks": 1, "arrival_time_ns": 5, "input_tok_ids": [1, 2],
    },
    "weka": {
        "block_size": 64, "hash_id_scope": "local", "requests": [
            {"t": 0, "type": "n", "in": 70, "out": 2, "hash_ids": [1], "think_time": 0},
        ],
    },
    "vllm-bench": {
        "input_lens": [3, 4], "output_lens": [5, 6], "start_times": [1.0, 2.0],
        "total_input_tokens": 7, "total_output_tokens": 11, "request_throughput": 1.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BASES))
@settings(max_examples=examples(60))
@given(data=st.data())
def test_one_value_gone_wrong(tmp_path_factory, name, data):
    """A good row beside one whose value, at any depth, became anything."""
    row = json.loads(json.dumps(BASES[name]))
    place = row
    if name == "weka" and data.draw(st.booleans()):
        place = row["requests"][0]
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    path = tmp_path_factory.getbasetemp() / f"bent-{name}"
    good = "" if name == "vllm-bench" else json.dumps(BASES[name]) + "\n"
    path.write_text(good + json.dumps(row))
    replay(path, name)
    replay(path, None)


@settings(max_examples=examples(60))
@given(windows=cells, share=cells, length=cells)
def test_bent_servegen_files(tmp_path_factory, windows, share, length):
    folder = tmp_path_factory.getbasetemp() / "bent-servegen"
    folder.mkdir(exist_ok=True)
    text = f"0,{windows},1,Gamma,1,1\n1,0.001,1,Weibull,{windows},1\n"
    (folder / "chunk-0-trace.csv").write_text(text, errors="replace")
    dataset = {"0": {"input_tokens": f"{{{length}: {share}}}", "output_tokens": "{1: 1}"}}
    (folder / "chunk-0-dataset.json").write_text(json.dumps(dataset))
    found, problem = attempt(requests_of, folder, None)
    assert found is not None or "\n" not in problem
