"""Impossible questions: each is one line that says where and what, and exit code 2."""

from __future__ import annotations

import pytest

from tests.support.refusals import refused

SET = "--set"
SIMULATE = ("simulate", "peer-w")
COMPARE = ("compare", "peer-w", SET, "workload.requests=5")
TRACED = (*SIMULATE, "--trace", "good.csv")

HEADER = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
TRACES = {
    "good.csv": HEADER + "0,10,5\n1,10,5\n",
    "back.csv": HEADER + "0,10,5\n2,10,5\n1,10,5\n",
    "nan.csv": HEADER + "0,10,5\nnan,10,5\n",
    "negative.csv": HEADER + "0,10,5\n1,-1,5\n",
    "header.csv": HEADER,
    "empty.csv": "",
    "lfs.csv": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "lengths.csv": "num_prefill_tokens,num_decode_tokens\n10,5\n",
}


@pytest.fixture
def run(run_kvsim, monkeypatch, tmp_path):
    """Run kvsim beside a few traces: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for name, content in TRACES.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "folder").mkdir()
    return run_kvsim


# --- the question itself -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("simulate", "peer-x"), "unknown scenario 'peer-x'; did you mean peer-w"),
        (("simulate", "missing.yaml"), "missing.yaml: no such file"),
        (("simulate", "folder"), "unknown scenario 'folder'"),
        (("simulate", "good.csv"), "good.csv: holds str, not `key: value` lines"),
        ((*SIMULATE, "--model", "llama9"), "--model llama9: unknown model 'llama9'"),
        ((*SIMULATE, "--gpu", "h1000"), "--gpu h1000: unknown accelerator 'h1000'"),
        ((*SIMULATE, "--engine", "vlm"), "unknown engine 'vlm'; did you mean vllm"),
        ((*SIMULATE, "--seed", "-1"), "'-1' is not a whole number from 0 to 2**63 - 1"),
        ((*SIMULATE, "--seed", "9" * 20), "is not a whole number from 0 to 2**63 - 1"),
        ((*SIMULATE, "--replications", "0"), "'0' is not a whole number"),
        ((*SIMULATE, "--format", "jsn"), "--format"),
        ((*SIMULATE, "--output-dir", "good.csv"), "--output-dir"),
        ((*SIMULATE, "--output-dir", "good.csv/x"), "--output-dir: cannot make good.csv/x"),
        ((*SIMULATE, "--output-dir", ""), "--output-dir: names no place"),
        ((*SIMULATE, "--report", ""), "--report: names no place"),
        ((*SIMULATE, "--max-model-len", "600"), "line 8: workload.lengths.prompt: every request"),
        ((*SIMULATE, "--tp", "3"), "--tensor-parallel-size 3: 32 attention heads"),
        (("compare", "peer-w"), "--vary"),
    ],
)
def test_a_question_that_cannot_be_asked(run, words, said):
    assert said in refused(run, *words)


# --- --set: the line names the words that were typed ----------------------------------------


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("workload.arrivals.rate=0", "workload.arrivals.rate = 0: should be greater than 0"),
        ("workload.arrivals.rate=-1", "workload.arrivals.rate = -1: should be greater than 0"),
        ("workload.arrivals.rate=.nan", "workload.arrivals.rate = nan: should be a finite number"),
        ("workload.arrivals.rate=.inf", "workload.arrivals.rate = inf: should be a finite number"),
        ("workload.arrivals.rate=1e400", "should be a finite number"),
        ("workload.arrivals.rate=1e300", "should be at most 1000000000000000"),
        ("workload.arrivals.rate=1e-300", "should be at least 1e-12"),
        ("workload.lengths.prompt={kind: gamma, mean: 9, cv: 1e9}", "should be at most"),
        ("workload.arrivals.rate=true", "workload.arrivals.rate = True: should be a finite number"),
        ("workload.requests=true", "workload.requests = True: should be a whole number"),
        ("workload.requests=1.5", "workload.requests = 1.5: should be a whole number"),
        ("workload.requests=0", "workload.requests = 0: should be at least 1"),
        ("workload.requests=", "workload: the workload never ends"),
        ("workload.duration_seconds=5parsecs", "should be a duration: write a number and a unit"),
        ("workload.arrivals=poisson", "workload.arrivals = 'poisson': should be a mapping"),
        ("workload.arrivals.kind=piosson", "nearest valid: poisson"),
        (
            "workload.arrivals.kind=closed_loop",
            "unknown key 'workload.arrivals.rate'; the section had it before: set all of it, as"
            " workload.arrivals={kind: ..., ...}",
        ),
        ("workload.prefix.kind=groups", "the key 'workload.prefix.tokens' is missing"),
        ("workload.lengths.prompt.tokens=9000", "at least 9,000 prompt and 128 output tokens"),
        ("workload.lengths.prompt.mu=3", "unknown key 'workload.lengths.prompt.mu'"),
        ("wrkload.requests=3", "unknown key 'wrkload'; nearest valid: workload"),
        ("workload..requests=3", "is no dotted key: a part of it is empty"),
        ("model.size=3", "model is 'llama3.1-8b', so it has no key 'size'"),
        ("folder=/tmp", "unknown key 'folder'"),
        ("memory.allocator=pagd", "memory.allocator = 'pagd': should be one of 'none', "),
        ("memory.num_blocks=0", "memory.num_blocks = 0: should be at least 1"),
        ("memory.page_bytes=3", "memory.page_bytes = 3: should be at least 65536"),
        ("scheduler.host_link_bytes_per_s=0", "should be greater than 0"),
        ("engine.max_num_seq=3", "unknown key 'engine.max_num_seq'; nearest valid: max_num_seqs"),
        ('engine.version="99"', "rules are known for releases"),
        ("run.seed=-1", "run.seed = -1: should be at least 0"),
        ("run.warmup_fraction=1", "run.warmup_fraction = 1: should be less than 1"),
        ("step_time.kind=constant", "step_time: a constant step time needs its seconds"),
        ("run={", "the value is not YAML"),
        ("run.seed=2024-02-31", "run.seed = '2024-02-31': should be a whole number"),
        ("workload.requests=1:30", "workload.requests = '1:30': should be a whole number"),
        ("workload.requests=1_000", "workload.requests = '1_000': should be a whole number"),
        (
            "workload.duration_seconds=1e300",
            "workload.duration_seconds = 1e+300: should be at most 10000000000",
        ),
        ("run.max_seconds=11000000000", "run.max_seconds = 11000000000"),
        ("memory.compaction=yes", "memory.compaction = 'yes': should be true or false"),
        ("run.seed=&a 1", "the value is not YAML (anchors and aliases are not accepted)"),
    ],
)
def test_a_setting_that_cannot_be(run, setting, said):
    line = refused(run, *SIMULATE, SET, setting)
    assert line.startswith(f"kvsim: --set {setting}: ")
    assert said in line


@pytest.mark.parametrize("setting", ["workload.arrivals.rate", "=3"])
def test_a_setting_without_a_key_or_a_value(run, setting):
    assert f"--set: {setting!r} is not KEY=VALUE" in refused(run, *SIMULATE, SET, setting)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("workload.arrival.rate=3", "unknown key 'workload.arrival'; nearest valid: arrivals"),
        ("workload.arrivals.rate=3", "workload: a trace brings its own arrivals"),
        ("workload.samples=2", "workload: a trace brings its own samples"),
        ("workload.trace.time_scal=3", "unknown key 'workload.trace.time_scal'"),
        ("workload.trace.time_scale=0", "workload.trace.time_scale = 0: should be greater"),
        ("workload.trace.format=azur", "unknown trace format 'azur'; did you mean azure?"),
        ("workload.trace.clients=3", "vidur records arrivals, so it has no clients"),
    ],
)
def test_a_wrong_setting_beside_a_trace_is_the_settings_fault(run, setting, said):
    line = refused(run, *TRACED, SET, setting)
    assert line.startswith(f"kvsim: --set {setting}: ")
    assert said in line


def test_conversations_without_end_are_refused_before_they_fill_the_memory(run):
    turns = "workload.prefix={kind: conversations, turns: {kind: fixed, tokens: 1000000}}"
    line = refused(run, *SIMULATE, SET, turns)
    assert line.startswith(f"kvsim: --set {turns}: workload.prefix.turns: 4,096 conversations")
    assert "let them have 2,048 on average, or fewer" in line


def test_of_two_settings_the_wrong_one_is_named(run):
    right, wrong = "workload.requests=5", "workload.arrivals.rate=0"
    for words in ((SET, right, SET, wrong), (SET, wrong, SET, right)):
        assert refused(run, *SIMULATE, *words).startswith(f"kvsim: --set {wrong}: ")


def test_what_was_wrong_before_is_the_files_fault(run, tmp_path):
    """A right setting beside a wrong line of the same section is not to blame."""
    (tmp_path / "bad.yaml").write_text(
        "model: llama3.1-8b\naccelerator: h100\nworkload:\n  trace: {file: good.csv, speed: 2}\n"
    )
    line = refused(run, "simulate", "bad.yaml", SET, "workload.requests=5")
    assert line.startswith("kvsim: bad.yaml, line 4: unknown key 'workload.trace.speed'")


def test_a_key_of_the_file_is_found_when_it_turns_out_wrong(run, tmp_path):
    """Flags and traces are looked at after the file; its line is named all the same."""
    scenario = tmp_path / "late.yaml"
    scenario.write_text(
        "model: llama3.1-8b\naccelerator: h100\nengine:\n  tensor_parallel_size: 3\n"
        "workload:\n  trace:\n    file: good.csv\n    clients: 3\n"
    )
    line = refused(run, "simulate", "late.yaml")
    assert line.startswith("kvsim: late.yaml, line 4: engine.tensor_parallel_size: 32 attention")
    scenario.write_text(scenario.read_text().replace("size: 3", "size: 1"))
    line = refused(run, "simulate", "late.yaml")
    assert line.startswith("kvsim: late.yaml, line 8: workload.trace.clients: vidur records")
    scenario.write_text(scenario.read_text().replace("llama3.1-8b", "llama3.1-9b"))
    assert "late.yaml, line 1: model: unknown model" in refused(run, "simulate", "late.yaml")


# --- traces --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        ("nowhere.csv", "nowhere.csv: no such file"),
        ("", "--trace: names no file"),
        ("folder", "folder: is a folder, and holds none of ServeGen's files; name a file"),
        ("empty.csv", "empty.csv: the file is empty"),
        ("header.csv", "header.csv: no request: the trace is empty"),
        ("back.csv", "back.csv:4: arrived_at: the time goes back from 2.0 s to 1.0 s"),
        ("nan.csv", "nan.csv:3: arrived_at: an arrival at nan s"),
        ("negative.csv", "negative.csv:3: num_prefill_tokens: a prompt of -1 tokens"),
        ("lfs.csv", "lfs.csv: this is a git-LFS pointer"),
        ("lengths.csv", "--trace lengths.csv: workload.trace.file: "),
    ],
)
def test_a_trace_that_cannot_be_replayed(run, trace, said):
    assert said in refused(run, *SIMULATE, "--trace", trace)


# --- compare -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        (("memory.allocator=",), "needs values, separated by commas"),
        (("memory.allocator",), "is not KEY=VALUE"),
        (("memory.allocator=paged,[",), "the value is not YAML"),
        (("memory.allocator=paged",), "one variant leaves nothing to compare"),
        (("memory.allocator=paged,paged",), "vary memory.allocator: the value 'paged' is given tw"),
        (("memory.allocator=paged", "memory.allocator=grow"), "memory.allocator is varied twice"),
        (("memory.allocator=paged,pagd",), "vary memory.allocator=pagd: memory.allocator = 'pagd'"),
        (("memory.alloc=paged,grow",), "vary memory.alloc=paged: unknown key 'memory.alloc'"),
        (("engine.max_num_seqs=8,null",), "null is no value to compare"),
        (("engine.max_num_seqs=8,0",), "vary engine.max_num_seqs=0: engine.max_num_seqs = 0"),
        (("model=llama2-7b,llama9",), "vary model="),
        (("workload.lengths.prompt.tokens=9,9000",), "vary workload.lengths.prompt.tokens=9000: "),
    ],
)
def test_what_cannot_be_compared(run, vary, said):
    words = [word for each in vary for word in ("--vary", each)]
    assert said in refused(run, *COMPARE, *words)
