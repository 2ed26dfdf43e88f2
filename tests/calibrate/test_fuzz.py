"""Whatever a benchmark, a log, a table of steps or a validation holds: values, or one line."""

import json
import math
from dataclasses import astuple, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.calibrate.records import read_validation
from kvsim.calibrate.rows import StepRows, read_rows
from kvsim.calibrate.served.bench import read_bench_result
from kvsim.calibrate.served.engine_log import compare_log, parse_engine_log, read_engine_log
from tests.support.needs import examples
from tests.support.refusals import read_or_refused

COLUMNS = [field.name for field in fields(StepRows)]
SOUND = {
    "model": "m", "phase": "decode", "layers": "32", "tokens": "8", "sequences": "8",
    "weight_bytes": "1.6e10", "flops": "2e11", "kv_bytes": "1e9", "kv_heads": "256",
    "attention_flops": "0", "query_tokens": "0", "tp": "1", "message_bytes": "0",
    "seconds": "0.01",
}  # fmt: skip
METRICS = [
    "completed", "duration", "total_input_tokens", "request_throughput", "mean_ttft_ms",
    "p99_tpot_ms", "median_itl_ms", "input_lens", "start_times",
]  # fmt: skip
LOG_LINES = [
    "Model loading took {} GiB and 3.6 seconds",
    "GPU KV cache size: {} tokens",
    "# GPU blocks: {}, # CPU blocks: 512",
    "Maximum concurrency for {} tokens per request: {}x",
    "Initializing an LLM engine (v{}) with config: model='{}', max_seq_len={}",
    "tensor_parallel_size={}, max_num_seqs={}, gpu_memory_utilization={}",
    "Requested memory: {} (util), {} GiB",
    "{} GiB for peak activation; Free memory on device ({}/{} GiB)",
    "torch peak memory increase: {}GiB; dtype=torch.{}, kv_cache_dtype={}",
]

numbers = st.one_of(
    st.integers(-2, 99).map(str),
    st.floats().map(str),
    st.sampled_from(["9" * 400, "9" * 5000, "1e999", "0.19.0", "1,000", ".", ",", "", "1_0", "٣"]),
)
texts = numbers | st.text(max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def finite(values):
    return all(math.isfinite(value) for value in values)


@settings(max_examples=examples(300))
@given(change=st.dictionaries(st.sampled_from(METRICS), json_values, max_size=4))
def test_a_benchmark(folder, change):
    path = folder / "bench.json"
    path.write_text(json.dumps({"completed": 3, **change}))
    result, _ = read_or_refused(read_bench_result, path)
    if result is not None:
        measured = [value for key, value in result.items() if key in METRICS[:7]]
        json.dumps(measured, allow_nan=False)
        assert all(value is None or type(value) is float for value in measured)


@settings(max_examples=examples(300))
@given(
    lines=st.lists(
        st.tuples(st.sampled_from(LOG_LINES), st.lists(texts, min_size=3, max_size=3)), max_size=5
    )
)
def test_a_log(folder, lines):
    path = folder / "vllm.log"
    path.write_bytes("\n".join(line.format(*gaps) for line, gaps in lines).encode(errors="replace"))
    log, _ = read_or_refused(read_engine_log, path)
    if log is not None:
        stated = [value for value in astuple(log) if isinstance(value, float)]
        assert finite(stated)
        read_or_refused(compare_log, log, "h100", "llama3-8b")


@settings(max_examples=examples(200))
@given(changes=st.lists(st.dictionaries(st.sampled_from(COLUMNS), texts, max_size=3), max_size=3))
def test_a_table_of_steps(folder, changes):
    path = folder / "steps.csv"
    rows = [",".join({**SOUND, **change}.values()) for change in changes]
    path.write_bytes("\n".join([",".join(COLUMNS), *rows]).encode(errors="replace"))
    steps, _ = read_or_refused(read_rows, path)
    assert steps is None or np.isfinite(steps.seconds).all()


@settings(max_examples=examples(200))
@given(content=st.binary(max_size=120) | st.text('model,phase\r\n"0', max_size=60).map(str.encode))
@pytest.mark.parametrize("reader", [read_rows, read_bench_result, read_engine_log, read_validation])
def test_any_bytes(folder, reader, content):
    path = folder / "any"
    path.write_bytes(content)
    assert read_or_refused(reader, path)[1]


@settings(max_examples=examples(200))
@given(text=st.text())
def test_any_text_is_a_log_that_states_nothing_or_something(text):
    read_or_refused(parse_engine_log, text)
