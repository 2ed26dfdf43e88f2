"""Four ways to keep K and V: equal tokens, bytes by hand, exponents, claims."""

import json

import numpy as np
import pytest

from tests.support import needs

needs.need("torch")
import torch

from kvsim.calibrate.study import caches, lockstep
from kvsim.calibrate.study import study_caches as study_command
from kvsim.calibrate.study.caches import (
    BLOCK_TOKENS,
    Grow,
    NoCache,
    PagedCache,
    Preallocated,
)
from kvsim.calibrate.study.findings import exponents_of, growth_exponent
from kvsim.calibrate.study.lockstep import Lockstep, equal_texts, prompts
from kvsim.calibrate.study.plan import StudyPlan
from kvsim.calibrate.study.study_caches import shrunk, study_caches
from kvsim.calibrate.twin.blueprint import Blueprint, tiny_model
from kvsim.calibrate.twin.decoder import Decoder
from kvsim.calibrate.twin.device import Device
from kvsim.catalog.models import find_model
from kvsim.errors import (
    InputError,
    InvariantError,
    MissingExtraError,
    UnsupportedError,
)
from kvsim.figures.study import study_page
from kvsim.memory.footprint import bytes_per_token
from kvsim.specs.precision import kv_format

pytestmark = pytest.mark.torch

