"""Loaded weights against what vLLM printed when it had loaded them."""

import csv

import pytest

from kvsim.catalog.models import find_model
from kvsim.engines.vllm.loading import (
    _padding_bytes,
    _rest_bytes,
    _tensor_bytes,
    loaded_weight_bytes,
    rotary_table_bytes,
)
from kvsim.memory.rank import Rank
from kvsim.memory.weights import rank_weight_bytes, weight_storage
from kvsim.specs.attention import FullAttention
from kvsim.specs.model import DenseMlp, LayerGroup, ModelSpec, MoeMlp
from kvsim.units import GIB, MIB

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


class TestByHand:
    """Layers of hidden size 2,880 as gpt-oss has them: 64 query and 8 KV heads of 64."""

    HIDDEN = 2880
    ATTENTION = FullAttention(heads=64, kv_heads=8, key_dim=64, value_dim=64)

    def model(self, mlp, quantization=None):
        group = LayerGroup(name="all", layers=(0, 1), caches=(self.ATTENTION,), mlp=mlp)
        return ModelSpec(
            name="by hand",
            hidden_size=self.HIDDEN,
            vocab_size=1000,
            max_position_embeddings=4096,
            quantization=quantization,
            layer_groups=(group,),
        )

    def tensors(self, mlp, rank, quantization=None):
        model = self.model(mlp, quantization)
        (group,) = model.layer_groups
        storage = weight_storage(model, None, quantization)
        return sorted(_tensor_bytes(group, self.HIDDEN, rank, storage))

    def test_the_tensors_of_a_dense_layer(self):
        """q, k and v in one, o, gate and up in one, down; two bytes an element, halved by tp."""
        qkv, out = (64 + 2 * 8) * 64 * self.HIDDEN, 64 * 64 * self.HIDDEN
        gated = self.tensors(DenseMlp(intermediate_size=5000), Rank(tp=2))
        up = 5000 * self.HIDDEN
        assert gated == sorted(n * 2 // 2 for n in (qkv, out, 2 * up, up))
        plain = self.tensors(DenseMlp(intermediate_size=5000, gated=False), Rank())
        assert plain == sorted(n * 2 for n in (qkv, out, up, up))

    def test_experts_are_cut_over_ranks_or_dealt_to_them(self):
        """32 experts of 2,880: each cut in two, or 11 of them on one of three ranks."""
        mlp = MoeMlp(experts=32, experts_per_token=4, intermediate_size=2880)
        whole = 2880 * self.HIDDEN * 2
        assert self.tensors(mlp, Rank(tp=2))[-2:] == [32 * whole // 2, 32 * 2 * whole // 2]
        assert self.tensors(mlp, Rank(tp=1, ep=3))[-2:] == [11 * whole, 11 * 2 * whole]
        assert self.tensors(mlp, Rank(tp=2, ep=2))[-2:] == [16 * whole, 16 * 2 * whole]

    def test_microscaled_experts_are_padded_to_tiles(self):
        """2,880 columns to 2,944 (23 * 128) and 2,880 rows to 3,072 (12 * 256), 4.25 bits each."""
        mlp = MoeMlp(experts=32, experts_per_token=4, intermediate_size=2880)
        model = self.model(mlp, "mxfp4")
        (group,) = model.layer_groups
        storage = weight_storage(model, None, "mxfp4")
        padding = 2944 * 3072 - 2880 * 2880
        found = _padding_bytes(group, self.HIDDEN, Rank(), storage)
        assert found == int(32 * 3 * padding * 4.25 / 8)
        dealt = _padding_bytes(group, self.HIDDEN, Rank(ep=3), storage)
        assert dealt == int(11 * 3 * padding * 4.25 / 8)
        plain = weight_storage(self.model(mlp), None, None)
        assert _padding_bytes(group, self.HIDDEN, Rank(), plain) == 0

    @pytest.mark.parametrize(
        ("mib", "rest"),
        [
            (9.5, 0),  # below 10 MiB a block is no large one
            (10, 0),
            (10.5, 0),  # 1.5 MiB are split off and used
            (11, 1),
            (11.5, 0.5),
            (31.5, 0.5),
            (32, 0),
        ],
    )
    def test_what_stays_behind_a_tensor(self, mib, rest):
        """c10/cuda: large blocks from 10 MiB on, whole pages of 2 MiB, remainders of up to 1 MiB
        are not split."""
        assert _rest_bytes(int(mib * MIB)) == rest * MIB

    def test_rotary_tables(self):
        """4,096 positions of 64 elements in 2 bytes; as stated; none with learned positions."""
        model = self.model(DenseMlp(intermediate_size=100))
        fmt = weight_storage(model, None, None).plain
        assert rotary_table_bytes(model, fmt) == 4096 * 64 * 2
        stated = model.model_copy(update={"rotary_table_elements": 1000})
        assert rotary_table_bytes(stated, fmt) == 2000
        learned = model.model_copy(update={"position_embeddings": 4096})
        assert rotary_table_bytes(learned, fmt) == 0


@pytest.mark.parametrize(("quantization", "copied"), [("fp8_block", True), ("bf16", False)])
def test_latents_are_expanded_by_a_copy_in_16_bits(quantization, copied):
    """mla_attention.py of 0.19.1: 61 layers of 512 x 16 heads x (128 + 128), a rank of 8."""
    model = find_model("deepseek-v3")
    plain = model.model_copy(update={"rotary_table_elements": 0})
    rank = Rank(tp=8)
    loaded = loaded_weight_bytes(plain, rank, quantization=quantization)
    held = rank_weight_bytes(plain, rank, quantization=quantization)
    rests = sum(
        group.count
        * sum(
            map(
                _rest_bytes,
                _tensor_bytes(group, 7168, rank, weight_storage(plain, None, quantization)),
            )
        )
        for group in plain.layer_groups
    )
    assert loaded - held - rests == 61 * 512 * 16 * 256 * 2 * copied
