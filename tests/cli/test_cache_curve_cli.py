"""``kvsim cache-curve``: known answers, every format, and what it refuses."""

import csv
import io
import json

import pytest

from kvsim import InputError, PrefixTrace, cache_sizes, hit_ratio_curve, plan, read_prefixes
from kvsim.studies.cache import cache_curve, curve, served
from kvsim.studies.cache.curve import Served

# a b | c | a b: two blocks hold nothing long enough under LRU; the optimum keeps one (a hit of 5).
REQUESTS = ((1, 2), (3,), (1, 2))
BLOCK = 512 * 131_072  # Mooncake's 512 tokens of llama3.1-8b in bf16: 64 MiB
MODEL = ("--model", "llama3.1-8b")


@pytest.fixture
def run(run_kvsim, monkeypatch, tmp_path):
    """Run kvsim beside a trace in Mooncake's format: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    rows = [
        {"timestamp": 1000 * at, "input_length": 512 * len(ids), "output_length": 1,
         "hash_ids": ids}
        for at, ids in enumerate(REQUESTS)
    ]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "plain.csv").write_text("num_prefill_tokens,num_decode_tokens,arrived_at\n9,9,0\n")
    return run_kvsim


def record(run, *words):
    code, out, err = run("cache-curve", *words, "--format", "json")
    assert code == 0, err
    return json.loads(out)


def test_a_cache_that_is_traced_by_hand(run):
    found = record(run, "t.jsonl", "--sizes", "2,3")
    assert (found["requests"], found["references"], found["distinct_blocks"]) == (3, 5, 3)
    assert found["infinite_hit_ratio"] == 0.4
    two, three = found["curve"]
    assert (two["blocks"], two["tokens"], two["bytes"]) == (2, 1024, None)
    assert (two["lru"], two["belady"]) == (0, 0.2)
    assert {three[policy] for policy in ("lru", "fifo", "lfu", "belady")} == {0.4}


@pytest.mark.parametrize(
    ("policy", "blocks", "ratio"), [("fifo", 10_000, 0.1865), ("belady", 1_000, 0.1906)]
)
def test_published_ratios(run, kvsim_data, policy, blocks, ratio):
    """The reference values of the trace's own README."""
    trace = kvsim_data / "traces" / "mooncake_fast25_conversation.jsonl"
    found = record(run, trace, "--policies", policy, "--sizes", blocks)
    assert found["curve"][0][policy] == pytest.approx(ratio, abs=5e-5)


def test_sizes_in_bytes_are_blocks_of_the_models_tokens(run):
    found = record(run, "t.jsonl", *MODEL, "--sizes", f"128MiB,{3 * 64}MiB,200MiB,2")
    assert found["token_bytes"] == 131_072
    assert [row["blocks"] for row in found["curve"]] == [2, 3]
    assert [row["bytes"] for row in found["curve"]] == [2 * BLOCK, 3 * BLOCK]


def test_fp8_halves_a_token_and_ranks_together_keep_the_same(run):
    found = record(run, "t.jsonl", *MODEL, "--kv-cache-dtype", "fp8", "--tp", "2")
    assert found["token_bytes"] == 131_072 / 2
    assert (found["kv_cache_dtype"], found["tensor_parallel_size"]) == ("fp8_e4m3", 2)


def test_latent_kv_is_kept_by_every_rank():
    one, two = (served("deepseek-v3", tensor_parallel_size=ranks) for ranks in (1, 2))
    assert two.token_bytes == 2 * one.token_bytes


def test_the_cards_pool_is_marked_and_is_the_plans(run):
    found = record(run, "conversations", *MODEL, "--gpu", "h100", "--policies", "lru")
    (pool,) = [row for row in found["curve"] if row["is_gpu_pool"]]
    tokens = plan("llama3.1-8b", "h100").kv_cache.capacity_tokens
    assert pool["tokens"] <= tokens < pool["tokens"] + found["block_tokens"]
    assert found["accelerator"] == plan("llama3.1-8b", "h100").accelerator.name


def test_by_default_sizes_rise_to_a_cache_that_never_evicts(run):
    trace = read_prefixes("t.jsonl")
    found = record(run, "t.jsonl")
    assert tuple(row["blocks"] for row in found["curve"]) == cache_sizes(trace)
    assert found["curve"][-1]["lru"] == found["infinite_hit_ratio"]
    for policy in ("lru", "fifo", "lfu", "belady"):
        assert [row[policy] for row in found["curve"]] == list(
            hit_ratio_curve(trace, policy, cache_sizes(trace))
        )


def test_a_pool_of_less_than_a_block_is_refused():
    small = Served("m", "bf16", 1, 10, accelerator="a card", pool_tokens=9)
    with pytest.raises(InputError, match="a card holds 9 tokens, less than one block of 10"):
        cache_curve(PrefixTrace("made", 10, REQUESTS), known=small)


# --- formats -----------------------------------------------------------------------------------


def test_the_table_says_what_was_replayed_and_marks_the_pool(run):
    code, out, err = run("cache-curve", "documents", *MODEL, "--gpu", "h100")
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    assert "800 requests, 18,962 block references, 5,208 distinct blocks of 256 tokens" in words
    assert "a cache that never evicts hits 72.5% of block references" in words
    assert "cache blocks tokens lru fifo lfu belady" in words
    assert "54.78 GiB * 1,753 448,768" in words