PLAN = StudyPlan(tokens=(6, 12, 24), batches=(1, 2), prompt_tokens=5, checked_tokens=10, quick=True)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Two threads on a machine that others use wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def decoder():
    return Decoder(Blueprint.of(shrunk(find_model("gpt2"))), torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def study():
    return study_caches(PLAN)


def generated(decoder, kind, batch=2, prompt=5, tokens=30):
    """The cache after a generation."""
    loop = Lockstep(decoder, kind(decoder, batch, prompt + tokens), prompts(decoder, batch, prompt))
    for _ in range(tokens):
        loop.step()
    return loop.cache


# ---- equal tokens -------------------------------------------------------------------------


@pytest.mark.parametrize("model", [shrunk(find_model("gpt2")), tiny_model()], ids=["gpt2", "llama"])
@pytest.mark.parametrize("prompt", [1, 7, BLOCK_TOKENS])
def test_four_caches_generate_the_same_tokens(model, prompt):
    decoder = Decoder(Blueprint.of(model), torch.device("cpu"), torch.float32)
    text = prompts(decoder, 3, prompt)
    found = equal_texts(decoder, text, 2 * BLOCK_TOKENS)
    assert found.shape == (3, prompt + 2 * BLOCK_TOKENS)
    assert len({tuple(row) for row in found.tolist()}) == 3


def test_a_cache_that_forgets_a_token_is_found_out(decoder, monkeypatch):
    class Forgetful(Grow):
        name = "forgetful"

        def _kept(self, layer, key, value):
            keys, values = super()._kept(layer, key, value)
            return keys[:, :, 1:], values[:, :, 1:]

    monkeypatch.setattr(lockstep, "CACHES", (NoCache, Forgetful))
    with pytest.raises(InvariantError, match="forgetful cache generates other tokens"):
        equal_texts(decoder, prompts(decoder, 2, 5), 20)


def test_a_cache_is_not_filled_beyond_what_it_was_made_for(decoder):
    loop = Lockstep(decoder, PagedCache(decoder, 1, 6), prompts(decoder, 1, 5))
    loop.step()
    loop.step()
    with pytest.raises(InvariantError, match="6 \\+ 1 tokens in a cache made for 6"):
        loop.step()


# ---- bytes --------------------------------------------------------------------------------


def test_a_token_of_every_cache_takes_what_the_footprint_says(decoder):
    expected = bytes_per_token(shrunk(find_model("gpt2")), kv_format("fp32"))
    assert Grow(decoder, 1, 1).token_bytes == expected == 4 * 2 * 4 * 64 * 4


def test_bytes_held_after_a_generation(decoder):
    """5 prompt tokens and 29 written ones: 34 tokens, 3 blocks of 16, 1,024 positions."""
    token = 4 * 2 * 4 * 64 * 4
    assert generated(decoder, NoCache).held_bytes == 0
    assert generated(decoder, Grow).held_bytes == 2 * 34 * token
    assert generated(decoder, PagedCache).held_bytes == 2 * 3 * 16 * token
    assert generated(decoder, Preallocated).held_bytes == 2 * 1024 * token


def test_concatenating_holds_one_tensor_twice_and_copies_the_square(decoder):
    """At its peak 34 tokens everywhere, but one of the eight tensors there twice."""
    cache = generated(decoder, Grow)
    token = 4 * 2 * 4 * 64 * 4
    one_tensor = token // 8
    assert cache.peak_bytes == 2 * (34 * 7 + 33 + 34) * one_tensor
    assert cache.copied_bytes == 2 * sum(range(5, 34)) * token


# ---- exponents and claims -----------------------------------------------------------------


def test_a_growing_cache_counts_no_more_than_what_grows(decoder, monkeypatch):
    """What every layer counted of all layers would be charged to the step as the square."""
    loop = Lockstep(decoder, Grow(decoder, 2, 20), prompts(decoder, 2, 5))
    loop.step()
    counted, count = [], caches._bytes
    monkeypatch.setattr(caches, "_bytes", lambda tensor: counted.append(1) or count(tensor))
    loop.step()
    assert len(counted) == 4 * decoder.shape.layers  # K and V, before and after
    assert loop.cache.held_bytes == 2 * 6 * loop.cache.token_bytes


def test_growth_exponents_of_known_laws():
    lengths = [50, 100, 200, 400]
    assert growth_exponent(lengths, [7.0] * 4) == pytest.approx(0, abs=1e-12)
    assert growth_exponent(lengths, [n * n / 3 for n in lengths]) == pytest.approx(2)


def test_exponents_are_taken_over_context_for_a_token_and_over_tokens_in_all(study):
    mine = [row for row in study.rows if (row.cache, row.batch) == ("none", 2)]
    found = exponents_of(study.rows, study.prompt_tokens)["none"]["2"]
    x = np.log([study.prompt_tokens + row.tokens for row in mine])
    assert found["token"] == pytest.approx(
        np.polyfit(x, np.log([row.token_seconds for row in mine]), 1)[0]
    )


def test_the_study_measures_every_cell_and_finds_no_claim_to_hold(study):
    cells = {(row.cache, row.batch, row.tokens) for row in study.rows}
    kinds = ("none", "grow", "preallocated", "paged")
    assert cells == {(k, b, n) for k in kinds for b in PLAN.batches for n in PLAN.tokens}
    assert [claim.claim for claim in study.claims if claim.holds] == []
    assert study.checked_tokens == 10


def test_gpt3_takes_four_and_a_half_mebibytes_a_token(study):
    """2 * 96 layers * 12,288 * 2 bytes = 4,718,592: GPT-3 175B's shape (Brown et al., 2020)."""
    finding = next(claim.finding for claim in study.claims if "GPT-3" in claim.claim)
    assert "4,718,592 bytes = 4.5 MiB" in finding


def test_the_simulator_holds_the_same_bytes(study):
    """Block for block where the two do the same; concatenation differs by its copy in flight."""
    for row in study.rows:
        if row.cache != "grow":
            assert row.simulated_kv_bytes == row.kv_peak_bytes, row
        else:
            assert row.simulated_kv_bytes <= row.kv_peak_bytes <= 2 * row.simulated_kv_bytes


def test_recomputing_costs_more_with_every_token_and_a_cache_does_not(study):
    at = {(row.cache, row.batch, row.tokens): row for row in study.rows}
    assert [at["none", 1, n].computed_per_token for n in PLAN.tokens] == [10, 16, 28]
    assert [at["paged", 1, n].computed_per_token for n in PLAN.tokens] == [1, 1, 1]
    for cache in ("grow", "preallocated", "paged"):
        reads = [at[cache, 2, n].read_bytes_per_token for n in PLAN.tokens]
        assert reads == sorted(reads)
    grow, kept = at["grow", 2, 24], at["preallocated", 2, 24]
    token = study.token_bytes
    assert grow.read_bytes_per_token - kept.read_bytes_per_token == 2 * (5 + 24 - 2) * token


def test_the_record_is_json_and_its_page_holds_every_plot(study):
    record = json.loads(json.dumps(study.record()))
    assert record["kind"] == "kvsim-cache-study"
    pytest.importorskip("plotly")
    page = study_page(record)
    for name in ("token-seconds", "total-seconds", "kv-bytes", "read-bytes", "simulated-seconds"):
        assert f"figure-{name}" in page
    assert "4,718,592 bytes" in page


# ---- bad input ----------------------------------------------------------------------------


def test_answers_longer_than_the_positions_are_refused():
    with pytest.raises(InputError, match="1216 tokens exceed the 1024 positions"):
        study_caches(StudyPlan(tokens=(50, 1200)))


def test_a_model_that_does_not_fit_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr(Device, "free_bytes", property(lambda self: 2**30))
    with pytest.raises(UnsupportedError, match=r"llama2-7b needs 25\.10 GiB"):
        study_caches(StudyPlan(model="llama2-7b"))


def test_without_torch_the_extra_is_named(monkeypatch):
    def refuse(purpose):
        raise MissingExtraError("torch", "calibrate", purpose)

    monkeypatch.setattr(study_command, "require_torch", refuse)
    with pytest.raises(MissingExtraError, match="the study needs the package 'torch'"):
        study_caches(PLAN)


def test_shrinking_keeps_the_kind_of_model():
    small, large = (Blueprint.of(m) for m in (shrunk(find_model("gpt2")), find_model("gpt2")))
    assert (small.layers, small.heads, small.hidden, small.head_dim) == (4, 4, 256, 64)
    assert small.learned_positions
    assert (small.gated, small.tied, small.longest) == (large.gated, large.tied, large.longest)


# ---- a study that is cut ------------------------------------------------------------------


def failing_at(monkeypatch, error):
    """Let the second cache of the second batch fail."""
    from kvsim.calibrate.study import run

    whole = run._time

    def time_until_then(bench, kind, batch, say):
        if (kind, batch) == (Grow, 2):
            raise error
        return whole(bench, kind, batch, say)

    monkeypatch.setattr(run, "_time", time_until_then)


TWO_BATCHES = ["--quick", "--tokens", "20", "--tokens", "60", "--batch", "1", "--batch", "2"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("CUDA out of memory. Tried"), "ran out of memory while timing batch 2"),
        (MemoryError(), "ran out of memory while timing batch 2"),
    ],
)
def test_memory_that_runs_out_late_loses_no_batch(monkeypatch, tmp_path, run_kvsim, error, said):
    failing_at(monkeypatch, error)
    code, out, err = run_kvsim("study", "cache", *TWO_BATCHES, "--output", tmp_path)
    assert code == 2
    assert "paged, batch 1, 60 tokens" in out
    (line,) = [line for line in err.splitlines() if line.startswith("kvsim: CPU")]
    assert said in line
    assert line.endswith("; of batches, 1 were timed whole")
    record = json.loads((tmp_path / "study.json").read_text())
    assert said in record["stopped"]
    assert {row["batch"] for row in record["rows"]} == {1}


