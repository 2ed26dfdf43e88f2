"""Loaded weights against what vLLM printed when it had loaded them."""

import csv

import pytest

from kvsim.catalog.models import find_model
from kvsim.engines.vllm.loading import loaded_weight_bytes
from kvsim.memory.rank import Rank
from kvsim.memory.weights import rank_weight_bytes
from kvsim.units import GIB

# kv_capacity_observed.csv, vLLM's "Model loading took" of one rank in GiB, by its row id.
OBSERVED = {
    "V001": ("gemma3-12b", 1, {}, 23.31),
    "V002": ("gemma3-27b", 1, {}, 51.45),
    "V004": ("phi-2", 1, {}, 5.19),
    "V005": ("granite-3.1-8b", 1, {}, 15.25),
    "V008": ("llama3.1-8b", 1, {}, 14.99),
    "V011": ("llama3.1-8b", 1, {"dtype": "fp32"}, 29.98),
    "V012": ("llama3.1-8b", 1, {"quantization": "fp8"}, 8.49),
    "V013": ("qwen2.5-7b", 1, {}, 14.25),
    "V016": ("llama3.1-8b", 2, {}, 7.51),
    "V020": ("qwen2.5-7b", 2, {}, 7.12),
    "V021": ("qwen2.5-7b", 4, {}, 3.55),
    "V023": ("qwen3-14b", 1, {}, 27.52),
    "V028": ("llama3.3-70b", 2, {"quantization": "fp8"}, 33.88),
    "V030": ("qwen3-0.6b", 1, {}, 1.12),
    "V031": ("qwen3-32b", 1, {}, 61.03),
    "V032": ("qwen3-32b", 2, {}, 30.59),
    "V033": ("mistral-small-3.2-24b", 1, {}, 44.76),
    "V041": ("phi-4", 1, {"quantization": "bitsandbytes"}, 8.49),
    "V081": ("qwen2.5-3b", 1, {}, 5.7915),
    "V084": ("llama3.1-70b", 1, {"quantization": "int8"}, 67.7229),
}
# The experts' tiles depend on a kernel that these rows do not name.
OBSERVED_LOOSELY = {
    "V007": ("gpt-oss-20b", 2, {}, 7.01),
    "V095": ("gpt-oss-120b", 1, {}, 65.9651),
}
NOT_PREDICTED = {
    "S015": "the model's id is not stated, and its experts lie on the host",
    "V034": "started by Unsloth with LoRA: its buffers are counted as weights",
    "V037": "dynamic 4-bit: which modules stay in 16 bits is in that repository's config",
    "V038": "started by Unsloth with LoRA: its buffers are counted as weights",
    "V042": "dynamic 4-bit: which modules stay in 16 bits is in that repository's config",
    "V043": "dynamic 4-bit: which modules stay in 16 bits is in that repository's config",
    "V044": "started by Unsloth with LoRA: its buffers are counted as weights",
    "V055": "Qwen3.8-27B: its configuration is not in the catalogue",
    "V057": "Qwen3.8-27B: its configuration is not in the catalogue",
}
SAME_LINE_AS = {"V009": "V008", "V010": "V008", "V014": "V013", "V024": "V023", "V029": "V008"}


class TestObservedWeights:
    @pytest.mark.parametrize("row", OBSERVED)
    def test_loaded_bytes_are_what_vllm_prints(self, row):
        name, tp, options, printed_gib = OBSERVED[row]
        loaded = loaded_weight_bytes(find_model(name), Rank(tp=tp), **options) / GIB
        assert loaded == pytest.approx(printed_gib, rel=0.0025)

    @pytest.mark.parametrize("row", OBSERVED_LOOSELY)
    def test_padded_experts(self, row):
        name, tp, options, printed_gib = OBSERVED_LOOSELY[row]
        loaded = loaded_weight_bytes(find_model(name), Rank(tp=tp), **options) / GIB
        assert loaded == pytest.approx(printed_gib, rel=0.015)

    def test_no_row_with_weights_is_dropped_silently(self, kvsim_data):
        with (kvsim_data / "reference" / "kv_capacity_observed.csv").open() as file:
            rows = {row["id"]: row["weights_gib"] for row in csv.DictReader(file)}
        printed = {row: float(gib) for row, gib in rows.items() if gib}
        told = {**OBSERVED, **OBSERVED_LOOSELY}
        assert set(printed) == {*told, *NOT_PREDICTED, *SAME_LINE_AS}
        assert {row: printed[row] for row in told} == {row: told[row][3] for row in told}
        assert all(printed[row] == printed[first] for row, first in SAME_LINE_AS.items())

    def test_loading_never_subtracts(self):
        for name, tp, options, _ in OBSERVED.values():
            model, rank = find_model(name), Rank(tp=tp)
            held = rank_weight_bytes(model, rank, **options)
            assert loaded_weight_bytes(model, rank, **options) >= held