def test_csv_is_a_row_a_size(run):
    _, out, _ = run("cache-curve", "t.jsonl", *MODEL, "--sizes", "2,3", "--format", "csv")
    two, three = csv.DictReader(io.StringIO(out))
    assert (two["blocks"], two["bytes"], two["is_gpu_pool"]) == ("2", str(2 * BLOCK), "false")
    assert (float(two["belady"]), float(three["lru"])) == (0.2, 0.4)


def test_markdown_has_a_row_a_size(run):
    _, out, _ = run("cache-curve", "t.jsonl", "--sizes", "2", "--format", "markdown")
    assert "| cache | blocks | tokens | lru | fifo | lfu | belady |" in out
    assert "| - | 2 | 1,024 | 0.0% | 0.0% | 0.0% | 20.0% |" in out


def test_a_cut_is_told(run):
    code, out, err = run("cache-curve", "t.jsonl", "--max-references", "3", "--format", "json")
    assert code == 0
    assert (
        err
        == "t.jsonl: cut: the first 2 requests are replayed; raise --max-references to see more\n"
    )
    assert json.loads(out)["is_cut"] is True


# --- an interrupt --------------------------------------------------------------------------------


def test_an_interrupt_keeps_the_sizes_that_are_finished(run, monkeypatch):
    whole, asked = curve.hit_ratio, []

    def until(*words):
        asked.append(words)
        if len(asked) == 4:  # the bound, two policies of the first size, one of the second
            raise KeyboardInterrupt
        return whole(*words)

    monkeypatch.setattr(curve, "hit_ratio", until)
    words = ("t.jsonl", "--sizes", "2,3", "--policies", "lru,belady", "--format", "json")
    code, out, err = run("cache-curve", *words)
    assert (code, err) == (130, "kvsim: interrupted: sizes that are finished: 1\n")
    found = json.loads(out)
    assert found["interrupted"] is True
    assert [row["blocks"] for row in found["curve"]] == [2]


def test_what_is_watched_counts_every_replay():
    seen = []
    cache_curve(PrefixTrace("made", 1, REQUESTS), sizes=(2, 3), policies=("lru", "fifo"),
                watch=lambda *at: seen.append(at))  # fmt: skip
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)]


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "TRACE"),
        (("none.jsonl",), "none.jsonl"),
        (("",), "TRACE: names no trace"),
        (("conversation",), "unknown example 'conversation'; did you mean conversations?; or give"),
        (("sub/none",), "sub/none: no such file"),
        (("a" * 5000,), "unknown example 'aaa"),
        (("empty.jsonl",), "empty.jsonl"),
        (("plain.csv",), "no request names its prefix blocks"),
        (("t.jsonl", "--trace-format", "moncake"), "did you mean mooncake?"),
        (("documents", "--trace-format", "kvsim"), "--trace-format kvsim: documents is an example"),
        (("t.jsonl", "--policies", "lur"), "unknown cache policy 'lur'; did you mean lru"),
        (("t.jsonl", "--policies", ""), "--policies: '' has an empty part"),
        (("t.jsonl", "--policies", "lru,,lfu"), "has an empty part; separate by one comma"),
        (
            ("t.jsonl", "--sizes", "10GiB"),
            "10 GiB, and nobody said how many bytes a token",
        ),
        (("t.jsonl", "--sizes", "0"), "--sizes 0: holds no block"),
        (("t.jsonl", "--sizes", "-5"), "--sizes -5: '-5' is not a size; write blocks, as 5000"),
        (("t.jsonl", "--sizes", "nan"), "--sizes nan: 'nan' is not a size"),
        (("t.jsonl", "--sizes", "10 parsecs"), "is not a size; write blocks, as 5000, or bytes"),
        (("t.jsonl", "--sizes", ""), "--sizes: '' has an empty part"),
        (("t.jsonl", *MODEL, "--sizes", "1KiB"), "--sizes 1KiB: holds no block"),
        (("t.jsonl", *MODEL, "--sizes", "1e400GiB"), "is not a finite size"),
        (("t.jsonl", "--gpu", "h100"), "--gpu h100: is of a model; give --model"),
        (("t.jsonl", "--tp", "2"), "--tp 2: is of a model; give --model"),
        (("t.jsonl", "--kv-cache-dtype", "fp8"), "--kv-cache-dtype fp8: is of a model"),
        (("t.jsonl", "--model", "llama9"), "unknown model 'llama9'"),
        (("t.jsonl", *MODEL, "--kv-cache-dtype", "fp3"), "fp3"),
        (("t.jsonl", *MODEL, "--gpu", "h1000"), "unknown accelerator 'h1000'"),
        (("t.jsonl", *MODEL, "--tp", "3"), "3"),
        (("t.jsonl", *MODEL, "--tp", "0"), "'0' is not a whole number from 1 to"),
        (("t.jsonl", "--model", "llama3-70b", "--gpu", "h100"), "no room for KV on H100"),
        (("t.jsonl", "--max-references", "0"), "'0' is not a whole number from 1 to"),
        (("t.jsonl", "--max-references", "1"), "the first request names 2 blocks, more than the 1"),
        (("documents", "--max-references", "1"), "raise the limit on references"),
    ],
)
def test_a_question_that_cannot_be_asked(run, words, said):
    code, out, err = run("cache-curve", *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