def test_caches_that_cannot_fit_are_refused_before_they_are_allocated(monkeypatch, run_kvsim):
    from kvsim.calibrate.twin.device import Device

    asked = []

    def refuse(self, needed, what):
        asked.append(what)
        if what == "the cache of 2 sequences":
            raise UnsupportedError(f"{what} needs {needed} bytes")

    monkeypatch.setattr(Device, "refuse_if_too_large", refuse)
    code, out, err = run_kvsim("study", "cache", *TWO_BATCHES)
    assert (code, asked[1:]) == (0, ["the cache of 1 sequences", "the cache of 2 sequences"])
    assert "paged, batch 1, 60 tokens" in out
    assert "batch 2" not in out
    assert "left out: the cache of 2 sequences needs " in err


def test_a_model_too_large_in_fp32_is_checked_with_its_first_layers(monkeypatch, run_kvsim):
    from kvsim.calibrate.twin.device import Device

    monkeypatch.setattr(Device, "free_bytes", 30 * 2**20)
    monkeypatch.setattr(Device, "refuse_if_too_large", lambda *_: None)
    code, _, err = run_kvsim("study", "cache", *TWO_BATCHES)
    assert code == 0
    assert "generate the same 32 tokens with 2 of its 4 layers" in err


def test_an_interrupt_keeps_the_batches_that_were_timed_whole(monkeypatch, tmp_path, run_kvsim):
    failing_at(monkeypatch, KeyboardInterrupt())
    code, out, err = run_kvsim("study", "cache", *TWO_BATCHES, "--output", tmp_path)
    assert code == 130
    assert "paged, batch 1, 60 tokens" in out
    assert "interrupted: of batches, 1 were timed whole" in err
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["interrupted"]
    assert {row["batch"] for row in record["rows"]} == {1}


def test_an_interrupt_before_the_first_batch_is_whole_leaves_nothing(monkeypatch):
    from kvsim.calibrate.study import run

    def at_once(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_time", at_once)
    with pytest.raises(KeyboardInterrupt):
        study_caches(PLAN)
